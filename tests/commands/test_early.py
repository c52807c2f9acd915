"""The checks before the first stage: which stages they concern, and what is left when one fails."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from trackrec.cli.app import run_cli
from trackrec.commands.early import check_disk, check_early
from trackrec.distill.openai_teacher import OpenAITeacher
from trackrec.distill.teacher import TableTeacher, TeacherError
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.recipe.graph import build_graph
from trackrec.recipe.settings import LoopSettings
from trackrec.runtime.errors import MissingFileError, SettingError

CONFIG = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@pytest.fixture
def fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model_dir: Path
) -> Callable[..., list[str]]:
    """Runs ``trackrec fit`` on the quickstart with a tiny model; returns the lines of its error."""

    def run(*args: str) -> list[str]:
        own = ("--backbone.model", str(tiny_model_dir), "--run_dir", str(tmp_path / "run"))
        own += ("--dataset.init_args.root", str(tmp_path / "nowhere"), "--embed.model", str(tiny_model_dir))
        monkeypatch.setattr(sys, "argv", ["trackrec"])
        monkeypatch.setattr("trackrec.commands.fit.check_packages", lambda _: None)
        with pytest.raises(SystemExit):
            run_cli(["fit", "--config", CONFIG, *own, *args])
        lines = capsys.readouterr().err.strip().splitlines()
        return lines[lines.index("trackrec: error:") :]

    return run


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--ctr.trainer.devices", "2"], "ctr.trainer.devices must be auto or 1, got '2'"),
        (["--ctr.trainer.accelerator", "tpu"], "ctr.trainer: "),
        (["--distill.trainer.fast_dev_run", "true"], "distill.trainer.fast_dev_run must be false, got True"),
        (
            ["--ctr.trainer.callbacks", '[{"class_path": "EarlyStopping", "init_args": {"monitor": "valid/acuracy"}}]'],
            "ctr.trainer.callbacks: EarlyStopping watches 'valid/acuracy', which ctr never logs.",
        ),
        (["--backbone.device", "gpu"], "backbone.device must be auto, cpu, cuda or a GPU such as cuda:1, got 'gpu'."),
        (["--teacher", "TableTeacher", "--teacher.init_args.path", "no.csv"], "teacher.init_args.path: no file"),
        (["--embed.model", "./nowhere"], "embed.model: no model (config.json) in './nowhere'."),
    ],
)
def test_a_fault_of_the_last_stage_is_said_before_the_first(
    args: list[str], said: str, fit: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The ratings are missing too: what is said is said before they are looked for, and no folder is made."""
    assert fit(*args)[1].startswith(said)
    assert not (tmp_path / "run").exists()


def test_only_the_stages_that_run_are_looked_at(fit: Callable[..., list[str]]) -> None:
    """Faults of the language models, the teacher and the encoder are none of the stage ``data``'s."""
    faults = ("--backbone.device", "gpu", "--embed.model", "./nowhere", "--ctr.trainer.callbacks")
    watched = '[{"class_path": "EarlyStopping", "init_args": {"monitor": "nothing"}}]'
    assert "dataset.init_args.root" in fit("--stages", "data", *faults, watched)[1]


class Made(NamedTuple):
    """A run with a pipeline of which some stages are up to date."""

    exp: Any
    graph: Any
    names: set[str]


def made(current: Callable[[str], bool], tmp_path: Path, **changes: Any) -> Made:
    loop = LoopSettings(rounds=2)
    graph = build_graph(loop, ["reccot"], "dense")
    pipeline = SimpleNamespace(run_dir=tmp_path / "run", stages=graph.stages, is_current=lambda one: current(one.name))
    training = SimpleNamespace(trainer=dict, processes=1)
    exp = SimpleNamespace(
        pipeline=pipeline,
        loop=loop,
        backbone=BackboneSettings("./nowhere", device="cpu"),
        validator_backbone=None,
        teacher=SimpleNamespace(check=lambda: None),
        trainings={"distill": training, "align": training, "rec_tune": training},
        embed=SimpleNamespace(model="./nowhere"),
        ctr=SimpleNamespace(trainer=dict),
        monitors=(),
        say=lambda text: None,
    )
    vars(exp).update(changes)
    return Made(exp, graph, {stage.name for stage in graph.stages})


def test_a_fault_is_none_where_its_stages_are_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a finished run that is shown on a machine without the GPU that trained it."""

    def absent(*_: Any) -> None:
        raise SettingError("ctr.trainer.accelerator is gpu")

    monkeypatch.setattr("trackrec.commands.early.check_ctr_trainer", absent)
    monkeypatch.setattr("trackrec.commands.early.check_encoder", lambda _: None)
    monkeypatch.setattr("trackrec.commands.early.check_backbone", lambda *_: None)
    check_early(*made(lambda name: True, tmp_path))
    with pytest.raises(SettingError, match=r"^ctr\.trainer\.accelerator is gpu"):
        check_early(*made(lambda name: name != "ctr", tmp_path))
    exp, graph, names = made(lambda name: False, tmp_path)
    check_early(exp, graph, names - {"ctr"})


def test_the_disk_must_hold_the_adapters_and_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path
) -> None:
    """The tiny model: 2 layers, width 32, 48 inside, 2 heads of 16, 1 of keys and values; adapters of r = 4.

    Inputs and outputs of a layer: q 64, k 48, v 48, o 64, gate 80, up 80, down 80: 464 together, times r and 2 layers
    3,712 weights. Seven stages train: distillation, the warm-up, two rounds of two, and V without a text. 7 adapters of
    4 bytes a weight are 103,936 bytes, a checkpoint of 12 is 44,544.
    """
    backbone = BackboneSettings(str(tiny_model_dir), device="cpu", lora=LoRASettings(r=4))
    free = 103_936 + 44_544
    usage = shutil.disk_usage(tmp_path)

    def left(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size))

    exp, graph, names = made(lambda name: False, tmp_path, backbone=backbone)
    left(free)
    check_disk(exp, graph, names)
    left(free - 1)
    with pytest.raises(SettingError, match=r"^run_dir: the stages to come write at least 0\.0 GiB \(7 adapters, a"):
        check_disk(exp, graph, names)
    # Six are done: one adapter is left.
    exp, graph, names = made(lambda name: name != "distill", tmp_path, backbone=backbone)
    left(14_848 + 44_544)
    check_disk(exp, graph, names)
    left(14_848 + 44_543)
    with pytest.raises(SettingError, match=r"\(1 adapters, a checkpoint\)"):
        check_disk(exp, graph, names)


def test_a_teacher_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackrec.distill.local_teacher import LocalTeacher

    file = tmp_path / "texts.txt"
    with pytest.raises(SettingError, match=r"^teacher\.init_args\.path: no file"):
        TableTeacher(file).check()
    file.write_text("user_id,text\n")
    with pytest.raises(SettingError, match=r"is not a file ending in \.csv"):
        TableTeacher(file).check()
    TableTeacher(Path(shutil.copy(file, tmp_path / "texts.csv"))).check()
    monkeypatch.setattr("trackrec.distill.openai_teacher.need", lambda *_: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(TeacherError, match="OPENAI_API_KEY holds no key"):
        OpenAITeacher("gpt").check()
    OpenAITeacher("gpt", base_url="http://localhost:1/v1").check()
    assert "OPENAI_API_KEY" not in os.environ
    with pytest.raises(MissingFileError, match=r"^teacher\.init_args\.backbone\.model: no model"):
        LocalTeacher(BackboneSettings("./nowhere")).check()
