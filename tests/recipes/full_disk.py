"""Runs a recipe on a disk that is too small for each of its files in turn, and goes on with more room each time.

`main`, run in a fork of `forks`, prints JSON. Every run is a fork of it in turn. In the stages in question a file may
not grow beyond a limit (RLIMIT_FSIZE, which the kernel enforces): from nothing, past the size of every file that the
stage makes, until it is done.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import pyarrow.parquet as pq
from crashes import hashes
from safetensors import safe_open

# Every kind of stage once.
STAGES = ["data", "teacher", "distill", "round-1/sample", "round-1/score", "round-1/preferences", "round-1/align"]
STAGES += ["round-1/rec_tune", "round-1/evaluate", "texts", "embed", "ctr", "test"]
MOST = 6  # limits per stage


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fork_run(command: str, config: str, run_dir: Path, stage: str | None, size: int) -> int:
    """``trackrec fit`` or ``test`` in a fork, with little room in one stage; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99
    try:
        from trackrec.cli.app import run_cli
        from trackrec.pipeline.pipeline import Pipeline

        log = os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        run_stage = Pipeline._run_stage

        def limited(pipeline, one, place):
            if one.name != stage:
                return run_stage(pipeline, one, place)
            with room(size):
                run_stage(pipeline, one, place)
            os._exit(0)  # the stages after it are for later

        Pipeline._run_stage = limited
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["trackrec"]
        run_cli([command, "--config", config, "--run_dir", str(run_dir), "--loop.rounds", "1"])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def half_written(run_dir: Path) -> list[str]:
    """Files that can't be read, and temporary ones."""
    found = []
    for path in run_dir.rglob("*"):
        try:
            if path.name.endswith(".tmp") or path.name == "_new":
                raise ValueError("temporary")
            if path.suffix == ".parquet":
                pq.read_table(path)
            if path.suffix == ".safetensors":
                safe_open(path, framework="numpy")
            if path.suffix == ".ckpt" and ZipFile(path).testzip():
                raise ValueError("torn")
            if path.suffix == ".json":
                json.loads(path.read_text())
        except Exception as error:
            found.append(f"{path}: {error}")
    return found


def limits(run_dir: Path, stage: str) -> list[int]:
    """One byte less than each file of the stage needs, and more than its adapter, so that a checkpoint fails."""
    manifest = json.loads((run_dir / stage / "manifest.json").read_text())
    sizes = {*manifest["parts"].values(), (run_dir / stage / "manifest.json").stat().st_size}
    sizes |= {path.stat().st_size for path in (run_dir / stage).glob("logs/**/*") if path.is_file()}
    adapter = run_dir / stage / "adapter" / "adapter_model.safetensors"
    more = [adapter.stat().st_size + 100] if adapter.exists() else []
    found = sorted({0, *(size - 1 for size in sizes), *more})
    return found if len(found) <= MOST else [found[place * (len(found) - 1) // (MOST - 1)] for place in range(MOST)]


def main(config: str, work_dir: Path) -> None:
    """One run with room, then one that meets a full disk in every stage."""
    whole, broken = work_dir / "whole", work_dir / "broken"
    for command in ("fit", "test"):
        assert fork_run(command, config, whole, None, 0) == 0, whole.with_suffix(".log").read_text()[-3000:]
    wrong, met = [], {}
    for stage in STAGES:
        met[stage] = 0
        command = "test" if stage == "test" else "fit"
        if command == "test":
            assert fork_run("fit", config, broken, None, 0) == 0
        for size in limits(whole, stage):
            status = fork_run(command, config, broken, stage, size)
            if status == 0:
                break
            met[stage] += 1
            said = broken.with_suffix(".log").read_text()
            if status != 1 or "Make room and run the same command again" not in said or "Traceback" in said:
                wrong.append([stage, size, status, said[-600:]])
            wrong += [[stage, size, left] for left in half_written(broken)]
            if (broken / stage / "manifest.json").exists():
                wrong.append([stage, size, "done"])
    assert fork_run("test", config, broken, None, 0) == 0, broken.with_suffix(".log").read_text()[-3000:]
    one, other = hashes(whole), hashes(broken)
    differ = sorted(name for name in one if one[name] != other.get(name))
    left = [path.name for path in (broken / ".partial").iterdir()]
    json.dump({"met": met, "wrong": wrong, "differ": differ, "left": left}, sys.stdout)
