"""Checks the settings of the CTR stage before a run starts, since the stages before it take hours."""

from __future__ import annotations

from trackrec.ctr.arms.arm import NO_STATS, parse_arms, scored_arms
from trackrec.ctr.arms.classic import check_classics
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.training.module import check_lazy_rows
from trackrec.ctr.training.train import check_trainer
from trackrec.runtime.errors import SettingError


def check_settings(settings: CTRSettings) -> None:
    """Reject settings that the CTR stage can't train.

    Raises:
        SettingError: an arm or classic model is unknown, or an arm goes without statistics that no arm has; there are
            no arms or seeds; an arm, seed or share repeats; a seed, the learning rate, ``lazy_rows`` or a trainer flag
            isn't allowed; or ``use: log_odds`` without an arm that reads the validator's answers.
        MissingPackageError: a classic model isn't installed.
    """
    arms = parse_arms(settings.arms)
    if settings.features.history_statistics == "none" and any(not arm.statistics for arm in arms):
        raise SettingError(
            f"ctr.arms must have no arm ending in {NO_STATS} where ctr.features.history_statistics is none, got "
            f"{', '.join(settings.arms)}: no arm reads statistics then. Set it to all or recent, or drop the ending."
        )
    check_classics(settings.classics)
    shares = [f"{share:g}" for share in settings.text.coverage or ()]
    for key, values in (("arms", settings.arms), ("seeds", settings.seeds), ("text.coverage", shares)):
        if len(set(values)) < len(values) or (key != "text.coverage" and not values):
            raise SettingError(f"ctr.{key} must name one or more, each once, got {list(values)}.")
    if wrong := [seed for seed in settings.seeds if not 0 <= seed < 2**31]:
        raise SettingError(f"ctr.seeds must be from 0 to 2147483647, got {wrong[0]}.")
    check_trainer(settings.trainer())
    if (lr := settings.model.get("lr", 1.0)) <= 0:
        raise SettingError(f"ctr.model.lr must be above 0, got {lr}.")
    check_lazy_rows(settings.model.get("lazy_rows"), settings.trainer().get("gradient_clip_val"))
    if settings.text.use == "log_odds" and not scored_arms(settings.arms):
        raise SettingError(
            f"ctr.text.use: log_odds needs an arm that reads V's answers: reccot, shuffled, random or plain, got "
            f"{', '.join(settings.arms)}."
        )
