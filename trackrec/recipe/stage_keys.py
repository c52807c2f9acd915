"""Groups of config keys that several kinds of stages depend on."""

from __future__ import annotations

# What a language model reads and computes.
MODEL = ("backbone", "prompts")
VALIDATOR = (*MODEL, "validator_backbone")
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
