"""Starts a server, and stops and reloads it on signals."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from trackrec.runtime.errors import SettingError
from trackrec.server.app import make_app
from trackrec.server.errors import ProblemError
from trackrec.server.gate import Gate
from trackrec.server.logs import say, set_up_logs
from trackrec.server.service import Service
from trackrec.server.settings import ServerSettings

_LONGEST_DRAIN_S = 30
_KEEP_ALIVE_S = 30
_BACKLOG = 2048


class Server(uvicorn.Server):
    """A server that drains on SIGTERM and SIGINT, ends with status 0, and reloads on SIGHUP."""

    def __init__(self, config: uvicorn.Config, gate: Gate, service: Service) -> None:
        super().__init__(config)
        self._gate, self._service = gate, service
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handlers on the loop, in the place of uvicorn's, which raise the signal again after the drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        yield
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                say("listening", host=host, port=port, url=f"http://{host}:{port}/")

    def _stop(self) -> None:
        if self._gate.draining:  # a second signal doesn't wait
            self.should_exit = True
            return
        self._gate.draining = True
        say("stopping: not ready any more, answering what comes", drain_s=self._service.settings.drain_s)
        asyncio.get_running_loop().call_later(self._service.settings.drain_s, self._exit)

    def _exit(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reloaded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reloaded(self) -> None:
        try:
            await self._service.reload()
        except ProblemError:
            return  # the service has logged it, and the old bundle and store stay


def serve(settings: ServerSettings) -> None:
    """Answer until SIGTERM.

    Raises:
        TrackRecError: bundle, store or events can't be opened, or the address can't be listened on.
    """
    set_up_logs()
    start = time.monotonic()
    asyncio.run(_serve(settings, start))


async def _serve(settings: ServerSettings, start: float) -> None:
    service = Service(settings)
    try:
        gate = make_app(service)
        config = uvicorn.Config(
            gate,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_LONGEST_DRAIN_S,
        )
        info = service.loaded.store.info
        say(
            "loaded",
            seconds=round(time.monotonic() - start, 3),
            model=service.loaded.bundle.model_version,
            generation=info.generation,
            texts=info.texts,
            users=info.states,
        )
        try:
            await Server(config, gate, service).serve()
        except SystemExit as error:  # uvicorn ends the process where it can't listen
            raise SettingError(f"--host {settings.host} --port {settings.port} can't be listened on.") from error
        say("stopped")
    finally:
        service.close()
