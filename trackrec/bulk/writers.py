"""Who writes the texts of a tier: a language model, or sentences of counts."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trackrec.distill.teacher import ProfileTeacher, TeacherRequest
from trackrec.prompts.templates import NO_HISTORY
from trackrec.recipe.models import drop_models, language_model, load_adapter
from trackrec.storage.atomic import stable_hash

if TYPE_CHECKING:
    from trackrec.prompts.book import PromptBook
    from trackrec.recipe.experiment import Experiment

PROFILE = "profile"


class Written(NamedTuple):
    """What a writer made of one prompt: None where it can't write about it; tokens read and written."""

    text: str | None
    prompt_tokens: int = 0
    new_tokens: int = 0


class TextWriter(abc.ABC):
    """Writes one text per user, greedily: the same prompts in one call give the same texts."""

    @abc.abstractmethod
    def write(self, book: PromptBook, users: Sequence[str]) -> list[Written]:
        """The texts, in the order of ``users``, whose ids are the book's history ids."""

    def close(self) -> None:  # noqa: B027 - some keep nothing
        """Free what it holds; it isn't used any more."""


class ProfileWriter(TextWriter):
    """The profile teacher's sentences: counts, kinds and titles, all of them true. No language model."""

    def write(self, book: PromptBook, users: Sequence[str]) -> list[Written]:
        """See `TextWriter.write`."""
        requests = [TeacherRequest(user, user, book.history(user)) for user in users]
        texts = ProfileTeacher(fraction=1.0).write(requests, book.generator, Path()).texts
        return [Written(text or NO_HISTORY) for text in texts]


class GeneratorWriter(TextWriter):
    """A run's last G.

    Args:
        exp: the run.
        stage: that trained G; None is the base model.
        merge: add the adapter to the weights.
    """

    def __init__(self, exp: Experiment, stage: str | None, merge: bool) -> None:
        self.exp = exp
        self.lm = language_model(exp, "generator")
        self.adapter = load_adapter(exp, self.lm, stage)
        if merge and self.adapter is not None:
            self.lm.merge_adapter(self.adapter)
            self.adapter = None

    def write(self, book: PromptBook, users: Sequence[str]) -> list[Written]:
        """See `TextWriter.write`; a prompt that the model can't hold gets no text."""
        sampler = self.exp.sampler
        prompts = [self.lm.chat.encode_prompt(book.reccot_prompt(user)) for user in users]
        fit = [row for row, ids in enumerate(prompts) if len(ids) + sampler.max_new_tokens <= self.lm.max_length]
        written = [Written(None, len(ids)) for ids in prompts]
        draws = sampler.draw(self.lm, self.adapter, [prompts[row] for row in fit], None, lambda _: None) if fit else []
        for row, (draw,) in zip(fit, draws, strict=True):
            written[row] = Written(self.lm.chat.decode(draw.token_ids), len(prompts[row]), len(draw.token_ids))
        return written

    def close(self) -> None:
        """See `TextWriter.close`."""
        self.exp.sampler.release()
        drop_models(self.exp)


def generator_version(exp: Experiment, stage: str | None, merge: bool) -> str:
    """What tells texts of two generators apart: the adapter's content, the base's files, and what shapes a text.

    Raises:
        StageError: the stage isn't done.
    """
    from trackrec.llm.model_files import model_digest

    content = exp.pipeline.manifest(stage).content_hash if stage else "base"
    backbone = exp.backbone
    facts = (content, backbone.model, model_digest(backbone.model), backbone.quantize, backbone.dtype)
    return f"{stage or 'base'}@{stable_hash(*facts, exp.sampler.max_new_tokens, merge, digits=12)}"
