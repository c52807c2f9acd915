"""Errors as answers: RFC 9457, ``application/problem+json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """An error that is answered with a status.

    Args:
        status: of the answer.
        detail: what is wrong with this request, in one sentence.
        retry_after_s: when to try again; None: not at all.
        more: further members of the answer.
    """

    def __init__(
        self, status: int, detail: str, retry_after_s: int | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after_s, self.more = status, detail, retry_after_s, dict(more or {})

    def response(self) -> Response:
        """The answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        body = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status}
        content = json.dumps({**body, "detail": self.detail, **self.more}).encode()
        return Response(content, self.status, headers, MEDIA_TYPE)
