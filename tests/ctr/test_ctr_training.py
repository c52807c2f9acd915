"""Loaders, arms and fitting."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from attached import module_of, net_plan

from trackrec.ctr import BST, DIEN, DIN, DNN, AutoInt, DCNv2, DeepFM, FiBiNET, LightFM, MLPConnector, xDeepFM
from trackrec.ctr.nets.blocks import Dropout
from trackrec.ctr.training.data import TensorLoader
from trackrec.ctr.training.module import CTRModule
from trackrec.ctr.training.train import check_trainer, fit_arm
from trackrec.metrics.scores import auc, log_loss

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def fit(data, tmp_path, net=DIN, arm="none", seed=0, lr=0.01, epochs=2, patience=3, **net_args):
    connector = partial(MLPConnector, out_dim=3, hidden=[4])
    built = partial(net, embed_dim=4, **net_args)
    plan = net_plan(built, connector, {"lr": lr}, {"batch_size": 16}, patience, max_epochs=epochs)
    return fit_arm(plan, data, arm, seed, tmp_path)


def with_labels(data, split, labels):
    return replace(data, splits={**data.splits, split: {**data.splits[split], "label": labels}})


@pytest.mark.parametrize("arm", ["none", "reccot"])
@pytest.mark.parametrize("net", [DIN, DeepFM, LightFM, DCNv2, DNN, BST, DIEN, xDeepFM, AutoInt, FiBiNET])
def test_every_parameter_moves(data, tmp_path, net, arm):
    start = {}

    def watched(spec, connector):
        built = net(spec, connector, embed_dim=4)
        start.update({name: value.detach().clone() for name, value in built.named_parameters()})
        return built

    connector = partial(MLPConnector, out_dim=3, hidden=[4])
    plan = net_plan(watched, connector, {"lr": 0.01}, {"batch_size": 16}, max_epochs=2, callbacks=[])
    result = fit_arm(plan, data, arm, 0, tmp_path)
    assert any("connector" in name for name in start) == (arm == "reccot")
    still = [name for name, value in start.items() if torch.equal(value, result.state_dict[name])]
    assert not still
    assert {name: len(p) for name, p in result.predictions.items()} == {"valid": 24, "test": 24}
    assert all(((p > 0) & (p < 1)).all() for p in result.predictions.values())
    assert result.epochs == 2


def test_best_weights_are_those_that_predict(data, tmp_path):
    result = fit(data, tmp_path, lr=0.05, epochs=6, patience=2)
    assert result.valid_auc == pytest.approx(auc(result.predictions["valid"], data.splits["valid"]["label"]), abs=1e-6)
    assert result.epochs <= result.best_epoch + 2
    net = DIN(data.spec, embed_dim=4)
    net.load_state_dict(result.state_dict)
    batch = next(iter(TensorLoader(data, "test", batch_size=100)))
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(batch).sigmoid(), torch.from_numpy(result.predictions["test"]))
    assert not list(tmp_path.iterdir())


def test_fits_repeat_by_seed_and_leave_the_global_generator_alone(data, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = fit(data, tmp_path, dropout=0.2)
    assert torch.equal(torch.rand(1), expected)
    again, other = fit(data, tmp_path, dropout=0.2), fit(data, tmp_path, seed=1, dropout=0.2)
    assert np.array_equal(first.predictions["test"], again.predictions["test"])
    assert not np.array_equal(first.predictions["test"], other.predictions["test"])


def test_fault_11_early_stopping_reads_validation_only(data, tmp_path):
    """The release stops and tunes on test. Turned test labels must change nothing, turned valid labels the AUC."""
    normal = fit(data, tmp_path, epochs=4, patience=1)
    turned = fit(with_labels(data, "test", 1 - data.splits["test"]["label"]), tmp_path, epochs=4, patience=1)
    gone = fit(with_labels(data, "test", torch.full((24,), torch.nan)), tmp_path, epochs=4, patience=1)
    for other in (turned, gone):
        assert (other.valid_auc, other.best_epoch, other.epochs) == (
            normal.valid_auc,
            normal.best_epoch,
            normal.epochs,
        )
        assert all(np.array_equal(other.predictions[s], normal.predictions[s]) for s in ("valid", "test"))
    valid = fit(with_labels(data, "valid", 1 - data.splits["valid"]["label"]), tmp_path, epochs=4, patience=1)
    assert valid.valid_auc != normal.valid_auc


def test_fault_12_the_learning_rate_stays_what_was_set():
    """The release's cosine schedule got samples × epochs as its length; here there is none."""
    optimizer = module_of(torch.nn.Linear(2, 1), lr=0.003, weight_decay=0.1).configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.003, 0.1)


def test_arms_differ_in_their_text_only(data):
    batches = {arm: TensorLoader(data, "valid", arm).rows(torch.arange(24)) for arm in ("none", "reccot", "shuffled")}
    assert "text" not in batches["none"]
    for arm in ("reccot", "shuffled"):
        assert {n for n, v in batches[arm].items() if n not in batches["none"] or not v.equal(batches["none"][n])} == {
            "text"
        }
    own = data.arms["reccot"].matrix[data.splits["valid"]["history"]]
    assert torch.equal(batches["reccot"]["text"], own)
    assert not (batches["shuffled"]["text"] == own).all(dim=1).any()


def test_batches_are_a_function_of_seed_and_epoch(data):
    def keys(seed, epoch):
        loader = TensorLoader(data, "train", "reccot", batch_size=20, shuffle=True, seed=seed)
        loader.set_epoch(epoch)
        return [batch["dense"] for batch in loader]

    first = keys(1, 3)
    assert [len(batch) for batch in first] == [20, 20, 20, 20, 16]
    assert len(TensorLoader(data, "train", batch_size=20)) == 5
    assert all(torch.equal(a, b) for a, b in zip(first, keys(1, 3), strict=True))
    assert not torch.equal(first[0], keys(1, 4)[0])
    assert not torch.equal(first[0], keys(2, 3)[0])
    order = TensorLoader(data, "train", shuffle=True).order(0)
    assert sorted(order.tolist()) == list(range(96))


def test_epochs_of_a_fit_are_permuted_anew(data, tmp_path, monkeypatch):
    seen = []
    order = TensorLoader.order

    def watched(self, epoch):
        if self.shuffle:
            seen.append(epoch)
        return order(self, epoch)

    monkeypatch.setattr(TensorLoader, "order", watched)
    fit(data, tmp_path, epochs=3)
    assert seen == [0, 1, 2]


def test_logged_metrics_are_those_of_the_whole_split(data, tmp_path):
    import lightning.pytorch as pl

    module = CTRModule(partial(DIN, data.spec, embed_dim=4))
    assert not list(module.parameters())  # the Trainer has the net made
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    logged = trainer.validate(module, TensorLoader(data, "valid", batch_size=7), verbose=False)[0]
    with torch.inference_mode():
        p = module.net.eval()(next(iter(TensorLoader(data, "valid", batch_size=100)))).sigmoid()
    y = data.splits["valid"]["label"]
    assert logged["valid/auc"] == pytest.approx(auc(p, y), abs=1e-6)
    assert logged["valid/log_loss"] == pytest.approx(log_loss(p, y), abs=1e-5)
    assert logged["valid/acc"] == pytest.approx(float(((p > 0.5) == (y > 0)).float().mean()))


def test_unusable_input_is_named(data, tmp_path):
    with pytest.raises(ValueError, match="'valid' needs rows of both classes"):
        fit(with_labels(data, "valid", torch.ones(24)), tmp_path)
    with pytest.raises(ValueError, match=r"ctr\.connector must be set for arm 'reccot'"):
        fit_arm(net_plan(DIN), data, "reccot", 0, tmp_path)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TensorLoader(data, "train", batch_size=0)
    with pytest.raises(KeyError, match="split must be one of"):
        TensorLoader(data, "dev")


class Sour(DIN):
    """A net whose logits are no numbers from its third call on."""

    calls = 0

    def forward(self, batch):
        self.calls += 1
        return super().forward(batch) * (float("nan") if self.calls > 2 else 1.0)


def test_a_loss_that_is_no_number_stops_the_training(data, tmp_path):
    with pytest.raises(FloatingPointError, match=r"Sour: the loss is nan at step 2 of epoch 0\. Lower ctr\.model\.lr"):
        fit(data, tmp_path, net=Sour)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.97])
def test_dropout_keeps_the_mean_and_passes_the_same_mask_back(p):
    torch.manual_seed(0)
    x = torch.ones(401, 501, requires_grad=True)  # no multiple of four: the last word of bits is cut
    y = Dropout(p)(x)
    kept = (y > 0).double().mean().item()
    assert abs(kept - (1 - p)) < 4 * (p * (1 - p) / x.numel()) ** 0.5
    assert torch.allclose(y[y > 0], torch.tensor(1 / (1 - p)), rtol=1e-3)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    rows = (y > 0).double()
    correlation = torch.corrcoef(torch.stack([rows[:, :-1].flatten(), rows[:, 1:].flatten()]))[0, 1]
    assert abs(correlation) < 0.01, "neighbours share a word of random bits, and must not share their fate"


def test_dropout_of_nothing_of_all_and_outside_training():
    x = torch.randn(8, 3)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
    assert torch.equal(Dropout(0.5).eval()(x), x)


@pytest.mark.parametrize("flags", [{"max_steps": 1}, {"check_val_every_n_epoch": 5}, {"max_epochs": 0}])
def test_a_training_without_a_validation_is_named(data, tmp_path, flags):
    plan = net_plan(partial(DIN, embed_dim=4), data={"batch_size": 16}, **{"max_epochs": 2, **flags})
    with pytest.raises(ValueError, match=r"ctr\.trainer: no validation ran in .*check_val_every_n_epoch"):
        fit_arm(plan, data, "none", 0, tmp_path)


@pytest.mark.parametrize("flags", [{"fast_dev_run": True}, {"limit_predict_batches": 1}])
def test_flags_that_cut_the_predictions_are_refused(flags):
    with pytest.raises(ValueError, match=rf"ctr\.trainer\.{next(iter(flags))} must be"):
        check_trainer(flags)


def test_gradients_are_clipped_in_mixed_precision(data, tmp_path):
    trainer = {"max_epochs": 1, "precision": "bf16-mixed", "gradient_clip_val": 1.0}
    plan = net_plan(partial(DIN, embed_dim=4), data={"batch_size": 16}, **trainer)
    result = fit_arm(plan, data, "none", 0, tmp_path)
    assert result.epochs == 1
