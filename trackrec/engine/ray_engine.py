"""The engine of a cluster: Ray actors. It needs the extra ``scale``.

Ray's core is used, not Ray Data: a part is the unit of work, so there is nothing to batch or shuffle, and an actor that
dies is replaced by `trackrec.engine.engine.Engine.run`, which counts failures by part. (Ray Data 2.60 retries a row
that kills its process without end by default, and with ``max_errored_blocks`` calls a run with missing parts a
success.) Nothing but names and counts passes through Ray's object store.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from trackrec.engine.engine import Crewman, Engine, EngineError, Event, WorkerSpec, answer, import_path, make
from trackrec.runtime.errors import SettingError, reason
from trackrec.runtime.packages import need

_LOOPBACK = "127.0.0.1"


class RayEngine(Engine):
    """Ray actors on this machine or on a cluster, each with its own copy of the models.

    Every machine must see the run directory and the output under the same path (a shared file system), and have
    trackrec installed.

    Args:
        address: of the cluster: ``auto`` for the one that this machine belongs to, ``ray://host:10001``, or null, which
            starts Ray on this machine for the length of the work, on the loopback interface alone.
        workers: how many actors.
        cpus_per_worker: cores that Ray sets aside for an actor.
        gpus_per_worker: GPUs likewise; below 1 several actors share one.
        deadline_s: an actor that takes longer for one part counts as dead; null waits for ever.
        tries: a part that fails so many times is lost.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int = 2,
        cpus_per_worker: float = 0.5,
        gpus_per_worker: float = 0.0,
        deadline_s: float | None = 3600.0,
        tries: int = 3,
    ) -> None:
        super().__init__(workers, deadline_s, tries)
        for key, value in (("cpus_per_worker", cpus_per_worker), ("gpus_per_worker", gpus_per_worker)):
            if value < 0:
                raise SettingError(f"engine.init_args.{key} must be at least 0, got {value}.")
        self.address, self.cpus, self.gpus = address, cpus_per_worker, gpus_per_worker
        self._ray: Any = None

    def start(self, spec: WorkerSpec, number: int) -> Crewman:
        """See `Engine.start`."""
        self._connect()
        return _Actor(self._ray, spec, self.cpus, self.gpus)

    def listen(self, crew: Sequence[Crewman], timeout_s: float) -> list[tuple[Crewman, Event]]:
        """See `Engine.listen`."""
        actors = {one.asked: one for one in crew if isinstance(one, _Actor) and one.asked is not None}
        if not actors:
            time.sleep(timeout_s if not crew else 0)
            return []
        ended, _ = self._ray.wait(list(actors), num_returns=1, timeout=timeout_s)
        return [(actors[reference], actors[reference].hear()) for reference in ended]

    def close(self) -> None:
        """See `Engine.close`: leave the cluster, or end the one that was started here."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _connect(self) -> None:
        """Connect to the cluster, or start Ray here.

        Raises:
            EngineError: the cluster doesn't answer.
        """
        if self._ray is not None:
            return
        need("engine RayEngine", "scale", "ray")
        if self.address is None:
            # Read when Ray is imported: without it several of its services listen on every interface of the machine.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # What Ray will do by default: leave the GPUs visible to an actor that asks for none.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        where: dict[str, Any] = {"address": self.address}
        if self.address is None:
            where = {"_node_ip_address": _LOOPBACK, "include_dashboard": False, "num_cpus": max(1, self.workers)}
            where["runtime_env"] = {"env_vars": {"PYTHONPATH": import_path()}}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **where)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"engine.init_args.address {self.address!r}: Ray doesn't answer ({reason(error)}). Start it with "
                "`ray start`, or leave the address out to use this machine."
            ) from error
        self._ray = ray


class _Host:
    """What lives in an actor: the worker of one process."""

    def __init__(self, factory: str, arguments: dict[str, Any]) -> None:
        self.body, self.kind, self.value = make(WorkerSpec(factory, arguments))

    def started(self) -> tuple[str, Any]:
        """Whether the worker could be made."""
        return self.kind, self.value

    def work(self, part: str) -> tuple[str, Any]:
        """Make one part."""
        assert self.body is not None
        return answer(self.body, part)


class _Actor(Crewman):
    """One actor; Ray must not restart it, since the engine counts its failures."""

    def __init__(self, ray: Any, spec: WorkerSpec, cpus: float, gpus: float) -> None:
        self.ray = ray
        host = ray.remote(_Host).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self.actor = host.remote(spec.factory, dict(spec.arguments))
        self.asked: Any = self.actor.started.remote()

    def give(self, part: str) -> None:
        """See `Crewman.give`."""
        self.asked = self.actor.work.remote(part)

    def hear(self) -> Event:
        """What it told; that it is dead if Ray says so."""
        asked, self.asked = self.asked, None
        try:
            kind, value = self.ray.get(asked)
        except self.ray.exceptions.RayError as error:
            return Event("dead", f"its worker is gone ({reason(error)})")
        return Event(kind, value)

    def kill(self) -> None:
        """See `Crewman.kill`."""
        self.ray.kill(self.actor, no_restart=True)
