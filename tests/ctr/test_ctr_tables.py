"""Embedding tables: how they are read, and how large ones move."""

from functools import partial

import pytest
import torch
from attached import module_of, net_plan
from torch import nn
from torch.nn import functional as F

from trackrec.ctr import DIEN, DIN, DeepFM
from trackrec.ctr.nets.embedding import IndexEmbedding, index_embedding
from trackrec.ctr.training.data import TensorLoader
from trackrec.ctr.training.lazy_adam import LazyAdam
from trackrec.ctr.training.train import fit_arm

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_look_up_is_torchs_own_with_its_gradient(dtype):
    """Repeated indices add up; the padding row's gradient stays zero."""
    table = index_embedding(7, 3).double()
    nn.init.normal_(table.weight)
    index = torch.tensor([[1, 5, 0], [5, 5, 6]], dtype=dtype)
    outer = torch.randn(2, 3, 3, dtype=torch.float64)
    found, expected = table(index), F.embedding(index, table.weight, table.padding_idx)
    assert torch.equal(found, expected)
    ours, theirs = (torch.autograd.grad(out, table.weight, outer)[0] for out in (found, expected))
    assert torch.allclose(ours, theirs, rtol=1e-14, atol=0)
    assert not ours[0].any()
    assert ours[5].any()


def tables(lazy: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.ModuleDict({"table": IndexEmbedding(6, 4, padding_idx=0), "out": nn.Linear(4, 1)}).double()
    net["table"].sparse = lazy
    kind = LazyAdam if lazy else torch.optim.Adam
    return net, kind(net.parameters(), lr=0.1, weight_decay=0.01, fused=True)


def step(net: nn.Module, optimizer: torch.optim.Optimizer, index: list[int]) -> None:
    optimizer.zero_grad()
    net["out"](net["table"](torch.tensor(index))).square().sum().backward()
    optimizer.step()


def test_lazy_adam_is_adam_where_every_row_is_read():
    (lazy, lazy_optimizer), (plain, plain_optimizer) = tables(True), tables(False)
    for _ in range(5):
        for net, optimizer in ((lazy, lazy_optimizer), (plain, plain_optimizer)):
            step(net, optimizer, [0, 1, 2, 3, 4, 5, 5, 2])
    for name, value in plain.state_dict().items():
        assert torch.allclose(lazy.state_dict()[name][1:], value[1:], rtol=1e-10), name


def test_lazy_adam_leaves_the_other_rows_alone():
    """Adam itself would go on moving them, by momentum and weight decay."""
    net, optimizer = tables(True)
    step(net, optimizer, [1, 2])
    before = net["table"].weight.detach().clone()
    step(net, optimizer, [2, 3])
    moved = (net["table"].weight != before).any(dim=1).tolist()
    assert moved == [False, False, True, True, False, False]


def test_without_weight_decay_it_is_torchs_sparse_adam():
    (lazy, _), (other, _) = tables(True), tables(True)
    ours = LazyAdam(lazy.parameters(), lr=0.1)
    theirs = [torch.optim.SparseAdam([other["table"].weight], lr=0.1), torch.optim.Adam(other["out"].parameters(), 0.1)]
    for index in ([1, 2, 2], [2, 3], [1, 5]):
        step(lazy, ours, index)
        other.zero_grad()
        other["out"](other["table"](torch.tensor(index))).square().sum().backward()
        for one in theirs:
            one.step()
    for name, value in lazy.state_dict().items():
        # They add epsilon, 1e-8, on different sides of a correction: some 1e-6 of a step of .1.
        assert torch.allclose(value, other.state_dict()[name], atol=1e-5), name


@pytest.mark.parametrize("net", [DIN, DeepFM])
def test_large_tables_train_lazily(data, tmp_path, net):
    made = []

    def build(spec, connector):
        made.append(net(spec, connector, embed_dim=4))
        return made[-1]

    model = {"lr": 0.01, "lazy_rows": data.spec.n_items}
    result = fit_arm(net_plan(build, None, model, {"batch_size": 16}, max_epochs=2), data, "none", 0, tmp_path)
    lazy = {name for name, part in made[0].named_modules() if isinstance(part, nn.Embedding) and part.sparse}
    assert "inputs.items.ids" in lazy
    assert "inputs.items.attributes" not in lazy
    assert ((result.predictions["valid"] > 0) & (result.predictions["valid"] < 1)).all()
    fresh = net(data.spec, None, embed_dim=4)
    fresh.load_state_dict(result.state_dict)  # what is saved is the plain net


@pytest.mark.parametrize(
    ("model", "trainer", "said"),
    [
        ({"lazy_rows": 0}, {}, "lazy_rows must be at least 1"),
        ({"lazy_rows": 5}, {"gradient_clip_val": 1.0}, "can't clip"),
    ],
)
def test_what_lazy_rows_cant_do_is_said(data, tmp_path, model, trainer, said):
    with pytest.raises(ValueError, match=said):
        fit_arm(net_plan(partial(DIN, embed_dim=4), None, model, **trainer), data, "none", 0, tmp_path)


@pytest.mark.slow
# Dynamo itself makes an instance of every autograd.Function that it meets, and looks at .grad of every tensor.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("net", [DIN, DIEN])
def test_a_compiled_net_has_the_plain_nets_loss_and_gradients(data, net):
    """A last batch of another size is not compiled."""
    torch.manual_seed(0)
    built = net(data.spec, None, embed_dim=4, dropout=0.0).train()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.3)
    plain, compiled = module_of(built), module_of(built, compile=True)
    torch.compiler.reset()
    seen = []
    for batch in list(TensorLoader(data, "train", batch_size=25))[-2:]:
        found = []
        for module in (plain, compiled):
            built.zero_grad()
            loss = module.loss(batch)
            loss.backward()
            found.append([loss.detach(), *(parameter.grad.clone() for parameter in built.parameters())])
        assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-6) for one, two in zip(*found, strict=True))
        seen.append(len(batch["label"]))
    assert seen[1] < seen[0] == 25
