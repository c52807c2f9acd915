"""Stages run when something they depend on changed, and only then; nothing half-written counts as done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from trackrec.pipeline.lock import ForeignFilesError, RunLockedError
from trackrec.pipeline.pipeline import Pipeline
from trackrec.pipeline.stage import Stage, StageError
from trackrec.runs.hooks import DoneStage, Reading, StageHook, StoppedByMonitorError, call_hooks
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table
from trackrec.storage.schemas import TableError


def pipeline(
    run_dir: Path, config: dict[str, Any], fail: str = "", seed: int = 0, said: list[str] | None = None
) -> Pipeline:
    """Three stages a -> b -> c; b reads config key x.y, c reads z. Each writes what it reads."""
    made = Pipeline(run_dir, config, seed=seed, say=([] if said is None else said).append)

    def body(name: str, text: str, *inputs: str) -> Any:
        def run(out: Path) -> dict[str, Any]:
            if fail == name:
                (out / "half").write_text("half")
                raise OSError("disk full")
            (out / "out").write_text(text + "".join((made.directory(i) / "out").read_text() for i in inputs))
            return {"note": 1}

        return run

    made.add(Stage("a", ("a",), (), "trackrec.metrics.texts", body("a", "a" * config["a"])))
    made.add(Stage("one/b", ("x.y",), ("a",), "trackrec.metrics.texts", body("one/b", f"b{config['x']['y']}", "a")))
    made.add(Stage("c", ("z",), ("one/b",), "trackrec.prompts.settings", body("c", "c", "one/b")))
    return made


CONFIG = {"a": 1, "x": {"y": 2, "other": 3}, "z": {"trainer": {"max_epochs": 1, "enable_progress_bar": True}}}


def test_what_is_done_is_skipped(tmp_path: Path) -> None:
    assert pipeline(tmp_path, CONFIG).run() == ["a", "one/b", "c"]
    assert pipeline(tmp_path, CONFIG).run() == []


@pytest.mark.parametrize(
    ("change", "ran"),
    [
        ({"a": 2}, ["a", "one/b", "c"]),
        ({"x": {"y": 5, "other": 3}}, ["one/b", "c"]),
        ({"x": {"y": 2, "other": 9}}, []),
        ({"z": {"trainer": {"max_epochs": 2, "enable_progress_bar": True}}}, ["c"]),
        ({"z": {"trainer": {"max_epochs": 1, "enable_progress_bar": False}}}, []),
    ],
)
def test_a_change_reruns_what_depends_on_it(change: dict[str, Any], ran: list[str], tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    assert pipeline(tmp_path, {**CONFIG, **change}).run() == ran


def test_an_input_rebuilt_to_the_same_content_changes_nothing_after_it(tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    (tmp_path / "a" / "manifest.json").unlink()
    assert pipeline(tmp_path, CONFIG).run() == ["a"]


def test_another_seed_reruns_everything(tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    assert pipeline(tmp_path, CONFIG, seed=1).run() == ["a", "one/b", "c"]


def test_a_failed_stage_leaves_the_old_result_and_goes_on_later(tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    before = (tmp_path / "one/b/out").read_text()
    changed = {**CONFIG, "x": {"y": 5}}
    with pytest.raises(OSError, match="disk full"):
        pipeline(tmp_path, changed, fail="one/b").run()
    assert (tmp_path / "one/b/out").read_text() == before
    assert pipeline(tmp_path, CONFIG).run() == []
    assert pipeline(tmp_path, changed).run() == ["one/b", "c"]
    assert not list((tmp_path / ".partial").iterdir())


def test_parts_of_another_size_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    """Part k of a run in twos holds other histories than part k of a run in eights."""

    def parts(size: int, stop: int) -> Pipeline:
        made = Pipeline(tmp_path, CONFIG, seed=0, say=[].append)

        def run(out: Path) -> dict[str, Any]:
            for number, start in enumerate(range(0, 16, size)):
                if number == stop:
                    raise OSError("killed")
                path = out / f"part-{number}"
                if not path.exists():
                    path.write_text(" ".join(map(str, range(start, start + size))))
            return {}

        made.add(Stage("a", (), (), "trackrec.metrics.texts", run, part_size=size))
        return made

    with pytest.raises(OSError, match="killed"):
        parts(2, stop=3).run()
    parts(8, stop=9).run()
    texts = [path.read_text() for path in sorted((tmp_path / "a").glob("part-*"))]
    assert " ".join(texts).split() == [str(number) for number in range(16)]
    assert not list((tmp_path / ".partial").iterdir())


def test_what_lightning_makes_of_ctrl_c_is_an_interruption(tmp_path: Path) -> None:
    """Lightning leaves with sys.exit(1), which would look like a finished process with a bad status."""
    made = pipeline(tmp_path, CONFIG)

    def run(out: Path) -> dict[str, Any]:
        (out / "half").write_text("half")
        raise SystemExit(1)

    made.add(Stage("d", (), ("c",), "trackrec.metrics.texts", run))
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert not (tmp_path / "d").exists()
    assert [path.name for path in (tmp_path / ".partial").glob("d-*/half")] == ["half"]


def test_a_run_holds_its_directory(tmp_path: Path) -> None:
    made = pipeline(tmp_path, CONFIG)
    made.add(Stage("d", (), ("c",), "trackrec.metrics.texts", lambda out: {"again": pipeline(tmp_path, CONFIG).run()}))
    with pytest.raises(RunLockedError, match="is in use by process"):
        made.run()


# -- stages that were done and are broken -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\x00\x01", '{"format_version": 1}', '{"format_version": 1, "stage": 3}'], ids=repr
)
def test_a_stage_with_a_broken_manifest_is_made_again_and_said(text: str, tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    (tmp_path / "one/b/manifest.json").write_text(text)
    said: list[str] = []
    assert pipeline(tmp_path, CONFIG, said=said).run() == ["one/b"]
    assert any("one/b" in line and "is damaged" in line and "manifest.json can't be read" in line for line in said)
    assert pipeline(tmp_path, CONFIG).run() == []


def test_a_manifest_that_is_no_text_counts_as_broken(tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    (tmp_path / "a/manifest.json").write_bytes(b"\xff\xfe\x00")
    assert pipeline(tmp_path, CONFIG).run() == ["a"]


def test_a_manifest_of_another_version_is_an_error_and_stays(tmp_path: Path) -> None:
    """Hours of work are not thrown away because someone started the wrong version."""
    pipeline(tmp_path, CONFIG).run()
    path = tmp_path / "one/b/manifest.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(TableError, match=r"one/b/manifest\.json: format_version 2, .*another run_dir, or delete"):
        pipeline(tmp_path, CONFIG).run()
    assert (tmp_path / "one/b/out").exists()


@pytest.mark.parametrize(("left", "words"), [(None, "out is missing"), ("b", "out has 1 bytes instead of 3")])
def test_a_done_stage_that_lost_a_file_or_a_part_of_it_is_made_again(
    left: str | None, words: str, tmp_path: Path
) -> None:
    pipeline(tmp_path, CONFIG).run()
    (tmp_path / "one/b/out").unlink()
    if left:
        (tmp_path / "one/b/out").write_text(left)
    with pytest.raises(StageError, match=f"leaves out one/b, which is damaged .{words}"):
        pipeline(tmp_path, {**CONFIG, "z": 5}).run(["c"])
    with pytest.raises(StageError, match=f"stage one/b is damaged .*{words}.*Run `trackrec fit`"):
        pipeline(tmp_path, CONFIG).manifest("one/b")
    said: list[str] = []
    assert pipeline(tmp_path, CONFIG, said=said).run() == ["one/b"]
    assert any(f"one/b                is damaged: {words}; it is made again" in line for line in said)
    assert (tmp_path / "one/b/out").read_text() == "b2a"


def test_a_damaged_stage_after_the_chosen_ones_is_left_alone(tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    (tmp_path / "c/out").unlink()
    assert pipeline(tmp_path, CONFIG).run(["b"]) == []


def test_an_input_that_was_edited_is_named_before_it_is_read(tmp_path: Path) -> None:
    """Of the same length, so that nothing but its content tells."""
    pipeline(tmp_path, CONFIG).run()
    (tmp_path / "one/b/out").write_text("b9a")
    changed = {**CONFIG, "z": 5}
    with pytest.raises(StageError, match=r"one/b was changed after stage one/b made it\. Delete it and run again"):
        pipeline(tmp_path, changed).run()
    shutil.rmtree(tmp_path / "one/b")
    assert pipeline(tmp_path, changed).run() == ["one/b", "c"]


def test_stages_that_a_named_one_does_not_read_may_be_missing(tmp_path: Path) -> None:
    made = pipeline(tmp_path, CONFIG)
    made.add(Stage("d", (), ("a",), "trackrec.metrics.texts", lambda out: {}))
    with pytest.raises(StageError, match="leaves out a"):
        made.run(["d"])
    assert made.run(["a", "d"]) == ["a", "d"]
    with pytest.raises(StageError, match="leaves out one/b"):
        made.run(["c", "d"])


def test_stages_by_name_and_kind(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="leaves out a"):
        pipeline(tmp_path, CONFIG).run(["c"])
    pipeline(tmp_path, CONFIG).run()
    assert pipeline(tmp_path, {**CONFIG, "x": {"y": 7}}).run(["b"]) == ["one/b"]
    with pytest.raises(StageError, match=r"no stage 'd'.*one/b"):
        pipeline(tmp_path, CONFIG).run(["d"])


def test_the_manifest_tells_rows_versions_and_cost(tmp_path: Path) -> None:
    pipeline(tmp_path, CONFIG).run()
    manifest = read_manifest(tmp_path / "one/b")
    assert manifest is not None
    assert manifest.versions["trackrec"]
    assert manifest.seconds >= 0
    assert manifest.peak_memory_bytes > 1 << 20
    assert manifest.inputs == {"a": read_manifest(tmp_path / "a").content_hash}  # type: ignore[union-attr]


# -- hooks --------------------------------------------------------------------------------------------------------


class Watch:
    """Notes what it is shown; past ``stop`` characters in a stage's file it stops the run, past one it warns."""

    def __init__(self, stop: float) -> None:
        self.stop, self.seen = stop, list[tuple[str, list[str]]]()

    def on_stage_end(self, stage: DoneStage) -> list[Reading]:
        self.seen.append((stage.name, sorted(stage.run.manifests)))
        size = len((stage.directory / "out").read_text())
        verdict: Any = "stop" if size > self.stop else "warn" if size > 1 else "ok"
        return [Reading("Watch", "size", size, 1, 1, self.stop, verdict, "" if verdict == "ok" else f"size {size}.")]


def watched(run_dir: Path, stop: float, lines: list[str] | None = None) -> tuple[Pipeline, Watch]:
    watch = Watch(stop)
    made = pipeline(run_dir, {**CONFIG, "loop": {"rounds": 1}})
    made.say = (lambda text: None) if lines is None else lines.append
    made.after_stage = call_hooks(made, [watch])
    return made, watch


def test_a_hook_sees_every_stage_and_the_run_so_far(tmp_path: Path) -> None:
    made, watch = watched(tmp_path, 99)
    assert isinstance(watch, StageHook)
    made.run()
    assert watch.seen == [("a", ["a"]), ("one/b", ["a", "one/b"]), ("c", ["a", "c", "one/b"])]
    made, watch = watched(tmp_path, 99)
    assert made.run() == []
    assert [name for name, _ in watch.seen] == ["a", "one/b", "c"]  # up to date, and looked at all the same


def test_a_warning_is_one_line_and_a_row(tmp_path: Path) -> None:
    """a writes one character, b three, c four."""
    lines: list[str] = []
    made, _ = watched(tmp_path, 99, lines)
    made.run()
    assert [line for line in lines if "warning" in line] == [
        "    warning, Watch after one/b: size 3.",
        "    warning, Watch after c: size 4.",
    ]
    rows = read_table(tmp_path / "one/b/logs", "monitors", check_keys=True)
    assert rows.select("stage", "monitor", "name", "value", "verdict").rows() == [
        ("one/b", "Watch", "size", 3.0, "warn")
    ]
    before = read_manifest(tmp_path / "one/b")
    assert watched(tmp_path, 98)[0].run() == []  # readings are no part of a stage's content
    assert read_manifest(tmp_path / "one/b") == before


def test_a_stop_ends_the_run_until_the_limit_or_the_stage_changes(tmp_path: Path) -> None:
    """The stage is done: without a second look the next run would walk past it."""
    for _ in range(2):
        made, _ = watched(tmp_path, 2)
        with pytest.raises(StoppedByMonitorError, match=r"^Watch stopped the run after one/b: size 3\."):
            made.run()
        assert read_manifest(tmp_path / "one/b") is not None
        assert not (tmp_path / "c").exists()
        assert read_table(tmp_path / "one/b/logs", "monitors")["verdict"].to_list() == ["stop"]
    assert watched(tmp_path, 9)[0].run() == ["c"]


def test_a_stage_killed_while_its_manifest_was_written_goes_on_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary file that a killed process leaves is no part of what the stage produced."""

    def killed(work: Path, manifest: object) -> None:
        (work / ".manifest.json.tmp").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trackrec.pipeline.publish.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline(tmp_path, CONFIG).run()
    said: list[str] = []
    again = pipeline(tmp_path, CONFIG, said=said)
    assert again.run() == ["a", "one/b", "c"]
    assert "goes on" in said[0]
    assert again.trouble("a") == ""
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"manifest.json", "config.yaml", "out"}


def test_a_folder_called_like_a_stage_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.csv").write_text("mine")
    with pytest.raises(ForeignFilesError, match="Choose another run_dir, or move it"):
        pipeline(tmp_path, CONFIG).run(["c"])
    assert (tmp_path / "a" / "log.csv").read_text() == "mine"
