"""How the CTR nets' training grows: with the rows, and with the tables of users and items.

Some steps of DIN and DeepFM on made-up logs of the shapes of ML-100K, ML-1M and ML-10M, and on one of a million users
and items, once with Adam and once with ``ctr.model.lazy_rows``, which leaves the rows alone that a batch doesn't read.
Prints the seconds until the first batch and the rate of the steps after it.
"""

from __future__ import annotations

import argparse

from bench_ctr import NETS, made_up, quiet, train

SIZES = {  # rows -> users, items
    100_000: (945, 1_684),
    1_000_000: (6_042, 3_708),
    10_000_000: (69_880, 10_683),
}
LARGE = (100_000, 1_000_000, 1_000_000)  # rows, users, items
LAZY_ROWS = 100_000


def main() -> None:
    """Time every size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    given = parser.parse_args()
    quiet()
    for net in given.nets:  # the first training of a process is slower
        train(net, made_up(20 * given.batch_size), given.batch_size)
    for rows, (users, items) in SIZES.items():
        _measure(given, rows, users, items, {"Adam": None})
    _measure(given, *LARGE, {"Adam": None, "lazy rows": LAZY_ROWS})


def _measure(given: argparse.Namespace, rows: int, users: int, items: int, ways: dict[str, int | None]) -> None:
    data = made_up(rows, users, items)
    for net in given.nets:
        for way, lazy in ways.items():
            first, rest = train(net, data, given.batch_size, given.steps, lazy_rows=lazy)
            rate = min(given.steps * given.batch_size, rows) / rest.cpu
            print(
                f"{net:7} {rows:11,} rows {users:10,} users {items:10,} items  {way:9}  "
                f"first batch {first.wall:.2f} s  {rate:,.0f} rows/CPU-s",
                flush=True,
            )


if __name__ == "__main__":
    main()
