"""The validation of Rec-Tuning and of distillation on what is held back from training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.training.fit import fit_adapter
from trackrec.metrics.scores import accuracy, auc
from trackrec.prompts.book import PromptBook
from trackrec.runtime.errors import SettingError
from trackrec.storage.parts import read_table, write_part
from trackrec.validator.data import RecTuneData
from trackrec.validator.module import RecTuningModule
from trackrec.validator.prompt_tree import validator_tree
from trackrec.validator.score import score_reccots
from trackrec.validator.settings import ScoreSettings

LM = Callable[..., Any]
TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 2}


def rec_tuning(lm: Any, book: PromptBook, held: bool = True, answers: Any = "labels") -> tuple[Any, RecTuneData]:
    """Six histories, of which each tunes on one item and four validate on two others."""
    targets = {f"h{i}": [(f"s{i}", f"i{i}", i % 2)] for i in range(6)}
    others = {f"h{i}": [(f"t{i}-{j}", f"i{5 - j}", (i + j) % 2) for j in range(2)] for i in range(4)}
    texts = {key: "Likes Drama." if int(key[1]) % 2 else "Likes war." for key in targets}
    data = RecTuneData(lm, book, texts, targets, others if held else None, batch_size=3)
    return RecTuningModule(lm, "v", lr=1e-2, answers=answers), data


@pytest.mark.parametrize("answers", ["vocabulary", "labels"])
def test_rec_tuning_logs_what_metrics_computes_from_the_scores(
    tiny_lm: LM, tiny_book: PromptBook, tmp_path: Path, answers: str
) -> None:
    """Held rows scored by the tuned adapter, as the loop scores: the same AUC and accuracy, to 1e-6."""
    lm = tiny_lm(adapters=["v"])
    module, data = rec_tuning(lm, tiny_book, answers=answers)
    logged = fit_adapter(module, data, TRAINER, tmp_path / "fit").callback_metrics
    entries = [
        (key, validator_tree(lm.chat, tiny_book, key, [(0, data.texts[key])], rows)) for key, rows in data.held.items()
    ]
    reader = ScoreSettings().reader()
    score_reccots(lm, "v", entries, tmp_path, source="g", round_=1, validator="v", reader=reader, shard_size=9)
    rows = read_table(tmp_path, "scores")
    labels = {sample: label for held in data.held.values() for sample, _, label in held}
    y = np.array([labels[sample] for sample in rows["sample_id"]])
    p_yes = np.where(y == 1, rows["p_true"], 1 - rows["p_true"])
    assert len(y) == 8
    assert 0 < auc(p_yes, y) < 1
    assert logged["valid/auc"].item() == pytest.approx(auc(p_yes, y), abs=1e-6)
    assert logged["valid/acc"].item() == pytest.approx(accuracy(p_yes, y), abs=1e-6)
    if answers == "labels":
        assert logged["valid/loss"].item() == pytest.approx(-np.log(rows["p_true"]).mean(), rel=1e-5)


def test_validation_changes_no_weight_of_the_training(tiny_lm: LM, tiny_book: PromptBook, tmp_path: Path) -> None:
    trained = []
    for held in (True, False):
        lm = tiny_lm(adapters=["v"])
        module, data = rec_tuning(lm, tiny_book, held)
        trainer = fit_adapter(module, data, TRAINER, tmp_path / str(held), seed=4)
        assert ("valid/auc" in trainer.callback_metrics) is held
        trained.append([weight.detach().clone() for weight in lm.train_only("v")])
    assert all((one == other).all() for one, other in zip(*trained, strict=True))


def test_early_stopping_and_model_checkpoint_watch_it(tiny_lm: LM, tiny_book: PromptBook, tmp_path: Path) -> None:
    module, data = rec_tuning(tiny_lm(adapters=["v"]), tiny_book)
    best = ModelCheckpoint(tmp_path / "best", monitor="valid/auc", mode="max", filename="best")
    stop = EarlyStopping("valid/loss", patience=1, min_delta=1e9)  # nothing is ever so much better
    trainer = fit_adapter(module, data, {**TRAINER, "max_epochs": 9, "callbacks": [best, stop]}, tmp_path / "fit")
    assert trainer.current_epoch == 2
    assert (tmp_path / "best/best.ckpt").exists()
    curve = pl.read_csv(tmp_path / "fit/logs/metrics.csv")
    assert curve["valid/loss"].drop_nulls().len() == 2
    assert curve["loss"].drop_nulls().len() == trainer.global_step


def test_watching_a_validation_that_never_runs_names_loop_hold(
    tiny_lm: LM, tiny_book: PromptBook, tmp_path: Path
) -> None:
    module, data = rec_tuning(tiny_lm(adapters=["v"]), tiny_book, held=False)
    words = r"rec_tune\.trainer\.callbacks: EarlyStopping watches 'valid/loss', .* set loop\.hold above 0"
    with pytest.raises(SettingError, match=words):
        fit_adapter(module, data, {**TRAINER, "callbacks": EarlyStopping("valid/loss")}, tmp_path / "fit")


def test_distillation_validates_on_held_texts(tiny_lm: LM, tiny_book: PromptBook, tmp_path: Path) -> None:
    """The logged loss is the mean over the held texts of what `sums` gives for each alone."""
    texts = {"h0": "Likes Drama.", "h1": "Likes war and more.", "h2": "Hates Drama.", "h3": "Likes it all."}
    row = {"round": 0, "source": "t", "draw": 0, "token_ids": [], "prompt_hash": "", "finish_reason": "stop", "seed": 0}
    write_part(tmp_path / "texts", "reccots", [{**row, "history_id": key, "text": text} for key, text in texts.items()])
    lm = tiny_lm(adapters=["g"])
    module = DistillModule(lm, "g", lr=1e-2)
    data = DistillData(lm, tiny_book, tmp_path / "texts", {"h1", "h3"}, batch_size=2)
    logged = fit_adapter(module, data, TRAINER, tmp_path / "fit").callback_metrics
    assert [entry.history_id for entry in data.examples] == ["h0", "h2"]
    alone = [module.sums(data.collate([entry])).loss.item() for entry in data.held_examples]
    assert logged["valid/loss"].item() == pytest.approx(sum(alone) / 2, rel=1e-5)
