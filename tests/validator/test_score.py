"""V's opinion against the whole softmax by hand, on the very prompts that it was tuned on."""

from __future__ import annotations

import pytest
import torch
from tiny import build_book

from trackrec.llm.chat import LabelTokens
from trackrec.prompts.settings import PromptSettings
from trackrec.storage.parts import part_path, read_table
from trackrec.validator.data import RecTuneData
from trackrec.validator.score import ScoreJob, encode_jobs, score_jobs, score_reccots, yes_probability
from trackrec.validator.settings import ScoreSettings

TEXTS = {0: "Enjoys Drama (3 of 4).", 1: "Avoids Horror; likes War.", 2: "Enjoys Drama (3 of 4)."}
TARGETS = {f"h{i}": [(f"s{i}{t}", f"i{(i + 7 * t) % 20}", (i + t) % 2) for t in range(1 + i % 3)] for i in range(6)}


def jobs() -> list[ScoreJob]:
    return score_jobs(TARGETS, {key: list(TEXTS.items()) for key in TARGETS})


def score(lm, book, out, some=None, batch_tokens=8192, shard_size=2, adapter=None):
    notes = score_reccots(
        lm,
        adapter,
        encode_jobs(lm, book, jobs() if some is None else some),
        out,
        source="g1",
        round_=1,
        validator="v1",
        reader=ScoreSettings(batch_tokens=batch_tokens).reader(),
        shard_size=shard_size,
    )
    return notes, read_table(out, "scores", check_keys=True)


def opinions(table) -> dict[tuple[str, int, str], tuple[float, float, float]]:
    columns = table.select("history_id", "draw", "sample_id", "p_yes", "answer_mass", "p_true")
    return {row[:3]: row[3:] for row in columns.iter_rows()}


def by_hand(lm, segments: list[str], prefilled: int = 0) -> tuple[float, float]:
    """P(Yes) and the answers' mass from the softmax over the whole vocabulary after the prompt."""
    asked, begun = segments[: len(segments) - prefilled], segments[len(segments) - prefilled :]
    ids = [*lm.chat.encode_prompt(asked), *(token for part in begun for token in lm.chat.encode_data(part))]
    logits = lm.base(input_ids=torch.tensor([ids])).logits[0, -1]
    p = logits.double().softmax(-1)
    labels = lm.chat.label_tokens()
    yes, no = p[labels.yes].sum().item(), p[labels.no].sum().item()
    return yes / (yes + no), yes + no


@pytest.mark.parametrize("order", ["shared", "release", "prefill"])
def test_fault_06_probabilities_are_not_softmaxed_twice(tiny_lm, tmp_path, order):
    """exp(a) / (exp(a) + exp(b)) of *probabilities* a, b lies in [.27, .73]; this is the softmax of logits."""
    lm = tiny_lm(config={"initializer_range": 0.6})  # a V with opinions
    book = build_book(PromptSettings(order=order))
    _, table = score(lm, book, tmp_path)
    found = opinions(table)
    with torch.no_grad():
        for job in jobs():
            for draw, text in job.reccots:
                for sample_id, item_id, label in job.targets:
                    prompt = book.validator_prompt(job.history_id, text, item_id)
                    p_yes, mass = by_hand(lm, prompt, prefilled=int(order == "prefill"))
                    row = found.pop((job.history_id, draw, sample_id))
                    due = (p_yes, mass, p_yes if label else 1 - p_yes)
                    assert row == pytest.approx(due, abs=1e-5)
    assert found == {}
    assert not table["p_yes"].is_between(0.27, 0.73).all()


def test_yes_probability_by_hand():
    """Yes forms hold 0.10 + 0.05, No forms 0.02 + 0.03: P(Yes) = 0.15 / 0.20, mass 0.20."""
    logps = torch.tensor([[0.10, 0.05, 0.02, 0.03], [1e-9, 1e-9, 3e-9, 3e-9]], dtype=torch.float64).log()
    p_yes, mass = yes_probability(logps, LabelTokens([1, 2], [3, 4]))
    assert p_yes.tolist() == pytest.approx([0.75, 0.25])
    assert mass.tolist() == pytest.approx([0.20, 8e-9])


@pytest.mark.parametrize("order", ["shared", "release", "prefill"])
def test_fault_08_scoring_prompt_equals_training_prompt(tiny_lm, tmp_path, monkeypatch, order):
    """From root to leaf the tokens that V is asked with are those it was tuned on, and end with the same question."""
    lm, book = tiny_lm(), build_book(PromptSettings(order=order))
    data = RecTuneData(lm, book, dict.fromkeys(TARGETS, TEXTS[1]), TARGETS)
    data.setup("fit")
    asked: list = []
    plain = lm.layout
    monkeypatch.setattr(lm, "layout", lambda trees: asked.extend(trees) or plain(trees))
    score(lm, book, tmp_path, some=[ScoreJob(key, [(1, TEXTS[1])], rows) for key, rows in TARGETS.items()])

    def paths(trees) -> set[tuple[int, ...]]:
        found = set()
        for tree in trees:
            inner = {branch.parent for branch in tree}
            for at in (index for index in range(len(tree)) if index not in inner):
                path: list[int] = []
                while at >= 0:
                    path, at = [*tree[at].ids, *path], tree[at].parent
                found.add(tuple(path))
        return found

    trained = paths(example.tree for example in data.examples)
    assert paths(asked) == trained
    assert len(trained) == sum(map(len, TARGETS.values()))
    assert all("Answer Yes or No." in lm.chat.tokenizer.decode(list(path)) for path in trained)


def test_fault_10_every_answer_counts(tiny_lm, tiny_book, tmp_path):
    """Rows asked = rows scored, though this random V gives Yes and No next to no probability."""
    notes, table = score(tiny_lm(), tiny_book, tmp_path)
    asked = {(job.history_id, draw, row[0]) for job in jobs() for draw, _ in job.reccots for row in job.targets}
    assert set(opinions(table)) == asked
    assert notes["questions"] == len(asked) == len(table) == 36
    assert table["answer_mass"].min() < 0.05
    for column in ("p_yes", "p_true", "answer_mass"):
        assert table[column].is_between(0, 1).all()
    assert table["p_yes"].n_unique() > 10


def test_p_true_is_the_probability_of_the_label(tiny_lm, tiny_book, tmp_path):
    _, table = score(tiny_lm(), tiny_book, tmp_path)
    labels = {row[0]: row[2] for rows in TARGETS.values() for row in rows}
    for (_, _, sample_id), (p_yes, _, p_true) in opinions(table).items():
        assert p_true == pytest.approx(p_yes if labels[sample_id] else 1 - p_yes, abs=1e-6)
    assert table.select("source", "round", "validator").unique().rows() == [("g1", 1, "v1")]


def test_equal_texts_get_equal_opinions_and_cost_nothing(tiny_lm, tiny_book, tmp_path):
    """Draws 0 and 2 are one text: one branch of the tree serves both."""
    notes, table = score(tiny_lm(), tiny_book, tmp_path / "three")
    found = opinions(table)
    assert all(row == found[history, 2, sample] for (history, draw, sample), row in found.items() if draw == 0)
    two = [ScoreJob(job.history_id, job.reccots[:2], job.targets) for job in jobs()]
    fewer, _ = score(tiny_lm(), tiny_book, tmp_path / "two", some=two)
    assert notes["tokens"] == fewer["tokens"]


@pytest.mark.parametrize("changes", [{"batch_tokens": 1}, {"shard_size": 1}, {"shard_size": 99}])
def test_batches_and_shards_change_no_opinion(tiny_lm, tiny_book, tmp_path, changes):
    _, one = score(tiny_lm(), tiny_book, tmp_path / "one")
    _, other = score(tiny_lm(), tiny_book, tmp_path / "other", **changes)
    assert {key: pytest.approx(row, abs=1e-5) for key, row in opinions(one).items()} == opinions(other)


def test_plain_rows_give_the_same_opinions(tiny_lm, tiny_book, tmp_path, monkeypatch):
    lm = tiny_lm()
    _, packed = score(lm, tiny_book, tmp_path / "packed")
    monkeypatch.setattr(lm, "can_pack", lambda: False)
    _, plain = score(lm, tiny_book, tmp_path / "plain")
    assert {key: pytest.approx(row, abs=1e-5) for key, row in opinions(packed).items()} == opinions(plain)


def test_parts_that_stand_are_kept(tiny_lm, tiny_book, tmp_path):
    """Six histories in parts of two; the second part is lost, and only it is written again."""
    notes, whole = score(tiny_lm(), tiny_book, tmp_path)
    parts = [part_path(tmp_path, "scores", part) for part in range(3)]
    before = [path.stat().st_mtime_ns for path in parts]
    parts[1].unlink()
    again, table = score(tiny_lm(), tiny_book, tmp_path)
    after = [path.stat().st_mtime_ns for path in parts]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] > before[1]
    assert table.equals(whole)
    assert again["questions"] == notes["questions"]  # the manifest tells of the table, not of the last run


def test_parts_don_t_depend_on_the_order_of_the_jobs(tiny_lm, tiny_book, tmp_path):
    _, one = score(tiny_lm(), tiny_book, tmp_path / "one")
    _, other = score(tiny_lm(), tiny_book, tmp_path / "other", some=jobs()[::-1])
    assert one.equals(other)


def test_an_adapter_has_its_own_opinion(tiny_lm, tiny_book, tmp_path):
    lm = tiny_lm(adapters=["v"])
    for parameter in lm.train_only("v"):
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    _, base = score(lm, tiny_book, tmp_path / "base")
    _, tuned = score(lm, tiny_book, tmp_path / "tuned", adapter="v")
    assert opinions(base) == opinions(score(tiny_lm(), tiny_book, tmp_path / "plain")[1])
    assert opinions(base) != opinions(tuned)


def test_without_a_reccot_the_notes_are_left_out(tiny_lm, tiny_book, tmp_path):
    lm = tiny_lm()
    some = [ScoreJob("h1", [(0, None)], TARGETS["h1"])]
    _, table = score(lm, tiny_book, tmp_path, some=some)
    with torch.no_grad():
        due = [by_hand(lm, tiny_book.validator_prompt("h1", None, item))[0] for _, item, _ in TARGETS["h1"]]
    assert table["p_yes"].to_list() == pytest.approx(due, abs=1e-5)


def test_a_history_without_a_text_is_an_error():
    with pytest.raises(ValueError, match="2 histories have targets to score and no RecCoT, the first is h3"):
        score_jobs(TARGETS, {key: [(0, "text")] for key in TARGETS if key not in ("h3", "h5")})


def test_a_bad_batch_size_is_named():
    with pytest.raises(ValueError, match=r"scoring\.batch_tokens must be at least 1, got 0"):
        ScoreSettings(batch_tokens=0)


def test_a_prompt_that_the_model_cannot_reach_is_an_error(tiny_lm, tiny_book, tmp_path):
    lm = tiny_lm(config={"max_position_embeddings": 64})
    with pytest.raises(ValueError, match="the model reaches 64"):
        score(lm, tiny_book, tmp_path)


# -- Rec-Tuning rows ----------------------------------------------------------------------------------------------


def test_tuning_aims_at_the_answer_of_each_row(tiny_lm, tiny_book):
    lm = tiny_lm()
    data = RecTuneData(lm, tiny_book, dict.fromkeys(TARGETS, TEXTS[0]), TARGETS, batch_size=6)
    data.setup("fit")
    batch = data.collate(data.examples)
    assert batch.labels == [label for _, rows in sorted(TARGETS.items()) for _, _, label in rows]
    closing = lm.chat.closing
    for spot in batch.spots:
        end = spot.start + spot.length
        assert batch.layout.ids[spot.row, end - len(closing) : end].tolist() == closing


def test_more_rows_than_a_round_takes_are_an_error(tiny_lm, tiny_book):
    data = RecTuneData(tiny_lm(), tiny_book, dict.fromkeys(TARGETS), TARGETS, samples_per_history=2)
    with pytest.raises(ValueError, match="a history has 3 tuning rows, samples_per_history is 2"):
        data.setup("fit")
    with pytest.raises(ValueError, match="samples_per_history must be at least 1, got 0"):
        RecTuneData(tiny_lm(), tiny_book, {}, {}, samples_per_history=0)


def test_each_segment_of_a_history_is_tokenized_once(tiny_lm, monkeypatch) -> None:
    """Ten draws times six targets would otherwise tokenize the history sixty times."""
    lm, book, seen = tiny_lm("llama"), build_book(), []
    plain = [entry for _, entry in encode_jobs(lm, book, jobs())]
    encode_data = lm.chat.encode_data
    monkeypatch.setattr(lm.chat, "encode_data", lambda text: seen.append(text) or encode_data(text))
    [(_, tree)] = encode_jobs(lm, book, [job for job in jobs() if job.history_id == "h2"])
    assert len(seen) == len(set(seen))
    assert len(tree.questions) == 9
    assert tree == plain[2]
