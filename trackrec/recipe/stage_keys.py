"""Groups of config keys that several kinds of stages depend on."""

from __future__ import annotations

from dataclasses import fields

from trackrec.prompts.settings import PromptSettings

# What the generator and the validator read of a history, and what they compute.
_WORDS = tuple(f"prompts.{key.name}" for key in fields(PromptSettings) if key.name not in ("generator", "validator"))
SEEN_BY_GENERATOR = (*_WORDS, "prompts.generator")
GENERATOR = ("backbone", *SEEN_BY_GENERATOR)
VALIDATOR = ("backbone", "validator_backbone", *_WORDS, "prompts.validator")
# Who takes part in the loop, and with which rows.
PLAYERS = ("loop.users", "loop.targets", "loop.hold", "loop.disjoint")
# The validation rows on which V is evaluated, and the test rows.
EVALUATED = ("loop.eval_samples", "loop.eval_per_history")
TESTED = ("loop.eval_samples", "loop.test_samples", "loop.eval_per_history")
# Which rows tune the last V.
TUNED = (
    "loop.validator_start",
    "loop.rounds",
    "loop.warmup",
    "loop.warmup_users",
    "loop.rec_tune",
    "loop.alternate",
    *PLAYERS,
)
