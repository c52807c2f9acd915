"""Kills a run inside each of its stages, goes on each time, and compares the end with an undisturbed run.

`main`, run in a fork of `forks`, prints JSON. Every run is a fork of it in turn, which counts the events of the stage
in question (parquet parts put in place, optimizer steps) and sends itself SIGKILL at the chosen one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path


class Events:
    """Counts what happens in each stage; kills the process at one of the events, if told to."""

    def __init__(self, kill_at: tuple[str, int] | None) -> None:
        self.kill_at, self.stage, self.counts = kill_at, "", Counter[str]()

    def watch(self) -> None:
        """Hook into the pipeline, into renames and into optimizers."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from trackrec.pipeline.pipeline import Pipeline

        run_stage = Pipeline._run_stage

        def named(pipeline, stage, place):
            self.stage = stage.name
            run_stage(pipeline, stage, place)
            self.stage = ""

        Pipeline._run_stage = named
        sys.addaudithook(lambda event, args: self.hit(event, args))
        register_optimizer_step_post_hook(lambda *_: self.count())

    def hit(self, event: str, args: tuple) -> None:
        """A part is about to be renamed into place: the temporary file is whole, the part isn't there."""
        if event == "os.rename" and str(args[1]).endswith(".parquet"):
            self.count()

    def count(self) -> None:
        """One more event of the current stage."""
        if self.stage:
            self.counts[self.stage] += 1
            if self.kill_at == (self.stage, self.counts[self.stage]):
                os.kill(os.getpid(), signal.SIGKILL)


def fork_fit(config: str, run_dir: Path, kill_at: tuple[str, int] | None) -> int:
    """Run ``trackrec fit`` in a fork; returns what waitpid says, and leaves the counts beside the run directory."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        from trackrec.cli.app import run_cli

        log = os.open(run_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        events = Events(kill_at)
        events.watch()
        sys.argv = ["trackrec"]
        run_cli(["fit", "--config", config, "--run_dir", str(run_dir)])
        run_dir.with_suffix(".events").write_text(json.dumps(events.counts))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def hashes(run_dir: Path) -> dict[str, str]:
    """Content hash of every stage."""
    found = {}
    for path in sorted(run_dir.rglob("manifest.json")):
        if ".partial" not in path.parts:
            found[path.parent.relative_to(run_dir).as_posix()] = json.loads(path.read_text())["content_hash"]
    return found


def choose(counts: dict[str, int], seed: int) -> dict[str, int]:
    """One event of every stage.

    Args:
        counts: how many events each stage has.
        seed: of a random choice. 0 chooses the first event, the last and the middle one in turn for the stages of a
            kind: round 1's, round 2's, the baseline's.
    """
    rng, of_kind, plan = random.Random(seed), Counter[str](), {}
    for stage, count in counts.items():
        kind = stage.split("/")[-1]
        plan[stage] = [1, count, (count + 1) // 2][of_kind[kind] % 3] if seed == 0 else rng.randint(1, count)
        of_kind[kind] += 1
    return plan


def main(config: str, work_dir: Path, seed: int) -> None:
    """One undisturbed run, then one that dies in every stage."""
    whole, broken = work_dir / "whole", work_dir / "broken"
    if not whole.with_suffix(".events").exists():
        assert fork_fit(config, whole, None) == 0, whole.with_suffix(".log").read_text()[-3000:]
    counts: dict[str, int] = json.loads(whole.with_suffix(".events").read_text())
    plan = choose(counts, seed)
    killed = {}
    for stage, event in plan.items():
        ended = fork_fit(config, broken, (stage, event))
        killed[stage] = os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL
        assert not (broken / stage / "manifest.json").exists(), f"{stage} was done before it was killed"
    assert fork_fit(config, broken, None) == 0, broken.with_suffix(".log").read_text()[-3000:]
    one, other = hashes(whole), hashes(broken)
    differ = sorted(stage for stage in one if one[stage] != other.get(stage))
    left = [path.name for path in (broken / ".partial").iterdir()]
    json.dump({"events": counts, "plan": plan, "killed": killed, "differ": differ, "left": left}, sys.stdout)
