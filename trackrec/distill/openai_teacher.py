"""A teacher behind any OpenAI-compatible server."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from trackrec.distill.answers import Answer, AnswerStore
from trackrec.distill.chat_client import Budget, ChatClient
from trackrec.distill.teacher import Teacher, TeacherError, TeacherRequest, TeacherTexts
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import RECCOT_TEMPLATE, prompt_hash
from trackrec.runtime.errors import SettingError
from trackrec.runtime.packages import MissingPackageError, need
from trackrec.runtime.quantities import Seconds
from trackrec.storage.atomic import stable_hash

log = logging.getLogger(__name__)

# Named here, so that OPENAI_BASE_URL in the environment can't change where an experiment sends its prompts.
_OPENAI = "https://api.openai.com/v1"
_NO_KEY = "none"  # local servers require a key but don't check it
_FRAME_TOKENS = 64  # more than any chat template adds to one message


class _Job(NamedTuple):
    """One request, the key under which its answer is stored, and the most tokens it can read and write."""

    key: str
    history_id: str
    prompt: str
    most_tokens: tuple[int, int]


class OpenAITeacher(Teacher):
    """Asks a model behind an OpenAI-compatible server, with the prompt that G will see.

    Answers are saved in the stage directory as they arrive, so a rerun requests only the missing ones. Refusals (only
    those that the server marks as such) and empty answers are counted and give no text.

    Args:
        model: its name at the server.
        fraction: see `Teacher`.
        base_url: of the server, such as ``http://localhost:8000/v1``; null is OpenAI's own.
        api_key_env: the environment variable that holds the key. Its value is sent to ``base_url`` only, so
            name another variable for another server. With ``base_url`` it may be unset.
        concurrency: requests at the same time.
        timeout_s: the longest time without a response from the server, in seconds or with a unit (``2min``).
        max_retries: retries of one request after a 429, a 5xx, a lost connection or a time-out.
        temperature: null leaves it to the server, as some reasoning models demand.
        max_new_tokens: length limit of an answer, including the reasoning of reasoning models.
        max_cost: the most that the answers of the stage, saved ones included, may cost, in the currency of the prices.
            The cost of requests that the server never answered is unknown and not counted.
        price_in: per million tokens read; null is unknown.
        price_out: per million tokens written; null is unknown.
    """

    def __init__(
        self,
        model: str,
        fraction: float = 0.05,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout_s: Seconds | float = 60.0,
        max_retries: int = 6,
        temperature: float | None = 0.7,
        max_new_tokens: int = 512,
        max_cost: float | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        super().__init__(fraction)
        at_least = {"concurrency": (concurrency, 1), "max_retries": (max_retries, 0)}
        at_least |= {"max_new_tokens": (max_new_tokens, 1)}
        for key, (number, low) in at_least.items():
            if number < low:
                raise SettingError(f"teacher.init_args.{key} must be at least {low}, got {number}.")
        for key, value in (("timeout_s", timeout_s), ("max_cost", max_cost)):
            if value is not None and not value > 0:
                raise SettingError(f"teacher.init_args.{key} must be above 0, got {value}.")
        for key, value in (("price_in", price_in), ("price_out", price_out), ("temperature", temperature)):
            if value is not None and not value >= 0:
                raise SettingError(f"teacher.init_args.{key} must be at least 0, got {value}.")
        if max_cost is not None and (price_in is None or price_out is None):
            raise SettingError(
                f"teacher.init_args.max_cost is {max_cost}, but without teacher.init_args.price_in and price_out "
                "(per million tokens) no cost is known: set both, or leave max_cost out."
            )
        _check_url(base_url)
        if not re.fullmatch(r"[A-Za-z_]\w*", api_key_env):
            # Not shown: it may be the key itself.
            raise SettingError(
                "teacher.init_args.api_key_env is the name of an environment variable, such as OPENAI_API_KEY, but "
                "the value given can't be one. Put the key into the variable, never into a config."
            )
        self.model, self.base_url, self.api_key_env = model, base_url, api_key_env
        self.concurrency, self.timeout_s, self.max_retries = concurrency, float(timeout_s), max_retries
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.max_cost, self.price_in, self.price_out = max_cost, price_in, price_out

    def check(self) -> None:
        """See `Teacher.check`: whether openai is installed, and a key is given where one is needed."""
        need("teacher OpenAITeacher", "teacher", "openai")
        self._key()

    def write(self, requests: Sequence[TeacherRequest], words: PromptSettings, out_dir: Path) -> TeacherTexts:
        """See `Teacher.write`; an empty history is not requested and gets no text.

        Raises:
            MissingPackageError: openai isn't installed.
            TeacherError: the key is missing, the server doesn't answer, or ``max_cost`` is reached. Answers are kept.
        """
        jobs = [self._job(request, words) for request in requests if request.history]
        with AnswerStore(out_dir, [job.key for job in jobs]) as store:
            missing = [job for job in jobs if store.get(job.key) is None]
            request_counts = self._ask(missing, jobs, store) if missing else {"requests": 0, "retries": 0}
            answers = {job.history_id: answer for job in jobs if (answer := store.get(job.key))}
        counts = {"answers_kept": len(jobs) - len(missing), **request_counts, **self._counts(list(answers.values()))}
        log.info("teacher %s: %s", self.model, ", ".join(f"{key} {value}" for key, value in counts.items()))
        texts = {key: answer.text for key, answer in answers.items() if answer.outcome == "text"}
        cut = frozenset(key for key in texts if answers[key].cut)
        return TeacherTexts([texts.get(request.history_id) for request in requests], counts, cut)

    def _job(self, request: TeacherRequest, words: PromptSettings) -> _Job:
        segments = request.segments(words)
        prompt = "".join(segments)
        prompt_id = prompt_hash(RECCOT_TEMPLATE, segments)
        settings = (self.model, self.base_url, self.temperature, self.max_new_tokens)
        key = stable_hash("openai", request.history_id, prompt_id, *settings, digits=32)
        # No tokenizer makes more tokens than bytes.
        return _Job(key, request.history_id, prompt, (len(prompt.encode()) + _FRAME_TOKENS, self.max_new_tokens))

    def _ask(self, missing: Sequence[_Job], jobs: Sequence[_Job], store: AnswerStore) -> dict[str, int]:
        """Request the missing answers; each is stored before the next request of its thread."""
        from tqdm import tqdm

        spent = sum(self._cost(answer) for job in jobs if (answer := store.get(job.key)))
        budget = Budget(self.max_cost, spent)
        key = self._key()
        with self._connect(key or _NO_KEY) as connection:
            client = ChatClient(connection, self._options(), self.max_retries, secret=key)
            pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="teacher")
            bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="teacher", unit="text", disable=None)
            try:
                for future in as_completed([pool.submit(self._one, job, client, budget, store) for job in missing]):
                    future.result()
                    bar.update()
            except TeacherError as error:
                _end(client, pool)
                raise TeacherError(
                    f"teacher {self.model}: {error} {self._kept(jobs, store)} Run again: only the missing answers are "
                    "requested."
                ) from None
            finally:
                _end(client, pool)
                bar.close()
        if budget.refused:
            raise TeacherError(
                f"teacher.init_args.max_cost is {self.max_cost:g}: the answers so far cost {budget.spent:.4g}, and the "
                f"next could cost {budget.refused:.4g}. {self._kept(jobs, store)} Raise teacher.init_args.max_cost and "
                "run again: only the missing answers are requested."
            )
        return {"requests": client.requests, "retries": client.retries}

    def _one(self, job: _Job, client: ChatClient, budget: Budget, store: AnswerStore) -> None:
        """Send one request, if the budget allows it, and store the answer."""
        most = self._price(*job.most_tokens)
        if client.stop.is_set() or not budget.reserve(most):
            return
        cost = 0.0
        try:
            if answer := client.ask(job.prompt, job.most_tokens):
                store.add(job.key, job.history_id, answer)
                cost = self._cost(answer)
        except BaseException:
            client.stop.set()  # here, since the pool starts the next request before this error is handled
            raise
        finally:
            budget.settle(most, cost)

    def _options(self) -> dict[str, Any]:
        # OpenAI's reasoning models refuse max_tokens; most other servers silently ignore max_completion_tokens.
        limit = "max_completion_tokens" if self.base_url is None else "max_tokens"
        options: dict[str, Any] = {"model": self.model, limit: self.max_new_tokens}
        return options if self.temperature is None else {**options, "temperature": self.temperature}

    def _connect(self, key: str) -> Any:
        try:
            import openai
        except ImportError as error:
            raise MissingPackageError(f"OpenAITeacher needs openai ({error}): pip install trackrec[teacher]") from error
        url = _OPENAI if self.base_url is None else self.base_url
        return openai.OpenAI(api_key=key, base_url=url, timeout=self.timeout_s, max_retries=0)

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and self.base_url is None:
            raise TeacherError(
                f"teacher.init_args.api_key_env: the environment variable {self.api_key_env} holds no key for "
                f"{_OPENAI}. Export it, or set teacher.init_args.base_url to a server that needs none."
            )
        return key

    def _kept(self, jobs: Sequence[_Job], store: AnswerStore) -> str:
        counts = self._counts([answer for job in jobs if (answer := store.get(job.key))])
        line = ", ".join(f"{key} {value}" for key, value in counts.items() if value)
        return f"{len(store)} of {len(jobs)} answers are kept in {store.path} ({line or 'no tokens'})."

    def _counts(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Outcomes, tokens and cost of answers."""
        outcomes = Counter(answer.outcome for answer in answers)
        cost = None if None in (self.price_in, self.price_out) else round(sum(map(self._cost, answers)), 6)
        return {
            "refused": outcomes["refused"],
            "empty": outcomes["empty"],
            "cut": sum(answer.cut for answer in answers),
            "without_usage": sum(answer.estimated for answer in answers),
            "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
            "completion_tokens": sum(answer.completion_tokens for answer in answers),
            "cost": cost,
        }

    def _cost(self, answer: Answer) -> float:
        return self._price(answer.prompt_tokens, answer.completion_tokens)

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * (self.price_in or 0.0) + tokens_out * (self.price_out or 0.0)) / 1e6


def _end(client: ChatClient, pool: ThreadPoolExecutor) -> None:
    """Start no new request; those in flight finish first, and their answers are stored."""
    client.stop.set()
    pool.shutdown(cancel_futures=True)


def _check_url(url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise SettingError(
            "teacher.init_args.base_url holds a user name or password, which would be written to config files: leave "
            "it out, and put the key into the environment variable that teacher.init_args.api_key_env names."
        )
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SettingError(
            f"teacher.init_args.base_url must begin with http:// or https://, got {url!r}. "
            "Most servers want /v1 at its end."
        )
