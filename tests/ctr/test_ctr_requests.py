"""The inputs of single requests against the features that training and `predict` build from the tables."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import trackrec.serving.export as room
from trackrec.ctr import DIN, MLPConnector
from trackrec.ctr.arms.assemble import CTRInputs
from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.features.dense_statistics import dense_names
from trackrec.ctr.features.past import UNKNOWN
from trackrec.ctr.saved import saved_features
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.stage import run_ctr
from trackrec.interactions import DataError
from trackrec.serving.bundle import Bundle, open_bundle
from trackrec.serving.encoder import RequestEncoder
from trackrec.serving.errors import UnknownItemError
from trackrec.serving.requests import net_inputs, newest_histories, newest_lists, request_rows, with_cold_users
from trackrec.serving.users import UserState
from trackrec.storage.schemas import to_arrow

# https://github.com/Lightning-AI/pytorch-lightning/issues/21326
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

N_USERS, N_ITEMS, STRANGER = 12, 15, "u5"


@pytest.fixture(scope="module")
def inputs(tables) -> CTRInputs:
    """Histories of 0 to 11 films, a user whose rows are all test rows, films that nobody rated, texts of most users."""
    unrated = [
        {"item_id": f"x{i}", "title": "", "attributes": ["Drama", "Opera"][: i + 1], "year": [None, 1950][i]}
        for i in range(2)
    ]
    items = pl.concat([tables.items, pl.from_arrow(to_arrow("items", unrated))])
    # In the histories of the last users the films repeat.
    past = tables.interactions.sort("user_id", "row").group_by("user_id", maintain_order=True).agg("item_id", "rating")
    lists = {user: (ids[:8] + ids[:3], ratings[:8] + ratings[3:6]) for user, ids, ratings in past.iter_rows()}
    users = tables.histories["user_id"].to_list()
    histories = tables.histories.with_columns(
        item_ids=pl.Series([lists[user][0][:place] for place, user in enumerate(users)]),
        ratings=pl.Series([lists[user][1][:place] for place, user in enumerate(users)], dtype=pl.List(pl.Float32)),
    )
    is_stranger = pl.col("user_id") == STRANGER
    samples = tables.samples.with_columns(split=pl.when(is_stranger).then(pl.lit("test")).otherwise("split"))
    rng = np.random.default_rng(1)
    vectors = {f"h{u}": rng.normal(size=6).astype(np.float32) for u in range(N_USERS - 2)}
    return CTRInputs(samples, histories, items, tables.interactions, 3.0, {"reccot": vectors})


def exported(
    inputs: CTRInputs, arm: str, text: TextSettings, where: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Bundle, CTRSettings]:
    """The bundle of one short training; its graph is left out."""
    monkeypatch.setattr(room, "write_onnx", lambda nets, example, path: path.touch())
    monkeypatch.setattr(room, "largest_difference", lambda nets, example, path: 0.0)
    plan = CTRSettings(
        net=partial(DIN, embed_dim=2, hidden=[4]),
        connector=partial(MLPConnector, out_dim=2, hidden=[2]),
        model={},
        data={},
        trainer=lambda: {"accelerator": "cpu", "max_epochs": 1},
        arms=[arm],
        seeds=[0],
        patience=1,
        text=text,
    )
    run_ctr(inputs, plan, where / "ctr", 0, lambda _: None)
    room.export_bundle(inputs, plan, where / "ctr", arm, 0, 0, where / "export", "hash")
    return open_bundle(where / "export"), plan


def due_inputs(inputs: CTRInputs, rows: pl.DataFrame, plan: CTRSettings, ctr_dir: Path, arm: str) -> dict[str, Any]:
    both = inputs._replace(samples=pl.concat([inputs.samples.select(rows.columns), rows]))
    return net_inputs(saved_features(both, plan, ctr_dir, arm, 0, 0), arm, "request")


def assert_same(found: dict[str, Any], due: dict[str, Any], projected: bool = False) -> None:
    """Bit by bit; only sums over a history may round otherwise, since `predict` pads to the longest of all."""
    assert list(found) == list(due)
    if "text_mask" in due:  # what stands where there is no text, no net reads
        found, due = ({**one, "text": one["text"] * one["text_mask"][:, None]} for one in (found, due))
    loose = {"dense", "text"} if projected else {"dense"}
    for name, value in due.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6 if name in loose else 0)


@pytest.mark.parametrize(
    ("arm", "text"),
    [
        ("none", TextSettings(missing="keep")),
        ("reccot", TextSettings(missing="keep")),
        ("reccot", TextSettings(pca_dim=3)),
        ("shuffled", TextSettings(pca_dim=3)),
        ("reccot/no_stats", TextSettings()),
    ],
)
def test_many_random_requests_are_as_the_feature_builder_makes_them(inputs, tmp_path, monkeypatch, arm, text):
    bundle, plan = exported(inputs, arm, text, tmp_path, monkeypatch)
    encoder, states = RequestEncoder(bundle), {state.user_id: state for state in bundle.users()}
    rng = np.random.default_rng(2)
    users = [f"u{u}" for u in range(N_USERS if text.missing == "keep" else N_USERS - 2)]
    items = inputs.items["item_id"].to_list()
    sizes = [1, 1, 2, 100, *rng.integers(1, 30, 60).tolist()]
    asked = [(str(rng.choice(users)), list(map(str, rng.choice(items, n)))) for n in sizes]
    everyone = [user for user, films in asked for _ in films]
    every_item = [film for _, films in asked for film in films]
    assert {STRANGER, "u0"} <= set(everyone)
    assert {"x0", "x1"} <= set(every_item)
    wanted = pl.DataFrame({"user_id": everyone, "item_id": every_item})
    rows = request_rows(wanted, newest_histories(inputs.samples, {f"h{u[1:]}" for u in users}), inputs.interactions, 4)
    due = due_inputs(inputs, rows, plan, tmp_path / "ctr", arm)
    start = 0
    for user, films in asked:
        state = UserState.unpack(states[user].pack()).with_text(states[user].text)
        found = encoder.of_net(bundle.nets[0], encoder.inputs(state, films))
        part = {name: value[start : start + len(films)] for name, value in due.items()}
        assert_same(found, part, projected=bundle.info["text"] is not None and bundle.info["text"]["projected"])
        start += len(films)
    assert start == len(wanted)
    stranger = everyone.index(STRANGER)
    assert due["user"][stranger] == due["item"][every_item.index("x0")] == UNKNOWN
    assert arm == "none" or due["text"].any()


def test_newer_ratings_stand_in_the_recent_list_as_if_the_tables_held_them(inputs, tmp_path, monkeypatch):
    """Statistics stay those of the training, here as in `predict` for items that no history holds."""
    bundle, plan = exported(inputs, "reccot", TextSettings(missing="keep"), tmp_path, monkeypatch)
    new = pl.DataFrame({"user_id": ["u3", "u1", "u3"], "item_id": ["i10", "x0", "i9"], "rating": [1.0, 5.0, 4.0]})
    new = new.with_columns(timestamp=9_000 + pl.int_range(3), row=9_000 + pl.int_range(3))
    newer = inputs._replace(
        interactions=pl.concat([inputs.interactions, new.cast(dict(inputs.interactions.schema))])  # type: ignore[arg-type]
    )
    films = inputs.items["item_id"].to_list()
    histories = newest_histories(inputs.samples, {f"h{u}" for u in range(N_USERS)})
    states = {state.user_id: state for state in bundle.users()}
    for user in ("u1", "u2", "u3"):
        wanted = pl.DataFrame({"user_id": [user] * len(films), "item_id": films})
        rows = request_rows(wanted, histories, newer.interactions, 4)
        due = due_inputs(newer, rows, plan, tmp_path / "ctr", "reccot")
        events = new.filter(pl.col("user_id") == user)
        state = states[user].newer(events["item_id"].to_list(), events["rating"].to_list())
        encoder = RequestEncoder(bundle)
        assert_same(encoder.of_net(bundle.nets[0], encoder.inputs(state, films)), due)
        same = encoder.inputs(states[user], films)["recent_items"]
        assert (user == "u2") == np.array_equal(same, due["recent_items"])


def test_a_rating_of_an_item_that_the_catalogue_lacks_changes_nothing(inputs, tmp_path, monkeypatch):
    bundle, _ = exported(inputs, "none", TextSettings(missing="keep"), tmp_path, monkeypatch)
    encoder, state = RequestEncoder(bundle), next(state for state in bundle.users() if state.user_id == "u3")
    before, after = (encoder.inputs(one, ["i1"]) for one in (state, state.newer(["later"], [5.0])))
    assert all(np.array_equal(before[name], after[name]) for name in before)
    with pytest.raises(UnknownItemError, match="1 items are not in the catalogue, the first is 'later'") as error:
        encoder.inputs(state, ["i1", "later"])
    assert error.value.items == ["later"]
    with pytest.raises(UnknownItemError, match="at least one item"):
        encoder.inputs(state, [])


def test_one_request_reads_no_table(inputs, tmp_path, monkeypatch):
    """What the tables say is worked out when the bundle is written."""
    bundle, _ = exported(inputs, "none", TextSettings(), tmp_path, monkeypatch)
    encoder, state = RequestEncoder(bundle), next(bundle.users())
    expected = encoder.inputs(state, ["i1", "i2", "x0"])

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a request must not go through a data frame")

    for name in ("DataFrame", "Series", "read_parquet", "concat"):
        monkeypatch.setattr(pl, name, refused)
    monkeypatch.setattr("trackrec.ctr.features.neighbours._similarities", refused)
    found = encoder.inputs(state, ["i1", "i2", "x0"])
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_a_stranger_is_encoded_as_a_cold_user_of_the_run(inputs, tmp_path, monkeypatch):
    """The history of u0 is empty: a new user has its text and nothing else of it."""
    bundle, plan = exported(inputs, "reccot", TextSettings(missing="keep"), tmp_path, monkeypatch)
    encoder, films = RequestEncoder(bundle), ["i1", "x0", "i7"]
    wanted = pl.DataFrame({"user_id": ["new"] * 3, "item_id": films})
    answerable = {f"h{u}" for u in range(N_USERS)}
    newest = newest_histories(inputs.samples, answerable)
    histories = with_cold_users(newest, wanted["user_id"], inputs.histories, answerable)
    assert histories.tail(1).rows() == [("new", "h0")]
    rows = request_rows(wanted, histories, inputs.interactions, 4)
    due = due_inputs(inputs, rows, plan, tmp_path / "ctr", "reccot")
    found = encoder.of_net(bundle.nets[0], encoder.inputs(bundle.stranger("new"), films))
    assert_same(found, due)
    assert found["user"].tolist() == [UNKNOWN] * 3
    assert not found["recent_mask"].any()
    of_lists = [i for i, name in enumerate(dense_names()) if name.startswith(("recent_", "history_"))]
    assert not found["dense"][0, of_lists].any()
    np.testing.assert_array_equal(found["text"][0], inputs.vectors["reccot"]["h0"])
    # who is known is answered as without strangers; nobody was cold, or the cold ones can't be answered
    assert with_cold_users(newest, pl.Series(["u1"]), inputs.histories, answerable).equals(newest)
    with pytest.raises(DataError, match=r"--unknown cold: .*Set samples\.min_history to 0"):
        with_cold_users(newest, wanted["user_id"], inputs.histories, answerable - {"h0"})
    # a history without a text is no empty one
    untold = newest.filter(pl.col("user_id") != "u11")
    assert "u11" not in with_cold_users(untold, pl.Series(["u11"]), inputs.histories, answerable)["user_id"]


def test_published_lists_are_read_in_requests_as_in_training(inputs, tmp_path, monkeypatch):
    """The newest list of a user, and not what the log says of them since."""
    published = inputs._replace(published_lists=True)
    bundle, _ = exported(published, "none", TextSettings(missing="keep"), tmp_path, monkeypatch)
    encoder = RequestEncoder(bundle)
    newest = inputs.samples.sort("timestamp", "sample_id").group_by("user_id", maintain_order=True).last()
    lists = {user: rates[-4:] for user, rates in newest.select("user_id", "recent_ratings").iter_rows()}
    of_log = newest_lists(newest, 4, inputs.interactions)
    assert lists != dict(of_log.select("user_id", "recent_ratings").iter_rows())
    for state in bundle.users():
        found = encoder.inputs(state, ["i1"])
        places = bundle.scale(np.array(lists[state.user_id])).astype(np.float32)
        assert found["recent_ratings"][0][found["recent_mask"][0]].tolist() == places.tolist()


def test_a_server_reads_a_bundle_without_torch(inputs, tmp_path, monkeypatch):
    exported(inputs, "reccot", TextSettings(missing="keep", pca_dim=3), tmp_path, monkeypatch)
    program = (
        "import sys; from pathlib import Path\n"
        "import trackrec.serving.ranker, trackrec.serving.retrieve\n"
        "from trackrec.serving.bundle import open_bundle; from trackrec.serving.encoder import RequestEncoder\n"
        "bundle = open_bundle(Path(sys.argv[1])); state = list(bundle.users())[3]\n"
        "print(RequestEncoder(bundle).inputs(state, ['i1', 'x0'])['dense'].shape)\n"
        "heavy = ('torch', 'lightning', 'transformers', 'scipy', 'pyarrow', 'jsonargparse')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "export")], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [f"(2, {len(dense_names())})", "[]"], done.stderr
