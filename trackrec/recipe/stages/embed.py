"""Stage ``embed``: the texts that the CTR nets read, as vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.embed.encode import embed_texts
from trackrec.recipe.arm_texts import text_fields
from trackrec.recipe.names import DATA, EMBED, TEACHER, TEXTS, UNTUNED
from trackrec.recipe.stage import RecipeStage
from trackrec.recipe.stage_keys import SEEN_BY_GENERATOR

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment


@dataclass(frozen=True)
class Embed(RecipeStage):
    """The texts of every field that an arm reads, as vectors."""

    reads_untuned: bool
    name = EMBED
    # The arms "prompt" and "facts" read the history in the words of the generator's prompt.
    keys = ("embed", "ctr.arms", *SEEN_BY_GENERATOR)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `RecipeStage.inputs`."""
        return (DATA, TEACHER, TEXTS, UNTUNED) if self.reads_untuned else (DATA, TEACHER, TEXTS)

    def run(self, exp: Experiment, out: Path) -> dict[str, Any]:
        """See `RecipeStage.run`."""
        earlier = exp.directory(EMBED)
        texts = [text for field in text_fields(exp).values() for text in field.values()]
        return embed_texts(texts, exp.embed, out, earlier if earlier.exists() else None)
