"""Base class of the monitors: measured numbers, their limits, and the message when a limit is passed."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from trackrec.runs.hooks import DoneStage, Reading, Verdict
from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class Limits:
    """Thresholds of one number.

    Attributes:
        warn: past this value a warning is printed; null: never.
        stop: past this value the run ends with an error; null: never.
    """

    warn: float | None = None
    stop: float | None = None


class Gauge(NamedTuple):
    """One number measured on a stage.

    Attributes:
        key: the monitor's argument that holds its limits.
        name: what the number is, in words.
        value: the number.
        n: number of rows, texts or steps that it was computed from.
        advice: what to do when it is past a limit.
        share: whether it is printed in percent.
    """

    key: str
    name: str
    value: float
    n: int
    advice: str
    share: bool = False


class Monitor(abc.ABC):
    """A hook that measures numbers after some stages and compares them with limits. It implements `StageHook`.

    Args:
        least: numbers computed from fewer rows, texts or steps are recorded, but the limits don't apply.
        limits: by the name of the subclass's argument.

    Raises:
        SettingError: ``least`` is below 1, or a ``stop`` limit would be reached before its ``warn`` limit.
    """

    low: ClassVar[tuple[str, ...]] = ()
    """Names of the limits that are lower bounds; all others are upper bounds."""

    def __init__(self, least: int, limits: Mapping[str, Limits]) -> None:
        if least < 1:
            raise SettingError(f"monitors, {self.name}: least must be at least 1, got {least}.")
        for key, limit in limits.items():
            smaller, larger = (limit.stop, limit.warn) if key in self.low else (limit.warn, limit.stop)
            if smaller is not None and larger is not None and smaller > larger:
                side = "at least" if key in self.low else "at most"
                raise SettingError(
                    f"monitors, {self.name}: {key}.warn must be {side} {key}.stop, got {limit.warn} and {limit.stop}."
                )
        self.least = least
        self.limits = dict(limits)

    @property
    def name(self) -> str:
        """Name of the class."""
        return type(self).__name__

    @abc.abstractmethod
    def measure(self, stage: DoneStage) -> Iterable[Gauge]:
        """The numbers to check after this stage; none for stages that the monitor doesn't cover."""

    def on_stage_end(self, stage: DoneStage) -> Sequence[Reading]:
        """See `trackrec.runs.hooks.StageHook`."""
        return [self.read(gauge) for gauge in self.measure(stage)]

    def read(self, gauge: Gauge) -> Reading:
        """Compare a number with its limits."""
        limits = self.limits[gauge.key]
        below = gauge.key in self.low
        verdict = _judge(gauge, limits, self.least, below)
        text = ""
        if verdict in ("warn", "stop"):
            limit = _write(limits.stop if verdict == "stop" else limits.warn, gauge.share)
            value = _write(gauge.value, gauge.share)
            side = "below" if below else "above"
            text = f"{gauge.name} is {value}, {side} the limit of {limit} (n = {gauge.n:,}). {gauge.advice}"
        if verdict == "stop":
            change = "lower" if below else "raise"
            text += (
                f" To continue anyway, {change} {gauge.key}.stop of {self.name} under monitors (see --print_config)."
            )
        return Reading(self.name, gauge.name, gauge.value, gauge.n, limits.warn, limits.stop, verdict, text)


def _judge(gauge: Gauge, limits: Limits, least: int, below: bool) -> Verdict:
    """Compare a number with its limits. NaN means that nothing could be measured and counts as too few rows."""
    if gauge.n < least or math.isnan(gauge.value):
        return "few"

    def past(limit: float | None) -> bool:
        return limit is not None and (gauge.value < limit if below else gauge.value > limit)

    return "stop" if past(limits.stop) else "warn" if past(limits.warn) else "ok"


def _write(value: float | None, share: bool) -> str:
    assert value is not None
    return f"{100 * value:.1f} %" if share else f"{value:.4g}"
