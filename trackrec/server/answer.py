"""From a request to its answer: pure functions of what is loaded and what is known of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackrec.server.loaded import Loaded, User
from trackrec.serving.ladder import BASE_RATE
from trackrec.store.records import StoredText


class Ranked(NamedTuple):
    """An answer, and what the metrics count of it.

    Attributes:
        body: of `trackrec.server.schemas.RankAnswer`.
        p: (N,) of the known items.
        answered_by: who answered them.
        text_age_s: of the text that was read; None where none was, or its age isn't known.
        read_text: whether a text was read.
    """

    body: dict[str, Any]
    p: NDArray[np.float32]
    answered_by: str
    text_age_s: int | None
    read_text: bool


def rank(
    loaded: Loaded,
    user: User,
    item_ids: Sequence[str],
    now: int,
    top_k: int | None = None,
    explain: bool = False,
    use_text: bool = True,
) -> Ranked:
    """The known items by P(like), the best first; of equal ones the earlier in the request. A repeated one counts once.

    Args:
        loaded: bundle, nets and store.
        user: see `Loaded.user`.
        item_ids: of the request.
        now: seconds since 1970, UTC.
        top_k: how many are answered; None: all.
        explain: whether the text is in the answer.
        use_text: False answers as if the user had no text.
    """
    rows = loaded.bundle.item_rows
    distinct = list(dict.fromkeys(item_ids))
    known = [item for item in distinct if item in rows]
    unknown = [item for item in distinct if item not in rows]
    answers = loaded.ranker.answer(user.state, known, without_text=not use_text) if known else None
    p = np.zeros(0, np.float32) if answers is None else answers.p
    by = BASE_RATE if answers is None else answers.answered_by[0]
    order = np.argsort(-p, kind="stable")[:top_k]
    read = use_text and _reads_text(loaded, user, by)
    text: dict[str, Any] = {"source": "none", "made_at": None, "age_s": None}
    if read:
        text = text_facts(user, now, explain)
    body = {
        "model_version": loaded.bundle.model_version,
        "store_generation": loaded.store.info.generation,
        "answered_by": by,
        "text": text,
        "items": [{"item_id": known[place], "p": value} for place, value in zip(order, p[order].tolist(), strict=True)],
        "unknown_items": unknown,
    }
    return Ranked(body, p, by, text["age_s"], read)


def recommend(
    loaded: Loaded,
    user: User,
    now: int,
    k: int,
    n_candidates: int,
    without: Sequence[str] = (),
    explain: bool = False,
    use_text: bool = True,
) -> tuple[Ranked, int]:
    """The best unrated items among those that `trackrec.serving.retrieve` finds, and how many it found.

    Args:
        loaded: bundle, nets and store.
        user: see `Loaded.user`.
        now: seconds since 1970, UTC.
        k: how many are answered.
        n_candidates: how many are ranked.
        without: items to leave out, beside those that the user has rated.
        explain: whether the text is in the answer.
        use_text: False retrieves and ranks as if the user had no text.
    """
    candidates = loaded.retriever.candidates(user.state, n_candidates, without, text=use_text)
    ranked = rank(loaded, user, candidates.items, now, k, explain, use_text)
    found_by = dict(zip(candidates.items, candidates.found_by, strict=True))
    items = [{**item, "found_by": list(found_by[item["item_id"]])} for item in ranked.body["items"]]
    body = {key: value for key, value in ranked.body.items() if key != "unknown_items"} | {"items": items}
    return ranked._replace(body=body), len(candidates.items)


def score(
    loaded: Loaded, users: Mapping[str, User], rows: Sequence[tuple[str, str]]
) -> tuple[NDArray[np.float32], list[str]]:
    """P(like) of (user, item) rows in order, and who answered each.

    Args:
        loaded: bundle, nets and store.
        users: all users of the rows.
        rows: user and item.
    """
    places: dict[str, list[int]] = {}
    for place, (user_id, _) in enumerate(rows):
        places.setdefault(user_id, []).append(place)
    p, by = np.zeros(len(rows), np.float32), [""] * len(rows)
    for user_id, own in places.items():
        answers = loaded.ranker.answer(users[user_id].state, [rows[place][1] for place in own])
        p[own] = answers.p
        for place, name in zip(own, answers.answered_by, strict=True):
            by[place] = name
    return p, by


def source_of(text: StoredText) -> str:
    """Whether a language model wrote a text (``reccot``), or it is a profile text."""
    return "profile" if text.status == "failed" or text.tier == "profile" else "reccot"


def text_facts(user: User, now: int, explain: bool) -> dict[str, Any]:
    """What an answer says of the text that was read; a clock that was set back gives no negative age."""
    text = user.text
    if text is None:
        return {"source": "bundle", "made_at": None, "age_s": None}
    facts: dict[str, Any] = {
        "source": source_of(text),
        "made_at": text.made_at,
        "age_s": max(0, now - text.made_at),
    }
    return {**facts, "text": text.text} if explain else facts


def _reads_text(loaded: Loaded, user: User, answered_by: str) -> bool:
    return user.state.text is not None and any(net.text and net.arm == answered_by for net in loaded.bundle.nets)
