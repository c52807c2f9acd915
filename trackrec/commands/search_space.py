"""What ``trackrec tune`` may turn, and how far: the section ``tune`` of a config."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trackrec.ctr.arms.arm import NO_STATS
from trackrec.runtime.errors import SettingError

# Shipped: what moves a CTR net most. Keys that the configured net doesn't have are left out of it.
DEFAULT_SPACE: dict[str, Any] = {
    "ctr.model.lr": {"low": 3e-4, "high": 3e-3, "log": True},
    "ctr.model.weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
    "ctr.net.init_args.dropout": [0.0, 0.5],
    "ctr.net.init_args.embed_dim": {"choices": [8, 16, 32]},
    "ctr.net.init_args.hidden": {"choices": [[64], [128, 64], [200, 80], [400, 200]]},
}
_TUNABLE = ("ctr.net.", "ctr.connector.", "ctr.model.", "ctr.data.", "ctr.trainer.", "ctr.patience")
_FORMS = "[low, high], {low, high, log} or {choices: [...]}"


@dataclass(frozen=True)
class TuneSettings:
    """What `trackrec tune` tries; no other command reads it.

    Attributes:
        trials: settings tried, the configured one not counted.
        arm: whose validation AUC counts. ``none`` favours no text; with ``reccot`` the connector can be tuned too.
        seeds: of the trainings; a trial's AUC is their mean.
        space: key -> ``[low, high]``, ``{low, high, log: true}`` or ``{choices: [...]}``; null is the shipped space
            (`DEFAULT_SPACE`). Two whole numbers are a range of whole numbers.
    """

    trials: int = 30
    arm: str = "none"
    seeds: list[int] = field(default_factory=lambda: [0])
    space: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise SettingError(f"tune.trials must be at least 1, got {self.trials}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise SettingError(f"tune.seeds must be at least one seed, each once, got {self.seeds}.")
        for key, value in (self.space or {}).items():
            dimension(key, value)


class Dimension(NamedTuple):
    """One key: a range, or choices where there are any."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()  # as JSON: a choice may be a list

    def ask(self, trial: Any) -> Any:
        """The value that an Optuna trial suggests."""
        if self.choices:
            return json.loads(trial.suggest_categorical(self.key, self.choices))
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def describe(self) -> str:
        """``ctr.model.lr 0.0003 to 0.003 (log)``."""
        if self.choices:
            return f"{self.key} one of {', '.join(self.choices)}"
        return f"{self.key} {self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


def dimension(key: str, value: Any) -> Dimension:
    """Read one entry of ``tune.space``.

    Raises:
        SettingError: the key isn't one of the CTR stage's training, or the value has none of the forms.
    """
    if not key.startswith(_TUNABLE):
        raise SettingError(
            f"tune.space: {key!r} can't be tuned. Keys begin with {', '.join(_TUNABLE)}, such as ctr.model.lr."
        )
    if isinstance(value, Mapping) and set(value) == {"choices"} and isinstance(value["choices"], list):
        if not value["choices"]:
            raise SettingError(f"tune.space: {key} has no choices.")
        return Dimension(key, choices=tuple(json.dumps(choice) for choice in value["choices"]))
    if isinstance(value, Mapping) and {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        low, high, log = value["low"], value["high"], bool(value.get("log"))
    elif isinstance(value, list) and len(value) == 2:
        (low, high), log = value, False
    else:
        raise SettingError(f"tune.space: {key} must be {_FORMS}, got {value!r}.")
    # YAML 1.1 reads 1e-4, without a point, as text.
    ends = [float(end) if isinstance(end, str) and _is_number(end) else end for end in (low, high)]
    if any(isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end) for end in ends):
        raise SettingError(f"tune.space: {key} must be {_FORMS} of finite numbers, got {value!r}.")
    low, high = ends
    if not low < high or (log and low <= 0):
        raise SettingError(f"tune.space: {key} needs low < high{', above 0 for log' if log else ''}, got {value!r}.")
    return Dimension(key, float(low), float(high), log, isinstance(low, int) and isinstance(high, int))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_space(settings: TuneSettings, config: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions that a configuration has.

    Args:
        settings: the section ``tune``.
        config: the resolved configuration.

    Raises:
        SettingError: a key of the config's own space isn't in the configuration, or the arm doesn't read it.
    """
    known = set(_keys(config, ""))
    if settings.space is None:
        return [dimension(key, value) for key, value in DEFAULT_SPACE.items() if key in known]
    if not settings.space:
        raise SettingError("tune.space is empty: name a key, or leave it out for the shipped space.")
    for key in settings.space:
        if key not in known:
            near = difflib.get_close_matches(key, sorted(one for one in known if one.startswith("ctr.")), n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise SettingError(f"tune.space: the configuration has no {key}.{hint}")
        if key.startswith("ctr.connector.") and settings.arm in ("none", f"none{NO_STATS}"):
            raise SettingError(
                f"tune.space: {key} has no effect on arm {settings.arm}. Set tune.arm: reccot, or leave it out."
            )
    return [dimension(key, value) for key, value in settings.space.items()]


def _keys(values: Any, prefix: str) -> Iterator[str]:
    """Dotted keys of everything in a configuration."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield prefix + name
            yield from _keys(value, f"{prefix}{name}.")


def at(values: Any, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of a configuration with the values of some dotted keys replaced."""
    copy: dict[str, Any] = json.loads(json.dumps(values))
    for key, value in changes.items():
        *path, last = key.split(".")
        place = copy
        for part in path:
            place = place[part]
        place[last] = value
    return copy
