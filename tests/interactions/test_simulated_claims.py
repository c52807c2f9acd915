"""Which sentences about a simulated user are read, and which of them are true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trackrec.distill import ProfileTeacher
from trackrec.distill.teacher import TeacherRequest
from trackrec.interactions import Simulated
from trackrec.interactions.simulated.claims import Claim, read_claims
from trackrec.interactions.simulated.source import TextCheck, Truth
from trackrec.interactions.simulated.words import GENRES
from trackrec.interactions.simulated.world import World, WorldRules
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Item, Rated


def truth(era: float = -1.0, generosity: float = 0.5) -> Truth:
    """User u0 likes Westerns, dislikes Comedy, can't stand Horror, likes old films and is generous."""
    rules = WorldRules()
    weights = np.zeros((1, len(GENRES)))
    weights[0, :3] = [rules.like, rules.dislike, rules.never]
    eras, kind = np.array([era * rules.era]), np.array([generosity])
    world = World(rules, ["Dusty Canyon"], np.array([1950]), [(0,)], np.zeros(1), weights, eras, kind)
    return Truth(world)


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("Likes westerns.", [Claim("genre", "Western")]),
        ("This viewer dislikes old films", [Claim("era", "old", False)]),
        (
            "Is drawn to Horror (3), war films and recent films.",
            [("genre", "Horror"), ("genre", "War"), ("era", "new")],
        ),
        ("never watches comedies", [Claim("never", "Comedy", False)]),
        ("Enjoys Mystery; avoids Romance (2).", [Claim("genre", "Mystery"), Claim("genre", "Romance", False)]),
        ("Best with films of the 1950s. The 1980s suit this viewer.", [("decade", "1950"), ("decade", "1980")]),
        ("Likes films of the 1930s.", [Claim("decade", "1930")]),
        (
            "A harsh viewer: 3 of 9 liked. Generous: liked 7 of 9.",
            [("generosity", "harsh"), ("generosity", "generous")],
        ),
        ("Favourites: Dusty Canyon and The Last Kiss.", [("title", "Dusty Canyon"), ("title", "The Last Kiss")]),
        ("Fairly sure, from 20 films. No kind of film stands out.", []),
    ],
)
def test_sentences_become_claims(text: str, claims: list[tuple]) -> None:
    reading = read_claims(text)
    assert reading.claims == [claim if isinstance(claim, Claim) else Claim(*claim) for claim in claims]
    assert reading.unparsable == []


def test_what_no_rule_reads_is_counted() -> None:
    reading = read_claims("Likes westerns and cheese. Bananas. Dislikes the the.")
    assert reading.claims == [Claim("genre", "Western")]
    assert reading.unparsable == ["cheese", "Bananas", "the the"]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Likes westerns.", True),
        ("Avoids Western (2).", False),
        ("Dislikes comedies.", True),
        ("Dislikes horror films.", True),
        ("Likes horror films.", False),
        ("Never watches horror films.", True),
        ("Never watches comedies.", False),
        ("Likes romances.", None),
        ("Dislikes old films.", False),
        ("Prefers old films.", True),
        ("Best with films of the 1960s.", True),
        ("Best with films of the 1970s.", False),
        ("A generous viewer.", True),
        ("A balanced viewer.", False),
        ("Enjoyed Dusty Canyon.", True),
        ("Enjoyed The Lost Film.", None),
    ],
)
def test_claims_are_held_against_the_profile(text: str, holds: bool | None) -> None:
    (claim,) = read_claims(text).claims
    assert truth().holds("u0", claim) is holds


def test_who_does_not_care_for_eras_makes_no_claim_about_them_true() -> None:
    assert truth(era=0.0).check("u0", "Likes old films. Best with films of the 1990s.") == TextCheck(0, 0, 2, 0)
    assert truth().taste("u0").era == "old"
    assert truth(era=1.0).taste("u0").era == "new"
    assert truth(era=0.0).taste("u0").era is None


def test_a_text_is_counted_claim_by_claim() -> None:
    text = "Likes Western (4), Comedy (2); avoids Horror (1). Prefers new films. Likes romances. What a viewer."
    assert truth().check("u0", text) == TextCheck(true=2, false=2, unknown=1, unparsable=1)


def test_every_sentence_of_the_profile_teacher_is_read(tmp_path: Path) -> None:
    source = Simulated(users=40, items=200, seed=2)
    ratings = source.read()
    items = {row[0]: Item(row[1], row[2], row[3]) for row in ratings.items.iter_rows()}
    requests = []
    for (user_id,), rows in ratings.interactions.group_by("user_id", maintain_order=True):
        pairs = rows.select("item_id", "rating").iter_rows()
        history = [Rated(items[item_id], rating > 3) for item_id, rating in pairs]
        requests.append(TeacherRequest(f"h-{user_id}", str(user_id), history[:16]))
    texts = ProfileTeacher(max_words=60).write(requests, PromptSettings(), tmp_path).texts
    checks = [source.truth().check(request.user_id, text or "") for request, text in zip(requests, texts, strict=True)]
    assert sum(check.unparsable for check in checks) == 0
    total = [sum(values) for values in zip(*checks, strict=True)]
    assert total[0] + total[1] > 3 * len(requests)
    assert total[0] > 2 * total[1]  # what 16 ratings say is true more often than not
