"""Blocks and nets against NumPy in float64, and what must not change a logit."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import numpy_nets as formula
import pytest
import torch
from attached import module_of
from numpy_nets import f64
from torch import nn

from trackrec.ctr import (
    BST,
    DIEN,
    DIN,
    DNN,
    AutoInt,
    DCNv2,
    DeepFM,
    FeatureSpec,
    FiBiNET,
    LightFM,
    MLPConnector,
    xDeepFM,
)
from trackrec.ctr.features.past import UNKNOWN
from trackrec.ctr.nets import embedding
from trackrec.ctr.nets.blocks import MLP, DINAttention, fm_pooling
from trackrec.ctr.nets.dien import AUGRU
from trackrec.ctr.nets.embedding import index_embedding, masked_mean, mean_embedding
from trackrec.ctr.training.data import TensorLoader

FORMULAS = {
    DIN: formula.din,
    DeepFM: formula.deepfm,
    LightFM: formula.lightfm,
    DCNv2: formula.dcnv2,
    DNN: formula.dnn,
    BST: formula.bst,
    DIEN: formula.dien,
    xDeepFM: formula.xdeepfm,
    AutoInt: formula.autoint,
    FiBiNET: formula.fibinet,
}
NETS = list(FORMULAS)
EMBED_DIM = 4


def build(net_class, data, arm, seed=0, use="dense", gaps=False, **args):
    """A net in eval mode whose weights are large enough for every path to count."""
    torch.manual_seed(seed)
    spec = replace(data.spec_for(arm), text_use=use, text_gaps=gaps)
    connector = MLPConnector(spec.text_dim, out_dim=5, hidden=[4]) if spec.text_dim else None
    net = net_class(spec, connector, embed_dim=EMBED_DIM, **args).eval()
    for name, weight in net.named_parameters():
        if "senet." in name:  # behind two ReLUs
            nn.init.uniform_(weight, 0.1, 1.0)
        elif "norm" not in name:
            nn.init.normal_(weight, std=0.5 if "bias" not in name else 0.1)
    return net


def batch_of(data, arm="reccot", split="train", n=8):
    return TensorLoader(data, split, arm).rows(torch.arange(4, 4 + n))


def in_float64(net, batch):
    """Both in double precision, where rounding can't hide or feign a leak."""
    return net.double(), {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}


def test_mlp_matches_numpy():
    torch.manual_seed(0)
    mlp, x = MLP(4, [5, 3], out_dim=2, dropout=0.5).eval().double(), torch.randn(6, 4, dtype=torch.float64)
    np.testing.assert_allclose(f64(mlp(x)), formula.mlp(mlp, f64(x)), rtol=1e-12)


@pytest.mark.parametrize("softmax", [False, True])
def test_din_attention_matches_numpy(softmax):
    """Σ_j a(h_j, t) h_j over real positions, a an MLP over [h, t, h - t, h * t]."""
    torch.manual_seed(0)
    unit = DINAttention(3, [4], softmax=softmax).double()
    history, target = torch.randn(5, 4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    lengths = [4, 1, 0, 2, 3]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    expected = np.zeros((5, 3))
    for b, length in enumerate(lengths):
        t, hs = f64(target[b]), f64(history[b, :length])
        scores = np.array([formula.mlp(unit.unit, np.concatenate([h, t, h - t, h * t]))[0] for h in hs])
        scores = formula.softmax(scores) if softmax and length else scores
        expected[b] = sum((a * h for a, h in zip(scores, hs, strict=True)), start=np.zeros(3))
    np.testing.assert_allclose(f64(unit(history, target, mask)), expected, rtol=1e-10, atol=1e-14)


def test_fm_pooling_is_the_sum_over_pairs():
    fields = torch.randn(7, 5, 3)
    v = f64(fields)
    pairs = [[v[b, i] @ v[b, j] for i in range(5) for j in range(i + 1, 5)] for b in range(7)]
    np.testing.assert_allclose(f64(fm_pooling(fields)), np.sum(pairs, axis=1), atol=1e-5)


def test_masked_mean_of_nothing_is_zero():
    values, mask = torch.tensor([[[1.0], [3.0], [9.0]]] * 2), torch.tensor([[True, True, False], [False] * 3])
    assert masked_mean(values, mask).tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize("limit", [0, 64])
def test_the_mean_over_a_table_is_of_what_is_there(monkeypatch, limit):
    """By hand, value and gradient, read row by row and as a product; what repeats counts as often."""
    monkeypatch.setattr(embedding, "SMALL_TABLE", limit)
    table = index_embedding(9, 3).double()
    nn.init.normal_(table.weight)
    index = torch.randint(0, 9, (4, 5, 6), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    index[0, 0], index[1, 1] = 0, torch.tensor([UNKNOWN, UNKNOWN, 4, 0, 0, 0], dtype=torch.int32)
    weight, outer = f64(table.weight), torch.randn(4, 5, 3, dtype=torch.float64)
    expected, gradient = np.zeros((4, 5, 3)), np.zeros((9, 3))
    for place in np.ndindex(4, 5):
        there = [one for one in index[place].tolist() if one]
        for one in there:
            expected[place] += weight[one] / len(there)
            gradient[one] += f64(outer[place]) / len(there)
    found = mean_embedding(table, index)
    np.testing.assert_allclose(f64(found), expected, rtol=1e-12, atol=1e-15)
    found.backward(outer)
    np.testing.assert_allclose(f64(table.weight.grad), gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("use", ["dense", "query"])
@pytest.mark.parametrize("net_class", NETS)
def test_net_matches_its_formula(data, net_class, use):
    net, batch = in_float64(build(net_class, data, "reccot", use=use), batch_of(data))
    assert not batch["recent_mask"].all()
    assert not batch["recent_mask"].any(dim=1).all(), "no row with an empty list"
    expected = [FORMULAS[net_class](net, batch, row) for row in range(8)]
    np.testing.assert_allclose(f64(net(batch)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arm", ["none", "reccot"])
@pytest.mark.parametrize("net_class", NETS)
def test_a_batch_is_its_rows(data, net_class, arm):
    net, batch = in_float64(build(net_class, data, arm), batch_of(data, arm))
    single = [net({name: value[i : i + 1] for name, value in batch.items()}) for i in range(8)]
    torch.testing.assert_close(net(batch), torch.cat(single), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("use", ["dense", "query"])
@pytest.mark.parametrize("net_class", NETS)
def test_more_padding_and_what_stands_in_it_change_nothing(data, net_class, use):
    net, batch = in_float64(build(net_class, data, "reccot", use=use), batch_of(data))
    padded = dict(batch)
    for name in ("recent_items", "recent_ratings", "recent_mask", "recent_attributes"):
        zeros = torch.zeros_like(batch[name][:, :1]).repeat_interleave(3, dim=1)
        padded[name] = torch.cat([batch[name], zeros], dim=1)
    padded["item_attributes"] = torch.cat([batch["item_attributes"], torch.zeros(8, 2, dtype=torch.int32)], dim=1)
    torch.testing.assert_close(net(padded), net(batch), rtol=1e-11, atol=1e-11)
    hidden = ~padded["recent_mask"]
    padded["recent_items"] = padded["recent_items"].masked_fill(hidden, 3)
    padded["recent_ratings"] = padded["recent_ratings"].masked_fill(hidden, 50.0)
    torch.testing.assert_close(net(padded), net(batch), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("net_class", NETS)
def test_ids_that_training_never_saw_share_one_vector(data, net_class):
    """An unknown item, user or attribute is finite, differs from padding, and does not depend on which one it is."""
    net, batch = in_float64(build(net_class, data, "none"), batch_of(data, "none"))
    batch["item"] = torch.full_like(batch["item"], UNKNOWN)
    batch["user"] = torch.full_like(batch["user"], UNKNOWN)
    batch["recent_items"] = batch["recent_items"].masked_fill(batch["recent_mask"], UNKNOWN)
    logits = net(batch)
    assert torch.isfinite(logits).all()
    as_padding = net({**batch, "item": torch.zeros_like(batch["item"])})
    assert not torch.allclose(as_padding, logits)


@pytest.mark.parametrize("use", ["dense", "query"])
@pytest.mark.parametrize("net_class", NETS)
def test_every_parameter_has_a_gradient(data, net_class, use):
    net, batch = in_float64(build(net_class, data, "reccot", use=use, gaps=True), batch_of(data, n=24))
    batch["text_mask"] = torch.arange(24) % 3 > 0
    module_of(net).loss(batch).backward()
    assert not [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize(("arm", "use"), [("none", "dense"), ("reccot", "query")])
@pytest.mark.parametrize("net_class", NETS)
def test_an_empty_history_is_finite_with_finite_gradients(data, net_class, arm, use):
    """As a batch of cold users alone, and beside others, whose logits it leaves as they were."""
    net, mixed = build(net_class, data, arm, use=use), batch_of(data, arm)
    before = net(mixed)
    for name in ("recent_items", "recent_attributes", "recent_ratings", "recent_mask"):
        mixed[name] = mixed[name].clone()
        mixed[name][:4] = 0
    torch.testing.assert_close(net(mixed)[4:], before[4:])
    batch = {name: value[:4] for name, value in mixed.items()}
    logits, *auxiliary = net.with_auxiliary(batch) if net_class is DIEN else (net(batch),)
    torch.testing.assert_close(logits, net(mixed)[:4])
    sum([logits.sum(), *auxiliary]).backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


def test_an_empty_history_is_finite_under_softmax(data):
    net, batch = build(DIN, data, "none", softmax=True), batch_of(data, "none")
    batch["recent_mask"] = torch.zeros_like(batch["recent_mask"])
    assert torch.isfinite(net(batch)).all()


@pytest.mark.parametrize("net_class", NETS)
def test_ratings_of_the_history_matter(data, net_class):
    net, batch = build(net_class, data, "none"), batch_of(data, "none")
    other = {**batch, "recent_ratings": -batch["recent_ratings"]}
    assert not torch.allclose(net(batch), net(other))


@pytest.mark.parametrize("net_class", [BST, DIEN])
def test_the_order_of_the_history_matters_to_sequence_nets(data, net_class):
    net, batch = in_float64(build(net_class, data, "none"), batch_of(data, "none"))
    full = batch["recent_mask"].all(dim=1)
    turned = {name: value.flip(1) if name.startswith("recent_") else value for name, value in batch.items()}
    assert not torch.isclose(net(turned)[full], net(batch)[full]).any()


def test_a_row_without_text_takes_the_learned_vector(data):
    net, batch = in_float64(build(DIN, data, "reccot", gaps=True), batch_of(data))
    everywhere = net({**batch, "text_mask": torch.ones(8, dtype=torch.bool)})
    batch["text_mask"] = torch.arange(8) % 2 > 0
    logits = net(batch)
    batch["text"] = torch.where(batch["text_mask"][:, None], batch["text"], 7.0)
    assert torch.equal(net(batch), logits), "what stands in the text of a row without one must not matter"
    assert torch.equal(logits[1::2], everywhere[1::2])
    assert not torch.isclose(logits[::2], everywhere[::2]).any()


def test_no_attention_leaves_the_evolved_interest_as_it_was():
    torch.manual_seed(0)
    cell, x = AUGRU(3).double(), torch.randn(2, 4, 3, dtype=torch.float64)
    weights = torch.tensor([[0.3, 0.7, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    state = cell(x, weights)
    torch.testing.assert_close(state[0], cell(x[:1, :2], weights[:1, :2])[0])
    assert not state[1].any()


def test_diens_auxiliary_loss_is_the_mean_over_real_neighbours(data):
    net, batch = in_float64(build(DIEN, data, "none"), batch_of(data, "none"))
    losses = []
    for row in range(8):
        states = formula.gru(net.extractor, formula.recent(net.inputs.items, batch, row))
        for j in range(1, len(states)):
            vector = formula.item(net.inputs.items, batch, (row, j), "recent_items", "recent_attributes")
            p = formula.sigmoid(formula.mlp(net.next_liked, np.concatenate([states[j - 1], vector]))[0])
            losses.append(-np.log(p if batch["recent_ratings"][row, j] > 0 else 1 - p))
    logits, auxiliary = net.with_auxiliary(batch)
    assert torch.equal(logits, net(batch))
    assert float(auxiliary.detach()) == pytest.approx(0.5 * np.mean(losses), rel=1e-9)
    assert not net.with_auxiliary({**batch, "recent_mask": torch.zeros_like(batch["recent_mask"])}).auxiliary.any()
    assert not build(DIEN, data, "none", auxiliary_weight=0.0).with_auxiliary(batch_of(data, "none")).auxiliary.any()


def test_sizes_that_do_not_fit_are_named(data):
    with pytest.raises(ValueError, match=r"embed_dim must be a multiple of n_heads \(3\), got 4"):
        build(BST, data, "none", n_heads=3)
    with pytest.raises(ValueError, match="AutoInt needs n_layers of at least 1 and n_heads that divide 8"):
        build(AutoInt, data, "none", n_heads=3)
    with pytest.raises(ValueError, match="DCNv2 needs at least one width in hidden"):
        build(DCNv2, data, "none", hidden=[])


def test_a_connector_must_say_its_width():
    spec = FeatureSpec(5, 5, 5, recent_len=2, n_dense=1, text_dim=4)
    with pytest.raises(TypeError, match="Linear needs an attribute out_dim"):
        DIN(spec, nn.Linear(4, 4))


def test_nets_are_built_from_configuration():
    """The forms the command line uses: a class by name, its first arguments left to the caller."""
    from collections.abc import Callable

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=Callable[[FeatureSpec, nn.Module | None], nn.Module])
    parser.add_argument("--connector", type=Callable[[int], nn.Module])
    connector = {"class_path": "trackrec.ctr.MLPConnector", "init_args": {"out_dim": 7}}
    for net_class in NETS:
        net = {"class_path": f"trackrec.ctr.{net_class.__name__}", "init_args": {"embed_dim": 2}}
        made = parser.instantiate(parser.parse_object({"net": net, "connector": connector}))
        text = made.connector(4)
        built = made.net(FeatureSpec(5, 5, 5, recent_len=2, n_dense=1, text_dim=4), text)
        assert isinstance(built, net_class)
        assert any(module is text for module in built.modules())
        assert text.out_dim == 7


@pytest.mark.slow
def test_importing_the_nets_imports_no_trainer():
    code = "import sys, trackrec.ctr; assert not {'lightning', 'transformers', 'torchmetrics'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
