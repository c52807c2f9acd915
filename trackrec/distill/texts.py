"""The teacher stage: asks a teacher about its share of the histories and files the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trackrec.distill.teacher import Teacher, TeacherRequest
from trackrec.metrics import mean_words
from trackrec.prompts import RECCOT_TEMPLATE, PromptBook, prompt_hash
from trackrec.tables import write_part


def write_teacher_texts(
    teacher: Teacher, book: PromptBook, history_ids: Sequence[str], out_dir: Path, seed: int
) -> dict[str, Any]:
    """Write the reccots table of the teacher (source ``teacher``, round 0).

    Args:
        teacher: writes.
        book: histories and words.
        history_ids: the histories of the loop; the teacher's ``fraction`` of them is asked about.
        out_dir: the stage directory.
        seed: of the choice.

    Returns:
        Counts for the manifest; histories without a text are counted, not filed.

    Raises:
        ValueError: the teacher has no text at all.
    """
    asked = teacher.choose(history_ids, seed)
    requests = [TeacherRequest(key, book.user_of(key), book.history(key)) for key in asked]
    texts = teacher.write(requests, book.settings)
    rows = [
        {
            "history_id": request.history_id,
            "source": "teacher",
            "round": 0,
            "draw": 0,
            "text": text,
            "token_ids": [],
            "prompt_hash": prompt_hash(RECCOT_TEMPLATE, book.reccot_prompt(request.history_id)),
            "finish_reason": "stop",
            "seed": 0,
        }
        for request, text in zip(requests, texts, strict=True)
        if text
    ]
    if not rows:
        raise ValueError(f"teacher: none of the {len(asked)} histories asked about got a text")
    write_part(out_dir, "reccots", rows)
    words = mean_words([text for text in texts if text])
    return {"asked": len(asked), "without_text": len(asked) - len(rows), "mean_words": round(words, 1)}
