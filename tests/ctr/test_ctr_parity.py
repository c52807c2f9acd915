"""Blocks against FuxiCTR's, with copied weights. FuxiCTR wants polars < 2, so this runs in an environment of its own:

pip install --no-deps fuxictr==2.3.10 "polars<2" "polars-runtime-32<2", and ray, h5py beside this package's own needs.
"""

import importlib.util
import logging
import warnings

import pytest
import torch
from torch import nn

from trackrec.ctr import DeepFM, FeatureSpec, MLPConnector
from trackrec.ctr.nets.blocks import MLP, DINAttention
from trackrec.ctr.nets.dcnv2 import CrossNetwork
from trackrec.ctr.nets.inputs import flatten_fields
from trackrec.ctr.nets.xdeepfm import CIN

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(importlib.util.find_spec("fuxictr") is None, reason="FuxiCTR is not installed"),
]


@pytest.fixture(scope="module")
def fuxi():
    """FuxiCTR's layers; what its import warns of is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fuxictr.pytorch import layers
    return layers


ROUNDING = 1e-12


def gap(ours, theirs):
    """Largest difference of two float64 results, as a share of the largest value where that is above 1; logs both."""
    assert ours.dtype == theirs.dtype == torch.float64
    largest, scale = float((ours - theirs).detach().abs().max()), float(theirs.detach().abs().max())
    log.warning("largest gap %.1e of values up to %.2g", largest, scale)
    return largest / max(1.0, scale)


def copy_mlp(ours, theirs):
    """Weights of our MLP into FuxiCTR's MLP_Block."""
    pairs = zip(*([m for m in net.modules() if isinstance(m, nn.Linear)] for net in (ours, theirs)), strict=True)
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("softmax", [False, True])
def test_din_attention(fuxi, softmax):
    """FuxiCTR's unit reads [t, h, t - h, t * h], ours [h, t, h - t, h * t]: the first layer's columns move."""
    torch.manual_seed(0)
    dim = 8
    ours = DINAttention(dim, [16, 8], softmax=softmax).double()
    theirs = fuxi.DIN_Attention(dim, [16, 8], use_softmax=softmax).double()
    copy_mlp(ours, theirs)
    first = ours.unit.layers[0].weight.detach()
    h, t, difference, product = first.split(dim, dim=1)
    linear = next(module for module in theirs.modules() if isinstance(module, nn.Linear))
    linear.weight.data = torch.cat([t, h, -difference, product], dim=1)
    history, target = torch.randn(32, 10, dim).double(), torch.randn(32, dim).double()
    mask = torch.arange(10) < torch.randint(1, 11, (32, 1))
    assert gap(ours(history, target, mask), theirs(target, history, mask)) <= ROUNDING


def test_deepfm_is_fm_and_mlp_over_the_same_fields(fuxi):
    torch.manual_seed(0)
    spec = FeatureSpec(n_items=20, n_users=10, n_attributes=6, recent_len=4, n_dense=3, text_dim=6)
    net = DeepFM(spec, MLPConnector(spec.text_dim, 5, [4]), embed_dim=6, hidden=(12, 7)).double().eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.4)
    batch = {
        "user": torch.randint(10, (60,)),
        "item": torch.randint(20, (60,)),
        "item_attributes": torch.randint(6, (60, 2)),
        "recent_items": torch.randint(20, (60, 4)),
        "recent_attributes": torch.randint(6, (60, 4, 2)),
        "recent_ratings": torch.randn(60, 4).double(),
        "recent_mask": torch.arange(4) < torch.randint(0, 5, (60, 1)),
        "dense": torch.randn(60, 3).double(),
        "text": torch.randn(60, 6).double(),
    }
    pairs = fuxi.InnerProductInteraction(net.inputs.n_fields, output="product_sum")
    deep = fuxi.MLP_Block(net.inputs.flat_width, [12, 7], output_dim=1).double()
    copy_mlp(net.mlp, deep)
    fields = net.inputs(batch)
    theirs = (pairs(fields) + deep(flatten_fields(fields, batch))).squeeze(-1) + net.linear(batch)
    assert gap(net(batch), theirs) <= ROUNDING


def test_cross_network(fuxi):
    torch.manual_seed(0)
    ours, theirs = CrossNetwork(24, 3).double(), fuxi.CrossNetV2(24, 3).double()
    for mine, other in zip(ours.layers, theirs.cross_layers, strict=True):
        other.load_state_dict(mine.state_dict())
    x = torch.randn(64, 24).double()
    assert gap(ours(x), theirs(x)) <= ROUNDING


def test_cin(fuxi):
    torch.manual_seed(0)
    ours = CIN(5, (4, 3)).double()
    theirs = fuxi.CompressedInteractionNet(5, [4, 3], output_dim=1).double()
    for place, weight in enumerate(ours.weights):
        convolution = theirs.cin_layer[f"layer_{place + 1}"]
        # FuxiCTR's product runs over (field of x_0, map below); ours over (map below, field of x_0).
        convolution.weight.data = weight.detach().transpose(1, 2).flatten(1).unsqueeze(-1).clone()
        convolution.bias.data.zero_()
    fields = torch.randn(16, 5, 6).double()
    assert gap(nn.functional.linear(ours(fields), theirs.fc.weight, theirs.fc.bias), theirs(fields)) <= ROUNDING


def test_mlp(fuxi):
    torch.manual_seed(0)
    ours = MLP(9, [6, 4], out_dim=2).double()
    theirs = fuxi.MLP_Block(9, [6, 4], output_dim=2).double()
    copy_mlp(ours, theirs)
    x = torch.randn(8, 9).double()
    assert gap(ours(x), theirs(x)) <= ROUNDING
