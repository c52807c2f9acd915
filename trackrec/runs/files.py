"""Reads the finished, up-to-date stages of a run directory, for the report and for monitors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from trackrec.prompts.book import PromptBook
from trackrec.prompts.grounding import ClaimChecker, checker_of
from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.graph import every_stage, stage_names
from trackrec.recipe.names import DATA, SHUFFLED, TEST, round_of
from trackrec.recipe.tables import without_items
from trackrec.storage.manifest import MANIFEST, BrokenManifestError, Manifest, read_manifest
from trackrec.storage.parts import read_table
from trackrec.storage.schemas import SCHEMAS

LOGS = "logs"


def newest_of(paths: Iterable[Path]) -> Path | None:
    """Of the files that exist the one written last; None if none exists."""
    return max(filter(Path.exists, paths), key=lambda path: path.stat().st_mtime_ns, default=None)


class RunFiles:
    """Reads the finished stages of a run.

    A stage whose inputs have been replaced since it ran is ``outdated``. A stage that the configuration no longer has
    is ``foreign``, such as ``round-1/align`` under ``loop.align: false``. Neither is read.

    Args:
        run_dir: of the run.
        config: the resolved configuration as plain types.
        stages: names of its stages; None takes those of the recipe with this configuration.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], stages: Iterable[str] | None = None) -> None:
        self.run_dir, self.config = run_dir, config
        self.rounds = int(config["loop"]["rounds"])
        configured = {*(stage_names(config) if stages is None else stages), TEST}
        manifests = _manifests(run_dir)
        current = _current(manifests)
        self.manifests = {name: manifests[name] for name in manifests if name in current and name in configured}
        self.outdated = [name for name in manifests if name not in current and name in configured]
        self.foreign = [name for name in manifests if name not in configured]

    def has(self, stage: str) -> bool:
        """Whether a stage is done and current."""
        return stage in self.manifests

    def notes(self, stage: str) -> dict[str, Any]:
        """The notes in a stage's manifest, empty if the stage isn't done."""
        return self.manifests[stage].notes if self.has(stage) else {}

    def table(self, stage: str, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame | None:
        """A table of a stage, None if the stage isn't done or wrote no such table."""
        if not self.has(stage) or name not in self.manifests[stage].rows:
            return None
        return read_table(self.run_dir / stage, name, columns=columns)

    @cached_property
    def saved_config(self) -> Mapping[str, Any]:
        """The configuration of the stage that ran last; the config file may have changed since."""
        # By time, not by order: while a changed configuration reruns stages, later stages still have the old one.
        paths = [self.run_dir / stage / "config.yaml" for stage in reversed(self.manifests)]
        newest = newest_of(paths)
        return self.config if newest is None else dict(yaml.safe_load(newest.read_text()))

    @cached_property
    def samples(self) -> pl.DataFrame:
        """sample_id, user_id, history_id and label of every sample; no rows if the data stage isn't done."""
        columns = ("sample_id", "user_id", "history_id", "label")
        samples = self.table(DATA, "samples", columns)
        return _empty("samples").select(columns) if samples is None else samples

    @cached_property
    def empty_histories(self) -> frozenset[str]:
        """Histories without an item: no generator wrote their texts."""
        if not self.notes(DATA).get("without_history"):
            return frozenset()
        histories = self.table(DATA, "histories", ("history_id", "item_ids"))
        assert histories is not None
        return without_items(histories)

    @cached_property
    def metrics(self) -> pl.DataFrame:
        """The metrics of every stage. The V that scored a round's draws is the arm ``scorer``, ``judge`` in 0.1.0."""
        frames = [table for stage in self.manifests if (table := self.table(stage, "metrics")) is not None]
        return pl.concat([_empty("metrics"), *frames]).with_columns(pl.col("arm").replace({"judge": "scorer"}))

    def answers(self, stage: str, validator: str, source: str | None = None) -> pl.DataFrame | None:
        """One validator's scores in a stage, by sample; None if there are none.

        Columns: sample_id, p_yes, answer_mass, p_true, user_id, history_id, label.

        Args:
            stage: its name.
            validator: the stage that tuned it, or ``base``.
            source: of the texts that it read, such as ``shuffled``; None is all but the texts of other users.
        """
        scores = self.table(stage, "scores", ("sample_id", "source", "validator", "p_yes", "answer_mass", "p_true"))
        if scores is None:
            return None
        read = pl.col("source") != SHUFFLED if source is None else pl.col("source") == source
        scores = scores.filter((pl.col("validator") == validator) & read).drop("validator", "source")
        labelled = scores.join(self.samples, on="sample_id", how="inner").sort("sample_id")
        return labelled if len(labelled) else None

    def validators(self, stage: str) -> list[str]:
        """Names of the validators that scored in a stage."""
        scores = self.table(stage, "scores", ("validator",))
        return [] if scores is None else scores["validator"].unique(maintain_order=True).to_list()

    @property
    def prompts(self) -> PromptSettings:
        """Words and limits of the prompts that the generator and the validator read."""
        return PromptSettings.of(self.saved_config["prompts"])

    def book(self, history_ids: Collection[str], item_ids: Collection[str] = ()) -> PromptBook:
        """The named histories with their users and items, further named items, and no others."""
        tables = [self.table(DATA, name) for name in ("histories", "items", "users")]
        histories, items, users = (pl.DataFrame() if table is None else table for table in tables)
        histories = histories.filter(pl.col("history_id").is_in(list(history_ids)))
        held = histories["item_ids"].explode().unique()
        items = items.filter(pl.col("item_id").is_in([*held.drop_nulls(), *item_ids]))
        if len(users):
            users = users.filter(pl.col("user_id").is_in(histories["user_id"].implode()))
        return PromptBook(histories, items, users, self.notes(DATA)["threshold"], self.prompts)

    def claim_checker(self, texts: Iterable[str]) -> ClaimChecker:
        """Finds names of the catalogue; it knows only those titles whose words all occur in the texts."""
        items = self.table(DATA, "items", ("title", "attributes"))
        assert items is not None
        attributes = items["attributes"].explode().drop_nulls().unique().to_list()
        return checker_of(texts, items["title"].to_list(), attributes)

    def readings(self) -> pl.DataFrame:
        """The monitors' readings, in the order of the stages."""
        folders = [self.run_dir / stage / LOGS for stage in self.manifests]
        frames = [read_table(folder, "monitors") for folder in folders if (folder / "monitors").is_dir()]
        return pl.concat([_empty("monitors"), *frames])

    def step_logs(self, stage: str) -> pl.DataFrame | None:
        """What a training stage logged, in the order of its steps; None if there is no log."""
        path = self.run_dir / stage / LOGS / "metrics.csv"
        if not self.has(stage) or not path.exists():
            return None
        return pl.read_csv(path).sort("step")


def _empty(table: str) -> pl.DataFrame:
    frame = pl.from_arrow(SCHEMAS[table].empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _manifests(run_dir: Path) -> dict[str, Manifest]:
    """Manifests of all finished stages in the order of the recipe; stages that it doesn't have come last."""
    manifests = {}
    for path in [*run_dir.glob(f"*/{MANIFEST}"), *run_dir.glob(f"*/*/{MANIFEST}")]:
        name = path.parent.relative_to(run_dir).as_posix()
        if name.startswith("."):
            continue
        try:
            manifest = read_manifest(path.parent)
        except BrokenManifestError:  # the stage isn't done; the next `fit` reports it
            continue
        if manifest is not None:
            manifests[name] = manifest
    order = every_stage(max([1, *map(round_of, manifests)]))
    known = [name for name in order if name in manifests]
    return {name: manifests[name] for name in (*known, *sorted(manifests.keys() - set(known)))}


def _current(manifests: Mapping[str, Manifest]) -> set[str]:
    """Stages whose inputs have the recorded content and are current themselves."""
    current: set[str] = set()
    remaining = dict(manifests)
    while True:
        ready = {
            name
            for name, manifest in remaining.items()
            if all(key in current and manifests[key].content_hash == value for key, value in manifest.inputs.items())
        }
        if not ready:
            return current
        current |= ready
        remaining = {name: manifest for name, manifest in remaining.items() if name not in ready}
