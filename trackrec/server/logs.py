"""A line of JSON for everything that is worth one."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

log = logging.getLogger("trackrec.server")
_STREAM = "trackrec_fields"


class JsonFormatter(logging.Formatter):
    """One line a record: time, level, message, and the fields that came with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        said: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _STREAM, {}),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def set_up_logs() -> None:
    """Write the server's and uvicorn's lines to stderr as JSON; uvicorn's own lines about requests are left out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (("trackrec.server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("uvicorn.error").handlers = []
    logging.getLogger("uvicorn.access").handlers = []
    logging.getLogger("uvicorn.access").propagate = False


def say(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line with fields."""
    log.log(level, event, extra={_STREAM: fields})
