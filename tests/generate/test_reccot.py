"""G's texts: fixed shards, seeds by key, parts that are kept, and counts that tell of the table."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import build_book

from trackrec.generate.reccot import shards, write_reccots
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.sampler import draw_seed
from trackrec.prompts.templates import RECCOT_TEMPLATE, prompt_hash
from trackrec.storage.parts import part_path, read_table

HISTORIES = ["h4", "h0", "h2", "h1", "h5"]


def write(lm, book, out, history_ids=None, greedy=False, seed=7, round_=1, shard_size=2, n=3):
    notes = write_reccots(
        lm,
        None,
        HFSampler(n=n, max_new_tokens=6),
        book,
        history_ids or HISTORIES,
        out,
        source="g1",
        round_=round_,
        seed=seed,
        greedy=greedy,
        shard_size=shard_size,
    )
    return notes, read_table(out, "reccots", check_keys=True)


@pytest.mark.parametrize(
    ("size", "due"), [(2, [["a", "b"], ["c", "d"], ["e"]]), (5, [list("abcde")]), (9, [list("abcde")])]
)
def test_shards_are_runs_of_sorted_keys(size, due):
    assert shards(list("ecadb"), size) == shards(list("abcde"), size) == due


def test_every_draw_is_filed_under_its_key(tiny_lm, tiny_book, tmp_path):
    lm = tiny_lm()
    notes, table = write(lm, tiny_book, tmp_path)
    rows = table.to_dicts()
    assert [(row["history_id"], row["draw"]) for row in rows] == [(h, d) for h in sorted(HISTORIES) for d in range(3)]
    for row in rows:
        assert row["seed"] == draw_seed(7, 1, row["history_id"], row["draw"])
        assert row["text"] == lm.chat.decode(row["token_ids"])
        assert row["prompt_hash"] == prompt_hash(RECCOT_TEMPLATE, tiny_book.reccot_prompt(row["history_id"]))
        assert (row["source"], row["round"]) == ("g1", 1)
        assert row["finish_reason"] == ("stop" if row["token_ids"][-1] == lm.chat.eos_id else "length")
    assert len({tuple(row["token_ids"]) for row in rows}) > 12
    assert notes == {
        "histories": 5,
        "texts": 15,
        "new_tokens": sum(len(row["token_ids"]) for row in rows),
        "cut": sum(row["finish_reason"] == "length" for row in rows),
    }


def test_prompts_that_are_encoded_already_are_not_encoded_again(tiny_lm, tiny_book, tmp_path, monkeypatch):
    lm = tiny_lm()
    _, due = write(lm, tiny_book, tmp_path / "due")
    encoded = {key: np.asarray(lm.chat.encode_prompt(tiny_book.reccot_prompt(key)), np.int32) for key in HISTORIES}
    monkeypatch.setattr(lm.chat, "encode_prompt", None)
    common = {"source": "g1", "round_": 1, "seed": 7, "greedy": False, "shard_size": 2, "encoded": encoded}
    write_reccots(lm, None, HFSampler(n=3, max_new_tokens=6), tiny_book, HISTORIES, tmp_path / "found", **common)
    assert read_table(tmp_path / "found", "reccots").equals(due)


def test_texts_are_a_function_of_seed_round_and_history(tiny_lm, tiny_book, tmp_path):
    lm = tiny_lm()
    _, one = write(lm, tiny_book, tmp_path / "one")
    for name, changes in {
        "same": {},
        "shuffled": {"history_ids": HISTORIES[::-1]},
        "shards": {"shard_size": 3},
    }.items():
        assert write(lm, tiny_book, tmp_path / name, **changes)[1].equals(one)
    for name, changes in {"seed": {"seed": 8}, "round": {"round_": 2}}.items():
        other = write(lm, tiny_book, tmp_path / name, **changes)[1]
        assert other["token_ids"].to_list() != one["token_ids"].to_list()
        assert not set(other["seed"]) & set(one["seed"])
    some = write(lm, tiny_book, tmp_path / "some", history_ids=["h0", "h5"])[1]
    assert some["token_ids"].to_list() == one.filter(one["history_id"].is_in(["h0", "h5"]))["token_ids"].to_list()


def test_greedy_is_one_text_per_history(tiny_lm, tiny_book, tmp_path):
    notes, table = write(tiny_lm(), tiny_book, tmp_path, greedy=True)
    assert table.select("history_id", "draw", "seed").rows() == [(key, 0, 0) for key in sorted(HISTORIES)]
    assert notes["texts"] == 5
    again = write(tiny_lm(), tiny_book, tmp_path / "other", greedy=True, seed=99)[1]
    assert again["token_ids"].to_list() == table["token_ids"].to_list()


@pytest.mark.parametrize("greedy", [True, False])
def test_about_an_empty_history_g_is_not_asked(tiny_lm, tiny_book, tmp_path, greedy):
    """A part with one empty history, and one of empty histories alone; the other texts stay what they were."""
    lm, book = tiny_lm(), build_book(empty={"h0", "h4", "h5"})
    due = write(lm, tiny_book, tmp_path / "due", greedy=greedy)[1]
    notes, table = write(lm, book, tmp_path / "found", greedy=greedy)
    cold = table["history_id"].is_in(["h0", "h4", "h5"])
    assert table.filter(~cold).equals(due.filter(~due["history_id"].is_in(["h0", "h4", "h5"])))
    rows = table.filter(cold).to_dicts()
    draws = range(1 if greedy else 3)
    assert [(row["history_id"], row["draw"]) for row in rows] == [(key, n) for key in ("h0", "h4", "h5") for n in draws]
    for row in rows:
        assert (row["text"], row["token_ids"], row["finish_reason"]) == ("No history yet.", [], "stop")
        assert row["prompt_hash"] == prompt_hash(RECCOT_TEMPLATE, book.reccot_prompt(row["history_id"]))
    assert (notes["histories"], notes["without_history"]) == (5, 3)
    assert write(lm, book, tmp_path / "found", greedy=greedy)[0] == notes  # from the parts that stand


def test_parts_that_stand_are_kept(tiny_lm, tiny_book, tmp_path):
    """Five histories in parts of two; the middle one is lost, and only it is written again."""
    lm = tiny_lm()
    notes, whole = write(lm, tiny_book, tmp_path)
    parts = [part_path(tmp_path, "reccots", part) for part in range(3)]
    assert all(path.exists() for path in parts)
    before = [path.stat().st_mtime_ns for path in parts]
    parts[1].unlink()
    again, table = write(lm, tiny_book, tmp_path)
    after = [path.stat().st_mtime_ns for path in parts]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] > before[1]
    assert table.equals(whole)
    assert again == notes  # the manifest tells of the table, not of the last run
