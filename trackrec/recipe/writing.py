"""How stages let G write: prompts, the budget, the reccots table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trackrec.generate.reccot import write_reccots
from trackrec.recipe.book import prompt_book
from trackrec.recipe.models import announce, language_model, load_adapter
from trackrec.recipe.names import UNTUNED

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


def write_texts(
    exp: Experiment,
    out: Path,
    history_ids: list[str],
    generator: str | None,
    round_: int,
    greedy: bool,
    folder: str = "adapter",
) -> dict[str, Any]:
    """Texts of a G about some histories: the reccots table in ``out``, and notes for a manifest.

    Args:
        exp: the run.
        out: the stage directory.
        history_ids: about whom.
        generator: the stage that trained G; None is the base model.
        round_: under which the texts are filed.
        greedy: one greedy text each, instead of ``sampler.n`` sampled ones.
        folder: where in that stage's directory G's adapter is.
    """
    lm, book = language_model(exp, "generator"), prompt_book(exp)
    adapter = load_adapter(exp, lm, generator, folder)
    asked = [key for key in history_ids if not book.is_empty(key)]
    # Arrays, since a list of numbers takes ten times the memory and all prompts are held at once.
    encoded = {key: np.asarray(lm.chat.encode_prompt(book.reccot_prompt(key)), np.int32) for key in asked}
    exp.sampler.check_reach(lm, max(map(len, encoded.values()), default=0))
    prompt_tokens = sum(map(len, encoded.values()))
    draws = 1 if greedy else exp.sampler.n
    new_tokens = len(asked) * draws * exp.sampler.max_new_tokens
    notes = announce(exp, "generate", len(asked), prompt_tokens, new_tokens)
    made = write_reccots(
        lm,
        adapter,
        exp.sampler,
        book,
        history_ids,
        out,
        source=exp.pipeline.manifest(generator).content_hash[:12] if generator else UNTUNED,
        round_=round_,
        seed=exp.seed,
        greedy=greedy,
        shard_size=exp.loop.shard_histories,
        encoded=encoded,
    )
    return {**notes, **made}
