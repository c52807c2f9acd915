"""Tokens per second of a GPU: what was measured, with its source, and what is assumed."""

from __future__ import annotations

from typing import NamedTuple

GPU_BYTES = {"H200": 141 * 10**9, "H100": 80 * 10**9, "A100": 80 * 10**9, "L40S": 48 * 10**9, "L4": 24 * 10**9}
"""Memory of GPUs by name, as their makers state it."""
MEASURED_WEIGHTS = 7.6e9
"""Weights of the model with which the rates were measured: Qwen2.5-7B.

Models of other sizes are assumed to be faster or slower in proportion, which is too good for small ones: they are bound
by other things."""


class Rate(NamedTuple):
    """How fast a GPU reads and writes with a model of `MEASURED_WEIGHTS`.

    Attributes:
        engine: what generates.
        read: prompt tokens per second.
        write: new tokens per second, of all texts together.
        measured: by a script of this repository on that GPU; else assumed.
        source: of the figures.
    """

    engine: str
    read: float
    write: float
    measured: bool
    source: str

    def seconds(self, prompt: float, new: float, weights: float) -> float:
        """GPU seconds of one text: P / r_p + O / r_o, for a model of so many weights."""
        return (prompt / self.read + new / self.write) * weights / MEASURED_WEIGHTS


RATES: dict[str, tuple[Rate, ...]] = {
    "H100": (
        Rate("HFSampler, nf4", 23_234, 1_863, True, "scripts/bench_gpu.py, 2026-11-23: scoring, 170 draws at once"),
        Rate("VLLMSampler, bf16", 54_000, 12_500, False, "derived from a published FP8 figure of an 8B model"),
    )
}
"""Rates by GPU. The one that is assumed is a 7B in bfloat16 under vLLM; it was never run here."""
