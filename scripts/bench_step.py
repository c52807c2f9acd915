"""A training step of V on CPU, and the same step without one thing at a time that makes it faster.

Trees of the quickstart's size (a prompt of some 135 tokens, six targets of some 24), three to a batch, SmolLM2 with
LoRA on all linear layers, bfloat16. Ways take turns, some steps of each; prints medians, and the median of each turn's
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
    """One model, some batches."""

    def __init__(self, model: str, rows: int, batches: int) -> None:
        self.lm = LanguageModel(BackboneSettings(model, dtype="bfloat16", device="cpu", lora=LoRASettings(8, 16)))
        self.lm.add_adapter("bench", seed=0)
        self.trained = self.lm.train_only("bench")
        self.lm.base.train()
        draw = random.Random(0)

        def tokens(count: int) -> list[int]:
            return [draw.randrange(100, 40_000) for _ in range(count)]

        def tree() -> Tree:
            return [
                Branch(tokens(110 + draw.randrange(50))),
                *(Branch(tokens(20 + draw.randrange(8)), 0) for _ in range(N_TARGETS)),
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
        """Whether LoRA layers compute as one product, or as PEFT does."""
        fuse(self.lm.base)
        for layer in () if on else self.layers:
            del layer.forward

    def ways(self) -> dict[str, Callable[[], None]]:
        """Each prepares a way, and takes its steps."""

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
    given = parser.parse_args()
    bench = Bench(given.model, given.rows, given.batches)
    taken: dict[str, list[float]] = {}
    for repeat in range(given.repeats + 1):
        for name, run in bench.ways().items():
            start = time.perf_counter()
            run()
            if repeat:
                taken.setdefault(name, []).append((time.perf_counter() - start) / given.batches)
    report: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name, seconds in taken.items():
        ratio = statistics.median(one / own for one, own in zip(seconds, taken["trackrec"], strict=True))
        report[name] = {"s a step": statistics.median(seconds), "times as long": ratio}
        print(f"{name:42} {report[name]['s a step']:.2f} s a step, {ratio:.3f} times as long")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
