"""The language models and adapters of a run, and what a stage prints before it uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.chat import ChatEncoder
from trackrec.llm.loading import tokenizer_or_explain
from trackrec.llm.memory import release

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment

Role = Literal["generator", "validator"]
_OTHER_KEY = "validator_backbone"


def language_model(exp: Experiment, role: Role) -> LanguageModel:
    """The model of the generator or the validator: one and the same unless the config splits them."""
    other = exp.validator_backbone
    shared = role == "generator" or other is None
    name = "generator" if shared else role
    if name not in exp.models:
        settings = exp.backbone if shared else other
        assert settings is not None
        lm = exp.models[name] = LanguageModel(settings, "backbone" if shared else _OTHER_KEY)
        exp.say(f"    {lm.describe()}")
        validator_chat = lm.chat
        if shared and other is not None:
            validator_chat = ChatEncoder(
                tokenizer_or_explain(other, _OTHER_KEY),
                system=other.system_prompt,
                key=_OTHER_KEY,
                template_kwargs=other.chat_template_kwargs,
            )
        validator_chat.label_tokens()  # a tokenizer that can't tell Yes from No: now, not hours later
    return exp.models[name]


def drop_models(exp: Experiment) -> None:
    """Free the memory of every model; whoever needs one loads it again."""
    exp.models.clear()
    release()


def load_adapter(exp: Experiment, lm: LanguageModel, stage: str | None, folder: str = "adapter") -> str | None:
    """Load the adapter that a stage trained, or another that it saved, and no other; None is the base model."""
    if stage is None:
        lm.keep_only(set())
        return None
    manifest = exp.pipeline.manifest(stage)
    name = f"{stage.replace('/', '-')}-{manifest.content_hash[:8]}"
    if folder != "adapter":
        name = f"{name}-{folder.replace('/', '-')}"
    lm.keep_only({name})
    if name not in lm.adapters:
        lm.load_adapter(exp.directory(stage) / folder, name)
    return name


def new_adapter(exp: Experiment, lm: LanguageModel, name: str, start: str | None) -> str:
    """An adapter to train: a copy of another stage's, or a fresh one."""
    lm.keep_only(set())
    if start is None:
        lm.add_adapter(name, seed=exp.seed)
    else:
        lm.load_adapter(exp.directory(start) / "adapter", name)
    return name


def announce(exp: Experiment, work: str, rows: int, prompt_tokens: int, new_tokens: int = 0) -> dict[str, Any]:
    """Print the budget of a stage, with the time it takes at the rate that this run has measured.

    Args:
        exp: the run.
        work: ``generate``, ``score`` or ``train``.
        rows: how many histories, sets or texts.
        prompt_tokens: tokens to read.
        new_tokens: the most tokens to write.

    Returns:
        Notes that let later stages know the rate.
    """
    tokens = prompt_tokens + new_tokens
    rate = measured_rate(exp, work)
    when = f"about {tokens / rate:,.0f} s at {rate:,.0f} tokens/s" if rate else "rate not measured yet"
    wanted = f"{prompt_tokens:,} prompt tokens" + (f" + at most {new_tokens:,} new ones" if new_tokens else "")
    exp.say(f"    budget: {rows:,} rows, {wanted}, {when}")
    return {"work": work, "tokens": tokens}


def measured_rate(exp: Experiment, work: str) -> float | None:
    """Tokens per second of the latest stage of this kind of work in this run; None where there is none yet."""
    for stage in reversed(exp.pipeline.stages):
        manifest = exp.pipeline.done(stage.name)
        if manifest and manifest.notes.get("work") == work and manifest.seconds > 0:
            return float(manifest.notes["tokens"]) / manifest.seconds
    return None
