"""The shipped callbacks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from trackrec.callbacks import StopOnNonFinite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training(bad: float) -> None:
    trainer = SimpleNamespace(global_step=7)
    callback = StopOnNonFinite()
    callback.on_train_batch_end(trainer, object(), {"loss": torch.tensor(1.0)}, None, 0)  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="at step 7, batch 3"):
        callback.on_train_batch_end(trainer, object(), {"loss": torch.tensor(bad)}, None, 3)  # type: ignore[arg-type]
