"""The real command line on a tiny random model: every stage, resumption, reruns, test, predict."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from tiny import save_tiny_encoder

from trackrec.cli.app import run_cli
from trackrec.runs.files import RunFiles
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = pytest.mark.recipe


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


def started(output: str) -> list[str]:
    """Names of the stages that ran."""
    return [line.split("] ")[1].split()[0] for line in output.splitlines() if line.endswith((" starts", " goes on"))]


@pytest.fixture(scope="module")
def finished(config: Path) -> str:
    """The output of the first fit."""
    import contextlib
    import io

    before, sys.argv = sys.argv, ["trackrec"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            run_cli(["fit", "--config", str(config)])
    finally:
        sys.argv = before
    return out.getvalue()


def run_dir(config: Path) -> Path:
    return Path(yaml.safe_load(config.read_text())["run_dir"])


def copy_of(config: Path, tmp_path: Path, *without: str) -> Path:
    """A copy of the finished run without some stages: what changes in it costs the other tests no rerun."""
    copy = Path(shutil.copytree(run_dir(config), tmp_path / "run"))
    for stage in without:
        shutil.rmtree(copy / stage)
    return copy


def test_fit_runs_every_stage_and_prints_the_tables(finished: str, config: Path) -> None:
    names = started(finished)
    rounds = ["sample", "score", "preferences", "align", "greedy", "rec_tune", "evaluate"]
    assert names == [
        *("data", "teacher", "distill", "warmup/greedy", "warmup/rec_tune", "warmup/evaluate"),
        *(f"round-{number}/{kind}" for number in (1, 2) for kind in rounds),
        *("plain/rec_tune", "plain/evaluate", "texts", "embed", "ctr"),
    ]
    assert "Rounds (validation)" in finished
    assert "DIN + RecCoT" in finished
    assert finished.count("budget:") >= 12
    assert not Path("lightning_logs").exists()  # everything belongs under run_dir
    metrics = read_table(run_dir(config) / "ctr", "metrics")
    assert {"none", "reccot", "shuffled", "item_mean"} <= set(metrics["arm"])
    assert metrics.filter(pl.col("name") == "auc_minus_shuffled")["ci_low"].is_not_null().all()


def test_every_history_has_one_text_and_every_text_one_vector(finished: str, config: Path) -> None:
    texts = read_table(run_dir(config) / "texts", "reccots", check_keys=True)
    histories = read_table(run_dir(config) / "data", "histories")
    assert sorted(texts["history_id"]) == sorted(histories["history_id"])
    vectors = read_table(run_dir(config) / "embed", "embeddings", check_keys=True)
    assert vectors["text_hash"].n_unique() == texts["text"].n_unique()


def test_v_never_scores_a_row_on_which_it_was_tuned(finished: str, config: Path) -> None:
    samples = read_table(run_dir(config) / "data", "samples")
    tuned = set(samples.filter(pl.col("use") == "tune")["sample_id"])
    scored = {
        key for name in (1, 2) for key in read_table(run_dir(config) / f"round-{name}/score", "scores")["sample_id"]
    }
    assert scored
    assert not scored & tuned


def test_draws_are_scored_on_both_classes_and_other_histories_get_none(finished: str, config: Path) -> None:
    """loop.targets is 2: a like and a dislike. The other histories in the loop have texts, and rows that tune V."""
    root = run_dir(config)
    files = RunFiles(root, {"loop": {"rounds": 2}})
    scores = read_table(root / "round-1/score", "scores").join(files.samples, on="sample_id")
    labels = scores.group_by("history_id", "draw").agg(pl.col("label").sort())
    assert labels["label"].to_list() == [[0, 1]] * len(labels)
    sampled = set(read_table(root / "round-1/sample", "reccots")["history_id"])
    assert set(scores["history_id"]) == sampled
    left_out = files.notes("round-1/sample")["left_out"]
    assert left_out == files.notes("round-1/preferences")["left_out"]
    assert sampled < set(read_table(root / "round-1/greedy", "reccots")["history_id"])
    assert files.notes("round-1/preferences")["reliability"] == "not measurable"
    measured = read_table(root / "round-1/preferences", "metrics").filter(pl.col("name") == "reward_reliability")
    assert measured["n"].to_list() == [0]


def test_a_second_fit_runs_nothing(finished: str, config: Path, trackrec: Callable[..., str]) -> None:
    output = trackrec("fit", "--config", str(config))
    assert started(output) == []
    skipped = [line.split("] ")[1].split()[0] for line in output.splitlines() if line.endswith(" up to date")]
    assert skipped == started(finished)


@pytest.mark.slow
def test_another_net_reruns_only_the_ctr_stage(
    finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    asked = ("fit", "--config", str(config), "--run_dir", str(copy_of(config, tmp_path)))
    output = trackrec(*asked, "--stages", "ctr", "--ctr.net", "DeepFM")
    assert started(output) == ["ctr"]
    assert "DeepFM + RecCoT" in output
    assert started(trackrec(*asked, "--ctr.net", "LightFM")) == ["ctr"]
    assert started(trackrec(*asked)) == ["ctr"]


def test_the_history_itself_as_placebo_is_embedded_when_asked_for(
    finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    copy = copy_of(config, tmp_path)
    asked = ("--ctr.arms", "[none, reccot, prompt]", "--ctr.text.use", "query", "--ctr.connector", "GatedConnector")
    output = trackrec("fit", "--config", str(config), "--run_dir", str(copy), *asked)
    assert started(output) == ["embed", "ctr"]
    assert "DIN + the history itself" in output
    metrics = read_table(copy / "ctr", "metrics")
    found = set(metrics.filter(pl.col("arm") == "reccot")["name"])
    assert {"verdict", "auc_minus_best_placebo", "auc_minus_none_mde", "gate_mean"} <= found
    assert "seen_users" in set(metrics["slice"])  # too few others for an interval


def test_another_beta_reruns_from_the_first_alignment(
    finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    asked = ("--run_dir", str(copy_of(config, tmp_path)), "--align.model.beta", "0.3")
    names = started(trackrec("fit", "--config", str(config), *asked))
    assert names[0] == "round-1/align"
    assert names[-1] == "ctr"
    assert not {"data", "teacher", "distill", "round-1/sample", "round-1/score", "plain/rec_tune"} & set(names)


def test_test_reads_the_test_split_once(
    finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    asked = ("test", "--config", str(config), "--run_dir", str(copy_of(config, tmp_path)))
    output = trackrec(*asked)
    assert "read 1 time(s)" in output
    assert "V tuned, RecCoT" in output
    assert "read 1 time(s)" in trackrec(*asked)


def test_fit_and_test_write_the_report(
    finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    assert f"The report is {run_dir(config) / 'report' / 'index.html'}" in finished
    copy = copy_of(config, tmp_path)
    page, asked = copy / "report" / "index.html", ("--config", str(config), "--run_dir", str(copy))
    assert "The test split has not been read" in page.read_text()
    assert f"The report is {page}" in trackrec("test", *asked)
    text = page.read_text()
    assert "The test split has not been read" not in text
    assert "Film 3" in text
    shutil.rmtree(page.parent)
    assert started(trackrec("report", *asked)) == []
    assert page.read_text() == text


def test_every_step_of_an_alignment_is_logged(finished: str, config: Path) -> None:
    files = RunFiles(run_dir(config), {"loop": {"rounds": 2}})
    for stage in ("round-1/align", "round-2/align"):
        log = files.step_logs(stage)
        assert log is not None
        assert log["step"].to_list() == list(range(files.notes(stage)["optimizer_steps"]))


def test_no_monitor_fires_on_the_tiny_run(finished: str, config: Path) -> None:
    assert "warning, " not in finished
    readings = read_table(run_dir(config) / "round-1/align/logs", "monitors", check_keys=True)
    assert {"Saturation", "LikelihoodDisplacement", "StaleReference"} == set(readings["monitor"])
    assert not set(readings["verdict"]) & {"warn", "stop"}


def test_a_monitor_stops_the_run_and_the_next_one(
    finished: str, config: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two words are too many for this limit. Without the monitor the run goes on where it stopped."""
    copy = copy_of(config, tmp_path)
    asked = ("fit", "--config", str(config), "--run_dir", str(copy))
    limits = '{"words":{"warn":0.1,"stop":0.2},"least":1}'
    monitor = f'[{{"class_path":"trackrec.callbacks.LengthDrift","init_args":{limits}}}]'
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            trackrec(*asked, "--monitors", monitor)
        assert stop.value.code == 1
        out, error = capfd.readouterr()
        assert error.startswith("trackrec: error:\nLengthDrift stopped the run after round-1/greedy: the mean length")
        assert "raise words.stop of LengthDrift" in error
        assert "round-1/rec_tune" not in out
    assert "LengthDrift after round-1/greedy" in (copy / "report" / "index.html").read_text()
    assert started(trackrec(*asked)) == []


def test_a_monitor_stops_an_alignment_before_its_end(
    finished: str, config: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No share is below 0, so that any number is past this limit. Without the monitor the run goes on."""
    copy = copy_of(config, tmp_path)
    steps = RunFiles(copy, {"loop": {"rounds": 2}}).notes("round-1/align")["optimizer_steps"]
    shutil.rmtree(copy / "round-1/align")
    asked = ("fit", "--config", str(config), "--run_dir", str(copy))
    monitor = '[{"class_path":"trackrec.callbacks.Saturation","init_args":{"share":{"warn":-2,"stop":-1},"least":1}}]'
    with pytest.raises(SystemExit) as stop:
        trackrec(*asked, "--monitors", monitor)
    assert stop.value.code == 1
    window = max(1, round(0.2 * steps))
    start = f"trackrec: error:\nSaturation stopped the alignment at step {window - 1}: the share of saturated sets is"
    assert capfd.readouterr().err.startswith(start)
    assert not (copy / "round-1/align").exists()
    assert "round-1/align" in started(trackrec(*asked))


def test_what_is_held_back_validates_distillation_and_rec_tuning(
    finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    """One row of the CSV log per epoch; EarlyStopping watches it. The stages of the run without it stay as they are."""
    stopping = '[{"class_path":"lightning.pytorch.callbacks.EarlyStopping","init_args":{"monitor":"valid/loss"}}]'
    asked = ("--loop.hold", "0.3", "--rec_tune.trainer.callbacks", stopping, "--run_dir", str(tmp_path / "run"))
    trackrec("fit", "--config", str(config), *asked, "--stages", "data,teacher,distill,warmup/rec_tune")
    files = RunFiles(tmp_path / "run", {"loop": {"rounds": 2}})
    for stage, epochs in (("distill", 15), ("warmup/rec_tune", 1)):
        steps = files.step_logs(stage)
        assert steps is not None
        assert steps["valid/loss"].drop_nulls().len() == epochs
        assert steps["loss"].drop_nulls().len() == files.notes(stage)["optimizer_steps"]
    steps = files.step_logs("warmup/rec_tune")
    assert steps is not None
    assert len(steps.select("valid/auc", "valid/acc").drop_nulls()) == 1
    assert files.notes("warmup/rec_tune")["held_rows"] > 0
    assert "held_rows" not in RunFiles(run_dir(config), {"loop": {"rounds": 2}}).notes("warmup/rec_tune")


def test_the_report_loads_no_language_model(finished: str, config: Path) -> None:
    """A run that was copied to a machine without its models has a report too."""
    code = (
        "import sys\nfrom trackrec.__main__ import main\nmain(sys.argv[1:])\n"
        "print('LOADED', [m for m in ('transformers', 'peft', 'bitsandbytes', 'datasets') if m in sys.modules])"
    )
    copied = shutil.copytree(run_dir(config), run_dir(config).with_name("copied"))
    args = ["report", "--config", str(config), "--run_dir", str(copied), "--backbone.model", "nowhere"]
    out = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in out
    assert (copied / "report" / "report.md").exists()


def test_predict_answers_every_request(
    finished: str,
    config: Path,
    trackrec: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    requests = {"p": ["mine", "too", "also"], "item_id": ["3", "4", "5"], "user_id": [1, 2, 1]}
    pl.DataFrame(requests).write_parquet(tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    asked = ("predict", "--config", str(config), "--requests", str(tmp_path / "in.parquet"), "--output", str(output))
    with pytest.raises(SystemExit):
        trackrec(*asked)
    assert "in.parquet has a column 'p' already" in capfd.readouterr().err
    assert not output.exists()
    asked = (*asked, "--column", "chance")
    trackrec(*asked)
    answers = pl.read_parquet(output)
    assert answers.drop("chance", "answered_by").to_dict(as_series=False) == requests
    assert answers["answered_by"].to_list() == ["reccot"] * 3
    assert answers["chance"].is_between(0, 1).sum() == answers["chance"].n_unique() == 3
    monkeypatch.setattr("trackrec.serving.predict.ROWS_AT_ONCE", 2)
    trackrec(*asked)
    assert pl.read_parquet(output)["chance"].to_list() == pytest.approx(answers["chance"].to_list(), abs=1e-6)


def test_predict_refuses_nets_that_were_trained_on_something_else(
    finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The vectors were made again, and the run ended before the nets were."""
    copied = shutil.copytree(run_dir(config), tmp_path / "copied")
    other = save_tiny_encoder(tmp_path / "encoder", seed=1)
    changed = ("--config", str(config), "--run_dir", str(copied), "--embed.model", str(other))
    assert started(trackrec("fit", *changed, "--stages", "embed")) == ["embed"]
    pl.DataFrame({"user_id": ["1"], "item_id": ["3"]}).write_parquet(tmp_path / "in.parquet")
    files = ("--requests", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out.parquet"))
    with pytest.raises(SystemExit):
        trackrec("predict", *changed, *files)
    assert "were trained on another embed than the one in the run directory now" in capfd.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


def test_predict_leaves_unknown_ids_without_a_probability(
    finished: str,
    config: Path,
    trackrec: Callable[..., str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    trackrec("fit", "--config", str(config))
    known = pl.DataFrame({"user_id": ["1", "2"], "item_id": ["3", "4"]})
    mixed = pl.DataFrame({"user_id": ["nobody", "1", "1", "2"], "item_id": ["3", "3", "no film", "4"]})
    answers = {}
    for name, frame in (("known", known), ("mixed", mixed)):
        frame.write_csv(tmp_path / f"{name}.csv")
        files = ["--requests", str(tmp_path / f"{name}.csv"), "--output", str(tmp_path / f"{name}.parquet")]
        said = trackrec("predict", "--config", str(config), "--unknown", "empty", *files)
        answers[name] = pl.read_parquet(tmp_path / f"{name}.parquet")["p"].to_list()
    assert "2 predictions" in said
    assert "2 requests of unknown users or items have none" in said
    assert answers["mixed"] == [None, answers["known"][0], None, answers["known"][1]]
    asked = ("predict", "--config", str(config), *files)
    said = trackrec(*asked)
    everyone = pl.read_parquet(tmp_path / "mixed.parquet")
    assert "4 predictions in" in said
    assert everyone["p"].is_between(0, 1).all()
    assert everyone["answered_by"].to_list()[1:] == ["reccot", "base_rate", "reccot"]
    assert everyone["answered_by"][0] in ("none", "item_mean")
    assert everyone["p"].to_list()[1::2] == answers["known"]
    for some, flags, words in (
        (
            mixed,
            ["--unknown", "error"],
            "1 items are not in the items table, the first is 'no film'. `trackrec predict --unknown empty`",
        ),
        (mixed.head(1), ["--unknown", "empty"], "1 users have no history or no RecCoT in this run, the first is"),
    ):
        some.write_csv(tmp_path / "mixed.csv")
        with pytest.raises(SystemExit):
            trackrec(*asked, *flags)
        assert words in capfd.readouterr().err


def test_a_cut_off_stage_goes_on(finished: str, config: Path, trackrec: Callable[..., str], tmp_path: Path) -> None:
    """A stage that fails after some parts keeps them, and ends with what an undisturbed run has."""
    import trackrec.generate.reccot as room

    trackrec("fit", "--config", str(config))
    whole = read_manifest(run_dir(config) / "round-1/sample")
    assert whole is not None
    original, calls = room.write_part, []

    def failing(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")
        return original(*args, **kwargs)

    copy = copy_of(config, tmp_path, "round-1/sample")
    asked = ("fit", "--config", str(config), "--run_dir", str(copy))
    room.write_part = failing  # type: ignore[assignment]
    try:
        with pytest.raises(OSError, match="disk full"):
            trackrec(*asked)
    finally:
        room.write_part = original
    output = trackrec(*asked)
    assert "round-1/sample       goes on" in output
    assert started(output) == ["round-1/sample"]  # with the bits it had, so that nothing after it is made again
    again = read_manifest(copy / "round-1/sample")
    assert again is not None
    assert again.content_hash == whole.content_hash


def test_a_part_of_the_stages_may_have_no_metrics_yet(
    config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    output = trackrec("fit", "--config", str(config), "--run_dir", str(tmp_path / "new"), "--stages", "data")
    assert started(output) == ["data"]
    assert "Everything is in the metrics tables" in output


def test_a_run_without_test_rows_reads_no_test_split(
    config: Path, trackrec: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A history for each row besides: ratings alone need no rows for G's reward and V's tuning both."""
    shape = ("--samples.test", "0", "--samples.per", "sample")
    args = ("--config", str(config), "--run_dir", str(tmp_path / "new"), "--ctr.arms", "[none]", *shape)
    assert started(trackrec("fit", *args, "--stages", "data,ctr")) == ["data", "ctr"]
    with pytest.raises(SystemExit):
        trackrec("test", *args)
    assert "this run has no test rows. Set samples.test above 0" in capfd.readouterr().err
    assert not (tmp_path / "new" / "test_reads.jsonl").exists()


def test_a_recommender_without_texts_needs_the_data_alone(
    config: Path, trackrec: Callable[..., str], tmp_path: Path
) -> None:
    """No language model is asked for anything, and every row of the split is there."""
    args = ("--config", str(config), "--run_dir", str(tmp_path / "new"), "--ctr.arms", "[none]")
    output = trackrec("fit", *args, "--stages", "data,ctr")
    assert started(output) == ["data", "ctr"]
    assert "Arms (valid)" in output
    assert "Rounds" not in output  # a table without a row
    predictions = read_table(tmp_path / "new" / "ctr", "predictions").filter(arm="none")
    samples = read_table(tmp_path / "new" / "data", "samples").filter(pl.col("split") != "train")
    assert predictions["sample_id"].n_unique() == len(samples)
    output = trackrec("test", *args)
    assert started(output) == ["test"]
    assert "Arms (test)" in output
    assert "read 1 time(s)" in output


def test_damaged_stages_are_named_and_made_again(finished: str, config: Path, trackrec: Callable[..., str]) -> None:
    """A part deleted by hand, an adapter torn, a manifest cut: three stages, with the bits they had."""
    trackrec("fit", "--config", str(config))
    run = run_dir(config)
    damaged = ["round-1/sample", "round-2/align", "texts"]
    before = [read_manifest(run / name) for name in damaged]
    (run / "round-1/sample/reccots/part-00001.parquet").unlink()
    adapter = run / "round-2/align/adapter/adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:1000])
    manifest = run / "texts/manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    output = trackrec("fit", "--config", str(config))
    assert started(output) == damaged
    said = [line for line in output.splitlines() if " is damaged: " in line]
    assert ["part-00001.parquet is missing" in said[0], "1,000 bytes instead of" in said[1]] == [True, True]
    assert "manifest.json can't be read" in said[2]
    after = [read_manifest(run / name) for name in damaged]
    assert [one and one.content_hash for one in after] == [one and one.content_hash for one in before]


def test_a_part_that_was_damaged_before_its_stage_was_done_is_made_again(
    finished: str, config: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The stage was cut off, and one of its parts was torn since: by a disk, or by a crash of the machine."""
    trackrec("fit", "--config", str(config))
    whole = read_manifest(run_dir(config) / "round-1/score")
    stage = run_dir(config) / "round-1/score"
    left = run_dir(config) / ".partial" / f"round-1--score-{whole.fingerprint[:12]}-4"  # type: ignore[union-attr]
    stage.rename(left)
    (left / "manifest.json").unlink()
    part = left / "scores/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:200])
    assert started(trackrec("fit", "--config", str(config))) == ["round-1/score"]
    again = read_manifest(run_dir(config) / "round-1/score")
    assert again is not None
    assert whole is not None
    assert again.content_hash == whole.content_hash


def test_a_hostile_checkpoint_in_the_run_directory_is_an_error(
    finished: str, config: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trackrec("fit", "--config", str(config))
    whole = read_manifest(run_dir(config) / "distill")
    assert whole is not None
    left = run_dir(config) / ".partial" / f"distill-{whole.fingerprint[:12]}"
    (left / "checkpoints").mkdir(parents=True)
    (run_dir(config) / "distill/manifest.json").unlink()
    torch.save({"state_dict": Payload(tmp_path / "proof")}, left / "checkpoints/last.ckpt")
    with pytest.raises(SystemExit) as stop:
        trackrec("fit", "--config", str(config))
    assert stop.value.code == 1
    error = capfd.readouterr().err
    assert "checkpoints/last.ckpt holds what no training of trackrec writes" in error
    assert "Traceback" not in error
    assert not (tmp_path / "proof").exists()
    (left / "checkpoints/last.ckpt").unlink()
    assert started(trackrec("fit", "--config", str(config))) == ["distill"]


def test_unfinished_stages_are_named_when_left_out(config: Path, trackrec: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        trackrec("fit", "--config", str(config), "--run_dir", str(tmp_path / "new"), "--stages", "ctr")
    assert stop.value.code == 1
