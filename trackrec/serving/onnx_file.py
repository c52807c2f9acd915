"""Writes CTR nets as one ONNX file, and compares it with torch.

Letters: B rows.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trackrec.runtime.errors import SettingError, reason

TOLERANCE = 1e-5
_EXTERNAL_BYTES = 2**30  # larger weights are written to a second file: protobuf is limited to 2 GiB


class MeanOfNets(nn.Module):
    """The mean probability of nets that read the same inputs, given as arguments in a fixed order.

    Args:
        nets: each batch -> logits (B,).
        names: of the inputs, in their order.
    """

    def __init__(self, nets: Sequence[nn.Module], names: Sequence[str]) -> None:
        super().__init__()
        self.nets, self.names = nn.ModuleList(nets), tuple(names)

    def forward(self, *values: Tensor) -> Tensor:
        """Inputs -> (B,) probabilities."""
        batch = dict(zip(self.names, values, strict=True))
        p = [net(batch).sigmoid() for net in self.nets]
        # The mean is taken in float64, as `trackrec.ctr.saved.SavedNets` takes it.
        return p[0] if len(p) == 1 else torch.stack(p).double().mean(dim=0).float()


def write_onnx(nets: Sequence[nn.Module], example: dict[str, NDArray[Any]], path: Path) -> None:
    """Write nets as one ONNX file, their mean; its first dimension is free.

    Args:
        nets: each batch -> logits (B,).
        example: inputs by name, at least two rows.
        path: file to write.

    Raises:
        SettingError: the net can't be expressed in ONNX.
    """
    batch = torch.export.Dim("batch", min=1)
    values = tuple(torch.from_numpy(value) for value in example.values())
    size = sum(weight.numel() * weight.element_size() for net in nets for weight in net.parameters())
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                MeanOfNets(nets, list(example)).eval(),
                values,
                input_names=list(example),
                output_names=["p"],
                dynamo=True,
                dynamic_shapes={"values": tuple({0: batch} for _ in values)},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise SettingError(
            f"ctr.net: {type(nets[0]).__name__} can't be written as ONNX: {reason(error.__cause__ or error)}"
        ) from error
    assert program is not None
    program.save(path, external_data=size > _EXTERNAL_BYTES)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which logs packages that no net uses and warns about its own deprecated calls."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def largest_difference(nets: Sequence[nn.Module], example: dict[str, NDArray[Any]], path: Path) -> float:
    """Between onnxruntime's probabilities and torch's, on all rows at once and on the first row only.

    Raises:
        SettingError: it is above `TOLERANCE`, or NaN.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for rows in (slice(None), slice(1)):
        part = {name: value[rows] for name, value in example.items()}
        with torch.inference_mode():
            expected = MeanOfNets(nets, list(part))(*map(torch.from_numpy, part.values())).numpy()
        (p,) = session.run(["p"], part)
        largest = max(largest, float(np.abs(p - expected).max()))
    if not largest <= TOLERANCE:
        raise SettingError(
            f"ctr.net: onnxruntime differs from torch by {largest:.1e} on {type(nets[0]).__name__}, more than "
            f"{TOLERANCE:.0e}. Nothing was written."
        )
    return largest
