"""``trackrec plan``: what each language-model stage of a config will hold in memory, and which key to turn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from jsonargparse import ArgumentParser, Namespace

from trackrec.align.memory import align_work
from trackrec.commands.call import Call
from trackrec.distill.memory import distill_work
from trackrec.generate.memory import sample_work
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.memory_plan.footprint import ModelShape, Work, stage_bytes, weight_count
from trackrec.llm.memory_plan.rates import GPU_BYTES, MEASURED_WEIGHTS, RATES
from trackrec.llm.memory_plan.shapes import SHAPES
from trackrec.llm.memory_plan.stage_work import StageWork
from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.arm_scores import TARGETS_PER_TREE
from trackrec.recipe.settings import compared_readers
from trackrec.runtime.errors import SettingError
from trackrec.runtime.quantities import parse_bytes
from trackrec.validator.memory import log_odds_work, rec_tune_work, score_work

# Tokens of a prompt, from the shipped configs' own: a title with year takes about 12, with attributes 18.
_ITEM, _ITEM_WITH_ATTRIBUTES, _ASK = 12, 18, 90
# The sentence with counts, and a name with its count.
_COUNTS, _KIND = 10, 5
# A teacher's words in tokens.
_TOKENS_PER_WORD = 1.6
# What a GPU holds beside tensors: the context, kernels, cuBLAS work space, fragments.
_OVERHEAD = 1.0e9
# Rates count as measured for models whose number of weights differs by less than this share.
_SAME_SIZE = 0.1
# Kinds of models whose head_dim, where it isn't written, is the hidden size over the heads.
_PLAIN = ("llama", "qwen2")
_SHAPE_KEYS = {
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
}


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    names = ", ".join(GPU_BYTES)
    parser.add_argument("--gpu", type=str | None, default=None, help=f"Memory, such as 24GiB, or a name: {names}.")
    parser.add_argument("--users", type=float | None, default=None, help="What texts for so many users cost: 1e9.")
    parser.add_argument("--count", type=int, default=1, help="How many GPUs write them.")
    parser.add_argument("--changed", type=float, default=1.0, help="Share of the users whose text is written.")
    parser.add_argument("--prompt_tokens", type=int | None, default=None, help="Of G's prompt; null estimates it.")


def run(call: Call) -> None:
    """Print the plan."""
    own = call.own
    memory = parse_memory(own["gpu"]) if own["gpu"] else None
    objects = call.objects()
    lines = plan_lines(objects, memory, own["prompt_tokens"])
    if own["users"] is not None:
        lines += users_lines(objects, own["gpu"], own["users"], own["count"], own["changed"], own["prompt_tokens"])
    call.console.print("\n".join(lines), markup=False)


class StagePlan(NamedTuple):
    """One stage: bytes by what they are for, and the keys that make its batch smaller."""

    stage: str
    work: Work
    parts: dict[str, int]
    knobs: str

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def parse_memory(text: str) -> int:
    """Bytes of ``24GiB``, ``16 GB``, ``800MiB``, or of a GPU by name: ``H100``.

    Raises:
        SettingError: naming the flag and the units.
    """
    if text.upper() in GPU_BYTES:
        return GPU_BYTES[text.upper()]
    try:
        size = parse_bytes(text)
    except ValueError:
        size = 0
    if size <= 0:
        raise SettingError(
            f"--gpu must be a size such as 24GiB or 16GB, or a name among {', '.join(GPU_BYTES)}, got {text!r}."
        )
    return size


def model_shape(settings: BackboneSettings, key: str = "backbone") -> ModelShape:
    """From the model's config.json, or from the published shapes of the shipped configs' models.

    Raises:
        SettingError: the model is on neither this machine, the hub nor the list.
    """
    path = Path(settings.model).expanduser()
    if not settings.gguf_file and (shape := written_shape(path / "config.json")):
        return shape
    from transformers import AutoConfig

    if not path.exists() and settings.model in SHAPES:
        from transformers import Qwen2Config

        return ModelShape.of(Qwen2Config(**SHAPES[settings.model]))
    try:
        extra = {"gguf_file": settings.gguf_file} if settings.gguf_file else {}
        where = str(path) if path.exists() else settings.model
        return ModelShape.of(AutoConfig.from_pretrained(where, trust_remote_code=False, **extra))
    except OSError as error:
        raise SettingError(
            f"{key}.model: no config.json of {settings.model!r} here or on the hub. Give a directory, or a name that "
            f"can be reached."
        ) from error


def written_shape(config: Path) -> ModelShape | None:
    """The shape that a config.json holds, without the seconds of importing transformers' models.

    None where the file leaves something to the defaults of the model's class, or isn't of a kind whose heads divide
    the hidden size: transformers reads it then.
    """
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # transformers says what is wrong
        return None
    if not isinstance(values, dict) or values.get("model_type") not in _PLAIN or not values.keys() >= _SHAPE_KEYS:
        return None
    return ModelShape.of(PlainConfig(**{key: values.get(key) for key in (*_SHAPE_KEYS, "head_dim")}))


class PlainConfig(SimpleNamespace):
    """Values of a config.json of a model that reads text alone."""

    def get_text_config(self) -> PlainConfig:
        """Itself."""
        return self


def prompt_tokens(seen: PromptSettings) -> int:
    """An estimate of the tokens of a reader's prompt without a text.

    Args:
        seen: `PromptSettings.for_generator` or `PromptSettings.for_validator`.
    """
    each = _ITEM_WITH_ATTRIBUTES if seen.history_attributes else _ITEM
    facts = _COUNTS * seen.history_counts + 2 * _KIND * seen.history_kinds
    return int(_ASK + seen.max_history * each + facts)


def text_tokens(objects: Namespace) -> int:
    """An estimate of the tokens of a text: as long as the teacher may write, or the sampler where none says it."""
    most: int = objects.sampler.max_new_tokens
    return min(most, round(getattr(objects.teacher, "max_words", most) * _TOKENS_PER_WORD))


def stage_works(objects: Namespace, prompt: int) -> list[StageWork]:
    """What every language-model stage of a parsed config computes at once, as its room states it.

    Args:
        objects: the config's objects.
        prompt: tokens of G's prompt.
    """
    read = prompt
    if (seen := objects.prompts.for_validator()) != objects.prompts.for_generator():
        read = prompt_tokens(seen)
    loop, text, sampler = objects.loop, objects.ctr.text, objects.sampler
    draws, new = sampler.n, sampler.max_new_tokens
    taught = text_tokens(objects)
    # A V of the comparisons reads what G reads, without a text.
    tuned = max(read, prompt - new) if "whole" in compared_readers(loop, objects.prompts) else read
    scored = objects.scoring.batch_tokens
    distill, align, tune = objects.distill.data, objects.align.data, objects.rec_tune.data
    works = {
        "distill": (loop.distill, distill_work(prompt, taught, distill.batch_size, distill.batch_tokens)),
        "sample": (True, sample_work(prompt, sampler)),
        "score": (True, score_work(read, draws, new, loop.targets, scored)),
        "align": (loop.align, align_work(prompt, draws, new, align.batch_size)),
        "rec_tune": (
            loop.rec_tune or loop.warmup,
            rec_tune_work(
                *(tuned, new, tune.samples_per_history, tune.batch_size),
                texts=2 if tune.contrast or tune.wrong_texts else 1,
            ),
        ),
        "log_odds": (
            text.use == "log_odds",
            log_odds_work(read, new, TARGETS_PER_TREE, text.score_rows, scored),
        ),
    }
    return [work for runs, work in works.values() if runs]


def plan_stages(objects: Namespace, prompt: int | None = None) -> list[StagePlan]:
    """The memory of every language-model stage of a parsed config.

    Args:
        objects: the config's objects.
        prompt: tokens of G's prompt; None estimates them from ``prompts``. V's is estimated where it differs.
    """
    other = objects.validator_backbone
    settings = {"generator": objects.backbone, "validator": other or objects.backbone}
    keys = {"generator": "backbone", "validator": "validator_backbone" if other else "backbone"}
    shapes = {role: model_shape(settings[role], keys[role]) for role in settings}
    plans = []
    for stage in stage_works(objects, prompt or prompt_tokens(objects.prompts.for_generator())):
        own = settings[stage.role]
        optimizer = getattr(objects[stage.section].model.optimizer, "name", "adamw")
        parts = [(work, stage_bytes(shapes[stage.role], own, optimizer, work)) for work in stage.works]
        work, largest = max(parts, key=lambda pair: sum(pair[1].values()))
        more = ", backbone.gradient_checkpointing: true" if work.train and not own.gradient_checkpointing else ""
        plans.append(StagePlan(stage.stage, work, largest, stage.keys + more))
    return plans


def plan_lines(objects: Namespace, memory: int | None, prompt: int | None) -> list[str]:
    """What the command prints.

    Args:
        objects: the config's objects.
        memory: bytes of the device; None says nothing about what fits.
        prompt: see `plan_stages`.
    """
    reads = prompt or prompt_tokens(objects.prompts.for_generator())
    plans = plan_stages(objects, reads)
    backbone = objects.backbone
    lines = [
        f"{backbone.model}, {backbone.quantize}, {backbone.dtype}, LoRA r={backbone.lora.r}; prompt of "
        f"{reads} tokens{'' if prompt else ' (estimated; --prompt_tokens sets it)'}, "
        f"{objects.sampler.n} draws of {objects.sampler.max_new_tokens}",
        f"{'GiB':10}{'weights':>9}{'adapter':>9}{'training':>9}{'activations':>12}{'cache':>8}{'other':>8}{'total':>8}",
    ]
    for plan in plans:
        parts = plan.parts
        training = parts["gradients"] + parts["optimizer"]
        other = parts["dequantized"] + parts["mask"] + parts["logits"]
        row = [parts["weights"], parts["adapter"], training, parts["activations"], parts["cache"], other, plan.total]
        cells = "".join(f"{value / 2**30:{width}.2f}" for value, width in zip(row, (9, 9, 9, 12, 8, 8, 8), strict=True))
        lines.append(f"{plan.stage:10}{cells}  {_verdict(plan, memory)}".rstrip())
    if memory is not None:
        lines.append(f"{_OVERHEAD / 2**30:.2f} GiB of {memory / 2**30:.1f} are set aside for the driver and fragments.")
    lines.extend(reading_lines(objects))
    lines.append("Estimates; docs/benchmarks.md has them beside measured peaks.")
    return lines


def users_lines(
    objects: Namespace, gpu: str | None, users: float, count: int, changed: float, prompt: int | None
) -> list[str]:
    """What texts for many users cost on GPUs of a name whose rates are known.

    Args:
        objects: the config's objects.
        gpu: the name.
        users: how many there are.
        count: how many GPUs.
        changed: share of the users whose text is written.
        prompt: tokens of G's prompt; None estimates them.

    Raises:
        SettingError: no rate of the GPU is known, or a number is out of range.
    """
    for key, value, most in (("users", users, math.inf), ("count", count, math.inf), ("changed", changed, 1.0)):
        if not 0 < value <= most:
            limit = "" if most == math.inf else " and at most 1"
            raise SettingError(f"--{key} must be above 0{limit}, got {value:g}.")
    rates = RATES.get((gpu or "").upper())
    if rates is None:
        raise SettingError(f"--users needs --gpu with a name whose rates are known: {', '.join(RATES)}; got {gpu!r}.")
    reads = prompt or prompt_tokens(objects.prompts.for_generator())
    new, weights = text_tokens(objects), weight_count(model_shape(objects.backbone))
    name = (gpu or "").upper()
    lines = [f"Texts for {users * changed:,.0f} of {users:,.0f} users, {reads} prompt and {new} new tokens each:"]
    for rate in rates:
        hours = users * changed * rate.seconds(reads, new, weights) / 3600
        kind = "measured" if rate.measured and abs(weights / MEASURED_WEIGHTS - 1) < _SAME_SIZE else "assumed"
        lines.append(
            f"  {rate.engine:18} {hours:,.1f} GPU-hours, {hours / count:,.1f} hours with {count} {name}; "
            f"rates {kind} ({rate.source})"
        )
    return lines


def reading_lines(objects: Namespace) -> list[str]:
    """What V saves by reading a text in place of the history that G reads; nothing where it reads the same history."""
    long, short = (prompt_tokens(seen) for seen in (objects.prompts.for_generator(), objects.prompts.for_validator()))
    if short == long:
        return []
    with_text = short + text_tokens(objects)
    return [
        f"V reads about {with_text} tokens a history with the text, {long} with the history that G reads "
        f"({with_text / long:.0%})."
    ]


def _verdict(plan: StagePlan, memory: int | None) -> str:
    if memory is None:
        return ""
    left = memory - _OVERHEAD - plan.total
    return f"fits, {left / 2**30:.1f} left" if left >= 0 else f"{-left / 2**30:.1f} over: lower {plan.knobs}"
