"""What the inputs of a net were in training, against which a server measures drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trackrec.ctr.features.features import CTRData
from trackrec.ctr.features.past import UNKNOWN
from trackrec.serving.requests import net_inputs

_QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_ROWS = 65_536  # of a split, evenly spaced


def ranges(data: CTRData, arm: str, names: Sequence[str], nets: Sequence[nn.Module]) -> dict[str, Any]:
    """Mean, standard deviation and quantiles of every number that the nets read, over train rows.

    Beside the dense features by name: ``recent_length`` (ratings in the recent list), ``text_norm``; shares
    ``unknown_items``, ``unknown_users``, ``without_text``; and ``p``, what the nets answer on validation rows.

    Args:
        data: the features.
        arm: of the nets.
        names: of the dense features that they read.
        nets: their mean is ``p``.
    """
    train = _some_rows(data, arm, "train")
    numbers = {name: train["dense"][:, column] for column, name in enumerate(names)}
    numbers["recent_length"] = train["recent_mask"].sum(axis=1)
    shares = {"unknown_items": train["item"] == UNKNOWN, "unknown_users": train["user"] == UNKNOWN}
    if "text" in train:
        has = train.get("text_mask", np.ones(len(train["item"]), np.bool_))
        numbers["text_norm"] = np.linalg.norm(train["text"][has], axis=1)
        shares["without_text"] = ~has
    valid = {name: torch.from_numpy(value) for name, value in _some_rows(data, arm, "valid").items()}
    with torch.inference_mode():
        numbers["p"] = torch.stack([net(valid).sigmoid() for net in nets]).mean(dim=0).numpy()
    return {
        "rows": len(train["item"]),
        "numbers": {name: _summary(values) for name, values in numbers.items() if len(values)},
        "shares": {name: float(np.mean(values)) for name, values in shares.items()},
    }


def _some_rows(data: CTRData, arm: str, split: str) -> dict[str, NDArray[Any]]:
    n = len(data.sample_ids[split])
    return net_inputs(data, arm, split, slice(None, None, max(1, n // _ROWS)))


def _summary(values: NDArray[Any]) -> dict[str, Any]:
    numbers = values.astype(np.float64)
    cuts = np.quantile(numbers, _QUANTILES)
    return {
        "mean": float(numbers.mean()),
        "std": float(numbers.std()),
        "quantiles": {f"{level:g}": float(cut) for level, cut in zip(_QUANTILES, cuts, strict=True)},
    }
