"""The three trainings' common ground: the rate's course, what is logged, what moves, what is an error."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from adapter_stages import QUIET, TEXTS, align_stage, distill_stage, rec_tune_stage
from lightning.pytorch import Callback
from narrow import narrow

from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.loading import LoRASettings
from trackrec.llm.training.devices import placed
from trackrec.llm.training.fit import fit_adapter
from trackrec.llm.training.optimizer import OptimizerSettings
from trackrec.validator.data import RecTuneData

pytestmark = pytest.mark.usefixtures("quiet_lightning")

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
    tokens = found["single"]["tokens"].to_list()
    assert found["steps"]["tokens"].to_list() == [sum(part) for part in (tokens[:4], tokens[4:8], tokens[8:])]


# -- accumulated batches ------------------------------------------------------------------------------------------


class GradientRecorder(Callback):
    """The gradient of every optimizer step, as one vector."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.steps.append(torch.cat([p.grad.flatten() for p in pl_module._trained]))


def trained(lm, stage, book, root, batch_size, accumulate, squeezed=False, **trainer):
    """Gradients of the steps, the adapter's weights in the end, and the units of each batch."""
    root.mkdir()
    module, data = stage(lm, book, root)
    for number, parameter in enumerate(module._trained):  # PEFT's B is 0, and then so is A's gradient
        parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(number))
    data.batch_size = batch_size
    module.lr, module.optimizer_settings = trainer.pop("lr", 1e-2), OptimizerSettings(warmup=0.0, schedule="constant")
    units: list[int] = []
    sums = module.sums
    module.sums = lambda batch: units.append((found := sums(batch)).units) or found
    if squeezed:
        data.setup("fit")
        narrow(lm, max(data.collate([entry]).layout.tokens for entry in data.examples))
    recorder = GradientRecorder()
    args = QUIET | {"max_epochs": 1, "accumulate_grad_batches": accumulate, "callbacks": [recorder], **trainer}
    if stage is align_stage:  # the reference is the adapter before it was shaken
        module.check_start = lambda batch: None
    fit_adapter(module, data, args, root / "out")
    return recorder.steps, [parameter.detach().clone() for parameter in module._trained], units


STAGES = [distill_stage, align_stage, rec_tune_stage]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 6), (1, 8), (4, 2), (4, 3)])
@pytest.mark.parametrize("squeezed", [False, True], ids=["whole", "micro-batches"])
def test_accumulated_batches_step_as_one_large_batch(
    tiny_lm, tiny_book, tmp_path, stage, batch_size, accumulate, squeezed
):
    """Six sets in six batches, or in one of four and one of two; the window may be shorter than it could be."""
    (due,), end, _ = trained(tiny_lm(adapters=["g"]), stage, tiny_book, tmp_path / "one", 6, 1)
    lm = tiny_lm(adapters=["g"])
    (found,), after, units = trained(lm, stage, tiny_book, tmp_path / "more", batch_size, accumulate, squeezed)
    assert len(units) >= (6 if squeezed or batch_size == 1 else 2)
    torch.testing.assert_close(found, due, rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(after, end, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_every_window_of_an_epoch_is_a_mean_over_its_units(tiny_lm, tiny_book, tmp_path, stage):
    """Six batches of one, four a step: windows of 4 and 2. A rate near 0 keeps the model as it is."""
    single, _, units = trained(tiny_lm(adapters=["g"]), stage, tiny_book, tmp_path / "one", 1, 1, lr=1e-12)
    steps, _, _ = trained(tiny_lm(adapters=["g"]), stage, tiny_book, tmp_path / "more", 1, 4, lr=1e-12)
    assert (len(single), len(steps), len(units)) == (6, 2, 6)
    for found, window in zip(steps, (slice(0, 4), slice(4, 6)), strict=True):
        weighted = [gradient * size for gradient, size in zip(single[window], units[window], strict=True)]
        torch.testing.assert_close(found, sum(weighted) / sum(units[window]), rtol=1e-3, atol=1e-5)


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


# -- what moves ---------------------------------------------------------------------------------------------------


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
        args = QUIET | {"max_epochs": 1, "precision": "bf16-mixed"}
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
    with pytest.raises(
        ValueError, match=r"has \d+ tokens, the model reaches 64: lower prompts\.generator\.max_history"
    ):
        DistillData(lm, tiny_book, texts_dir).setup("fit")


def test_a_judgement_that_the_model_cannot_reach_is_an_error(tiny_lm, tiny_book):
    lm = tiny_lm(config={"max_position_embeddings": 64})
    data = RecTuneData(lm, tiny_book, {"h5": TEXTS[0]}, {"h5": [("s", "i1", 1)]})

    with pytest.raises(ValueError, match="the model reaches 64"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("args", "device", "due"),
    [
        ({}, "cpu", {"accelerator": "cpu", "devices": 1}),
        ({"accelerator": "auto", "devices": "auto"}, "cpu", {"accelerator": "cpu", "devices": 1}),
        ({"accelerator": "cuda"}, "cuda:1", {"accelerator": "gpu", "devices": [1]}),
        ({"devices": [1]}, "cuda:1", {"accelerator": "gpu", "devices": [1]}),
    ],
)
def test_a_trainer_leaves_the_model_where_it_lies(args, device, due):
    assert placed(args, torch.device(device), "align.trainer") == due


@pytest.mark.parametrize(
    ("args", "device", "message"),
    [
        ({"accelerator": "cpu"}, "cuda:0", r"align.trainer.accelerator is cpu, .*cuda:0: .* backbone.device to cpu"),
        ({"accelerator": "gpu"}, "cpu", r"accelerator is gpu, but the model is on cpu: .* backbone.device to cuda"),
        ({"devices": "1,"}, "cuda:0", r"devices is \[1\], but the model is on GPU 0: .*cuda:1"),
    ],
)
def test_a_trainer_on_another_device_is_an_error(args, device, message):
    with pytest.raises(ValueError, match=message):
        placed(args, torch.device(device), "align.trainer")


@pytest.mark.parametrize("values", [{"warmup": 100}, {"warmup": -0.1}, {"beta1": 1.0}, {"beta2": -1.0}])
def test_a_bad_optimizer_is_named(values):
    with pytest.raises(ValueError, match=rf"optimizer\.{next(iter(values))} must be"):
        OptimizerSettings(**values)
