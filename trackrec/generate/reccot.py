"""The generator (G) writes RecCoTs: N sampled per history in a round, or one greedy text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.sampling.sampler import Draw, Sampler, draw_seed
from trackrec.prompts.book import PromptBook
from trackrec.prompts.templates import NO_HISTORY, RECCOT_TEMPLATE, prompt_hash
from trackrec.storage.parts import standing_part, write_part


def shards(keys: Sequence[str], size: int) -> list[list[str]]:
    """Sorted keys in fixed groups of ``size``, so that a part holds the same keys when a run is resumed."""
    ordered = sorted(keys)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def write_reccots(
    lm: LanguageModel,
    adapter: str | None,
    sampler: Sampler,
    book: PromptBook,
    history_ids: Sequence[str],
    out_dir: Path,
    *,
    source: str,
    round_: int,
    seed: int,
    greedy: bool,
    shard_size: int,
    encoded: Mapping[str, NDArray[np.int32]] | None = None,
) -> dict[str, Any]:
    """Write the reccots table of a stage, part by part; parts from an earlier run are kept.

    About an empty history the model is not asked: each draw is `NO_HISTORY`, without tokens, with finish_reason "stop".

    Args:
        lm: the model.
        adapter: G's adapter; None is the base model.
        sampler: the engine and its settings.
        book: histories and words.
        history_ids: the histories to write about.
        out_dir: the stage directory.
        source: the value of the column ``source``.
        round_: the round of this G.
        seed: of the run; with the round, the history and the draw's number it gives each draw's seed.
        greedy: one greedy text instead of ``sampler.n`` sampled ones.
        shard_size: histories per part.
        encoded: the prompts' token ids by history, if the caller has them already; empty histories need none.

    Returns:
        Counts for the manifest: histories, texts, new tokens, texts cut by the length limit and, where there are any,
        empty histories.
    """
    n = 1 if greedy else sampler.n
    tokens = cut = texts = 0
    bar = tqdm(total=len(history_ids), desc=f"texts {source}", unit="history", disable=None)
    try:
        for part, ids in enumerate(shards(history_ids, shard_size)):
            if (kept := standing_part(out_dir, "reccots", part)) is not None:
                tokens += int(kept["token_ids"].list.len().sum())
                cut += int((kept["finish_reason"] == "length").sum())
                texts += len(kept)
                bar.update(len(ids))
                continue
            prompts = {history_id: book.reccot_prompt(history_id) for history_id in ids}
            seeds = {key: [0] if greedy else [draw_seed(seed, round_, key, draw) for draw in range(n)] for key in ids}
            asked = [history_id for history_id in ids if not book.is_empty(history_id)]
            if encoded is None:
                tokenized = [lm.chat.encode_prompt(prompts[history_id]) for history_id in asked]
            else:
                tokenized = [encoded[history_id].tolist() for history_id in asked]
            drawn: dict[str, list[Draw]] = {history_id: [Draw([], "stop")] * n for history_id in ids}
            if asked:
                given = None if greedy else [seeds[history_id] for history_id in asked]
                draws = sampler.draw(lm, adapter, tokenized, given, bar.update)
                drawn.update(zip(asked, draws, strict=True))
            bar.update(len(ids) - len(asked))
            rows = [
                row
                for history_id in ids
                for row in _rows(lm, drawn[history_id], seeds[history_id], history_id, book.is_empty(history_id))
            ]
            hashes = {history_id: prompt_hash(RECCOT_TEMPLATE, prompt) for history_id, prompt in prompts.items()}
            for row in rows:
                row.update(source=source, round=round_, prompt_hash=hashes[row["history_id"]])
            write_part(out_dir, "reccots", rows, part)
            tokens += sum(len(row["token_ids"]) for row in rows)
            cut += sum(row["finish_reason"] == "length" for row in rows)
            texts += len(rows)
    finally:
        bar.close()
        sampler.release()
    counts = {"histories": len(history_ids), "texts": texts, "new_tokens": tokens, "cut": cut}
    empty = sum(map(book.is_empty, history_ids))
    return {**counts, "without_history": empty} if empty else counts


def _rows(
    lm: LanguageModel, draws: Sequence[Draw], seeds: Sequence[int], history_id: str, empty: bool
) -> Iterator[dict[str, Any]]:
    for number, (draw, seed) in enumerate(zip(draws, seeds, strict=True)):
        yield {
            "history_id": history_id,
            "draw": number,
            "text": NO_HISTORY if empty else lm.chat.decode(draw.token_ids),
            "token_ids": draw.token_ids,
            "finish_reason": draw.finish_reason,
            "seed": seed,
        }
