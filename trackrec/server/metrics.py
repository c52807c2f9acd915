"""What Prometheus reads of a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.core import HistogramMetricFamily

from trackrec.server.answer import Ranked
from trackrec.server.loaded import Loaded, User

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_ITEMS = (1, 10, 50, 100, 200, 500, 1000)
_HOUR, _DAY = 3600, 86_400
_AGES = (_HOUR, _DAY, 3 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY, 90 * _DAY)
_CUTS = np.arange(1, 21) / 20


class Scores:
    """A histogram of the probabilities of many answers, counted by NumPy: a hundred at once cost as much as one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts, self._sum = np.zeros(len(_CUTS) + 1, np.int64), 0.0
        registry.register(self)

    def add(self, p: NDArray[np.float32]) -> None:
        """Count them."""
        self._counts += np.bincount(np.searchsorted(_CUTS, p), minlength=len(self._counts))
        self._sum += float(p.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For Prometheus."""
        ends = [*(f"{cut:g}" for cut in _CUTS), "+Inf"]
        buckets = list(zip(ends, np.cumsum(self._counts).tolist(), strict=True))
        family = HistogramMetricFamily("trackrec_p", "P(like) of the answers.")
        family.add_metric([], buckets, self._sum)
        yield family


class Metrics:
    """All of a process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "trackrec_requests", "Answers by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "trackrec_request_seconds",
            "From the first byte to the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting = Gauge("trackrec_waiting_requests", "Requests that have no answer yet.", registry=registry)
        self.candidates = Histogram("trackrec_candidates", "Items of a request.", buckets=_ITEMS, registry=registry)
        self.answered_by = Counter("trackrec_answers", "Rankings by who answered.", ["by"], registry=registry)
        self.text_source = Counter(
            "trackrec_texts", "Rankings by the text that was read.", ["source"], registry=registry
        )
        self.text_age = Histogram(
            "trackrec_text_age_seconds", "Of texts that were read.", buckets=_AGES, registry=registry
        )
        self.unknown_items = Counter("trackrec_unknown_items", "Items outside the catalogue.", registry=registry)
        self.unknown_users = Counter("trackrec_unknown_users", "Requests of users nobody knows.", registry=registry)
        self.events = Counter("trackrec_events", "Events that are on the disk.", registry=registry)
        self.store_errors = Counter("trackrec_store_errors", "Look-ups that failed.", registry=registry)
        self.reloads = Counter("trackrec_reloads", "Reloads by result.", ["result"], registry=registry)
        self.recent = Summary("trackrec_recent_length", "Newest ratings that were read.", registry=registry)
        self.training = Gauge("trackrec_training", "Inputs in training.", ["input", "statistic"], registry=registry)
        self.loaded = Gauge("trackrec_loaded", "1 for what answers now.", ["model", "generation"], registry=registry)
        self.scores = Scores(registry)

    def now_loaded(self, loaded: Loaded) -> None:
        """Say what answers now, and what its inputs were in training."""
        self.loaded.clear()
        self.loaded.labels(loaded.bundle.model_version, loaded.store.info.generation).set(1)
        self.training.clear()
        said: dict[str, Any] = loaded.bundle.info["ranges"]
        for name, facts in said["numbers"].items():
            for statistic in ("mean", "std"):
                self.training.labels(name, statistic).set(facts[statistic])
        for name, share in said["shares"].items():
            self.training.labels(name, "share").set(share)

    def ranked(self, loaded: Loaded, user: User, ranked: Ranked, candidates: int) -> None:
        """Count an answer."""
        self.candidates.observe(candidates)
        self.answered_by.labels(ranked.answered_by).inc()
        self.text_source.labels(ranked.body["text"]["source"]).inc()
        if ranked.text_age_s is not None:
            self.text_age.observe(ranked.text_age_s)
        self.unknown_items.inc(len(ranked.body.get("unknown_items", ())))
        self.unknown_users.inc(not user.known)
        self.recent.observe(min(len(user.state.items), loaded.bundle.recent_len))
        self.scores.add(ranked.p)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
