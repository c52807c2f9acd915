"""The files under deploy/ name metrics and flags that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from trackrec.server.metrics import Metrics
from trackrec.server.settings import ServerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    metrics = Metrics()
    names = {name for family in metrics.registry.collect() for name in (family.name, *_samples(family.name))}
    board = json.loads((DEPLOY / "grafana" / "trackrec.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for one in panel["targets"]
        for name in re.findall(r"trackrec_\w+", one["expr"])
    }
    assert len(asked) > 10
    assert asked <= names


def _samples(family: str) -> list[str]:
    return [f"{family}_{end}" for end in ("total", "bucket", "sum", "count")]


def test_the_image_starts_with_flags_that_exist() -> None:
    words = json.loads(re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0])
    flags = [word.removeprefix("--") for word in words if word.startswith("--")]
    assert len(flags) == 4
    assert set(flags) <= set(ServerSettings.__annotations__)
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"server", "redis", "prometheus"}
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one.get("ports", []))
