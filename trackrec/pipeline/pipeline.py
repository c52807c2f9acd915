"""Runs an ordered list of stages: skips what is done, goes on with what was cut off, replaces what changed.

A stage is done when its directory holds a manifest with today's fingerprint: the hash of the config values it reads,
the content of its inputs, and its code. It is built in a directory of its own and moved into place when whole, so the
old result stays until the new one can replace it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trackrec.pipeline.fingerprint import fingerprint
from trackrec.pipeline.lock import check_owned, locked
from trackrec.pipeline.publish import describe, describe_notes, partial_directory, put_in_place
from trackrec.pipeline.reuse import take_over
from trackrec.pipeline.stage import Stage, StageError, StageResult
from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory
from trackrec.storage.atomic import write_atomic
from trackrec.storage.manifest import BrokenManifestError, Manifest, content_hash, find_damage, read_manifest


@dataclass
class Pipeline:
    """Stages of one run directory.

    Args:
        run_dir: where stages live.
        config: the resolved configuration as plain types.
        seed: part of every fingerprint.
        say: prints one line for the person who watches.
        after_stage: called with the name of every stage that is up to date, and whether it was made just now; it may
            raise to end the run.
        reuse: a folder of other runs; a stage that one of them made with the same fingerprint is taken over, not run.
        stages: in the order in which they run.
        spread: runs a stage that wants several processes, in the directory it is given.
        contents: config keys -> hashes of the files that they name.
    """

    run_dir: Path
    config: dict[str, Any]
    seed: int
    say: Callable[[str], None]
    after_stage: Callable[[str, bool], None] = lambda _name, _made: None
    reuse: Path | None = None
    stages: list[Stage] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    spread: Callable[[Stage, Path], StageResult] | None = None
    contents: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {}
    _intact: set[str] = field(default_factory=set)

    def add(self, stage: Stage) -> str:
        """Append a stage; returns its name."""
        self.stages.append(stage)
        return stage.name

    def directory(self, name: str) -> Path:
        """Where a stage's result lies."""
        return self.run_dir / name

    def trouble(self, name: str) -> str:
        """What is broken in a stage that was done once; empty where nothing is, or where it never was.

        Raises:
            TableError: another version of trackrec made it.
        """
        try:
            manifest = read_manifest(self.directory(name))
        except BrokenManifestError as error:
            return error.problem
        return find_damage(self.directory(name), manifest) if manifest else ""

    def done(self, name: str) -> Manifest | None:
        """The manifest of a stage that is done and whole, else None."""
        return None if self.trouble(name) else read_manifest(self.directory(name))

    def manifest(self, name: str) -> Manifest:
        """The manifest of a done stage.

        Raises:
            StageError: the stage isn't done, or is damaged.
        """
        manifest = self.done(name)
        if manifest is None:
            trouble = self.trouble(name)
            state = f"is damaged in {self.run_dir} ({trouble})" if trouble else f"has not run in {self.run_dir}"
            raise StageError(f"stage {name} {state}. Run `trackrec fit` with the same config first.")
        return manifest

    def fingerprint(self, stage: Stage) -> str:
        """What the stage's result depends on, as one hash. Its inputs must be done."""
        return fingerprint(stage, self.config, self.seed, self._inputs(stage), self.contents(stage.keys))

    def is_current(self, stage: Stage) -> bool:
        """Whether the stage is done and nothing that it depends on has changed."""
        manifests = [self.done(name) for name in (*stage.inputs, stage.name)]
        own = manifests[-1]
        return own is not None and all(manifests) and own.fingerprint == self.fingerprint(stage)

    def run(self, only: Sequence[str] | None = None) -> list[str]:
        """Bring every stage, or the named ones, up to date.

        Args:
            only: names (``round-1/align``) or kinds (``align``); the stages that they read must be current.

        Returns:
            The names of the stages that really ran.

        Raises:
            StageError: an unknown name, or a stage left out is not current.
            RunLockedError, ForeignFilesError: another process works on the run directory, or it isn't a run's.
            Exception: whatever `after_stage` raises.
        """
        check_owned(self.run_dir, (stage.name for stage in self.stages))
        with locked(self.run_dir):
            self._run_chosen(self.choose(only))
        return self.ran

    def _run_chosen(self, chosen: set[str]) -> None:
        needed = self._read_by(chosen)
        for number, stage in enumerate(self.stages, 1):
            label = f"[{number:2d}/{len(self.stages)}] {stage.name:<20}"
            if self.is_current(stage):
                self.say(f"{label} up to date")
                self.after_stage(stage.name, False)
                continue
            trouble = self.trouble(stage.name)
            if stage.name in chosen:
                if trouble:
                    self.say(f"{label} is damaged: {trouble}; it is made again")
                if not self._take_over(stage, label):
                    self._run_stage(stage, label)
                self.after_stage(stage.name, True)
            elif stage.name in needed:
                state = f"damaged ({trouble})" if trouble else "not up to date"
                raise StageError(
                    f"this run leaves out {stage.name}, which is {state} in {self.run_dir}. "
                    "Run `trackrec fit` without --stages, or name it too."
                )

    def choose(self, only: Sequence[str] | None) -> set[str]:
        """The names of all stages, or of the named ones and those of the named kinds.

        Raises:
            StageError: no stage has such a name or kind.
        """
        if not only:
            return {stage.name for stage in self.stages}
        known = {stage.name for stage in self.stages} | {stage.kind for stage in self.stages}
        unknown = [name for name in only if name not in known]
        if unknown:
            raise StageError(f"--stages: no stage {unknown[0]!r}. Stages are {', '.join(sorted(known))}.")
        return {stage.name for stage in self.stages if stage.name in only or stage.kind in only}

    def _read_by(self, chosen: set[str]) -> set[str]:
        """Every stage that the chosen ones read, directly or through others."""
        needed = set(chosen)
        for stage in reversed(self.stages):
            if stage.name in needed:
                needed.update(stage.inputs)
        return needed - chosen

    def _inputs(self, stage: Stage) -> dict[str, str]:
        return {name: self.manifest(name).content_hash for name in stage.inputs}

    def _check_inputs(self, stage: Stage) -> None:
        """Compare what a stage is about to read with what was made: lengths are known to be right, bytes are not.

        Raises:
            StageError: an input was changed.
        """
        for name in stage.inputs:
            if name in self._intact:
                continue
            if content_hash(self.directory(name)) != self.manifest(name).content_hash:
                raise StageError(
                    f"{self.directory(name)} was changed after stage {name} made it. Delete it and run again: the "
                    "stage is then made anew."
                )
            self._intact.add(name)

    def _run_stage(self, stage: Stage, label: str) -> None:
        self._check_inputs(stage)
        fingerprint = self.fingerprint(stage)
        size = f"-{stage.part_size}" if stage.part_size else ""
        work = partial_directory(self.run_dir, stage.name, f"{fingerprint[:12]}{size}")
        again = work.exists()
        work.mkdir(parents=True, exist_ok=True)
        self.say(f"{label} {'goes on' if again else 'starts'}")
        self._save_config(work)
        reset_peak_memory()
        started = time.perf_counter()
        try:
            result = self._work(stage, work)
        except SystemExit as stop:
            # What Lightning makes of Ctrl-C (trainer/call.py): the stage is cut off, not done.
            raise KeyboardInterrupt from stop
        seconds = time.perf_counter() - started
        manifest = describe(work, stage.name, fingerprint, self._inputs(stage), result, self.seed, seconds)
        self._publish(work, stage)
        self.ran.append(stage.name)
        rows = sum(manifest.rows.values())
        rate = f", {rows / seconds:,.1f} rows/s" if rows else ""
        facts = describe_notes(result.notes)
        self.say(
            f"{label} {rows:,} rows, {seconds:,.1f} s{rate}, peak {manifest.peak_memory_bytes / 2**20:,.0f} MiB"
            + (f"  ({facts})" if facts else "")
        )

    def _work(self, stage: Stage, work: Path) -> StageResult:
        if stage.processes > 1:
            assert self.spread is not None
            return self.spread(stage, work)
        return StageResult(stage.run(work), peak_memory())

    def _take_over(self, stage: Stage, label: str) -> bool:
        """Take the stage from another run under ``reuse``, where one has made it with the same fingerprint."""
        if self.reuse is None:
            return False
        work = partial_directory(self.run_dir, stage.name, "taken")
        source = take_over(self.reuse, stage.name, self.fingerprint(stage), work)
        if source is None:
            return False
        self._save_config(work)
        self._publish(work, stage)
        self.say(f"{label} taken from {source}")
        return True

    def _save_config(self, work: Path) -> None:
        write_atomic(work / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))

    def _publish(self, work: Path, stage: Stage) -> None:
        put_in_place(work, self.run_dir, stage.name)
        self._intact.add(stage.name)
