"""Runs an ordered list of stages: skips what is done, goes on with what was cut off, replaces what changed.

A stage is done when its directory holds a manifest with today's fingerprint: the hash of the config values it reads,
the content of its inputs, and its code. It is built in a directory of its own and moved into place when whole, so the
old result stays until the new one can replace it.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trackrec.pipeline.fingerprint import _code_hash, _without_cosmetics
from trackrec.pipeline.lock import check_owned, locked
from trackrec.pipeline.reuse import take_over
from trackrec.pipeline.stage import Stage, StageError, StageResult, StoppedByMonitorError
from trackrec.runs.files import RunFiles
from trackrec.runs.hooks import DoneStage, StageHook, write_readings
from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory
from trackrec.runtime.versions import threads, versions
from trackrec.storage.atomic import stable_hash, write_whole
from trackrec.storage.manifest import (
    BrokenManifestError,
    Manifest,
    content_files,
    content_hash,
    damage,
    file_sizes,
    read_manifest,
    write_manifest,
)

log = logging.getLogger(__name__)
PARTIAL = ".partial"


@dataclass
class Pipeline:
    """Stages of one run directory.

    Args:
        run_dir: where stages live.
        config: the resolved configuration as plain types.
        seed: part of every fingerprint.
        say: prints one line for the person who watches.
        hooks: called after every stage.
        reuse: a folder of other runs; a stage that one of them made with the same fingerprint is taken over, not run.
        stages: in the order in which they run.
        spread: runs a stage that wants several processes, in the directory it is given.
        contents: config keys -> hashes of the files that they name.
    """

    run_dir: Path
    config: dict[str, Any]
    seed: int
    say: Callable[[str], None]
    hooks: Sequence[StageHook] = ()
    reuse: Path | None = None
    stages: list[Stage] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    spread: Callable[[Stage, Path], StageResult] | None = None
    contents: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {}
    _intact: set[str] = field(default_factory=set)
    _files: RunFiles | None = None

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
            return str(error).partition(". Delete")[0]
        return damage(self.directory(name), manifest) if manifest else ""

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

    def value(self, key: str) -> Any:
        """A config value by its dotted key, without what only concerns the looks."""
        value: Any = self.config
        for part in key.split("."):
            value = value[part] if value is not None else None
        return _without_cosmetics(value)

    def fingerprint(self, stage: Stage) -> str:
        """What the stage's result depends on, as one hash. Its inputs must be done."""
        facts = {
            "stage": stage.name,
            "seed": self.seed,
            "config": {key: self.value(key) for key in stage.keys},
            "inputs": {name: self.manifest(name).content_hash for name in stage.inputs},
            "code": {room: _code_hash(room) for room in ("storage", *stage.rooms)},
            "outside": {**stage.outside(), **self.contents(stage.keys)},
        }
        return stable_hash(json.dumps(facts, sort_keys=True, default=str), digits=32)

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
            StoppedByMonitorError: a hook found the run past a limit, now or when the stage ran.
            RunLockedError, ForeignFilesError: another process works on the run directory, or it isn't a run's.
        """
        check_owned(self.run_dir, (stage.name for stage in self.stages))
        with locked(self.run_dir):
            self._run_chosen(self._choose(only))
        return self.ran

    def _run_chosen(self, chosen: set[str]) -> None:
        needed = self._read_by(chosen)
        for number, stage in enumerate(self.stages, 1):
            place = f"[{number:2d}/{len(self.stages)}] {stage.name:<20}"
            if self.is_current(stage):
                self.say(f"{place} up to date")
                self._call_hooks(stage)
                continue
            trouble = self.trouble(stage.name)
            if stage.name in chosen:
                if trouble:
                    self.say(f"{place} is damaged: {trouble}; it is made again")
                if not self._take_over(stage, place):
                    self._run_stage(stage, place)
                self._files = None
                self._call_hooks(stage)
            elif stage.name in needed:
                state = f"damaged ({trouble})" if trouble else "not up to date"
                raise StageError(
                    f"this run leaves out {stage.name}, which is {state} in {self.run_dir}. "
                    "Run `trackrec fit` without --stages, or name it too."
                )

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

    def _call_hooks(self, stage: Stage) -> None:
        """Let every hook look at a done stage. One that stopped the run stops it again: the stage is done all the same.

        Raises:
            StoppedByMonitorError: with the first reading past its limit, once all hooks have looked.
        """
        if not self.hooks:
            return
        self._files = self._files or RunFiles(self.run_dir, self.config, [one.name for one in self.stages])
        done = DoneStage(stage.name, self._files)
        readings = [reading for hook in self.hooks for reading in hook.on_stage_end(done)]
        write_readings(done, readings)
        for reading in readings:
            if reading.verdict == "warn":
                self.say(f"    warning, {reading.monitor} after {stage.name}: {reading.text}")
        if stops := [reading for reading in readings if reading.verdict == "stop"]:
            raise StoppedByMonitorError(f"{stops[0].monitor} stopped the run after {stage.name}: {stops[0].text}")

    def _choose(self, only: Sequence[str] | None) -> set[str]:
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

    def _run_stage(self, stage: Stage, place: str) -> None:
        self._check_inputs(stage)
        fingerprint = self.fingerprint(stage)
        size = f"-{stage.part_size}" if stage.part_size else ""
        work = self.run_dir / PARTIAL / f"{stage.name.replace('/', '--')}-{fingerprint[:12]}{size}"
        again = work.exists()
        work.mkdir(parents=True, exist_ok=True)
        self.say(f"{place} {'goes on' if again else 'starts'}")
        write_whole(work / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
        reset_peak_memory()
        started = time.perf_counter()
        try:
            notes, peak = self._work(stage, work)
        except SystemExit as stop:
            # What Lightning makes of Ctrl-C (trainer/call.py): the stage is cut off, not done.
            raise KeyboardInterrupt from stop
        seconds = time.perf_counter() - started
        manifest = self._finish(stage, work, fingerprint, notes, seconds, peak)
        self.ran.append(stage.name)
        rows = sum(manifest.rows.values())
        rate = f", {rows / seconds:,.1f} rows/s" if rows else ""
        facts = ", ".join(
            f"{key} {_short(value)}" for key, value in notes.items() if not isinstance(value, dict | list)
        )
        self.say(
            f"{place} {rows:,} rows, {seconds:,.1f} s{rate}, peak {manifest.peak_memory_bytes / 2**20:,.0f} MiB"
            + (f"  ({facts})" if facts else "")
        )

    def _work(self, stage: Stage, work: Path) -> StageResult:
        if stage.processes > 1:
            assert self.spread is not None
            return self.spread(stage, work)
        return StageResult(stage.run(work), peak_memory())

    def _finish(
        self, stage: Stage, work: Path, fingerprint: str, notes: dict[str, Any], seconds: float, peak: int
    ) -> Manifest:
        """Write the manifest, then put the directory in the place of the old one."""
        import pyarrow.parquet as pq

        rows: dict[str, int] = {}
        for path in content_files(work):
            if path.suffix == ".parquet":
                rows[path.parent.name] = rows.get(path.parent.name, 0) + pq.read_metadata(path).num_rows
        manifest = Manifest(
            stage=stage.name,
            fingerprint=fingerprint,
            content_hash=content_hash(work),
            parts=file_sizes(work),
            rows=rows,
            inputs={name: self.manifest(name).content_hash for name in stage.inputs},
            notes=notes,
            versions=versions(),
            seed=self.seed,
            threads=threads(),
            seconds=round(seconds, 3),
            peak_memory_bytes=peak,
        )
        write_manifest(work, manifest)
        self._put(work, stage)
        return manifest

    def _put(self, work: Path, stage: Stage) -> None:
        """A whole directory in the place of the old one."""
        final = self.directory(stage.name)
        old = work.with_name(f"{work.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            final.rename(old)
        work.rename(final)
        # Not before: a crash in between would cost the training.
        shutil.rmtree(final / "checkpoints", ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        self._sweep(stage)
        self._intact.add(stage.name)

    def _take_over(self, stage: Stage, place: str) -> bool:
        """Take the stage from another run under ``reuse``, where one has made it with the same fingerprint."""
        if self.reuse is None:
            return False
        work = self.run_dir / PARTIAL / f"{stage.name.replace('/', '--')}-taken"
        source = take_over(self.reuse, stage.name, self.fingerprint(stage), work)
        if source is None:
            return False
        write_whole(work / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
        self._put(work, stage)
        self.say(f"{place} taken from {source}")
        return True

    def _sweep(self, stage: Stage) -> None:
        """Drop what older fingerprints of this stage left half done."""
        for left in (self.run_dir / PARTIAL).glob(f"{stage.name.replace('/', '--')}-*"):
            shutil.rmtree(left, ignore_errors=True)


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
