"""The validation of S-DPO on sets that are held back from the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tiny import reccot_row

from trackrec.align.candidates import Candidates, candidate_folders, candidate_steps
from trackrec.align.data import AlignData
from trackrec.align.module import SoftmaxDPOModule, write_references
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import LoRASettings
from trackrec.llm.training.fit import fit_adapter
from trackrec.prompts.book import PromptBook
from trackrec.runtime.errors import SettingError
from trackrec.storage.atomic import stable_share
from trackrec.storage.parts import read_table, write_part

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1}
HOLD = 0.4
HELD = {f"h{i}" for i in range(6) if stable_share("hold sets", 0, f"h{i}") < HOLD}


@pytest.fixture
def lm(tiny_lm: Callable[..., Any]) -> LanguageModel:
    lm: LanguageModel = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
    return lm


@pytest.fixture
def stage(lm: LanguageModel, tmp_path: Path) -> Path:
    """Of six histories four texts each, and sets with 1, 2 or 3 rejected ones."""
    words = ["Likes Drama.", "Likes war and more.", "Hates Drama.", "Likes it all, and Comedy."]
    rows = [
        reccot_row(f"h{i}", draw, token_ids=lm.chat.tokenizer(f"{text} {i}")["input_ids"])
        for i in range(6)
        for draw, text in enumerate(words)
    ]
    write_part(tmp_path / "sample", "reccots", rows)
    sets = [
        {"history_id": f"h{i}", "source": "teacher", "round": 1, "chosen": 0, "chosen_reward": 0.9}
        | {"rejected": list(range(1, 2 + i % 3)), "rejected_rewards": [0.1] * (1 + i % 3)}
        for i in range(6)
    ]
    write_part(tmp_path / "preferences", "preferences", sets)
    return tmp_path


def held_data(lm: Any, book: PromptBook, stage: Path, hold: float = HOLD, **settings: Any) -> AlignData:
    data = AlignData(lm, book, [(stage / "preferences", stage / "sample")], hold=hold, **settings)
    data.setup("fit")
    return data


def ready(lm: Any, book: PromptBook, stage: Path, **settings: Any) -> tuple[SoftmaxDPOModule, AlignData]:
    """A module and its data, with the references of all sets."""
    module = SoftmaxDPOModule(lm, "g", lr=5e-3)
    data = held_data(lm, book, stage, **settings)
    write_references(module, data, TRAINER, stage / "references")
    return module, data


def curve(out: Path, name: str = "valid/loss") -> dict[int, float]:
    """The logged values by their step."""
    log = pl.read_csv(out / "logs/metrics.csv").select("step", name).drop_nulls()
    return dict(log.iter_rows())


def test_held_histories_are_chosen_by_hash_and_not_trained_on(
    lm: LanguageModel, tiny_book: PromptBook, stage: Path
) -> None:
    data = held_data(lm, tiny_book, stage)
    assert 0 < len(HELD) < 6
    assert {entry.history_id for entry in data.held} == HELD
    assert {entry.history_id for entry in data.examples} == {f"h{i}" for i in range(6)} - HELD
    trained = {key for batch in data.train_dataloader() for key in batch.ids}
    assert trained == {entry.history_id for entry in data.examples}
    everything = held_data(lm, tiny_book, stage, hold=0.0)
    assert (len(everything.examples), everything.held, everything.val_dataloader()) == (6, [], [])
    lowest = min((f"h{i}" for i in range(6)), key=lambda key: stable_share("hold sets", 0, key))
    assert [entry.history_id for entry in held_data(lm, tiny_book, stage, hold=1e-9).held] == [lowest]


def test_sets_of_a_history_are_held_together_in_every_round(
    lm: LanguageModel, tiny_book: PromptBook, stage: Path
) -> None:
    sets = read_table(stage / "preferences", "preferences")
    write_part(stage / "preferences-2", "preferences", sets.with_columns(round=pl.lit(2, pl.Int32)))
    directories = [(stage / name, stage / "sample") for name in ("preferences", "preferences-2")]
    data = AlignData(lm, tiny_book, directories, hold=HOLD)
    data.setup("fit")
    assert sorted((e.history_id, e.round) for e in data.held) == sorted((key, r) for key in HELD for r in (1, 2))


@pytest.mark.parametrize("hold", [-0.1, 1.0])
def test_a_share_out_of_range_is_named(lm: LanguageModel, tiny_book: PromptBook, stage: Path, hold: float) -> None:
    with pytest.raises(SettingError, match=r"align\.data\.hold must be in \[0, 1\)"):
        held_data(lm, tiny_book, stage, hold=hold)
    with pytest.raises(SettingError, match=r"lower align\.data\.hold, now 0\.99"):
        held_data(lm, tiny_book, stage, hold=0.99)


def test_references_of_held_sets_are_computed_too(lm: LanguageModel, tiny_book: PromptBook, stage: Path) -> None:
    _, data = ready(lm, tiny_book, stage)
    assert {key for key, _ in data.references} == {f"h{i}" for i in range(6)}


def test_the_curve_starts_at_ln_of_one_plus_k_and_ends_at_what_the_module_computes(
    lm: LanguageModel, tiny_book: PromptBook, stage: Path
) -> None:
    """One epoch in batches of one, four validations in it: at step 0, and each time after its step."""
    module, data = ready(lm, tiny_book, stage, batch_size=1)
    trainer = fit_adapter(module, data, TRAINER, stage / "fit")
    steps = len(data.examples)
    loss = curve(stage / "fit")
    interval = max(1, int(0.25 * steps))
    assert list(loss) == [0, *range(interval, steps + 1, interval)]
    assert loss[0] == pytest.approx(sum(math.log(1 + len(e.tree) - 2) for e in data.held) / len(data.held), abs=1e-4)
    assert curve(stage / "fit", "valid/margin")[0] == pytest.approx(0, abs=1e-3)
    with torch.no_grad():
        alone = [module.compare(data.collate([entry])) for entry in data.held]
    sizes = [len(entry.tree) - 2 for entry in data.held]
    logged = trainer.callback_metrics
    assert logged["valid/loss"].item() == pytest.approx(sum(one[1].item() for one in alone) / len(alone), rel=1e-4)
    for name in ("margin", "accuracy"):  # means over rejected texts
        due = sum(one[2][name].item() * size for one, size in zip(alone, sizes, strict=True)) / sum(sizes)
        assert logged[f"valid/{name}"].item() == pytest.approx(due, rel=1e-3)
    due = sum(one[2]["chosen_reward"].item() for one in alone) / len(alone)
    assert logged["valid/chosen_reward"].item() == pytest.approx(due, rel=1e-3)
    assert loss[steps] == pytest.approx(logged["valid/loss"].item(), rel=1e-5)
    assert loss[steps] != pytest.approx(loss[0], abs=1e-3)


def test_the_trainer_says_how_often(lm: LanguageModel, tiny_book: PromptBook, stage: Path) -> None:
    module, data = ready(lm, tiny_book, stage, batch_size=1)
    fit_adapter(module, data, {**TRAINER, "val_check_interval": 1.0}, stage / "fit")
    assert list(curve(stage / "fit")) == [0, len(data.examples)]


def test_early_stopping_and_model_checkpoint_watch_it(lm: LanguageModel, tiny_book: PromptBook, stage: Path) -> None:
    module, data = ready(lm, tiny_book, stage)
    best = ModelCheckpoint(stage / "best", monitor="valid/loss", filename="best")
    stop = EarlyStopping("valid/loss", patience=1, min_delta=1e9)  # nothing is ever so much better
    args = {**TRAINER, "max_epochs": 9, "val_check_interval": 1.0, "callbacks": [best, stop]}
    trainer = fit_adapter(module, data, args, stage / "fit")
    assert trainer.current_epoch == 2
    assert (stage / "best/best.ckpt").exists()


def test_watching_nothing_names_the_key(lm: LanguageModel, tiny_book: PromptBook, stage: Path) -> None:
    module, data = ready(lm, tiny_book, stage, hold=0.0)
    words = r"align\.trainer\.callbacks: EarlyStopping watches 'valid/loss', .* set align\.data\.hold above 0"
    with pytest.raises(SettingError, match=words):
        fit_adapter(module, data, {**TRAINER, "callbacks": EarlyStopping("valid/loss")}, stage / "fit")


class Cut(Callback):
    """Ends the process at the n-th batch, after its checkpoint where one is due, or in the validation behind it."""

    def __init__(self, at: int, validating: bool) -> None:
        self.at, self.validating, self.seen = at, validating, 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.seen += 1
        if not self.validating and self.seen == self.at + 1:
            raise RuntimeError("cut")

    def on_validation_start(self, *_: Any) -> None:
        if self.validating and self.seen == self.at:
            raise RuntimeError("cut")


@pytest.mark.parametrize(("at", "validating"), [(1, False), (1, True), (2, False), (2, True), (3, True)])
def test_a_training_cut_between_validations_or_in_one_ends_like_an_undisturbed_one(
    tiny_lm: Callable[..., Any], tiny_book: PromptBook, stage: Path, at: int, validating: bool
) -> None:
    """Two epochs of batches of one, a checkpoint after each step: the same curve and the same bits."""
    ends = {}
    for name in ("whole", "cut"):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
        args = {**TRAINER, "max_epochs": 2}
        if name == "cut":
            module, data = ready(lm, tiny_book, stage, batch_size=1)
            with pytest.raises(RuntimeError, match="cut"):
                fit_adapter(
                    module, data, {**args, "callbacks": [Cut(at, validating)]}, stage / name, checkpoint_every=1
                )
            lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
        module, data = ready(lm, tiny_book, stage, batch_size=1)
        fit_adapter(module, data, args, stage / name, checkpoint_every=1)
        weights = [weight.detach().clone() for weight in lm.train_only("g")]
        ends[name] = ((stage / name / "logs/metrics.csv").read_text(), weights)
    assert ends["cut"][0] == ends["whole"][0]
    assert all(torch.equal(one, other) for one, other in zip(ends["cut"][1], ends["whole"][1], strict=True))


# -- candidates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "steps", "due"),
    [(1, 7, [7]), (2, 8, [4, 8]), (3, 8, [3, 6, 8]), (4, 2, [1, 2]), (2, 1, [1])],
)
def test_candidates_are_evenly_spaced_and_the_last_is_the_end(count: int, steps: int, due: list[int]) -> None:
    assert candidate_steps(count, steps) == due


def test_candidates_survive_a_crash_between_them_to_the_bit(
    tiny_lm: Callable[..., Any], tiny_book: PromptBook, stage: Path
) -> None:
    """Two epochs, a candidate in the middle and one at the end; cut after the first, and resumed from before it."""
    files = {}
    for name in ("whole", "cut"):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
        module, data = ready(lm, tiny_book, stage, batch_size=1)
        steps, every, args = len(data.examples), 2, {**TRAINER, "max_epochs": 2}
        saving = Candidates(stage / name, 2)
        if name == "cut":
            callbacks = [saving, Cut(steps, validating=False)]
            with pytest.raises(RuntimeError, match="cut"):
                fit_adapter(module, data, {**args, "callbacks": callbacks}, stage / name, checkpoint_every=every)
            assert candidate_folders(stage / name) == ["candidates/1"]
            lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=4))
            module, data = ready(lm, tiny_book, stage, batch_size=1)
        fit_adapter(module, data, {**args, "callbacks": [saving]}, stage / name, checkpoint_every=every)
        assert candidate_folders(stage / name) == ["candidates/1", "candidates/2"]
        paths = [f"{folder}/adapter_model.safetensors" for folder in (*candidate_folders(stage / name), "adapter")]
        files[name] = [(stage / name / path).read_bytes() for path in paths]
    assert files["cut"] == files["whole"]
    first, last, end = files["whole"]
    assert first != last
    assert last == end


def test_a_training_stopped_early_has_its_end_as_the_last_candidate(
    lm: LanguageModel, tiny_book: PromptBook, stage: Path
) -> None:
    """Planned for eight epochs with the first candidate in the third, and stopped after two."""
    module, data = ready(lm, tiny_book, stage, batch_size=1)
    steps = len(data.examples)
    stop = EarlyStopping("valid/loss", patience=1, min_delta=1e9)
    args = {**TRAINER, "max_epochs": 8, "val_check_interval": 1.0, "callbacks": [Candidates(stage / "fit", 3), stop]}
    trainer = fit_adapter(module, data, args, stage / "fit")
    assert trainer.global_step == 2 * steps
    assert candidate_steps(3, 8 * steps)[0] > trainer.global_step
    assert candidate_folders(stage / "fit") == ["candidates/1"]
    weights = [stage / "fit" / name / "adapter_model.safetensors" for name in ("candidates/1", "adapter")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert candidate_folders(stage) == ["adapter"]  # where none was saved
