"""What the monitors share: limits, a number held against them, and the sentence that tells a person what to do."""

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
    """How far a number may go.

    Attributes:
        warn: past it a line is printed; null: never.
        stop: past it the run ends with an error; null: never.
    """

    warn: float | None = None
    stop: float | None = None


class Gauge(NamedTuple):
    """One number of a stage.

    Attributes:
        key: the argument that holds its limits.
        name: what the number is, in words.
        value: the number.
        n: rows, texts or steps behind it.
        advice: what to do when it is past a limit.
        share: written in percent.
    """

    key: str
    name: str
    value: float
    n: int
    advice: str
    share: bool = False


class Monitor(abc.ABC):
    """A hook that measures numbers after some stages and holds them against limits. It fulfils `StageHook`.

    Args:
        least: numbers with fewer rows, texts or steps behind them are kept but not judged.
        limits: by the name of the argument that holds them.

    Raises:
        SettingError: ``least`` is below 1, or a number would stop the run before it warns.
    """

    low: ClassVar[tuple[str, ...]] = ()
    """Names of the limits below which a number must not fall; it must not rise above the others."""

    def __init__(self, least: int, limits: Mapping[str, Limits]) -> None:
        if least < 1:
            raise SettingError(f"monitors, {self.name}: least must be at least 1, got {least}.")
        for key, (warn, stop) in {key: (limit.warn, limit.stop) for key, limit in limits.items()}.items():
            first, last = (stop, warn) if key in self.low else (warn, stop)
            if first is not None and last is not None and first > last:
                side = "at least" if key in self.low else "at most"
                raise SettingError(
                    f"monitors, {self.name}: {key}.warn must be {side} {key}.stop, got {warn} and {stop}."
                )
        self.least, self.limits = least, dict(limits)

    @property
    def name(self) -> str:
        """The class's."""
        return type(self).__name__

    @abc.abstractmethod
    def measure(self, stage: DoneStage) -> Iterable[Gauge]:
        """The numbers to judge after this stage; none where the stage is none of the monitor's concern."""

    def on_stage_end(self, stage: DoneStage) -> Sequence[Reading]:
        """See `trackrec.runs.hooks.StageHook`."""
        return [self._read(gauge) for gauge in self.measure(stage)]

    def _read(self, gauge: Gauge) -> Reading:
        limits, below = self.limits[gauge.key], gauge.key in self.low
        verdict = _judge(gauge, limits, self.least, below)
        text = ""
        if verdict in ("warn", "stop"):
            limit = _write(limits.stop if verdict == "stop" else limits.warn, gauge.share)
            value = _write(gauge.value, gauge.share)
            side = "below" if below else "above"
            text = f"{gauge.name} is {value}, {side} the limit of {limit} (n = {gauge.n:,}). {gauge.advice}"
        if verdict == "stop":
            turn = "lower" if below else "raise"
            text += (
                f" To go on all the same, {turn} {gauge.key}.stop of {self.name} under monitors (see --print_config)."
            )
        return Reading(self.name, gauge.name, gauge.value, gauge.n, limits.warn, limits.stop, verdict, text)


def _judge(gauge: Gauge, limits: Limits, least: int, below: bool) -> Verdict:
    """Where a number stands; NaN, of which nothing could be measured, counts as too few rows."""
    if gauge.n < least or math.isnan(gauge.value):
        return "few"

    def past(limit: float | None) -> bool:
        return limit is not None and (gauge.value < limit if below else gauge.value > limit)

    return "stop" if past(limits.stop) else "warn" if past(limits.warn) else "ok"


def _write(value: float | None, share: bool) -> str:
    assert value is not None
    return f"{100 * value:.1f} %" if share else f"{value:.4g}"
