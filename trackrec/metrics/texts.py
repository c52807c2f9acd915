"""Diversity and length of generated texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trackrec.metrics.scores import mean_or_nan

if TYPE_CHECKING:
    import torch

    Vector = NDArray[Any] | torch.Tensor


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Distinct word n-grams over all n-grams of all texts (Li et al. 2016); lower-case words split at whitespace."""
    grams = []
    for text in texts:
        words = text.lower().split()
        grams += [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def mean_words(texts: Sequence[str]) -> float:
    """Mean number of whitespace-separated words of a text."""
    return mean_or_nan(np.array([len(text.split()) for text in texts], dtype=np.float64))
