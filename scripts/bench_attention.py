"""Attention on CPU in bfloat16: torch's SDPA, with the keys repeated per head, against grouped products.

Three cases: one new token with a cache, packed rows forward, and packed rows forward and backward. The two ways take
turns on equal inputs, and their results are compared. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from trackrec.llm.kernels.attention import sdpa_or_grouped


def main() -> None:
    """Time both ways at a given shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = {
        "decode_rows": 48,
        "cache": 280,
        "rows": 8,
        "tokens": 384,
        "heads": 9,
        "groups": 3,
        "dim": 64,
        "repeats": 15,
    }
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    torch.manual_seed(0)
    layer = SimpleNamespace(num_key_value_groups=args.heads // args.groups, is_causal=True, training=False)
    cases = {
        "one new token": (*tensors(args, args.decode_rows, 1, args.cache), False),
        "packed rows, forward": (*tensors(args, args.rows, args.tokens, args.tokens), False),
        "packed rows, forward and backward": (*tensors(args, args.rows, args.tokens, args.tokens), True),
    }
    report: dict[str, object] = {"shape": vars(args), "torch": torch.__version__, "threads": torch.get_num_threads()}
    for name, (inputs, mask, backward) in cases.items():
        ways = {
            "sdpa": lambda i=inputs, m=mask: sdpa_attention_forward(layer, *i, m, scaling=args.dim**-0.5)[0],
            "grouped": lambda i=inputs, m=mask: sdpa_or_grouped(layer, *i, m, scaling=args.dim**-0.5)[0],
        }
        report[name] = compare(ways, inputs if backward else None, args.repeats)
    print(json.dumps(report, indent=1))


def tensors(args: argparse.Namespace, rows: int, queries: int, keys: int) -> tuple[list[Tensor], Tensor]:
    """Query, key and value (rows, heads, length, dim), transposed views as a model passes them, and a causal mask."""
    sizes = ((queries, args.heads), (keys, args.groups), (keys, args.groups))
    inputs = [torch.randn(rows, length, heads, args.dim, dtype=torch.bfloat16) for length, heads in sizes]
    hidden = ~torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    mask = torch.zeros(queries, keys, dtype=torch.bfloat16).masked_fill_(hidden, torch.finfo(torch.bfloat16).min)
    return [tensor.transpose(1, 2).requires_grad_() for tensor in inputs], mask.expand(rows, 1, -1, -1)


def compare(ways: dict[str, Callable[[], Tensor]], inputs: list[Tensor] | None, repeats: int) -> dict[str, object]:
    """Median milliseconds of each way, turn by turn; with ``inputs`` their gradients are computed too."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, list[Tensor]] = {}
    for repeat in range(repeats + 2):
        for name, way in ways.items():
            started = time.perf_counter()
            with torch.set_grad_enabled(inputs is not None):
                out = way()
                results[name] = [out, *(torch.autograd.grad(out, inputs, torch.ones_like(out)) if inputs else ())]
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values) * 1e3, 2) for name, values in seconds.items()}
    pairs = zip(results["sdpa"], results["grouped"], strict=True)
    gap = max((sdpa.float() - grouped.float()).abs().max().item() for sdpa, grouped in pairs)
    # At tiny sizes a median rounds to 0.
    ratio = round(medians["sdpa"] / medians["grouped"], 2) if medians["grouped"] else None
    return {"median_ms": medians, "ratio": ratio, "max_gap": gap}


if __name__ == "__main__":
    main()
