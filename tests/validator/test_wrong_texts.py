"""What Rec-Tuning adds so that V reads: another user's text, and prompts without the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tiny import build_book

from trackrec.llm.packing import path_ids
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings, ReaderSettings
from trackrec.runtime.errors import SettingError
from trackrec.validator.data import RecTuneData, ValidatorBatch

LM = Callable[..., Any]
TARGETS = {f"h{i}": [(f"s{i}-{j}", f"i{i + j}", j % 2) for j in range(2)] for i in range(6)}
TEXTS = {key: f"Likes film {key}." for key in TARGETS}
SEED = 1  # it picks some of the six, not all
OTHERS = {f"h{i}": TEXTS[f"h{(i + 1) % 6}"] for i in range(6)}


def made(lm: Any, book: PromptBook, **options: Any) -> RecTuneData:
    data = RecTuneData(lm, book, **{"texts": TEXTS, "targets": TARGETS, "held": {}} | options)
    data.setup("fit")
    return data


def batch(data: RecTuneData) -> ValidatorBatch:
    return data.collate(data.examples)


def prompts(lm: Any, data: RecTuneData, history_id: str) -> list[str]:
    """The prompts of a history's questions."""
    entry = data.examples[sorted(data.targets).index(history_id)]
    return [lm.chat.tokenizer.decode(path_ids(entry.tree, branch)) for branch in entry.branches]


def test_by_default_v_reads_the_own_text_about_the_history(tiny_lm: LM, tiny_book: PromptBook) -> None:
    found = batch(made(tiny_lm(), tiny_book, others=OTHERS))
    assert found.answered == list(range(12))
    assert (found.pairs, found.contrast) == ([], 0.0)


def test_a_contrast_pairs_each_target_under_both_texts(tiny_lm: LM, tiny_book: PromptBook) -> None:
    """Per history two questions with the own text, then the same two with the other: 0, 1, 2, 3; 4, 5, 6, 7 ..."""
    lm = tiny_lm()
    data = made(lm, tiny_book, others=OTHERS, contrast=0.5)
    found = batch(data)
    assert found.contrast == 0.5
    assert found.pairs == [(4 * i + j, 4 * i + 2 + j) for i in range(6) for j in range(2)]
    assert found.answered == [4 * i + j for i in range(6) for j in range(2)]
    assert [found.labels[wrong] for _, wrong in found.pairs] == [0, 1] * 6
    own, _, wrong, _ = prompts(lm, data, "h0")
    assert TEXTS["h0"] in own
    assert OTHERS["h0"] in wrong
    assert wrong.replace(OTHERS["h0"], TEXTS["h0"]) == own
    assert data.counts == {"with_wrong_text": 6}
    trunks = [len({branch.parent for branch in entry.tree if branch.parent < 0}) for entry in data.examples]
    assert trunks == [1] * 6
    assert all(sum(branch.parent < 0 for branch in entry.tree) == 1 for entry in data.examples)  # the history once


def test_a_share_of_the_histories_is_answered_with_a_wrong_text(tiny_lm: LM, tiny_book: PromptBook) -> None:
    lm = tiny_lm()
    every = batch(made(lm, tiny_book, others=OTHERS, wrong_texts=1.0))
    assert every.answered == list(range(24))
    data = made(lm, tiny_book, others=OTHERS, wrong_texts=0.5, seed=SEED)
    picked = [key for key in sorted(TARGETS) if data.answers_wrong(key)]
    assert 0 < len(picked) < 6
    assert data.counts == {"with_wrong_text": len(picked)}
    assert len(batch(data).answered) == 12 + 2 * len(picked)
    again = made(lm, tiny_book, others=OTHERS, wrong_texts=0.5, seed=SEED)
    assert picked == [key for key in sorted(TARGETS) if again.answers_wrong(key)]
    others = [made(lm, tiny_book, others=OTHERS, wrong_texts=0.5, seed=seed) for seed in range(8)]
    assert len({tuple(map(one.answers_wrong, sorted(TARGETS))) for one in others}) > 1
    both = batch(made(lm, tiny_book, others=OTHERS, wrong_texts=0.5, seed=SEED, contrast=1.0))
    assert len(both.answered) == 12 + 2 * len(picked)  # the pairs of the others are not answered
    assert len(both.pairs) == 12


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_hidden_history_is_neither_listed_nor_counted(tiny_lm: LM, share: float) -> None:
    """The prompt is that of a V that is shown nothing of histories."""
    lm, settings = tiny_lm(), PromptSettings(history_counts=True, history_kinds=2)
    book = build_book(settings)
    nothing = ReaderSettings(max_history=0, history_counts=False, history_kinds=0)
    blind = build_book(replace(settings, validator=nothing))
    data = made(lm, book, others=OTHERS, hide_history=share, contrast=1.0)
    hidden = [key for key in sorted(TARGETS) if data.hides(key)]
    assert len(hidden) == 6 * share if share != 0.5 else 0 < len(hidden) < 6
    assert data.counts.get("without_history", 0) == len(hidden)
    listed, bare = made(lm, book, others=OTHERS, contrast=1.0), made(lm, blind, others=OTHERS, contrast=1.0)
    for key in TARGETS:
        assert prompts(lm, data, key) == prompts(lm, bare if key in hidden else listed, key)


def test_validation_and_a_v_without_texts_know_nothing_of_it(tiny_lm: LM, tiny_book: PromptBook) -> None:
    lm = tiny_lm()
    options = {"contrast": 1.0, "wrong_texts": 1.0, "hide_history": 1.0}
    held = made(lm, tiny_book, others=OTHERS, held=TARGETS, **options).held_examples
    assert held == made(lm, tiny_book).examples
    plain = made(lm, tiny_book, texts=dict.fromkeys(TARGETS), others=OTHERS, **options)
    assert plain.examples == made(lm, tiny_book, texts=dict.fromkeys(TARGETS)).examples
    assert plain.counts == {}
    assert batch(plain).pairs == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wrong_texts": 1.1}, r"rec_tune\.data\.wrong_texts must be in \[0, 1\], a share of the histories, got 1\.1"),
        ({"hide_history": -0.1}, r"rec_tune\.data\.hide_history must be in \[0, 1\]"),
        ({"contrast": -1.0}, r"rec_tune\.data\.contrast must be at least 0, got -1\.0"),
    ],
)
def test_values_out_of_range_are_named(tiny_lm: LM, tiny_book: PromptBook, options: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        made(tiny_lm(), tiny_book, **options)
