"""Fuzz the rating readers for some minutes, with the properties of tests/interactions/test_fuzz_readers.py.

    python scripts/fuzz_readers.py --minutes 15

Prints how many files each reader read and refused, and the first broken file of every kind of failure. The seed comes
from the clock unless `--seed` is set.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "interactions"))
from fuzzing import READERS, broken, check, random_changes

SLOW_S = 20.0


def main() -> None:
    """Run until the time is over; exit status 1 if a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=list(READERS))
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else time.time_ns()
    rng = random.Random(seed)
    end = time.monotonic() + 60 * args.minutes
    counts: dict[str, Counter[str]] = {name: Counter() for name in args.readers}
    failures: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            name = rng.choice(args.readers)
            files = READERS[name].files
            name_broken = rng.choice(sorted(files))
            if rng.random() < 0.1:
                data = rng.randbytes(rng.randrange(300))
            else:
                data = broken(files[name_broken], random_changes(rng))
            started = time.process_time()
            try:
                outcome = check(READERS[name], Path(folder), files | {name_broken: data})
                if time.process_time() - started > SLOW_S:
                    raise TimeoutError(f"took {time.process_time() - started:.0f} s of CPU")
            except KeyboardInterrupt:
                break
            except BaseException as error:  # a panic in polars isn't an Exception
                outcome = "failed"
                where = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
                if (name, kind) not in failures:
                    failures.add((name, kind))
                    print(f"{name}: {kind}: {str(error)[:300]}\n  {name_broken}: {data!r}"[:3000], flush=True)
            counts[name][outcome] += 1
    for name, count in counts.items():
        print(f"{name:22}", *(f"{outcome} {count[outcome]:>8,}" for outcome in ("read", "refused", "failed")))
    total = sum(counts.values(), Counter())
    print(f"{total.total():,} files, {len(failures)} kinds of failure, seed {seed}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
