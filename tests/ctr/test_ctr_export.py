"""Every net as ONNX, and requests as its inputs."""

import json
import shutil
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import trackrec.serving.export as room
from trackrec.ctr import (
    BST,
    DIEN,
    DIN,
    DNN,
    AutoInt,
    DCNv2,
    DeepFM,
    FiBiNET,
    GatedConnector,
    HEAConnector,
    LightFM,
    MLPConnector,
    xDeepFM,
)
from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.features.dense_statistics import dense_names
from trackrec.ctr.saved import SavedNets
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.stage import run_ctr
from trackrec.interactions import DataError
from trackrec.runtime.packages import MissingPackageError
from trackrec.serving.export import export_net, largest_difference, write_onnx
from trackrec.serving.requests import RequestEncoder, net_inputs, newest_histories, request_rows
from trackrec.storage.parts import write_part

try:
    room.check_packages()
except MissingPackageError as error:
    pytest.skip(str(error), allow_module_level=True)

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]

NETS = [DIN, DeepFM, LightFM, DCNv2, DNN, BST, DIEN, xDeepFM, AutoInt, FiBiNET]


def made_inputs(tables, n_texts=10, **more):
    rng = np.random.default_rng(1)
    vectors = {f"h{u}": rng.normal(size=6).astype(np.float32) for u in range(n_texts)}
    tables = (tables.samples, tables.histories, tables.items, tables.interactions)
    return CTRInputs(*tables, 3.0, {"reccot": vectors}, **more)


def plan(arms=("reccot",), net=DIN, connector=MLPConnector, **more):
    values = {
        "net": partial(net, embed_dim=4),
        "connector": connector and partial(connector, out_dim=3, hidden=[4]),
        "model": {"lr": 0.02},
        "data": {"batch_size": 16},
        "trainer": lambda: {"accelerator": "cpu", "max_epochs": 2},
        "arms": list(arms),
        "seeds": [0, 1],
        "patience": 3,
    }
    return CTRSettings(**{**values, **more})


def run(url, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(url), providers=["CPUExecutionProvider"])
    return session.run(["p"], inputs)[0]


@pytest.fixture(scope="module")
def data_dir(tables, tmp_path_factory):
    """The tables as the data stage leaves them."""
    where = tmp_path_factory.mktemp("data")
    for name in ("samples", "histories", "items", "interactions"):
        write_part(where, name, getattr(tables, name))
    return where


@pytest.mark.parity
@pytest.mark.parametrize("net_class", NETS)
def test_a_net_as_onnx_agrees_at_any_batch_size(data, tmp_path, net_class):
    """Rows that the graph was traced with, one row, and more of them, some without a recent list."""
    torch.manual_seed(0)
    spec = data.spec_for("reccot")
    net = net_class(spec, MLPConnector(spec.text_dim, out_dim=5, hidden=[4]), embed_dim=4).eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.15)
    write_onnx(net, net_inputs(data, "reccot", "train", slice(8)), tmp_path / "net.onnx")
    for rows in (slice(8), slice(1), slice(3, 90)):
        given = net_inputs(data, "reccot", "train", rows)
        with torch.inference_mode():
            expected = net({name: torch.from_numpy(value) for name, value in given.items()}).sigmoid()
        p = run(tmp_path / "net.onnx", given)
        assert p.shape == (len(given["item"]),)
        np.testing.assert_allclose(p, expected.numpy(), rtol=0, atol=1e-5)
    assert np.ptp(p) > 0.01


@pytest.mark.parametrize(
    ("arm", "connector", "text"),
    [
        ("none", MLPConnector, TextSettings()),
        ("reccot", MLPConnector, TextSettings(use="query", missing="keep", pca_dim=3)),
        ("reccot", GatedConnector, TextSettings(missing="keep")),
        ("reccot", HEAConnector, TextSettings()),
        ("shuffled", MLPConnector, TextSettings()),
        ("random", MLPConnector, TextSettings()),
    ],
)
def test_requests_through_the_folder_are_what_predict_answers(tables, data_dir, tmp_path, arm, connector, text):
    """The mean over the seeds, each from its own export, against `SavedNets` on the tables."""
    seeds = [0, 1] if arm == "none" else [0]
    inputs, made = made_inputs(tables), plan([arm], connector=connector, text=text, seeds=seeds)
    run_ctr(inputs, made, tmp_path / "ctr", 0, lambda _: None)
    users = 12 if text.missing == "keep" else 10
    wanted = pl.DataFrame(
        {"user_id": [f"u{i % users}" for i in range(40)], "item_id": [f"i{i % 15}" for i in range(40)]}
    )
    answerable = {f"h{u}" for u in range(users)}
    rows = request_rows(wanted, newest_histories(tables.samples, answerable), tables.interactions, 4)
    expected = SavedNets(inputs, made, tmp_path / "ctr", arm, 0)(rows)
    found = []
    for seed in seeds:
        folder = tmp_path / f"export-{seed}"
        written = export_net(inputs, made, tmp_path / "ctr", arm, seed, 0, folder)
        assert (written.net, written.seed) == ("DIN", seed)
        assert written.difference <= 1e-5
        encoder = RequestEncoder(folder, data_dir)
        found.append(run(folder / "net.onnx", encoder(wanted["user_id"], wanted["item_id"])))
    np.testing.assert_allclose(np.mean(found, axis=0), expected, rtol=0, atol=1e-5)
    assert arm != "none" or np.abs(found[0] - found[1]).max() > 1e-3
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def exported(tables, tmp_path_factory):
    """A folder that `export_net` wrote, and the run behind it."""
    where = tmp_path_factory.mktemp("exported")
    inputs, made = made_inputs(tables), plan(seeds=[3])
    run_ctr(inputs, made, where / "ctr", 0, lambda _: None)
    export_net(inputs, made, where / "ctr", "reccot", None, 0, where / "export")
    return where / "export", inputs, made, where / "ctr"


def test_requests_with_log_odds(tables, data_dir, tmp_path):
    rng = np.random.default_rng(0)
    odds = {key: 4.0 * label - 2.0 + rng.normal() for key, label in tables.samples.select("sample_id", "label").rows()}
    inputs = made_inputs(tables, log_odds={"reccot": odds})
    trainer = partial(dict, accelerator="cpu", max_epochs=12)
    made = plan(text=TextSettings(use="log_odds"), connector=None, trainer=trainer, seeds=[0])
    run_ctr(inputs, made, tmp_path / "ctr", 0, lambda _: None)
    export_net(inputs, made, tmp_path / "ctr", "reccot", None, 0, tmp_path / "export")
    encoder = RequestEncoder(tmp_path / "export", data_dir)
    assert encoder.features["dense"] == [*dense_names(), "log_odds", "has_log_odds"]
    given = encoder(["u1"] * 3, ["i1"] * 3, [3.0, -3.0, None])
    assert given["dense"][:, -2:].tolist() == [[1.5, 1.0], [-1.5, 1.0], [0.0, 0.0]]
    p = run(tmp_path / "export" / "net.onnx", given)
    assert p[0] > p[2] > p[1]
    assert not encoder(["u1"], ["i1"])["dense"][:, -2:].any()


def test_the_feature_map_says_what_the_inputs_are(exported, data_dir):
    folder, inputs, *_ = exported
    names = {path.name for path in folder.iterdir()}
    assert names == {"net.onnx", "features.json", "users.parquet", "ratings.parquet"}
    found = json.loads((folder / "features.json").read_text())
    assert (found["net"], found["arm"], found["seed"], found["scale"]["threshold"]) == ("DIN", "reccot", 3, 3.0)
    assert found["dense"] == list(dense_names())
    assert found["text"] == {"dim": 6, "use": "dense", "gaps": False}
    given = RequestEncoder(folder, data_dir)(["u0", "u1"], ["i3", "i7"])
    assert {one["name"]: one["shape"][1:] for one in found["inputs"]} == {
        k: list(v.shape[1:]) for k, v in given.items()
    }
    assert {one["name"]: one["type"] for one in found["inputs"]} == {k: str(v.dtype) for k, v in given.items()}
    for row, item in enumerate(["i3", "i7"]):
        entry = found["items"][item]
        assert found["vocabularies"]["items"][entry["index"] - found["indices"]["first"]] == item
        assert given["item"][row] == entry["index"]
        assert [index for index in given["item_attributes"][row].tolist() if index] == entry["attributes"]
        own = given["dense"][row, [found["dense"].index(name) for name in entry["dense"]]]
        np.testing.assert_allclose(own, list(entry["dense"].values()), rtol=1e-6)
    vectors = pl.read_parquet(folder / "users.parquet").filter(pl.col("user_id") == "u1")["text"]
    np.testing.assert_array_equal(vectors.to_list()[0], inputs.vectors["reccot"]["h1"])


def test_a_newer_rating_stands_in_the_recent_list(exported, tables, data_dir, tmp_path):
    for name in ("histories", "items"):
        write_part(tmp_path / "newer", name, getattr(tables, name))
    new = {"item_id": "i5", "rating": 1.0, "timestamp": 9_999, "row": 9_999}
    latest = tables.interactions.head(1).with_columns(**{name: pl.lit(value) for name, value in new.items()})
    latest = latest.cast(dict(tables.interactions.schema))
    write_part(tmp_path / "newer", "interactions", pl.concat([tables.interactions, latest]))
    user = latest["user_id"][0]
    before = RequestEncoder(exported[0], data_dir)([user], ["i2"])
    after = RequestEncoder(exported[0], tmp_path / "newer")([user], ["i2"])
    known = json.loads((exported[0] / "features.json").read_text())["vocabularies"]["items"]
    assert after["recent_items"][0, -1] == known.index("i5") + 2
    assert after["recent_items"][0, :-1].tolist() == before["recent_items"][0, 1:].tolist()
    lowest = RequestEncoder(exported[0], data_dir).scale(np.array([1.0]))
    assert after["recent_ratings"][0, -1] == lowest.astype(np.float32)[0] < 0
    np.testing.assert_array_equal(after["text"], before["text"])


def test_bad_requests_are_named(exported, data_dir, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    encoder = RequestEncoder(folder, data_dir)
    with pytest.raises(DataError, match="1 users have no history or no RecCoT in this run, the first is 'u11'"):
        encoder(["u1", "u11"], ["i1", "i1"])
    with pytest.raises(DataError, match="1 items are not in the items table, the first is 'i99'"):
        encoder(["u1"], ["i99"])
    with pytest.raises(DataError, match="as many users as items, got 0 and 0"):
        encoder([], [])
    with pytest.raises(DataError, match="reads no log-odds"):
        encoder(["u1"], ["i1"], [0.5])
    with pytest.raises(DataError, match=r"holds no features\.json"):
        RequestEncoder(tmp_path, data_dir)
    path = folder / "features.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    with pytest.raises(DataError, match="format 0, this trackrec reads 3"):
        RequestEncoder(folder, data_dir)


def test_nothing_is_left_where_an_export_fails(exported, tmp_path, monkeypatch):
    _, inputs, made, ctr_dir = exported
    output = tmp_path / "deep" / "export"

    def attempt(**changes):
        values = {"inputs": inputs, "settings": made, "ctr_dir": ctr_dir, "arm": "reccot", "net_seed": None}
        return export_net(**{**values, "seed": 0, "output": output, **changes})

    with pytest.raises(ValueError, match="--seed must be among 3, got 7"):
        attempt(net_seed=7)
    with pytest.raises(ValueError, match="--arm must be among reccot, got 'none'"):
        attempt(arm="none")
    with pytest.raises(ValueError, match=r"ctr\.net: DIN as configured isn't the net in"):
        attempt(settings=plan(net=partial(DIN, hidden=(8,))))
    monkeypatch.setattr(room, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="onnxruntime differs from torch by"):
        attempt()
    assert not list(output.parent.glob("*"))
    assert not list(output.parent.glob(".*"))
    output.mkdir()
    with pytest.raises(ValueError, match="exists already"):
        attempt()


class Stubborn(nn.Module):
    """Goes where a number sends it, which no graph can."""

    def __init__(self, spec, connector=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return batch["dense"][:, 0] * (self.weight if batch["dense"].sum() > 0 else -self.weight)


def test_a_net_that_onnx_cannot_say_is_named(data, tmp_path):
    with pytest.raises(ValueError, match=r"ctr\.net: Stubborn can't be written as ONNX"):
        write_onnx(Stubborn(data.spec), net_inputs(data, "none", "train", slice(8)), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_difference_is_measured(data, tmp_path):
    """A net whose weights changed after it was written doesn't agree any more."""
    net = DIN(data.spec, None, embed_dim=4).eval()
    example = net_inputs(data, "none", "train", slice(8))
    write_onnx(net, example, tmp_path / "net.onnx")
    assert largest_difference(net, example, tmp_path / "net.onnx") <= 1e-5
    nn.init.constant_(net.mlp.layers[-1].bias, 1.0)
    with pytest.raises(ValueError, match="more than 1e-05"):
        largest_difference(net, example, tmp_path / "net.onnx")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        MissingPackageError, match=r"trackrec export needs onnxscript: pip install 'trackrec\[export\]'"
    ):
        room.check_packages()
