"""Names of the stages, which are also their directories under run_dir. Every name is spelled here and nowhere else."""

from __future__ import annotations

import re

DATA, TEACHER, DISTILL, TEXTS, UNTUNED, EMBED, LOG_ODDS, CTR, TEST = (
    "data",
    "teacher",
    "distill",
    "texts",
    "untuned",
    "embed",
    "log_odds",
    "ctr",
    "test",
)
WARMUP, PLAIN = "warmup", "plain"  # folders of stages, as ``round-2`` is
COMPARISONS = ("facts", "titles", "whole", "teacher", "untuned")
"""What else a validator reads in place of the RecCoT, by the names of ``loop.comparisons``, in the order of stages."""
SHUFFLED = "shuffled"  # the source of scores with another user's text
WITHOUT_TEXT = "without_text"  # a folder in a stage ``score``, with V's scores of the same rows without a text


def round_folder(number: int) -> str:
    """``round-2``; what comes before the first round, number 0, is the ``warmup``."""
    return f"round-{number}" if number else WARMUP


def in_round(number: int, kind: str) -> str:
    """The stage of a kind in a round: ``round-2/align``, or ``warmup/evaluate`` for number 0."""
    return f"{round_folder(number)}/{kind}"


def without_text(kind: str) -> str:
    """The stage of a kind for the validator that reads no text: ``plain/rec_tune``."""
    return in_comparison(PLAIN, kind)


def in_comparison(name: str, kind: str) -> str:
    """The stage of a kind for the validator of a comparison: ``v-facts/rec_tune``, ``plain/rec_tune``."""
    return f"{comparison_folder(name)}/{kind}"


def comparison_folder(name: str) -> str:
    """The folder of a comparison's stages, which also names its validator in metrics: ``v-facts``, ``plain``."""
    return name if name == PLAIN else f"v-{name}"


def is_compared(stage: str) -> bool:
    """Whether a stage belongs to a comparison and not to the loop."""
    return stage.partition("/")[0] in {comparison_folder(name) for name in (PLAIN, *COMPARISONS)}


def kind_of(name: str) -> str:
    """The name without its folder: ``round-2/align`` is an ``align``."""
    return name.rsplit("/", 1)[-1]


def round_of(name: str) -> int:
    """The round in a stage's name, 0 where it has none."""
    match = re.match(r"round-(\d+)/", name)
    return int(match.group(1)) if match else 0


def existing(*stages: str | None) -> tuple[str, ...]:
    """The names that are not None, each once: None stands for the base model, which no stage made."""
    return tuple(dict.fromkeys(stage for stage in stages if stage))
