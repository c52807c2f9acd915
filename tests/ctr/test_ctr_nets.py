"""Blocks and nets against NumPy in float64, and what must not change a logit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from trackrec.ctr import DIN, DeepFM, FeatureSpec, LightFM, MLPConnector
from trackrec.ctr.blocks import MLP, DINAttention, fm_pooling, masked_mean
from trackrec.ctr.data import TensorLoader

NETS = [DIN, DeepFM, LightFM]


def f64(tensor):
    return tensor.detach().numpy().astype(np.float64)


def numpy_mlp(mlp, x):
    linears = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
    for place, layer in enumerate(linears):
        x = x @ f64(layer.weight).T + f64(layer.bias)
        x = np.maximum(x, 0) if place < len(linears) - 1 else x
    return x


def build(net_class, data, arm, seed=0, **args):
    """A net in eval mode whose weights are large enough for every path to count."""
    torch.manual_seed(seed)
    spec = data.spec_for(arm)
    connector = MLPConnector(spec.text_dim, out_dim=5, hidden=[4]) if spec.text_dim else None
    net = net_class(spec, connector, embed_dim=3, **args).eval()
    for name, weight in net.named_parameters():
        nn.init.normal_(weight, std=0.5 if "bias" not in name else 0.1)
    return net


def batch_of(data, arm="reccot", split="train", n=8):
    return TensorLoader(data, split, arm).rows(torch.arange(4, 4 + n))


def in_float64(net, batch):
    """Both in double precision, where rounding can't hide or feign a leak."""
    return net.double(), {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}


def test_mlp_matches_numpy():
    torch.manual_seed(0)
    mlp, x = MLP(4, [5, 3], out_dim=2, dropout=0.5).eval(), torch.randn(6, 4)
    np.testing.assert_allclose(f64(mlp(x)), numpy_mlp(mlp, f64(x)), atol=1e-5)


@pytest.mark.parametrize("softmax", [False, True])
def test_din_attention_matches_numpy(softmax):
    """Σ_j a(h_j, t) h_j over real positions, a an MLP over [h, t, h - t, h * t]."""
    torch.manual_seed(0)
    unit = DINAttention(3, [4], softmax=softmax)
    history, target = torch.randn(5, 4, 3), torch.randn(5, 3)
    lengths = [4, 1, 0, 2, 3]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    expected = np.zeros((5, 3))
    for b, length in enumerate(lengths):
        t, hs = f64(target[b]), f64(history[b, :length])
        scores = np.array([numpy_mlp(unit.unit, np.concatenate([h, t, h - t, h * t]))[0] for h in hs])
        if softmax and length:
            scores = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        expected[b] = sum((a * h for a, h in zip(scores, hs, strict=True)), start=np.zeros(3))
    np.testing.assert_allclose(f64(unit(history, target, mask)), expected, atol=1e-5)


def test_fm_pooling_is_the_sum_over_pairs():
    fields = torch.randn(7, 5, 3)
    v = f64(fields)
    pairs = [[v[b, i] @ v[b, j] for i in range(5) for j in range(i + 1, 5)] for b in range(7)]
    np.testing.assert_allclose(f64(fm_pooling(fields)), np.sum(pairs, axis=1), atol=1e-5)


def test_masked_mean_of_nothing_is_zero():
    values, mask = torch.tensor([[[1.0], [3.0], [9.0]]] * 2), torch.tensor([[True, True, False], [False] * 3])
    assert masked_mean(values, mask).tolist() == [[2.0], [0.0]]


def numpy_item(items, batch, row, ids="item", attributes="item_attributes"):
    table, kinds = f64(items.ids.weight), f64(items.attributes.weight)
    place = (row,) if isinstance(row, int) else row
    used = [a for a in batch[attributes][place].tolist() if a]
    return table[int(batch[ids][place])] + (np.mean(kinds[used], axis=0) if used else 0)


def numpy_recent(items, batch, row):
    vectors = []
    for j in range(int(batch["recent_mask"][row].sum())):
        r = float(batch["recent_ratings"][row, j])
        rating = f64(items.rating.weight) @ [r, float(r > 0)] + f64(items.rating.bias)
        vectors.append(numpy_item(items, batch, (row, j), "recent_items", "recent_attributes") + rating)
    return np.array(vectors).reshape(-1, f64(items.ids.weight).shape[1])


def numpy_text(net, batch, row):
    x = f64(batch["text"][row])
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return numpy_mlp(net.connector.mlp, x)


def numpy_traits(net, batch, row):
    return f64(net.traits.weight)[[a for a in batch["user_attributes"][row].tolist() if a]].mean(axis=0)


def numpy_din(net, batch, row):
    t, interest = numpy_item(net.items, batch, row), 0
    for h in numpy_recent(net.items, batch, row):
        interest = interest + numpy_mlp(net.attention.unit, np.concatenate([h, t, h - t, h * t]))[0] * h
    fields = [interest * np.ones(3), t, f64(batch["dense"][row]), numpy_traits(net, batch, row)]
    return numpy_mlp(net.mlp, np.concatenate([*fields, numpy_text(net, batch, row)]))[0]


def numpy_deepfm(net, batch, row):
    dense, user, item = f64(batch["dense"][row]), int(batch["user"][row]), int(batch["item"][row])
    recent = numpy_recent(net.items, batch, row)
    v = [
        f64(net.users.weight)[user],
        numpy_item(net.items, batch, row),
        recent.mean(axis=0) if len(recent) else np.zeros(3),
        f64(net.dense.weight) @ dense + f64(net.dense.bias),
        numpy_traits(net, batch, row),
        f64(net.text.weight) @ numpy_text(net, batch, row) + f64(net.text.bias),
    ]
    linear = f64(net.user_weight.weight)[user, 0] + f64(net.item_weight.weight)[item, 0]
    linear += (f64(net.dense_weight.weight) @ dense + f64(net.dense_weight.bias))[0]
    pairs = sum(v[i] @ v[j] for i in range(6) for j in range(i + 1, 6))
    return linear + pairs + numpy_mlp(net.mlp, np.concatenate([*v, dense]))[0]


def numpy_lightfm(net, batch, row):
    user, item = int(batch["user"][row]), int(batch["item"][row])
    recent = numpy_recent(net.items, batch, row)
    q = f64(net.users.weight)[user] + (recent.mean(axis=0) if len(recent) else 0) + numpy_traits(net, batch, row)
    q = q + f64(net.text.weight) @ numpy_text(net, batch, row) + f64(net.text.bias)
    bias = f64(net.user_bias.weight)[user, 0] + f64(net.item_bias.weight)[item, 0]
    bias += (f64(net.dense.weight) @ f64(batch["dense"][row]) + f64(net.dense.bias))[0]
    return q @ numpy_item(net.items, batch, row) + bias


@pytest.mark.parametrize(("net_class", "formula"), [(DIN, numpy_din), (DeepFM, numpy_deepfm), (LightFM, numpy_lightfm)])
def test_net_matches_its_formula(data, net_class, formula):
    net, batch = build(net_class, data, "reccot"), batch_of(data)
    assert not batch["recent_mask"].all()
    np.testing.assert_allclose(f64(net(batch)), [formula(net, batch, row) for row in range(8)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arm", ["none", "reccot"])
@pytest.mark.parametrize("net_class", NETS)
def test_a_batch_is_its_rows(data, net_class, arm):
    net, batch = in_float64(build(net_class, data, arm), batch_of(data, arm))
    single = [net({name: value[i : i + 1] for name, value in batch.items()}) for i in range(8)]
    torch.testing.assert_close(net(batch), torch.cat(single), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net_class", NETS)
def test_more_padding_and_what_stands_in_it_change_nothing(data, net_class):
    net, batch = in_float64(build(net_class, data, "reccot"), batch_of(data))
    padded = dict(batch)
    for name in ("recent_items", "recent_ratings", "recent_mask", "recent_attributes"):
        zeros = torch.zeros_like(batch[name][:, :1]).repeat_interleave(3, dim=1)
        padded[name] = torch.cat([batch[name], zeros], dim=1)
    padded["item_attributes"] = torch.cat([batch["item_attributes"], torch.zeros(8, 2, dtype=torch.int32)], dim=1)
    torch.testing.assert_close(net(padded), net(batch), rtol=1e-12, atol=1e-12)
    hidden = ~padded["recent_mask"]
    padded["recent_items"] = padded["recent_items"].masked_fill(hidden, 3)
    padded["recent_ratings"] = padded["recent_ratings"].masked_fill(hidden, 50.0)
    torch.testing.assert_close(net(padded), net(batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("softmax", [False, True])
def test_an_empty_history_is_finite_with_finite_gradients(data, softmax):
    net, batch = build(DIN, data, "none", softmax=softmax), batch_of(data, "none")
    batch["recent_mask"] = torch.zeros_like(batch["recent_mask"])
    logits = net(batch)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


def test_ratings_matter_to_the_interest(data):
    net, batch = build(DIN, data, "none"), batch_of(data, "none")
    other = {**batch, "recent_ratings": -batch["recent_ratings"]}
    assert not torch.allclose(net(batch), net(other))


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
    net = {"class_path": "trackrec.ctr.DIN", "init_args": {"embed_dim": 2, "hidden": [3], "dropout": 0.1}}
    connector = {"class_path": "trackrec.ctr.MLPConnector", "init_args": {"out_dim": 7}}
    made = parser.instantiate(parser.parse_object({"net": net, "connector": connector}))
    text = made.connector(4)
    built = made.net(FeatureSpec(5, 5, 5, recent_len=2, n_dense=1, text_dim=4), text)
    assert isinstance(built, DIN)
    assert built.connector is text
    assert built.mlp.layers[0].in_features == 2 * 2 + 1 + 7


def test_importing_the_nets_imports_no_trainer():
    code = "import sys, trackrec.ctr; assert not {'lightning', 'transformers', 'torchmetrics'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
