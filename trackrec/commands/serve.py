"""``trackrec serve``: answers requests over HTTP."""

from __future__ import annotations

from typing import Any

from trackrec.commands.call import Call
from trackrec.server.settings import ServerSettings

PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "prometheus_client", "zstandard")


def add_arguments(parser: Any) -> None:
    """The command's own arguments: those of `ServerSettings`."""
    parser.add_class_arguments(ServerSettings, nested_key=None)


def run(call: Call) -> None:
    """Serve until SIGTERM.

    Raises:
        MissingPackageError: a package of the extra ``serve`` is missing.
        TrackRecError: bundle, store or events can't be opened.
    """
    from trackrec.runtime.packages import need

    need("trackrec serve", "serve", *PACKAGES)
    from trackrec.server.run import serve

    serve(ServerSettings(**{key: value for key, value in call.own.items() if key in ServerSettings.__annotations__}))
