"""The teacher's API key: in no file of a run, on no stream, in no error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_server import KEY, ChatServer, Play, echoes_key, good, grep
from forks import trackrec_fork

pytestmark = pytest.mark.recipe
TESTS = Path(__file__).parent.parent


def fit(
    config: Path, server: ChatServer, run_dir: Path, *more: str, forked: bool = True
) -> subprocess.CompletedProcess[str]:
    """``trackrec fit`` of one round in a process of its own, which has the key in its environment."""
    teacher = ["--teacher", "OpenAITeacher", "--teacher.model", "m", "--teacher.base_url", server.url]
    args = ["fit", "--config", str(config), *teacher, "--run_dir", str(run_dir)]
    args += ["--loop.rounds", "1", *more]
    proxies = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}", "OPENAI_API_KEY": KEY, **proxies}
    if forked:
        fork = trackrec_fork(*args, env=env, cwd=run_dir.parent)
        out, error = fork.communicate()
        return subprocess.CompletedProcess(args, fork.wait(), out, error)
    command = [sys.executable, "-m", "trackrec", *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=run_dir.parent)


def server(play: Play) -> Any:
    return ChatServer(lambda name, turn: play)


@pytest.mark.slow
def test_a_whole_run_leaves_the_key_nowhere(config: Path, tmp_path: Path) -> None:
    asked = server(good("Likes Film 3. Yes."))
    try:
        ran = fit(config, asked, tmp_path / "run", "--teacher.fraction", "1.0")
    finally:
        asked.stop()
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert asked.keys == {f"Bearer {KEY}"}  # it was really used
    assert (tmp_path / "run/ctr/manifest.json").exists()
    assert grep(tmp_path, KEY) == []
    assert KEY not in ran.stdout + ran.stderr
    assert len(list(tmp_path.rglob("*"))) > 100


def test_a_refused_key_is_not_shown(config: Path, tmp_path: Path) -> None:
    """A server that repeats the key in its 401, and the real command."""
    asked, stages = server(echoes_key), ["--stages", '["data", "teacher"]']
    try:
        ran = fit(config, asked, tmp_path / "run", "--teacher.fraction", "1.0", *stages, forked=False)
    finally:
        asked.stop()
    assert ran.returncode == 1
    assert "HTTP 401" in ran.stderr
    assert "teacher.init_args.api_key_env" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) <= 5
    assert asked.keys == {f"Bearer {KEY}"}
    assert grep(tmp_path, KEY) == []
    assert KEY not in ran.stdout + ran.stderr


def test_a_key_in_the_place_of_its_variables_name_is_not_shown(config: Path, tmp_path: Path) -> None:
    asked = server(good())
    try:
        ran = fit(config, asked, tmp_path / "run", "--teacher.api_key_env", KEY)
    finally:
        asked.stop()
    assert ran.returncode != 0
    assert "api_key_env is the name of an environment variable" in ran.stderr
    assert grep(tmp_path, KEY) == []
    assert KEY not in ran.stdout + ran.stderr
