"""How the time of training a CTR net grows with the rows, and with the tables of users and items.

Some steps of DIN and DeepFM on random logs of the shapes of ML-100K, ML-1M and ML-10M, and on one with a million users
and items, there with Adam and with ``ctr.model.lazy_rows``, which updates only the table rows that a batch reads.
Prints the seconds until the first batch and the rate of the steps after it. ``--divide 1000`` makes every log and table
so many times smaller, to try the script.
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
    parser.add_argument("--divide", type=int, default=1, help="divides the numbers of rows, users and items")
    args = parser.parse_args()
    quiet()
    for net in args.nets:  # the first training of a process is slower
        train(net, made_up(20 * args.batch_size), args.batch_size)
    for rows, (users, items) in SIZES.items():
        _measure(args, rows, users, items, {"Adam": None})
    _measure(args, *LARGE, {"Adam": None, "lazy rows": -(-LAZY_ROWS // args.divide)})


def _measure(args: argparse.Namespace, rows: int, users: int, items: int, ways: dict[str, int | None]) -> None:
    """Print a line per net and way; ``ways`` are values of ``lazy_rows``."""
    rows, users, items = (max(10, number // args.divide) for number in (rows, users, items))
    data = made_up(rows, users, items)
    for net in args.nets:
        for way, lazy in ways.items():
            first, rest = train(net, data, args.batch_size, args.steps, lazy_rows=lazy)
            rate = min(args.steps * args.batch_size, rows) / rest.cpu
            print(
                f"{net:7} {rows:11,} rows {users:10,} users {items:10,} items  {way:9}  "
                f"first batch {first.wall:.2f} s  {rate:,.0f} rows/CPU-s",
                flush=True,
            )


if __name__ == "__main__":
    main()
