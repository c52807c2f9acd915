"""What the generator (G) and the validator (V) are asked, word by word, for a few users."""

from __future__ import annotations

import polars as pl

from trackrec.recipe.names import DATA, in_round
from trackrec.report.prompt_text import validator_text
from trackrec.report.render.document import Block, Code, Missing, Paragraph, Section
from trackrec.report.sections.writing import Writing, by_hash

_USERS = 3


def prompts_section(writing: Writing) -> Section:
    """Both prompts of three users, the first ones by hash that have a history, a greedy text and a row to ask about."""
    run, title = writing.run, "Both prompts, word by word"
    numbers = reversed(range(run.rounds + 1))
    stage = next((name for number in numbers if run.has(name := in_round(number, "greedy"))), None)
    columns = ("history_id", "item_id", "split", "sample_id")
    samples = run.table(DATA, "samples", columns)
    if stage is None or samples is None:
        return Section("prompts", title, [Missing("There is no text for V to read yet: run `trackrec fit`.")])
    texts = run.table(stage, "reccots", ("history_id", "text"))
    assert texts is not None
    texts_by_history = dict(texts.iter_rows())
    # Of each history a row on which V is evaluated, if there is one.
    asked = samples.filter(pl.col("history_id").is_in(list(texts_by_history))).sort(
        pl.col("split") != "valid", "sample_id"
    )
    items = dict(asked.unique("history_id", keep="first", maintain_order=True).select(*columns[:2]).iter_rows())
    keys = by_hash(set(items) - run.empty_histories)[:_USERS]
    book = run.book(keys, [items[key] for key in keys])
    settings = book.settings
    blocks: list[Block] = [
        Paragraph(
            f"What G reads, and what V reads with G's text of stage {stage} and one {settings.item} to judge; the "
            "model's chat template stands around both. The users are the first ones in the order of a hash."
        )
    ]
    for key in keys:
        user = f"{settings.user} {book.user_of(key)}"
        text = validator_text(book, key, texts_by_history[key], items[key])
        blocks.append(Code(f"G's prompt, {user}", "".join(book.reccot_prompt(key)), "text"))
        blocks.append(Code(f"V's prompt, {user}", text, "text"))
    return Section("prompts", title, blocks)
