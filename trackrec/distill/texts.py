"""The teacher stage: a teacher writes about its share of the histories, and the texts are saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trackrec.distill.teacher import Teacher, TeacherRequest, TeacherTexts
from trackrec.metrics.texts import mean_words
from trackrec.prompts.book import PromptBook
from trackrec.prompts.grounding import ClaimChecker
from trackrec.prompts.templates import RECCOT_TEMPLATE, prompt_hash
from trackrec.runtime.errors import SettingError
from trackrec.storage.atomic import stable_hash
from trackrec.storage.parts import write_part


def write_teacher_texts(
    teacher: Teacher,
    book: PromptBook,
    history_ids: Sequence[str],
    out_dir: Path,
    seed: int,
    wrong: bool = False,
    every: bool = False,
) -> dict[str, Any]:
    """Write the reccots table of the teacher (source ``teacher``, round 0).

    Args:
        teacher: the teacher.
        book: histories and words.
        history_ids: the histories of the loop; the teacher writes about its ``fraction`` of those that aren't empty.
        out_dir: the stage directory.
        seed: of the choice.
        wrong: save every text under a history of another user.
        every: the teacher writes about all of them, whatever its ``fraction``.

    Returns:
        Counts for the manifest, including the teacher's; histories without a text, and empty ones, are only counted.
        ``claims`` are the titles and attributes that the texts name, ``unsupported_share`` those of them that the
        history doesn't hold (None without claims); see `trackrec.prompts.grounding`.

    Raises:
        SettingError: the teacher has no text at all, or they can't be swapped between users.
    """
    told = [key for key in history_ids if not book.is_empty(key)]
    chosen = sorted(told) if every else teacher.choose(told, seed)
    requests = [TeacherRequest(key, book.user_of(key), book.history(key), book.reccot_prompt(key)) for key in chosen]
    written = teacher.write(requests, book.generator, out_dir)
    if wrong:
        written = swap_users(requests, written, seed)
    rows: list[dict[str, Any]] = [
        {
            "history_id": request.history_id,
            "source": "teacher",
            "round": 0,
            "draw": 0,
            "text": text,
            "token_ids": [],
            "prompt_hash": prompt_hash(RECCOT_TEMPLATE, book.reccot_prompt(request.history_id)),
            "finish_reason": "length" if request.history_id in written.cut else "stop",
            "seed": 0,
        }
        for request, text in zip(requests, written.texts, strict=True)
        if text
    ]
    if not rows:
        raise SettingError(f"teacher: none of the {len(chosen)} histories asked about got a text")
    write_part(out_dir, "reccots", rows)
    words = mean_words([text for text in written.texts if text])
    counts = {"asked": len(chosen), "without_text": len(chosen) - len(rows), "mean_words": round(words, 1)}
    if len(told) < len(history_ids):
        counts["without_history"] = len(history_ids) - len(told)
    return {**counts, **_faithfulness(requests, written.texts, book, history_ids), **written.counts}


def swap_users(requests: Sequence[TeacherRequest], written: TeacherTexts, seed: int) -> TeacherTexts:
    """The same texts, assigned to other users: no user keeps one of theirs, every text is used once.

    Raises:
        SettingError: one user has more than half of the texts.
    """
    indices = [index for index, text in enumerate(written.texts) if text]
    order = sorted(indices, key=lambda index: (stable_hash("wrong", seed, requests[index].user_id), index))
    most = max(Counter(requests[index].user_id for index in indices).values(), default=0)
    if 2 * most > len(indices):
        raise SettingError(
            f"loop.wrong_teacher: one user has {most} of the teacher's {len(indices)} texts, so they can't be swapped "
            "between users. Raise teacher.init_args.fraction or loop.users."
        )
    # Sorted by user, a shift by the largest number of texts of one user moves every text to another user.
    source = {index: order[(rank + most) % len(order)] for rank, index in enumerate(order)}
    texts = [written.texts[source[index]] if index in source else None for index in range(len(requests))]
    ids = [request.history_id for request in requests]
    cut = frozenset(ids[index] for index, origin in source.items() if ids[origin] in written.cut)
    return TeacherTexts(texts, written.counts, cut)


def _faithfulness(
    requests: Sequence[TeacherRequest], texts: Sequence[str | None], book: PromptBook, history_ids: Sequence[str]
) -> dict[str, Any]:
    """How many names the texts hold, and the share of names that their histories don't hold."""
    items = [entry.item for key in history_ids for entry in book.history(key)]
    checker = ClaimChecker({item.title for item in items}, {name for item in items for name in item.attributes})
    checks = [
        checker.check(text, request.history) for request, text in zip(requests, texts, strict=True) if text is not None
    ]
    claims = sum(check.claims for check in checks)
    unsupported = sum(check.unsupported for check in checks)
    return {"claims": claims, "unsupported_share": round(unsupported / claims, 4) if claims else None}
