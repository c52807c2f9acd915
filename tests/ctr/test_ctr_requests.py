"""The inputs of single requests against the features that training and `predict` build from the tables."""

from functools import partial
from pathlib import Path

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
from trackrec.serving.requests import RequestEncoder, net_inputs, newest_histories, request_rows, with_cold_users
from trackrec.storage.parts import write_part
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
    inputs: CTRInputs, arm: str, text: TextSettings, where: Path, monkeypatch
) -> tuple[RequestEncoder, CTRSettings]:
    """The encoder of an export of one short training; its graph is left out."""
    monkeypatch.setattr(room, "write_onnx", lambda net, example, path: None)
    monkeypatch.setattr(room, "largest_difference", lambda net, example, path: 0.0)
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
    room.export_net(inputs, plan, where / "ctr", arm, 0, 0, where / "export")
    for name in ("histories", "items", "interactions", "samples"):
        write_part(where / "data", name, getattr(inputs, name))
    return RequestEncoder(where / "export", where / "data"), plan


@pytest.mark.parametrize(
    ("arm", "text"),
    [
        ("none", TextSettings(missing="keep")),
        ("reccot", TextSettings(missing="keep")),
        ("shuffled", TextSettings(pca_dim=3)),
    ],
)
def test_many_random_requests_are_as_the_feature_builder_makes_them(inputs, tmp_path, monkeypatch, arm, text):
    """Bit by bit; only sums over a history may round otherwise, since `predict` pads to the longest of all."""
    encoder, plan = exported(inputs, arm, text, tmp_path, monkeypatch)
    rng = np.random.default_rng(2)
    users = [f"u{u}" for u in range(N_USERS if text.missing == "keep" else N_USERS - 2)]
    items = inputs.items["item_id"].to_list()
    sizes = [1, 1, 2, 100, *rng.integers(1, 30, 40).tolist()]
    asked = [
        (list(map(str, rng.choice(users, 1 if n % 2 else 4))) * n, list(map(str, rng.choice(items, n)))) for n in sizes
    ]
    asked = [(some[: len(films)], films) for some, films in asked]
    everyone, every_item = ([one for request in asked for one in request[side]] for side in (0, 1))
    assert {STRANGER, "u0"} <= set(everyone)
    assert {"x0", "x1"} <= set(every_item)
    wanted = pl.DataFrame({"user_id": everyone, "item_id": every_item})
    rows = request_rows(wanted, newest_histories(inputs.samples, {f"h{u[1:]}" for u in users}), inputs.interactions, 4)
    both = inputs._replace(samples=pl.concat([inputs.samples.select(rows.columns), rows]))
    due = net_inputs(saved_features(both, plan, tmp_path / "ctr", arm, 0, 0), arm, "request")
    start = 0
    for some, films in asked:
        found = encoder(some, films)
        assert list(found) == list(due)
        part = {name: value[start : start + len(films)] for name, value in due.items()}
        start += len(films)
        if "text_mask" in part:  # what stands where there is no text, no net reads
            for one in (found, part):
                one["text"] = one["text"] * one["text_mask"][:, None]
        for name, value in part.items():
            assert found[name].dtype == value.dtype
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6 if name == "dense" else 0)
    assert start == len(wanted)
    stranger = everyone.index(STRANGER)
    assert due["user"][stranger] == due["item"][every_item.index("x0")] == 1
    assert arm == "none" or due["text"].any()


def test_one_request_reads_no_table(inputs, tmp_path, monkeypatch):
    """What the tables say is worked out when the encoder is made."""
    encoder, _ = exported(inputs, "none", TextSettings(), tmp_path, monkeypatch)
    expected = encoder(["u1"] * 3, ["i1", "i2", "x0"])

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a request must not go through a data frame")

    for name in ("DataFrame", "Series", "read_parquet", "concat"):
        monkeypatch.setattr(pl, name, refused)
    monkeypatch.setattr("trackrec.ctr.features.neighbours._similarities", refused)
    found = encoder(["u1"] * 3, ["i1", "i2", "x0"])
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_a_user_without_a_history_in_the_tables_is_named(inputs, tmp_path, monkeypatch):
    encoder, _ = exported(inputs, "none", TextSettings(missing="keep"), tmp_path, monkeypatch)
    fewer = inputs.histories.filter(pl.col("user_id") != "u2")
    for name in ("items", "interactions", "samples"):
        write_part(tmp_path / "fewer", name, getattr(inputs, name))
    write_part(tmp_path / "fewer", "histories", fewer)
    assert encoder(["u2"], ["i1"])
    with pytest.raises(DataError, match="1 users have no history or no RecCoT in this run, the first is 'u2'"):
        RequestEncoder(tmp_path / "export", tmp_path / "fewer")(["u2", "u1"], ["i1", "i1"])


@pytest.mark.parametrize("arm", ["none", "reccot"])
def test_a_user_without_a_history_is_answered_as_a_cold_one(inputs, tmp_path, monkeypatch, arm):
    """The history of u0 is empty: a new user has its text and nothing else of it."""
    answerable = {f"h{u}" for u in range(N_USERS)}
    wanted = pl.DataFrame({"user_id": ["new", "u1", "newer", "new"], "item_id": ["i1", "i1", "x0", "i7"]})
    _, plan = exported(inputs, arm, TextSettings(missing="keep"), tmp_path, monkeypatch)
    found = RequestEncoder(tmp_path / "export", tmp_path / "data", "cold")(wanted["user_id"], wanted["item_id"])
    newest = newest_histories(inputs.samples, answerable)
    histories = with_cold_users(newest, wanted["user_id"], inputs.histories, answerable)
    assert histories.tail(2).rows() == [("new", "h0"), ("newer", "h0")]
    rows = request_rows(wanted, histories, inputs.interactions, 4)
    both = inputs._replace(samples=pl.concat([inputs.samples.select(rows.columns), rows]))
    due = net_inputs(saved_features(both, plan, tmp_path / "ctr", arm, 0, 0), arm, "request")
    for name, value in due.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6 if name == "dense" else 0)
    assert found["user"].tolist()[::2] == [UNKNOWN, UNKNOWN]
    assert found["recent_mask"].any(axis=1).tolist() == [False, True, False, False]
    of_lists = [i for i, name in enumerate(dense_names()) if name.startswith(("recent_", "history_"))]
    assert not found["dense"][0, of_lists].any()
    if arm != "none":
        np.testing.assert_array_equal(found["text"][0], inputs.vectors["reccot"]["h0"])
    # who is known is answered as without strangers; nobody was cold, or the cold ones can't be answered
    assert with_cold_users(newest, wanted["user_id"][1:2], inputs.histories, answerable).equals(newest)
    with pytest.raises(DataError, match=r"--unknown cold: .*Set samples\.min_history to 0"):
        with_cold_users(newest, wanted["user_id"], inputs.histories, answerable - {"h0"})
    # a history without a text is no empty one
    untold = with_cold_users(
        newest.filter(pl.col("user_id") != "u11"), pl.Series(["u11"]), inputs.histories, answerable
    )
    assert "u11" not in untold["user_id"]
    users = pl.read_parquet(tmp_path / "export" / "users.parquet")
    users.filter(pl.col("user_id") != "u11").write_parquet(tmp_path / "export" / "users.parquet")
    with pytest.raises(DataError, match="1 users have no history or no RecCoT in this run, the first is 'u11'"):
        RequestEncoder(tmp_path / "export", tmp_path / "data", "cold")(["u11", "new"], ["i1", "i1"])
    for name in ("items", "interactions", "samples"):
        write_part(tmp_path / "warm", name, getattr(inputs, name))
    write_part(tmp_path / "warm", "histories", inputs.histories.filter(pl.col("history_id") != "h0"))
    with pytest.raises(DataError, match=r"unknown='cold': .*Set samples\.min_history to 0"):
        RequestEncoder(tmp_path / "export", tmp_path / "warm", "cold")


def test_published_lists_are_read_in_requests_as_in_training(inputs, tmp_path, monkeypatch):
    """The newest list of a user, and not what the log says of them since."""
    published = inputs._replace(published_lists=True)
    encoder, _ = exported(published, "none", TextSettings(missing="keep"), tmp_path, monkeypatch)
    newest = inputs.samples.sort("timestamp", "sample_id").group_by("user_id", maintain_order=True).last()
    wanted = newest.select("user_id", "item_id")
    histories = newest.select("user_id", "history_id")
    rows = request_rows(wanted, histories, inputs.interactions, 4, inputs.samples)
    assert rows["recent_items"].to_list() == [list(map(str, ids))[-4:] for ids in newest["recent_items"].to_list()]
    assert rows["recent_ratings"].to_list() == [rates[-4:] for rates in newest["recent_ratings"].to_list()]
    of_log = request_rows(wanted, histories, inputs.interactions, 4)
    assert of_log["recent_items"].to_list() != rows["recent_items"].to_list()
    for user, item, rates in zip(wanted["user_id"], wanted["item_id"], rows["recent_ratings"].to_list(), strict=True):
        found = encoder([user], [item])
        places = encoder.scale(np.array(rates)).astype(np.float32)
        assert found["recent_ratings"][0][found["recent_mask"][0]].tolist() == places.tolist()


def test_a_user_whose_history_grew_is_answered_with_the_newest(inputs, tmp_path, monkeypatch):
    """More ratings make another history, under another id."""
    encoder, _ = exported(inputs, "reccot", TextSettings(missing="keep"), tmp_path, monkeypatch)
    old = inputs.samples.filter(pl.col("user_id") == "u2")["history_id"].unique().to_list()
    grown = pl.when(pl.col("history_id").is_in(old)).then(pl.col("history_id") + "-grown").otherwise("history_id")
    histories = inputs.histories.with_columns(history_id=grown)
    histories = histories.with_columns(
        item_ids=pl.when(pl.col("user_id") == "u2").then(pl.col("item_ids").list.head(1)).otherwise("item_ids"),
        ratings=pl.when(pl.col("user_id") == "u2").then(pl.col("ratings").list.head(1)).otherwise("ratings"),
    )
    for name in ("items", "interactions"):
        write_part(tmp_path / "grown", name, getattr(inputs, name))
    write_part(tmp_path / "grown", "samples", inputs.samples.with_columns(history_id=grown))
    write_part(tmp_path / "grown", "histories", histories)
    renewed = RequestEncoder(tmp_path / "export", tmp_path / "grown")
    before, after = encoder(["u2", "u1"], ["i1", "i1"]), renewed(["u2", "u1"], ["i1", "i1"])
    assert np.array_equal(before["text"], after["text"])
    assert not np.array_equal(before["dense"][0], after["dense"][0])
    assert np.array_equal(before["dense"][1], after["dense"][1])
