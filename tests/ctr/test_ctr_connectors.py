"""Connectors against NumPy, and what they say of themselves."""

import numpy as np
import numpy_nets as formula
import pytest
import torch
from numpy_nets import f64

from trackrec.ctr import GatedConnector, HEAConnector


def texts(dim=6, n=5):
    return torch.randn(n, dim, dtype=torch.float64)


def test_gated_connector_matches_numpy():
    torch.manual_seed(0)
    connector, x = GatedConnector(6, out_dim=3, hidden=[4]).double().eval(), texts()
    torch.nn.init.normal_(connector.gate.weight)
    for row, out in zip(f64(x), f64(connector(x)), strict=True):
        normal = formula.layer_norm(connector.norm, row)
        gate = formula.sigmoid(formula.linear(connector.gate, normal))
        np.testing.assert_allclose(out, gate * formula.mlp(connector.mlp, normal), rtol=1e-10)


def test_the_gate_starts_nearly_closed_and_tells_its_mean():
    connector, x = GatedConnector(6, gate_start=-2.0), texts().float()
    assert connector.facts(x)["gate_mean"] == pytest.approx(1 / (1 + np.exp(2)), abs=1e-6)
    torch.nn.init.normal_(connector.gate.weight)
    gates = torch.sigmoid(connector.gate(connector.norm(x)))
    assert connector.facts(x)["gate_mean"] == pytest.approx(float(gates.detach().mean()))


@pytest.mark.parametrize(("kind_dim", "kinds"), [(None, 1), (6, 1), (3, 2)])
def test_hea_is_the_papers_equation(kind_dim, kinds):
    """r̂_k = Σ_shared α_ke e(r_k) + Σ_own α_ke e(r_k), one gate per kind, kinds laid end to end."""
    torch.manual_seed(0)
    args = {"out_dim": 4, "hidden": [5], "shared": 2, "dedicated": 3, "kind_dim": kind_dim}
    connector, x = HEAConnector(6, **args).double().eval(), texts()
    assert connector.out_dim == 4 * kinds
    for row, out in zip(f64(x), f64(connector(x)), strict=True):
        expected = []
        for kind, part in enumerate(np.split(row, kinds)):
            r = formula.layer_norm(connector.norm, part)
            alpha = formula.softmax(formula.linear(connector.gates[kind], r))
            answers = [formula.mlp(expert, r) for expert in (*connector.shared, *connector.dedicated[kind])]
            expected.append(sum(a * answer for a, answer in zip(alpha, answers, strict=True)))
        np.testing.assert_allclose(out, np.concatenate(expected), rtol=1e-10)
    assert 0 < connector.facts(x)["gate_shared"] < 1


def test_the_shared_experts_of_hea_serve_both_kinds_and_the_dedicated_one():
    torch.manual_seed(0)
    connector, x = HEAConnector(6, out_dim=4, hidden=[5], kind_dim=3).eval(), texts().float()
    before = connector(x)
    with torch.no_grad():
        connector.dedicated[0][0].layers[-1].bias += 1.0
    moved = (connector(x) - before).abs().sum(dim=0) > 1e-6
    assert moved.tolist() == [True] * 4 + [False] * 4
    with torch.no_grad():
        connector.shared[0].layers[-1].bias += 1.0
    assert ((connector(x) - before).abs().sum(dim=0) > 1e-6).all()


def test_sizes_of_hea_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="kind_dim must divide the text width 6, got 4"):
        HEAConnector(6, kind_dim=4)
    with pytest.raises(ValueError, match="needs an expert"):
        HEAConnector(6, shared=0, dedicated=0)
