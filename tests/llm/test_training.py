"""The three trainings' common ground: the rate's course, small checkpoints, resume to the bit, what moves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tiny import reccot_row

from trackrec.align.data import AlignData
from trackrec.align.module import SoftmaxDPOModule
from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.loading import LoRASettings
from trackrec.llm.training import AdapterModule, OptimizerSettings, fit_adapter, stage_trainer
from trackrec.tables import write_part
from trackrec.validator.data import RecTuneData
from trackrec.validator.module import RecTuningModule

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
TEXTS = ["Enjoys Drama.", "Avoids Horror; likes War and Comedy.", "Mostly a guess, from 9 films.", "A generous viewer."]


@pytest.fixture(autouse=True)
def _quiet_lightning():
    names = ["lightning.pytorch", "lightning.pytorch.utilities.rank_zero"]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def texts_dir(tmp_path) -> Path:
    """A teacher's stage: ten texts about h0 ... h5."""
    rows = [reccot_row(f"h{i % 6}", i // 6, text=f"{TEXTS[i % 4]} {TEXTS[(i + 1) % 4]}") for i in range(10)]
    write_part(tmp_path / "texts", "reccots", rows)
    return tmp_path / "texts"


# -- the course of the learning rate ------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("total", [2, 7, 100])
def test_the_rate_rises_then_falls_to_zero(schedule, total):
    settings = OptimizerSettings(warmup=0.1, schedule=schedule)
    factors = [settings.factor(step, total) for step in range(total + 1)]
    peak = factors.index(max(factors))
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[total] == pytest.approx(0, abs=1e-12)
    assert factors[0] > 0  # a first step of rate 0 would be lost


def test_factors_by_hand():
    """Ten steps, 20 % warm-up: 1/3, 2/3, then half a cosine over the eight that remain."""
    settings = OptimizerSettings(warmup=0.2)
    found = [settings.factor(step, 10) for step in (0, 1, 2, 4, 6, 8, 10, 99)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 0.8535534, 0.5, 0.1464466, 0, 0])
    constant = OptimizerSettings(warmup=0.0, schedule="constant")
    assert [constant.factor(step, 10) for step in (0, 5, 10)] == [1, 1, 1]


class RateRecorder(Callback):
    """The learning rate of every optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_fault_12_the_schedule_decays_to_zero_over_optimizer_steps(tiny_lm, tiny_book, texts_dir, tmp_path):
    """Ten texts in batches of 1, two of them a step, two epochs: ten optimizer steps, not samples x epochs."""
    lm, rates = tiny_lm(adapters=["g"], lora=LoRASettings(r=2)), RateRecorder()
    settings = OptimizerSettings(warmup=0.1)
    module = DistillModule(lm, "g", lr=1e-3, optimizer=settings)
    trainer_args = QUIET | {"max_epochs": 2, "accumulate_grad_batches": 2, "callbacks": [rates]}
    trainer = fit_adapter(module, DistillData(lm, tiny_book, texts_dir, batch_size=1), trainer_args, tmp_path / "out")
    assert trainer.global_step == 10
    assert rates.rates == pytest.approx([1e-3 * settings.factor(step, 10) for step in range(10)])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_a_bad_rate_is_named(tiny_lm):
    with pytest.raises(ValueError, match=r"model\.lr must be above 0, got 0"):
        DistillModule(tiny_lm(adapters=["g"]), "g", lr=0.0)


# -- checkpoints --------------------------------------------------------------------------------------------------


class PowerCut(Callback):
    """Ends the run in the middle of an epoch, after some optimizer steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.after:
            raise ConnectionAbortedError("the power is gone")


def distill(build: Any, book: Any, texts: Path, out: Path, cut: int | None = None, rank: int = 4) -> Any:
    """One run of two epochs of five batches with LoRA dropout; with ``cut`` it dies after so many steps."""
    lm = build(adapters=["g", "v"], lora=LoRASettings(r=rank, dropout=0.2))
    module = DistillModule(lm, "g", lr=1e-2)
    data = DistillData(lm, book, texts, seed=3, batch_size=2)
    args: dict[str, Any] = QUIET | {"max_epochs": 2}
    if cut is None:
        fit_adapter(module, data, args, out, checkpoint_every=1)
        return lm
    with pytest.raises(ConnectionAbortedError):
        fit_adapter(module, data, args | {"callbacks": [PowerCut(cut)]}, out, checkpoint_every=1)
    return lm


def test_a_checkpoint_holds_the_adapter_and_nothing_of_the_base(tiny_lm, tiny_book, texts_dir, tmp_path):
    lm = distill(tiny_lm, tiny_book, texts_dir, tmp_path / "out", cut=3, rank=32)
    lm.save_adapter(tmp_path / "adapter", "g")
    path = tmp_path / "out" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    names = set(checkpoint["state_dict"])
    assert names == {f"backbone.{name}" for name, p in lm.base.named_parameters() if ".g." in name}
    assert len(names) == 28
    assert path.stat().st_size < 4 * (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert checkpoint["global_step"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("cut", [3, 5, 7], ids=["mid first epoch", "between epochs", "mid second epoch"])
def test_a_resumed_run_gives_the_undisturbed_adapter_to_the_bit(tiny_lm, tiny_book, texts_dir, tmp_path, cut):
    """Five batches an epoch, LoRA dropout on: the order of batches and the random numbers both go on."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    distill(tiny_lm, tiny_book, texts_dir, whole)
    distill(tiny_lm, tiny_book, texts_dir, broken, cut=cut)
    assert not (broken / "adapter").exists()
    distill(tiny_lm, tiny_book, texts_dir, broken)
    name = Path("adapter") / "adapter_model.safetensors"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_a_resumed_run_leaves_one_curve(tiny_lm, tiny_book, texts_dir, tmp_path):
    distill(tiny_lm, tiny_book, texts_dir, tmp_path / "whole")
    distill(tiny_lm, tiny_book, texts_dir, tmp_path / "out", cut=4)
    distill(tiny_lm, tiny_book, texts_dir, tmp_path / "out")
    curve = (tmp_path / "out" / "logs" / "metrics.csv").read_text()
    assert len(curve.splitlines()) == 11
    assert curve == (tmp_path / "whole" / "logs" / "metrics.csv").read_text()


def test_a_training_that_was_whole_but_for_its_adapter_keeps_its_last_values(tiny_lm, tiny_book, texts_dir, tmp_path):
    """Cut between the last checkpoint and the adapter: nothing trains any more, and the manifest still has its loss."""
    values = []
    for _ in range(2):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
        module = DistillModule(lm, "g", lr=1e-2)
        data = DistillData(lm, tiny_book, texts_dir, batch_size=2)
        fit_adapter(module, data, QUIET | {"max_epochs": 1}, tmp_path / "out", checkpoint_every=1)
        values.append(module.last_values)
    assert values[0]["loss"] > 0
    assert values[1] == values[0]


def test_what_ran_before_a_training_does_not_matter(tiny_lm, tiny_book, texts_dir, tmp_path):
    """A stage that starts anew after a crash stands in a process that has drawn other random numbers."""
    for seed in (1, 2):
        torch.manual_seed(seed)
        distill(tiny_lm, tiny_book, texts_dir, tmp_path / str(seed))
    assert torch.initial_seed() == 2  # and the training leaves the process's state as it was
    adapters = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in "12"]
    assert adapters[0] == adapters[1]


def logged(out: Path) -> pl.DataFrame:
    (path,) = (out / "logs").rglob("metrics.csv")
    return pl.read_csv(path)


def test_every_step_is_logged_unless_told_otherwise(tiny_lm, tiny_book, texts_dir, tmp_path):
    """Five batches: fewer than Lightning's own interval of fifty, which would log none of them."""
    quiet = {key: value for key, value in QUIET.items() if key != "log_every_n_steps"}
    for name, more in (("all", {"log_every_n_steps": None}), ("some", {"log_every_n_steps": 2})):
        module = DistillModule(tiny_lm(adapters=["g"]), "g")
        fit_adapter(
            module,
            DistillData(module.lm, tiny_book, texts_dir, batch_size=2),
            quiet | more | {"max_epochs": 1},
            tmp_path / name,
        )
    assert logged(tmp_path / "all")["step"].to_list() == [0, 1, 2, 3, 4]
    assert logged(tmp_path / "some")["step"].to_list() == [1, 3]


def test_a_step_of_several_batches_logs_their_mean(tiny_lm, tiny_book, texts_dir, tmp_path):
    """Ten texts, one a batch, four a step: steps of 4, 4 and 2. A rate near 0 keeps the model as it is."""
    found = {}
    for name, size, accumulate in (("single", 1, 1), ("steps", 1, 4)):
        module = DistillModule(tiny_lm(adapters=["g"]), "g", lr=1e-12)
        data = DistillData(module.lm, tiny_book, texts_dir, batch_size=size)
        fit_adapter(module, data, QUIET | {"max_epochs": 1, "accumulate_grad_batches": accumulate}, tmp_path / name)
        found[name] = logged(tmp_path / name)
    single = found["single"]["loss"].to_list()
    means = [sum(part) / len(part) for part in (single[:4], single[4:8], single[8:])]
    assert found["steps"]["step"].to_list() == [0, 1, 2]
    assert found["steps"]["loss"].to_list() == pytest.approx(means, rel=1e-5)


class Blowup(Callback):
    """The last step of a training goes wrong."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for parameter in pl_module._trained:
            parameter.data.fill_(float("inf"))


def test_an_adapter_that_is_not_finite_is_an_error(tiny_lm, tiny_book, texts_dir, tmp_path):
    lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
    module = DistillModule(lm, "g", lr=3e-3)
    data = DistillData(lm, tiny_book, texts_dir, batch_size=2)
    with pytest.raises(FloatingPointError, match=r"adapter 'g' .*lower distill\.model\.lr \(now 0\.003\)"):
        fit_adapter(module, data, QUIET | {"max_steps": 1, "callbacks": [Blowup()]}, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()


def test_lightning_advertises_nothing_and_says_all_else(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        stage_trainer(QUIET, tmp_path)
        ours = caplog.text
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert "Tip" not in ours
    assert "GPU available" in ours
    assert "Tip" in caplog.text  # else there is nothing to leave out any more


# -- what moves ---------------------------------------------------------------------------------------------------


def distill_stage(lm: Any, book: Any, root: Path) -> tuple[AdapterModule, Any]:
    rows = [reccot_row(f"h{i}", text=TEXTS[i % 4]) for i in range(6)]
    write_part(root / "texts", "reccots", rows)
    return DistillModule(lm, "g", lr=1e-2), DistillData(lm, book, root / "texts", batch_size=2)


def align_stage(lm: Any, book: Any, root: Path) -> tuple[AdapterModule, Any]:
    rows = [
        reccot_row(f"h{i}", draw, source="g1", token_ids=[20 + 7 * i + draw, 30 + draw, 1]) | {"round": 1}
        for i in range(6)
        for draw in range(4)
    ]
    write_part(root / "draws", "reccots", rows)
    common = {"source": "g1", "round": 1, "chosen_reward": 0.9}
    sets = [
        {"history_id": f"h{i}", "chosen": i % 4, "rejected": [d for d in range(4) if d != i % 4][: 1 + i % 3]} | common
        for i in range(6)
    ]
    write_part(
        root / "sets", "preferences", [{**row, "rejected_rewards": [0.1] * len(row["rejected"])} for row in sets]
    )
    module, data = (
        SoftmaxDPOModule(lm, "g", lr=1e-2),
        AlignData(lm, book, [(root / "sets", root / "draws")], batch_size=2),
    )
    rows = stage_trainer(QUIET, root / "reference").predict(module, datamodule=data)
    data.set_references([row for batch in rows for row in batch])
    return module, data


def rec_tune_stage(lm: Any, book: Any, root: Path) -> tuple[AdapterModule, Any]:
    targets = {f"h{i}": [(f"s{i}{t}", f"i{(i + 5 * t) % 20}", (i + t) % 2) for t in range(1 + i % 3)] for i in range(6)}
    texts = {f"h{i}": TEXTS[i % 4] for i in range(6)}
    return RecTuningModule(lm, "g", lr=1e-2), RecTuneData(lm, book, texts, targets, batch_size=2)


@pytest.mark.parametrize("stage", [distill_stage, align_stage, rec_tune_stage])
def test_every_adapter_weight_moves_and_no_other(tiny_lm, tiny_book, tmp_path, stage):
    lm = tiny_lm(adapters=["g", "v"], lora=LoRASettings(r=4))
    module, data = stage(lm, tiny_book, tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in lm.base.named_parameters()}
    trainer = fit_adapter(module, data, QUIET | {"max_epochs": 2}, tmp_path / "out")
    assert trainer.global_step == 6
    moved = {name for name, p in lm.base.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".g." in name}
    assert len(moved) == 28
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixed_precision_trains_a_model_of_either_dtype(tiny_lm, tiny_book, texts_dir, tmp_path, dtype):
    """The gradient is that of the plain backward pass, to the bit."""

    class Plain(DistillModule):
        def training_step(self, batch, batch_idx):
            sums = self.sums(batch)
            self.log_step({"loss": (sums.loss / sums.units).detach()}, batch.ids)
            return sums.loss / sums.units

    ends = []
    for kind in (DistillModule, Plain):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2), dtype=dtype)
        data, out = DistillData(lm, tiny_book, texts_dir, batch_size=2), tmp_path / kind.__name__
        args = QUIET | {"max_epochs": 1, "precision": "bf16-mixed", "accumulate_grad_batches": 2}
        module = kind(lm, "g", lr=1e-2)
        fit_adapter(module, data, args, out)
        ends.append([parameter.detach().clone() for parameter in module._trained])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


class ModeRecorder(Callback):
    """Which modules are in training mode when a batch starts."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.modes = {name: module.training for name, module in pl_module.backbone.named_modules()}


@pytest.mark.parametrize("look", [False, True], ids=["fresh", "after inference"])
def test_the_base_trains_in_training_mode(tiny_lm, tiny_book, texts_dir, tmp_path, look):
    """In eval mode LoRA dropout is off and gradient checkpointing does nothing, both in silence."""
    lm, modes = tiny_lm(adapters=["g"], lora=LoRASettings(r=2, dropout=0.5)), ModeRecorder()
    if look:
        with lm.using("g"):
            pass
    module = DistillModule(lm, "g")
    args = QUIET | {"max_steps": 1, "callbacks": [modes]}
    fit_adapter(module, DistillData(lm, tiny_book, texts_dir), args, tmp_path / "out")
    assert [name for name, training in modes.modes.items() if not training] == []


def test_a_loss_that_is_no_number_names_its_histories_and_writes_nothing(tiny_lm, tiny_book, texts_dir, tmp_path):
    lm = tiny_lm(adapters=["g"])
    module = DistillModule(lm, "g")
    for parameter in lm.train_only("g"):
        parameter.data.fill_(float("nan"))
    data = DistillData(lm, tiny_book, texts_dir, batch_size=2)
    with pytest.raises(FloatingPointError, match=r"DistillModule: the loss is nan at step 0, on h\d, h\d\. Lower"):
        fit_adapter(module, data, QUIET | {"max_epochs": 1}, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()


class Poison(Callback):
    """Weights or gradients that are no numbers at one step."""

    def __init__(self, step: int, gradients: bool) -> None:
        self.step, self.gradients = step, gradients

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self.gradients and trainer.global_step == self.step:
            pl_module._trained[0].grad.fill_(float("nan"))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if not self.gradients and trainer.global_step == self.step:
            pl_module._trained[0].data.fill_(float("nan"))


@pytest.mark.parametrize("gradients", [False, True], ids=["a loss", "a gradient"])
def test_after_a_nan_the_last_good_checkpoint_goes_on(tiny_lm, tiny_book, texts_dir, tmp_path, gradients):
    """A gradient that is no number shows in no loss before the step that it spoils."""

    def train(out: Path, *callbacks: Callback) -> None:
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
        data = DistillData(lm, tiny_book, texts_dir, batch_size=2)
        args = QUIET | {"max_epochs": 1, "callbacks": list(callbacks)}
        fit_adapter(DistillModule(lm, "g", lr=1e-2), data, args, out, checkpoint_every=1)

    train(tmp_path / "whole")
    with pytest.raises(FloatingPointError, match="at step 3"):
        train(tmp_path / "out", Poison(2 if gradients else 3, gradients))
    checkpoint = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == (2 if gradients else 3)
    assert all(torch.isfinite(weight).all() for weight in checkpoint["state_dict"].values())
    assert not (tmp_path / "out" / "adapter").exists()
    train(tmp_path / "out")
    name = Path("adapter") / "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_gradient_checkpointing_computes_layers_twice(tiny_lm, tiny_book, texts_dir, tmp_path):
    """Once forward and once more for the gradient: else the memory that it trades for was never saved."""
    calls = {}
    for checkpointing in (False, True):
        lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2), gradient_checkpointing=checkpointing)
        seen: list[str] = []
        for layer in lm.base.get_decoder().layers:
            # before, not after: the second time ends as soon as the gradient has what it needs
            layer.mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append("mlp"))
        data = DistillData(lm, tiny_book, texts_dir)
        fit_adapter(DistillModule(lm, "g"), data, QUIET | {"max_steps": 1}, tmp_path / str(checkpointing))
        calls[checkpointing] = len(seen)
    assert calls == {False: 2, True: 4}


def test_a_text_weighs_the_same_beside_a_longer_one(tiny_lm, tiny_book, texts_dir):
    """The loss of a batch is the mean of its texts' own losses."""
    lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
    module, data = DistillModule(lm, "g"), DistillData(lm, tiny_book, texts_dir)
    module.log_step = lambda values, ids: None
    data.setup("fit")
    together = module.training_step(data.collate(data.examples), 0)
    alone = [module.training_step(data.collate([entry]), 0) for entry in data.examples]
    assert together.item() == pytest.approx(sum(loss.item() for loss in alone) / len(alone), abs=1e-5)
    assert len({len(entry.tree[1].ids) for entry in data.examples}) > 2


def test_a_text_that_the_model_cannot_reach_is_an_error(tiny_lm, tiny_book, texts_dir):
    lm = tiny_lm(config={"max_position_embeddings": 64})
    with pytest.raises(ValueError, match=r"has \d+ tokens, the model reaches 64: lower prompts\.max_history"):
        DistillData(lm, tiny_book, texts_dir).setup("fit")


def test_a_judgement_that_the_model_cannot_reach_is_an_error(tiny_lm, tiny_book):
    lm = tiny_lm(config={"max_position_embeddings": 64})
    data = RecTuneData(lm, tiny_book, {"h5": TEXTS[0]}, {"h5": [("s", "i1", 1)]})

    with pytest.raises(ValueError, match="the model reaches 64"):
        data.setup("fit")
