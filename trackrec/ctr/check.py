"""Checks of what the CTR stage is to train, before the hours that come before it."""

from __future__ import annotations

from trackrec.ctr.arms.arm import parse_arms, scored_arms
from trackrec.ctr.arms.classic import check_classics
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.training.module import check_lazy_rows
from trackrec.ctr.training.train import check_trainer
from trackrec.runtime.errors import SettingError


def check_settings(settings: CTRSettings) -> None:
    """What can be known of a settings before the hours that come before it.

    Raises:
        SettingError: an unknown arm or classic model, no or repeated seeds, arms or shares, or log-odds are to be used
            and no arm reads them.
        MissingPackageError: a classic model isn't installed.
    """
    parse_arms(settings.arms)
    check_classics(settings.classics)
    shares = [f"{share:g}" for share in settings.text.coverage or ()]
    for key, given in (("arms", settings.arms), ("seeds", settings.seeds), ("text.coverage", shares)):
        if len(set(given)) < len(given) or (key != "text.coverage" and not given):
            raise SettingError(f"ctr.{key} must name one or more, each once, got {list(given)}.")
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
