"""Chat requests with retries and back-off, and a budget that they share.

The openai client's own ``max_retries`` would give up where a server asks for more than two minutes, wait through the
end of a run, and repeat the requests of an account without credit.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from trackrec.distill.answers import Answer
from trackrec.distill.teacher import TeacherError

log = logging.getLogger(__name__)

BACKOFF_S = 1.0  # the first wait; each further one is twice as long
MAX_BACKOFF_S = 60.0
MAX_RETRY_AFTER_S = 600.0  # a server that asks for a longer pause ends the run; its answers are kept
_TRANSIENT = (408, 409, 429)
_MAX_ERROR_CHARS = 300
_HINTS = {
    400: "If the server rejects temperature, set teacher.init_args.temperature to null; if the prompt is too long, "
    "lower prompts.generator.max_history.",
    401: "Check the key in the environment variable that teacher.init_args.api_key_env names.",
    403: "Check the key in the environment variable that teacher.init_args.api_key_env names.",
    404: "Check teacher.init_args.model and teacher.init_args.base_url.",
}


class Budget:
    """A budget that requests share: each reserves the most it can cost, then settles its actual cost.

    Args:
        limit: the most to spend; None is no limit.
        spent: the cost of the answers saved so far.
    """

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit, self.spent = limit, spent
        self.refused = 0.0
        self._reserved = 0.0
        self._in_flight = 0
        self._change = threading.Condition()

    def reserve(self, most: float) -> bool:
        """Wait until a request fits beside those in flight; False if it doesn't fit even after them."""
        with self._change:
            while self.limit is not None and self.spent + self._reserved + most > self.limit:
                if self.refused or not self._in_flight:
                    self.refused = self.refused or most
                    self._change.notify_all()
                    return False
                self._change.wait()
            self._reserved += most
            self._in_flight += 1
            return True

    def settle(self, most: float, cost: float) -> None:
        """Replace a reservation by the real cost."""
        with self._change:
            self._in_flight -= 1
            self._reserved = self._reserved - most if self._in_flight else 0.0
            self.spent += cost
            self._change.notify_all()


class ChatClient:
    """Sends requests to an OpenAI-compatible server, and retries temporary failures.

    Args:
        client: an ``openai.OpenAI`` that doesn't retry by itself.
        options: the parameters of every request besides its message: model, length, temperature.
        max_retries: of one request.
        secret: never shown in an error or a log.
    """

    def __init__(self, client: Any, options: dict[str, Any], max_retries: int, secret: str) -> None:
        self._client, self._options, self._max_retries, self._secret = client, options, max_retries, secret
        self._lock = threading.Lock()
        self.requests = self.retries = 0
        self.stop = threading.Event()  # once set, no request starts and no retry waits

    def ask(self, prompt: str, most_tokens: tuple[int, int]) -> Answer | None:
        """One answer; None if `stop` was set first.

        Args:
            prompt: the user's message.
            most_tokens: upper bounds of the tokens read and written, recorded if the server sends no counts.

        Raises:
            TeacherError: the server refuses the request, or fails more often than ``max_retries``.
        """
        import openai

        tries = 0
        while not self.stop.is_set():
            wait = None
            try:
                self._count("requests")
                completion = self._client.chat.completions.create(
                    messages=[{"role": "user", "content": prompt}], **self._options
                )
                if answer := read_completion(completion, most_tokens):
                    return answer
                problem = "an answer without choices"
            except openai.APIStatusError as error:
                # A content filter rejected the prompt: Azure answers with status 400.
                if error.status_code == 400 and error.code in ("content_filter", "content_policy_violation"):
                    return Answer("refused", "", False, 0, 0)
                problem = self._safe(f"HTTP {error.status_code}: {error.message}")
                if not _transient(error):
                    hint = _HINTS.get(error.status_code, "")
                    raise TeacherError(f"the server refuses a request ({problem}). {hint}".strip()) from None
                wait = retry_after(error.response.headers)
            except (openai.APIError, json.JSONDecodeError) as error:  # lost connection, time-out, broken body
                problem = self._safe(f"{type(error).__name__}: {error}")
            tries += 1
            self._pause(tries, wait, problem)
        return None

    def _pause(self, tries: int, wait: float | None, problem: str) -> None:
        """Wait as long as the server asks, else with back-off; jitter keeps concurrent requests from retrying together.

        Raises:
            TeacherError: that was the last try, or the server wants too long a pause.
        """
        if tries > self._max_retries:
            raise TeacherError(
                f"no answer after {tries} tries, the last gave {problem}. teacher.init_args.max_retries is "
                f"{self._max_retries}."
            )
        if wait is not None and wait > MAX_RETRY_AFTER_S:
            raise TeacherError(f"the server asks for a pause of {wait:,.0f} s ({problem}).")
        backoff = min(BACKOFF_S * 2 ** (tries - 1), MAX_BACKOFF_S)
        jitter = random.uniform(0.5, 1.0)
        delay = backoff * jitter if wait is None else wait + BACKOFF_S * (jitter - 0.5)
        self._count("retries")
        log.info("teacher: %s; next try in %.1f s", problem, delay)
        self.stop.wait(delay)

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)

    def _safe(self, text: str) -> str:
        """A server's message in one short line, without the key: servers echo keys in their errors."""
        shown = text.replace(self._secret, "***") if self._secret else text
        return " ".join(shown.split())[:_MAX_ERROR_CHARS]


def read_completion(made: Any, most_tokens: tuple[int, int]) -> Answer | None:
    """The answer in a chat completion; None if it holds no choice, which some proxies send for a failed server."""
    choices = getattr(made, "choices", None)
    if not choices:
        return None
    message, finish = choices[0].message, choices[0].finish_reason
    usage = getattr(made, "usage", None)
    read, written = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
    estimated = read is None or written is None
    tokens = most_tokens if estimated else (int(read or 0), int(written or 0))
    cut = finish == "length"
    if finish == "content_filter" or getattr(message, "refusal", None):
        return Answer("refused", "", cut, tokens[0], tokens[1], estimated)
    content = getattr(message, "content", None)
    text = content.strip() if isinstance(content, str) else ""
    return Answer("text" if text else "empty", text, cut, tokens[0], tokens[1], estimated)


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait: ``retry-after-ms``, or ``Retry-After`` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, (parsedate_to_datetime(headers["retry-after"]) - datetime.now(UTC)).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None


def _transient(error: Any) -> bool:
    """Whether the same request may succeed later; an exhausted account also gives 429, but permanently."""
    if error.code == "insufficient_quota":
        return False
    return error.status_code in _TRANSIENT or error.status_code >= 500
