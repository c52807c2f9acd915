"""What an engine promises, and the loop that keeps the promise whoever starts its processes.

A work is cut into named parts. A worker process is made once (it loads models) and is then given one part after the
other. Execution is *at least once*: a part whose worker dies is given to another one. Output is *exactly once* if the
worker writes each part under a fixed name by an atomic rename, and returns at once where the part stands; whoever asked
for the parts checks afterwards that all of them are there, and doesn't trust an engine's word for it.
"""

from __future__ import annotations

import abc
import importlib
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trackrec.runtime.errors import SettingError, TrackRecError

Body = Callable[[str], dict[str, Any]]
"""Makes the part of a name, and returns counts as plain types."""
_WAIT_S = 1.0


class EngineError(TrackRecError, RuntimeError):
    """An engine can't work: its workers don't start, or what they need is missing."""


class WorkerError(RuntimeError):
    """A worker found an error that isn't known to trackrec; its traceback is the message."""


class PartDone(NamedTuple):
    """A part that a worker says it made: its name, its counts and the seconds that it took."""

    part: str
    counts: dict[str, Any]
    seconds: float


class PartLost(NamedTuple):
    """A part that failed as often as it may, and how it failed the last time."""

    part: str
    reason: str


@dataclass(frozen=True)
class WorkerSpec:
    """How a process makes its worker.

    Attributes:
        factory: ``package.module:function``, called once in each process; it returns the `Body`.
        arguments: keyword arguments of the function, as plain types.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Body:
        """The worker."""
        module, _, function = self.factory.partition(":")
        body: Body = getattr(importlib.import_module(module), function)(**self.arguments)
        return body


class Event(NamedTuple):
    """What a process tells.

    ``ready``: its worker is made. ``done``: ``value`` is the part's counts. ``fault``: the part failed with an error,
    whose text is ``value``, and the process lives on. ``refused``: an error that the next part would meet as well, such
    as a full disk or a wrong setting; the work ends. ``dead``: the process is gone, and ``value`` tells how.
    """

    kind: Literal["ready", "done", "fault", "refused", "dead"]
    value: Any = None


class Crewman(abc.ABC):
    """One worker process, as an engine holds it."""

    part: str | None = None
    since: float = 0.0
    ready: bool = False

    @abc.abstractmethod
    def give(self, part: str) -> None:
        """Let it make a part."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End it at once, whatever it does."""


class Engine(abc.ABC):
    """Runs parts in worker processes.

    Args:
        workers: how many processes.
        deadline_s: a worker that takes longer for one part counts as dead; null waits for ever.
        tries: a part that fails so many times is lost.
    """

    def __init__(self, workers: int = 1, deadline_s: float | None = 3600.0, tries: int = 3) -> None:
        for key, value in (("workers", workers), ("tries", tries)):
            if value < 1:
                raise SettingError(f"engine.init_args.{key} must be at least 1, got {value}.")
        if deadline_s is not None and deadline_s <= 0:
            raise SettingError(f"engine.init_args.deadline_s must be above 0 or null, got {deadline_s}.")
        self.workers, self.deadline_s, self.tries = workers, deadline_s, tries

    @abc.abstractmethod
    def start(self, spec: WorkerSpec, number: int) -> Crewman:
        """Start process ``number``, which makes its worker and says that it is ready."""

    @abc.abstractmethod
    def listen(self, crew: Sequence[Crewman], timeout_s: float) -> list[tuple[Crewman, Event]]:
        """What the processes told since the last call; waits for at most ``timeout_s``."""

    def close(self) -> None:  # noqa: B027 - most engines keep nothing
        """Let go of what the engine holds beside its processes."""

    def run(
        self, parts: deque[str], spec: WorkerSpec, tries: Callable[[str], int] | None = None
    ) -> Iterator[PartDone | PartLost]:
        """Make all parts; each is reported once.

        Args:
            parts: their names in order. Whoever iterates may append more before asking for the next report.
            spec: how a process makes its worker.
            tries: how often a part may fail before it is lost; None is the engine's own number for all.

        Raises:
            EngineError: no worker can be made.
            TrackRecError: a worker refused to work: a full disk, a wrong setting.
        """
        crew: list[Crewman] = []
        failures: Counter[str] = Counter()
        stillborn = started = 0
        try:
            while parts or any(one.part for one in crew):
                while len(crew) < min(self.workers, len(parts) + sum(1 for one in crew if one.part)):
                    crew.append(self.start(spec, started))
                    crew[-1].since = time.monotonic()
                    started += 1
                for one in crew:
                    if one.ready and one.part is None and parts:
                        one.part, one.since = parts.popleft(), time.monotonic()
                        one.give(one.part)
                for one, event in [*self.listen(crew, _WAIT_S), *self._late(crew)]:
                    if one not in crew:
                        continue  # killed for being late, and now reported dead
                    if event.kind == "ready":
                        one.ready, stillborn = True, 0
                        continue
                    if event.kind == "refused":
                        raise _known(event.value)
                    part, seconds = one.part, time.monotonic() - one.since
                    one.part = None
                    if event.kind == "dead":
                        one.kill()
                        crew.remove(one)
                        if part is None:
                            stillborn += 1
                            if stillborn >= self.tries:
                                raise EngineError(
                                    f"engine: {stillborn} workers in a row ended before their first part: {event.value}"
                                )
                            continue
                    assert part is not None
                    if event.kind == "done":
                        yield PartDone(part, event.value, seconds)
                        continue
                    failures[part] += 1
                    if failures[part] >= (tries(part) if tries else self.tries):
                        yield PartLost(part, str(event.value))
                    else:
                        parts.appendleft(part)
        finally:
            for one in crew:
                one.kill()
            self.close()

    def _late(self, crew: Sequence[Crewman]) -> list[tuple[Crewman, Event]]:
        """Those that are over their deadline, as dead."""
        if self.deadline_s is None:
            return []
        now, limit = time.monotonic(), self.deadline_s
        late = [one for one in crew if one.part and now - one.since > limit]
        return [(one, Event("dead", f"no answer within deadline_s, {limit:g} s")) for one in late]


def import_path() -> str:
    """The folders that this process imports from, as ``PYTHONPATH`` names them for another one on this machine."""
    return os.pathsep.join(path or str(Path.cwd()) for path in sys.path)


def answer(body: Body, part: str) -> tuple[str, Any]:
    """What a process tells about a part: the kind and the value of an `Event`, as plain types."""
    import traceback

    try:
        return "done", body(part)
    except TrackRecError as error:
        return "refused", {"text": str(error)}
    except OSError as error:
        if error.errno is None:
            return "fault", traceback.format_exc()
        where = str(error.filename or "") or None
        return "refused", {"text": os.strerror(error.errno), "errno": error.errno, "filename": where}
    except Exception:
        return "fault", traceback.format_exc()


def make(spec: WorkerSpec) -> tuple[Body | None, str, Any]:
    """The worker of a process, and what to tell: ready, or refused where it can't be made."""
    import traceback

    try:
        return spec.make(), "ready", None
    except TrackRecError as error:
        return None, "refused", {"text": str(error)}
    except Exception:
        return None, "refused", {"fault": traceback.format_exc()}


def _known(told: Mapping[str, Any]) -> Exception:
    """The error that a worker told of, as this process raises it."""
    if "fault" in told:
        return WorkerError(str(told["fault"]))
    if told.get("errno"):
        return OSError(told["errno"], told["text"], told["filename"])
    return EngineError(str(told["text"]))
