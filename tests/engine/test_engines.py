"""Both engines: every part once, whoever dies; what ends a work and what loses one part only."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trackrec.engine.engine import Engine, EngineError, PartDone, PartLost, WorkerError, WorkerSpec
from trackrec.engine.local import LocalEngine
from trackrec.engine.ray_engine import RayEngine
from trackrec.runtime.errors import SettingError

pytestmark = pytest.mark.slow
KINDS = [
    LocalEngine,
    pytest.param(
        RayEngine, marks=pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed")
    ),
]


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    return lambda **settings: request.param(**{"workers": 2, **settings})


def made(engine: Engine, folder: Path, trouble: str = "", parts: int = 6) -> list[PartDone | PartLost]:
    names = deque(map(str, range(parts)))
    return list(engine.run(names, WorkerSpec("made_workers:writer", {"folder": str(folder), "trouble": trouble})))


def begun(folder: Path) -> Counter[str]:
    return Counter((folder / "begun.txt").read_text().split())


def test_every_part_is_made_once_and_two_processes_share_them(engine: Callable[..., Engine], tmp_path: Path) -> None:
    reports = made(engine(), tmp_path, "meet:0", parts=12)
    assert sorted(int(one.part) for one in reports) == list(range(12))
    pids = {one.counts["pid"] for one in reports if isinstance(one, PartDone)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    again = made(engine(workers=1), tmp_path, parts=12)
    assert all(isinstance(one, PartDone) and one.counts["standing"] for one in again)


def test_a_part_whose_worker_dies_is_given_to_another_one(engine: Callable[..., Engine], tmp_path: Path) -> None:
    reports = made(engine(), tmp_path, "kill_once:3")
    assert sorted(one.part for one in reports) == list("012345")
    assert all(isinstance(one, PartDone) for one in reports)
    assert begun(tmp_path)["3"] == 2


@pytest.mark.parametrize(("trouble", "reason"), [("kill:3", "killed by signal 9|gone"), ("raise:3", "of a worker")])
def test_a_part_that_always_fails_is_lost_and_the_others_are_made(
    engine: Callable[..., Engine], tmp_path: Path, trouble: str, reason: str
) -> None:
    reports = made(engine(tries=2), tmp_path, trouble)
    (lost,) = (one for one in reports if isinstance(one, PartLost))
    assert lost.part == "3"
    assert any(word in lost.reason for word in reason.split("|"))
    assert sorted(one.part for one in reports) == list("012345")
    assert begun(tmp_path)["3"] == 2


def test_a_worker_that_hangs_counts_as_dead_at_its_deadline(engine: Callable[..., Engine], tmp_path: Path) -> None:
    reports = made(engine(tries=1, deadline_s=2.0), tmp_path, "hang:3")
    (lost,) = (one for one in reports if isinstance(one, PartLost))
    assert (lost.part, lost.reason) == ("3", "no answer within deadline_s, 2 s")
    assert len(reports) == 6


@pytest.mark.parametrize(
    ("trouble", "kind", "text"),
    [
        ("refuse:3", EngineError, "max_new_tokens must be lower"),
        ("full:3", OSError, "No space left on device"),
        ("unmade:", EngineError, r"backbone\.model: no such model"),
        ("stillborn:", EngineError, r"3 workers in a row ended before their first part|RayActorError|died|gone"),
    ],
)
def test_what_the_next_part_would_meet_as_well_ends_the_work(
    engine: Callable[..., Engine], tmp_path: Path, trouble: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        made(engine(), tmp_path, trouble)


def test_an_error_while_a_worker_is_made_keeps_its_traceback(engine: Callable[..., Engine]) -> None:
    with pytest.raises(WorkerError, match="no attribute 'nobody'"):
        list(engine().run(deque(["0"]), WorkerSpec("made_workers:nobody")))


def test_parts_may_be_added_while_reports_come(engine: Callable[..., Engine], tmp_path: Path) -> None:
    parts = deque(["0"])
    seen = []
    for report in engine().run(parts, WorkerSpec("made_workers:writer", {"folder": str(tmp_path)})):
        seen.append(report.part)
        if len(seen) < 4:
            parts.append(str(len(seen)))
    assert seen == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("key", "value"), [("workers", 0), ("tries", 0), ("deadline_s", 0.0), ("cpus_per_worker", -1.0)]
)
def test_settings_out_of_range_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"engine\.init_args\.{key} must be .* got {value}"):
        RayEngine(**{key: value})


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = (
        "from collections import deque; from trackrec.engine.local import LocalEngine; "
        "from trackrec.engine.engine import WorkerSpec; "
        f"spec = WorkerSpec('made_workers:writer', {{'folder': {str(tmp_path)!r}, 'trouble': 'hang:0'}}); "
        "list(LocalEngine().run(deque(['0']), spec))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, "-c", program], env=env)
    child = waited_for(lambda: children(driver.pid) if (tmp_path / "begun.txt").exists() else None)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert waited_for(lambda: not any(Path(f"/proc/{pid}").exists() and not zombie(pid) for pid in child))


def children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def waited_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    last = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < last, "it never came"
        time.sleep(0.1)
    return found


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed")
def test_ray_listens_on_the_loopback_interface_alone(tmp_path: Path) -> None:
    spec = WorkerSpec("made_workers:writer", {"folder": str(tmp_path)})
    reports: Iterator[Any] = RayEngine(workers=1).run(deque(map(str, range(3))), spec)
    next(reports)
    listening = [local for local, pid in listeners() if is_ray(pid)]
    list(reports)
    assert listening
    assert {address for address in listening if not address.startswith(("127.", "::1", "::ffff:127."))} == set()


def is_ray(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return "ray" in command.lower() and pid != os.getpid()


def listeners() -> list[tuple[str, int]]:
    """Address and process of every listening socket of this machine."""
    import psutil

    found = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return [(one.laddr.ip, one.pid) for one in found if one.pid]
