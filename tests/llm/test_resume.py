"""Resumed = uninterrupted, wherever a training is cut; and what becomes of checkpoints that are broken or hostile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import run
from tiny import reccot_row

from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.llm.loading import LoRASettings
from trackrec.llm.training.checkpoints import CheckpointError, WholeFiles, merge_curves
from trackrec.llm.training.fit import fit_adapter
from trackrec.storage.parts import write_part


@pytest.mark.slow
def test_a_training_killed_at_any_event_ends_like_an_undisturbed_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    """LoRA dropout, two epochs, two batches a step; SIGKILL before, inside and after every step: curve and bits."""
    ran = run("resume_steps:main", str(tiny_model_dir), tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(ran.stdout)
    assert {case: found["wrong"] for case, found in report.items()} == {"epochs": [], "max_steps": []}
    assert {case: found["steps"] for case, found in report.items()} == {"epochs": 4, "max_steps": 3}
    assert report["epochs"]["events"] == 16


# -- checkpoints that are broken or hostile -----------------------------------------------------------------------


def train(lm: Any, book: Any, root: Path, adapter: str = "g", **trainer: Any) -> Any:
    """Three optimizer steps, a checkpoint after each; the stage directory stays as if the end had been cut off."""
    write_part(root / "texts", "reccots", [reccot_row(f"h{i}", text="Enjoys Drama.") for i in range(6)])
    args = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1, "max_epochs": 1, **trainer}
    data = DistillData(lm, book, root / "texts", batch_size=2)
    return fit_adapter(DistillModule(lm, adapter), data, args, root / "stage", checkpoint_every=1)


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("whole", [True, False], ids=["beside good state", "alone"])
def test_a_hostile_checkpoint_is_refused_and_not_run(tiny_lm, tiny_book, tmp_path, whole):
    proof, lm = tmp_path / "proof", tiny_lm(adapters=["g"], lora=LoRASettings(r=2))
    train(lm, tiny_book, tmp_path)
    path = tmp_path / "stage" / "checkpoints" / "last.ckpt"
    good = torch.load(path, weights_only=True) if whole else {}
    torch.save({**good, "payload": Payload(proof)}, path)
    words = r"last\.ckpt holds what no training of trackrec writes \(.*pathlib.*\).*Delete it"
    with pytest.raises(CheckpointError, match=words):
        train(lm, tiny_book, tmp_path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # it would have worked on a careless reader


def torn(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def flipped(whole: bytes) -> bytes:
    third = len(whole) // 3
    return whole[:third] + bytes(255 - byte for byte in whole[third : third + 100]) + whole[third + 100 :]


@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: b"PK", torn, flipped], ids=["empty", "two bytes", "half", "bits"]
)
def test_a_damaged_checkpoint_starts_the_training_anew(tiny_lm, tiny_book, tmp_path, caplog, damage):
    train(tiny_lm(adapters=["g"], lora=LoRASettings(r=2)), tiny_book, tmp_path)
    path = tmp_path / "stage" / "checkpoints" / "last.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    trainer = train(tiny_lm(adapters=["g"], lora=LoRASettings(r=2)), tiny_book, tmp_path)
    assert "last.ckpt is damaged" in caplog.text
    assert "training starts from the beginning" in caplog.text
    assert trainer.global_step == 3
    assert torch.load(path, weights_only=True)["global_step"] == 3


def test_a_checkpoint_of_another_adapter_is_refused(tiny_lm, tiny_book, tmp_path):
    train(tiny_lm(adapters=["g"], lora=LoRASettings(r=2)), tiny_book, tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another adapter"):
        train(tiny_lm(adapters=["v"], lora=LoRASettings(r=2)), tiny_book, tmp_path, adapter="v")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeFiles().save_checkpoint({"step": 1}, path)

    def full_disk(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        WholeFiles().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]


# -- curves -------------------------------------------------------------------------------------------------------


def test_the_curves_of_several_tries_become_one(tmp_path):
    """Later rows of a step stand, values of one step may come in two rows, a torn last line is passed over."""
    for version, text in enumerate(["a,step\n1,0\n2,1\n3,2\n4,", "a,b,step\n30,,2\n,5,2\n40,6,3\n"]):
        (tmp_path / f"version_{version}").mkdir()
        (tmp_path / f"version_{version}" / "metrics.csv").write_text(text)
    merge_curves(tmp_path)
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,b,step", "1,,0", "2,,1", "30,5,2", "40,6,3"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    merge_curves(tmp_path)
    assert (tmp_path / "metrics.csv").exists()
    # Killed after the merge: what is resumed logs from its checkpoint on.
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "metrics.csv").write_text("a,b,step\n41,7,3\n50,8,4\n")
    merge_curves(tmp_path)
    merged = (tmp_path / "metrics.csv").read_text().split()
    assert merged == ["a,b,step", "1,,0", "2,,1", "30,5,2", "41,7,3", "50,8,4"]
