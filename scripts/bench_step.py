"""A training step of the validator on CPU, and the same step without each of its optimizations.

Trees of the quickstart's size (a prompt of some 135 tokens, six targets of some 24), three per batch, SmolLM2 with
LoRA on all linear layers, bfloat16. The ways take turns, some steps each; prints medians, and the median of each turn's
ratio. ``--json`` writes them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Linear

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.kernels.fused_lora import fuse
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.logprobs import next_token_logprobs
from trackrec.llm.packing import Branch, Layout, Tree, pack

N_TARGETS = 6


class Bench:
    """One model and its batches."""

    def __init__(self, model: str, rows: int, batches: int) -> None:
        self.lm = LanguageModel(BackboneSettings(model, dtype="bfloat16", device="cpu", lora=LoRASettings(8, 16)))
        self.lm.add_adapter("bench", seed=0)
        self.trained = self.lm.train_only("bench")
        self.lm.base.train()
        rng = random.Random(0)
        last_token = min(40_000, self.lm.base.config.vocab_size)

        def tokens(count: int) -> list[int]:
            return [rng.randrange(100, last_token) for _ in range(count)]

        def tree() -> Tree:
            return [
                Branch(tokens(110 + rng.randrange(50))),
                *(Branch(tokens(20 + rng.randrange(8)), 0) for _ in range(N_TARGETS)),
            ]

        self.batches = [[tree() for _ in range(rows)] for _ in range(batches)]
        self.layers = [layer for layer in self.lm.base.modules() if type(layer) is Linear]

    def step(self, layout: Layout) -> None:
        """Loss and gradients of a batch."""
        yes, no = self.lm.chat.label_tokens()
        spots = [spot for row in layout.spots for spot in row[1:]]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = -next_token_logprobs(self.lm, layout, spots, [*yes, *no]).mean()
        torch.autograd.grad(loss, self.trained)

    def fused(self, on: bool) -> None:
        """Let LoRA layers compute one product (``on``), or as PEFT does."""
        fuse(self.lm.base)
        for layer in () if on else self.layers:
            del layer.forward

    def ways(self) -> dict[str, Callable[[], None]]:
        """Functions that set up a way and take its steps, a step per batch."""

        def way(fused: bool = True, widths: int = 8) -> Callable[[], None]:
            layouts = [pack(trees, widths) for trees in self.batches]

            def run() -> None:
                self.fused(fused)
                for layout in layouts:
                    self.step(layout)

            return run

        return {
            "trackrec": way(),
            "LoRA layers as PEFT computes them": way(fused=False),
            "rows padded to multiples of 64": way(widths=64),
            "both": way(fused=False, widths=64),
        }


def main() -> None:
    """Time every way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="data/smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bench = Bench(args.model, args.rows, args.batches)
    seconds_per_step: dict[str, list[float]] = {}
    for repeat in range(args.repeats + 1):
        for name, run in bench.ways().items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds_per_step.setdefault(name, []).append((time.perf_counter() - start) / args.batches)
    report: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name, seconds in seconds_per_step.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, seconds_per_step["trackrec"], strict=True))
        report[name] = {"s a step": statistics.median(seconds), "times as long": ratio}
        print(f"{name:42} {report[name]['s a step']:.2f} s a step, {ratio:.3f} times as long")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
