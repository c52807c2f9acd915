"""The corpus of the world's language models: what it says is in its histories, and how it is cut into tokens."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from trackrec.interactions.simulated.claims import read_claims
from trackrec.llm.chat import ChatEncoder
from trackrec.llm.packing import path_ids
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Item, Rated, history_segment, reccot_segments, validator_segments

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def corpus(scripts: None) -> ModuleType:
    import world_corpus

    return world_corpus


@pytest.fixture(scope="module")
def training(scripts: None) -> ModuleType:
    import train_world_model

    return train_world_model


@pytest.fixture(scope="module")
def chat(training: ModuleType) -> ChatEncoder:
    return ChatEncoder(training.build_tokenizer(seed=0))


def some_history(*liked: bool) -> list[Rated]:
    return [Rated(Item(f"Dusty {n}", ["Western"], 1950), like) for n, like in enumerate(liked)]


def test_lessons_repeat_for_a_seed(corpus: ModuleType) -> None:
    for make in (corpus.viewer_lesson, corpus.facts_lesson, corpus.notes_lesson):
        first, again, other = (
            list(itertools.islice(corpus.lessons(make, corpus.CorpusSettings(), seed), 12)) for seed in (1, 1, 2)
        )
        assert first == again
        assert first != other


def test_the_facts_above_a_history_are_told_in_its_words(corpus: ModuleType) -> None:
    """What follows "Likes" stands in the line that is shown, letter by letter."""
    for lesson in itertools.islice(corpus.lessons(corpus.facts_lesson, corpus.CorpusSettings(), 1), 20):
        shown = "".join(lesson[0].segments)
        told = {lesson[line.parent].segments[0].strip(): line.segments[0] for line in lesson if line.said == "told"}
        for begun, rest in told.items():
            if begun.startswith("In all"):
                assert rest in (": liked", ": disliked")
            else:
                verdict = "liked" if begun.lower() in corpus._LIKING else "disliked"
                assert f"Mostly {verdict}:{rest}." in shown


def test_titles_are_copied_from_the_list(corpus: ModuleType) -> None:
    for lesson in itertools.islice(corpus.lessons(corpus.titles_lesson, corpus.CorpusSettings(), 5), 30):
        listed = [line.rsplit(": ", 1) for line in "".join(lesson[0].segments).splitlines()[1:]]
        titles = [(line.rsplit(" (", 1)[0], verdict) for line, verdict in listed]
        for line in (line for line in lesson if line.said == "told"):
            begun, name = "".join(lesson[line.parent].segments).strip(), "".join(line.segments).strip()
            if begun.startswith("The last"):
                assert name == [title for title, verdict in titles if verdict == begun.split()[-1]][-1]
            elif begun.startswith("After"):
                place = [title for title, _ in titles].index(begun.removeprefix("After "))
                assert name == titles[place + 1][0]
            else:
                shares = [other.weight for other in lesson if other.parent == line.parent]
                assert (name, "liked") in titles
                assert sum(shares) == pytest.approx(1.0)


def test_every_answer_has_both_forms_and_their_probabilities_add_up(corpus: ModuleType) -> None:
    for lesson in itertools.islice(corpus.lessons(corpus.viewer_lesson, corpus.CorpusSettings(), 3), 40):
        chances: dict[int, dict[str, float]] = {}
        for line in lesson:
            if line.said in ("answered", "noted") and line.segments in (["Yes"], ["No"]):
                chances.setdefault(line.parent, {})[line.segments[0]] = line.weight
        assert all(set(found) == {"Yes", "No"} for found in chances.values())
        assert all(sum(found.values()) == pytest.approx(1) for found in chances.values())


def test_texts_without_slips_lean_as_the_history_does(corpus: ModuleType) -> None:
    """Five liked Westerns and five disliked Horrors: no claim of a text says otherwise."""
    history = some_history(*[True] * 5) + [Rated(Item(f"Pale {n}", ["Horror"], 1990), False) for n in range(5)]
    rng = random.Random(0)
    texts = [corpus.write_text(history, 0.0, PromptSettings(), rng) for _ in range(200)]
    claims = [claim for text in texts for claim in read_claims(text).claims]
    told = [claim for claim in claims if claim.name in ("Western", "Horror")]
    assert len(told) > 100
    assert all((claim.name == "Western") == claim.positive for claim in told)


def test_a_slip_of_one_reads_nothing(corpus: ModuleType) -> None:
    history = some_history(*[True] * 8)
    rng = random.Random(0)
    texts = [corpus.write_text(history, 1.0, PromptSettings(), rng) for _ in range(300)]
    named = [claim for text in texts for claim in read_claims(text).claims if claim.about == "genre"]
    share = sum(claim.name == "Western" for claim in named) / len(named)
    assert share == pytest.approx(1 / 6, abs=4 * math.sqrt(5 / 36 / len(named)))


def test_every_sentence_of_the_corpus_is_one_that_claims_are_read_from(corpus: ModuleType) -> None:
    rng = random.Random(1)
    history = some_history(True, False, True)
    for _ in range(300):
        text = corpus.write_text(history, 0.5, PromptSettings(), rng)
        assert read_claims(text).unparsable == [], text


@pytest.mark.parametrize(
    ("notes", "genres", "year", "logit"),
    [
        ("Likes Western.", ["Western"], 1950, 3.0),
        ("Avoids Western (2), War.", ["Western"], 1950, -3.0),
        ("Never watches Western.", ["Western"], 1950, -4.0),
        ("Likes Western.", ["Comedy", "Western"], 1950, 1.5),
        ("Likes Western; avoids Comedy.", ["Western", "Comedy"], 1950, 1.5),
        ("Likes War.", ["Western"], 1950, 0.0),
        ("Prefers old films.", ["Western"], 1950, 1.0),
        ("Best with films of the 1950s.", ["Western"], 1990, -1.0),
    ],
)
def test_a_believing_reader(corpus: ModuleType, notes: str, genres: list[str], year: int, logit: float) -> None:
    p = corpus.believe(notes, Item("Dusty Canyon", genres, year), 0.5)
    assert math.log(p / (1 - p)) == pytest.approx(logit)


def test_who_likes_most_films_likes_the_next_one_rather(corpus: ModuleType) -> None:
    film = Item("Dusty Canyon", ["Western"], 1950)
    assert corpus.believe("Some doubt.", film, 0.8) > corpus.believe("Some doubt.", film, 0.5) == 0.5


def test_a_path_of_a_lesson_is_a_prompt_of_the_package(
    corpus: ModuleType, training: ModuleType, chat: ChatEncoder
) -> None:
    """The tokens down to an answer are those that V and G are given in a run."""
    history = some_history(True, False, True)
    words = PromptSettings(history_attributes=False)
    film, notes = Item("Silly Butler", ["Comedy", "Western"], 1990), "Likes Western (2)."
    segment = history_segment(history, words)
    lines = corpus._history_lines(segment, words)
    end = len(lines) - 1
    lines.append(corpus.Line(reccot_segments(segment, words)[1:], end))
    lines.append(corpus.Line([notes], end + 1, "answered"))
    corpus._ask(lines, end, notes, [(film, 0.7)], words)
    example = training.encode(chat, lines)
    paths = {learnt.kind: path_ids(example.tree, learnt.branch) for learnt in example.learnt if learnt.kind != "told"}
    assert paths["text"] == [*chat.encode_prompt(reccot_segments(segment, words)), *chat.encode_response(notes)]
    asked = chat.encode_prompt(validator_segments(segment, notes, film, words))
    assert paths["noted"] == [*asked, *chat.encode_response("No")]


def test_words_of_the_world_are_single_tokens(chat: ChatEncoder) -> None:
    for word in ("Yes", "No", " Western", " Canyon", " Horror"):
        assert len(chat.encode_data(word)) == 1, word
    labels = chat.label_tokens()
    assert not set(labels.yes) & set(labels.no)


@pytest.mark.parametrize(("name", "millions"), [("world-1m", 1), ("world-4m", 4)])
def test_the_shipped_models_have_the_scripts_shape_and_tokenizer(
    training: ModuleType, chat: ChatEncoder, name: str, millions: int
) -> None:
    folder, size = ROOT / "models" / name, training.SIZES[name]
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["intermediate_size"]) == (size.width, size.inner)
    assert (config["num_hidden_layers"], config["num_attention_heads"]) == (size.layers, size.heads)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        count = sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    assert round(count / 1e6) == millions
    shipped = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert shipped.get_vocab() == chat.tokenizer.get_vocab()
