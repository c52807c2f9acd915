"""The values that callbacks may watch are those that trainings log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapter_stages import QUIET, align_stage, distill_stage, rec_tune_stage

from trackrec.commands.early_trainers import LOGGED
from trackrec.llm.training.fit import fit_adapter

# Values that only a setting adds: align.model.kl_coef, rec_tune.data.contrast.
OPTIONAL = {"kl", "text_margin"}


@pytest.mark.parametrize("section", ["distill", "align", "rec_tune"])
def test_a_section_logs_what_may_be_watched(
    section: str, tiny_lm: Callable[..., Any], tiny_book: Any, tmp_path: Path, quiet_lightning: None
) -> None:
    lm = tiny_lm(adapters=["g"])
    make = {"distill": distill_stage, "align": align_stage, "rec_tune": rec_tune_stage}[section]
    module, data = make(lm, tiny_book, tmp_path)
    if section == "align":
        data.held, data.examples = data.examples[:2], data.examples[2:]
    else:
        data.held = {"h0"} if section == "distill" else {"h0": [("t0", "i3", 1), ("t1", "i4", 0)]}
        data.setup("fit")
    trainer = fit_adapter(module, data, {**QUIET, "max_epochs": 1}, tmp_path / "fit")
    assert set(trainer.callback_metrics) == LOGGED[section] - OPTIONAL
