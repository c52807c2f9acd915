"""Every net as ONNX, and requests as its inputs."""

import json
import shutil
from dataclasses import replace
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
from trackrec.ctr.features.dense_statistics import FeatureSettings, dense_names
from trackrec.ctr.saved import SavedNets
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.stage import run_ctr
from trackrec.runtime.packages import MissingPackageError
from trackrec.serving.bundle import INFO, open_bundle
from trackrec.serving.encoder import RequestEncoder
from trackrec.serving.errors import BundleError
from trackrec.serving.everyone import Ladder
from trackrec.serving.export import export_bundle
from trackrec.serving.onnx_file import largest_difference, write_onnx
from trackrec.serving.predict import answer
from trackrec.serving.ranker import Ranker
from trackrec.serving.requests import net_inputs, newest_histories, request_rows
from trackrec.serving.retrieve import Retriever, recommend
from trackrec.storage.parts import read_table

try:
    room.check_packages()
except MissingPackageError as error:
    pytest.skip(str(error), allow_module_level=True)

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]

NO_STATS = {"reccot/no_stats", "none/no_stats", "base_rate"}
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


@pytest.mark.parity
@pytest.mark.parametrize("net_class", NETS)
def test_a_net_as_onnx_agrees_at_any_batch_size(data, tmp_path, net_class):
    """Rows that the graph was traced with, one row, and more of them, some without a recent list."""
    torch.manual_seed(0)
    spec = data.spec_for("reccot")
    net = net_class(spec, MLPConnector(spec.text_dim, out_dim=5, hidden=[4]), embed_dim=4).eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.15)
    write_onnx([net], net_inputs(data, "reccot", "train", slice(8)), tmp_path / "net.onnx")
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
def test_requests_through_a_bundle_are_what_predict_answers(tables, tmp_path, arm, connector, text):
    """The mean over the seeds, against `SavedNets` on the tables."""
    seeds = [0, 1] if arm in ("none", "reccot") else [0]
    inputs, made = made_inputs(tables), plan([arm], connector=connector, text=text, seeds=seeds)
    run_ctr(inputs, made, tmp_path / "ctr", 0, lambda _: None)
    users = 12 if text.missing == "keep" else 10
    wanted = pl.DataFrame(
        {"user_id": [f"u{i % users}" for i in range(180)], "item_id": [f"i{i // users % 15}" for i in range(180)]}
    )
    answerable = {f"h{u}" for u in range(users)}
    rows = request_rows(wanted, newest_histories(tables.samples, answerable), tables.interactions, 4)
    expected = SavedNets(inputs, made, tmp_path / "ctr", arm, 0)(rows)
    written = export_bundle(inputs, made, tmp_path / "ctr", arm, "all", 0, tmp_path / "export", "hash")
    assert (written.net, written.seeds) == ("DIN", tuple(seeds))
    assert written.difference <= 1e-5
    bundle = open_bundle(tmp_path / "export")
    ranker, states = Ranker(bundle), {state.user_id: state for state in bundle.users()}
    for user, items in wanted.group_by("user_id", maintain_order=True).agg("item_id").iter_rows():
        found = ranker.answer(states[user], items)
        due = expected[(wanted["user_id"] == user).to_numpy()]
        np.testing.assert_allclose(found.p, due, rtol=0, atol=1e-6)
        assert set(found.answered_by) == {arm}
    assert np.ptp(expected) > 1e-3
    assert not list(tmp_path.glob(".*"))


def test_the_mean_of_drawn_texts_is_no_net(tables, tmp_path):
    inputs, made = made_inputs(tables), plan(["shuffled"], seeds=[0, 1])
    run_ctr(inputs, made, tmp_path / "ctr", 0, lambda _: None)
    with pytest.raises(ValueError, match=r"--seed all: each training of arm shuffled .* Name one of 0, 1\."):
        export_bundle(inputs, made, tmp_path / "ctr", "shuffled", "all", 0, tmp_path / "export")


@pytest.fixture(scope="module")
def exported(tables, tmp_path_factory):
    """A bundle of a run with texts about ten of twelve users, and the run behind it."""
    where = tmp_path_factory.mktemp("exported")
    inputs, made = made_inputs(tables), plan(["none", "reccot"], seeds=[3])
    run_ctr(inputs, made, where / "ctr", 0, lambda _: None)
    export_bundle(inputs, made, where / "ctr", "reccot", None, 0, where / "export", "hash", embed_items=embedded)
    return where / "export", inputs, made, where / "ctr"


def embedded(texts):
    """The first item points where the text about u1 points."""
    assert texts[1:3] == ["Film 1 (2000): Drama", "Film 2 (2000): Drama, Comedy"]
    return np.stack([np.random.default_rng(1 if n == 0 else 100 + n).normal(size=16)[6:12] for n in range(len(texts))])


def state_of(bundle, user):
    return next(state for state in bundle.users() if state.user_id == user)


def test_requests_with_log_odds(tables, tmp_path):
    rng = np.random.default_rng(0)
    odds = {key: 4.0 * label - 2.0 + rng.normal() for key, label in tables.samples.select("sample_id", "label").rows()}
    inputs = made_inputs(tables, log_odds={"reccot": odds})
    trainer = partial(dict, accelerator="cpu", max_epochs=12)
    made = plan(text=TextSettings(use="log_odds"), connector=None, trainer=trainer, seeds=[0])
    run_ctr(inputs, made, tmp_path / "ctr", 0, lambda _: None)
    export_bundle(inputs, made, tmp_path / "ctr", "reccot", None, 0, tmp_path / "export")
    bundle = open_bundle(tmp_path / "export")
    assert bundle.info["dense"] == [*dense_names(), "log_odds", "has_log_odds"]
    encoder, state = RequestEncoder(bundle), state_of(bundle, "u1")
    scored = replace(state, log_odds={"i1": 3.0, "i2": -3.0, "i4": 99.0})
    given = encoder.of_net(bundle.nets[0], encoder.inputs(scored, ["i1", "i2", "i3", "i4"]))
    assert given["dense"][:, -2:].tolist() == [[1.5, 1.0], [-1.5, 1.0], [0.0, 0.0], [3.0, 1.0]]
    high, low = (Ranker(bundle).answer(replace(state, log_odds={"i1": value}), ["i1"]).p for value in (3.0, -3.0))
    assert high > Ranker(bundle).answer(state, ["i1"]).p > low


def test_a_bundle_says_what_is_in_it(exported):
    folder, inputs, *_ = exported
    bundle = open_bundle(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {*bundle.info["files"], INFO}
    assert {"net.onnx", "net-without-text.onnx", "neighbours.npy", "users.parquet", "README.md"} < names
    found = bundle.info
    assert (found["net"], found["arm"], found["seeds"], found["threshold"]) == ("DIN", "reccot", [3], 3.0)
    assert found["dense"] == list(dense_names())
    assert found["text"] == {"dim": 6, "vector_dim": 6, "encoder": "hash", "live": True, "projected": False}
    assert [(net.arm, net.text, net.gaps) for net in bundle.nets] == [("reccot", True, False), ("none", False, False)]
    assert set(found["ranges"]["numbers"]) == {*dense_names(), "recent_length", "text_norm", "p"}
    lengths = found["ranges"]["numbers"]["recent_length"]
    assert (lengths["quantiles"]["0"], lengths["quantiles"]["1"]) == (0.0, 4.0)
    np.testing.assert_array_equal(state_of(bundle, "u1").text, inputs.vectors["reccot"]["h1"])
    assert state_of(bundle, "u11").text is None
    items = pl.read_parquet(folder / "items.parquet")
    assert items["item_id"].to_list() == bundle.item_ids
    assert items["ratings"].sum() == bundle.everything[0]
    bundle.check_texts("hash", 6)
    with pytest.raises(BundleError, match="read 6 numbers of hash, and the vectors are 8 numbers of other"):
        bundle.check_texts("other", 8)


def test_the_card_says_what_it_must(exported):
    folder, inputs, _, ctr_dir = exported
    card = (folder / "README.md").read_text()
    for heading in ("Data", "Split", "Metrics", "Who is answered by what", "Limits", "Licence"):
        assert f"\n## {heading}\n" in card
    told = inputs.samples.filter(pl.col("split") == "train", pl.col("history_id").is_in(list(inputs.vectors["reccot"])))
    assert f"| train | {len(told):,} | 10 |" in card
    metrics = read_table(ctr_dir, "metrics").filter(
        pl.col("arm") == "reccot", pl.col("name") == "auc", pl.col("slice") == "all", pl.col("seed") == -1
    )
    value, low, high = metrics.select("value", "ci_low", "ci_high").row(0)
    assert f"| `reccot` | {value:.4f} [{low:.4f}, {high:.4f}] |" in card
    assert "2. `none`: other users with a rating" in card


def test_everyone_is_answered_by_the_best_that_can(exported, tables):
    folder, inputs, made, ctr_dir = exported
    bundle = open_bundle(folder)
    ranker, items = Ranker(bundle), ["i1", "new", "i2"]
    with_text = ranker.answer(state_of(bundle, "u1"), items)
    assert with_text.answered_by == ["reccot", "base_rate", "reccot"]
    assert with_text.p[1] == np.float32(bundle.base_rate)
    without = ranker.answer(state_of(bundle, "u11"), items)
    assert without.answered_by == ["none", "base_rate", "none"]
    wanted = pl.DataFrame({"user_id": ["u11"] * 2, "item_id": ["i1", "i2"]})
    rows = request_rows(wanted, newest_histories(tables.samples, {"h11"}), tables.interactions, 4)
    due = SavedNets(inputs, made, ctr_dir, "none", 0)(rows)
    np.testing.assert_allclose(without.p[[0, 2]], due, rtol=0, atol=1e-6)
    hidden = ranker.answer(state_of(bundle, "u1"), ["i1"], without_text=True)
    assert hidden.answered_by == ["none"]
    assert hidden.p[0] != with_text.p[0]
    # every user's first sample has no earlier rating, so the nets know what that means
    assert bundle.cold
    assert ranker.answer(bundle.stranger("u99"), ["i1"]).answered_by == ["none"]
    bundle.cold = False
    stranger = ranker.answer(bundle.stranger("u99"), items)
    assert stranger.answered_by == ["item_mean", "base_rate", "item_mean"]
    rates = dict(pl.read_parquet(folder / "items.parquet").select("item_id", "like_rate").iter_rows())
    np.testing.assert_allclose(stranger.p[[0, 2]], [rates["i1"], rates["i2"]], rtol=1e-6)
    bundle.nets.pop()
    pleased, displeased = (
        ranker.answer(bundle.stranger("u99").newer(["i5"] * 3, [rating] * 3), ["i1"]) for rating in (5.0, 1.0)
    )
    assert pleased.answered_by == displeased.answered_by == ["item_user"]
    assert pleased.p[0] > rates["i1"] > displeased.p[0]


@pytest.mark.parametrize(
    ("arms", "text", "statistics", "rungs"),
    [
        (["none", "reccot"], TextSettings(), "all", {"reccot", "none", "base_rate"}),
        (["reccot"], TextSettings(pca_dim=3), "all", {"reccot", "item_user", "item_mean", "base_rate"}),
        (["reccot"], TextSettings(missing="keep"), "recent", {"reccot", "base_rate"}),
        (
            ["reccot/no_stats", "none/no_stats"],
            TextSettings(),
            "none",
            {"reccot/no_stats", "none/no_stats", "base_rate"},
        ),
    ],
)
def test_the_bundle_and_the_tables_answer_everyone_alike(tables, tmp_path, arms, text, statistics, rungs):
    """More than a thousand requests: users without samples, without a text and from elsewhere, and newer ratings."""
    guest = tables.interactions.head(3).with_columns(user_id=pl.lit("guest"))
    inputs = made_inputs(tables._replace(interactions=pl.concat([tables.interactions, guest])))
    warm = "item_mean" in rungs and "none" in rungs
    if warm:  # no row is a user's first, so the nets don't know what that means
        inputs = inputs._replace(samples=inputs.samples.filter(pl.col("recent_items").list.len() > 0))
    made = plan(arms, text=text, seeds=[0, 1], features=FeatureSettings(statistics))
    arm = next(arm for arm in arms if arm.startswith("reccot"))
    run_ctr(inputs, made, tmp_path / "ctr", 0, lambda _: None)
    export_bundle(inputs, made, tmp_path / "ctr", arm, "all", 0, tmp_path / "export", "hash")
    bundle = open_bundle(tmp_path / "export")
    ranker, states = Ranker(bundle), {state.user_id: state for state in bundle.users()}
    assert bundle.cold
    events = pl.DataFrame(
        {"user_id": ["u3", "u3", "guest"], "item_id": ["i9", "i10", "i14"], "rating": [1.0, 5.0, 2.0]}
    )
    events = events.with_columns(timestamp=9_000 + pl.int_range(3), row=9_000 + pl.int_range(3))
    later = pl.concat([inputs.interactions, events.cast(dict(inputs.interactions.schema))])
    users, items = [*states, "nobody"], [*bundle.item_ids, "nothing"] * 3
    wanted = pl.DataFrame({"user_id": [user for user in users for _ in items], "item_id": items * len(users)})
    for interactions in (inputs.interactions, later):
        ladder = Ladder(inputs._replace(interactions=interactions), made, tmp_path / "ctr", arm, 0)
        due = ladder.answer(wanted, answer, answer)
        found = []
        for user in users:
            state = states.get(user) or bundle.stranger(user)
            if interactions is later:
                newer = events.filter(pl.col("user_id") == user)
                state = state.newer(newer["item_id"].to_list(), newer["rating"].to_list())
            found.append(ranker.answer(state, items))
        np.testing.assert_allclose(np.concatenate([one.p for one in found]), due.p, rtol=0, atol=1e-6)
        assert [name for one in found for name in one.answered_by] == due.answered_by
        assert set(due.answered_by) == rungs
    assert len(wanted) * 2 > 1000


def test_what_a_bundle_recommends_was_not_rated_and_is_ranked_by_its_net(exported, tables):
    bundle = open_bundle(exported[0])
    state, rated = state_of(bundle, "u1"), tables.interactions.filter(pl.col("user_id") == "u1")["item_id"]
    assert set(state.seen) == set(rated)
    assert recommend(Ranker(bundle), Retriever(bundle), state, 5) == []  # u1 has rated every film
    stranger = replace(bundle.stranger("u99"), text=state.text)
    found = recommend(Ranker(bundle), Retriever(bundle), stranger, 5, without=["i3"])
    assert len(found) == 5
    assert "i3" not in {one.item for one in found}
    answers = Ranker(bundle).answer(stranger, [item for item in bundle.item_ids if item != "i3"])
    np.testing.assert_allclose([one.p for one in found], np.sort(answers.p)[::-1][:5], rtol=0, atol=1e-6)
    assert {one.answered_by for one in found} == {"reccot"}
    texts = np.load(exported[0] / "item_vectors.npy").astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1.0, atol=1e-3)
    nearest = bundle.item_ids[int((texts @ state.text).argmax())]
    assert Retriever(bundle).candidates(stranger, 2).items[1] == nearest


def test_a_damaged_bundle_is_refused(exported, tmp_path):
    def copy(name):
        return shutil.copytree(exported[0], tmp_path / name)

    with pytest.raises(BundleError, match=r"is no bundle: it holds no bundle\.json\. Write one with `trackrec export`"):
        open_bundle(tmp_path)
    folder = copy("changed")
    with (folder / "net.onnx").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"net\.onnx isn't what was written \(its sha256 differs\)\. Export again"):
        open_bundle(folder)
    folder = copy("missing")
    (folder / "items.npz").unlink()
    with pytest.raises(BundleError, match=r"items\.npz is missing\. Export again"):
        open_bundle(folder)
    folder = copy("half")
    (folder / INFO).write_text((folder / INFO).read_text()[:500])
    with pytest.raises(BundleError, match=r"bundle\.json can't be read"):
        open_bundle(folder)
    folder = copy("edited")
    info = json.loads((folder / INFO).read_text())
    (folder / INFO).write_text(json.dumps({**info, "base_rate": 0.9}))
    with pytest.raises(BundleError, match=r"bundle\.json was changed after it was written"):
        open_bundle(folder)
    (folder / INFO).write_text(json.dumps({**info, "format": 9}))
    with pytest.raises(BundleError, match="format 9, this trackrec reads 4"):
        open_bundle(folder)


def test_nothing_is_left_where_an_export_fails(exported, tmp_path, monkeypatch):
    _, inputs, made, ctr_dir = exported
    output = tmp_path / "deep" / "export"

    def attempt(**changes):
        values = {"inputs": inputs, "settings": made, "ctr_dir": ctr_dir, "arm": "reccot", "net_seed": None}
        return export_bundle(**{**values, "seed": 0, "output": output, **changes})

    with pytest.raises(ValueError, match="--seed must be all or among 3, got 7"):
        attempt(net_seed=7)
    with pytest.raises(ValueError, match="--arm must be among none, reccot, got 'random'"):
        attempt(arm="random")
    with pytest.raises(ValueError, match=r"ctr\.net: DIN as configured isn't the net in"):
        attempt(settings=plan(net=partial(DIN, hidden=(8,))))
    monkeypatch.setattr("trackrec.serving.onnx_file.TOLERANCE", -1.0)
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
        write_onnx([Stubborn(data.spec)], net_inputs(data, "none", "train", slice(8)), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_difference_is_measured(data, tmp_path):
    """A net whose weights changed after it was written doesn't agree any more."""
    net = DIN(data.spec, None, embed_dim=4).eval()
    example = net_inputs(data, "none", "train", slice(8))
    write_onnx([net], example, tmp_path / "net.onnx")
    assert largest_difference([net], example, tmp_path / "net.onnx") <= 1e-5
    nn.init.constant_(net.mlp.layers[-1].bias, 1.0)
    with pytest.raises(ValueError, match="more than 1e-05"):
        largest_difference([net], example, tmp_path / "net.onnx")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        MissingPackageError, match=r"trackrec export needs onnxscript: pip install 'trackrec\[export\]'"
    ):
        room.check_packages()
