"""Attention of one new token on CPU: torch's SDPA with the cache repeated per head, against grouped products.

Interleaved, equal inputs, results compared. One thread pool, warm. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from types import SimpleNamespace

import torch

from trackrec.llm.attention import sdpa_or_grouped


def main() -> None:
    """Time both ways at a given shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("rows", 48), ("heads", 9), ("groups", 3), ("length", 280), ("dim", 64), ("repeats", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    torch.manual_seed(0)
    shape = (given.rows, given.groups, given.length, given.dim)
    query = torch.randn(given.rows, given.heads, 1, given.dim, dtype=torch.bfloat16)
    key, value = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(2))
    mask = torch.ones(given.rows, 1, 1, given.length, dtype=torch.bool)
    module = SimpleNamespace(num_key_value_groups=given.heads // given.groups, is_causal=False, training=False)
    ways = {"sdpa": sdpa_attention_forward, "grouped": sdpa_or_grouped}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    with torch.inference_mode():
        for repeat in range(given.repeats + 2):
            for name, way in ways.items():
                started = time.perf_counter()
                results[name] = way(module, query, key, value, mask, scaling=given.dim**-0.5)[0]
                if repeat >= 2:
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
    gap = (results["sdpa"].float() - results["grouped"].float()).abs().max().item()
    report = {"shape": vars(given), "median_ms": medians, "ratio": medians["sdpa"] / medians["grouped"], "max_gap": gap}
    print(json.dumps({**report, "torch": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
