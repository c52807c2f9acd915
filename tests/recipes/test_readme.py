"""The README's commands for one's own ratings, as they are printed, on a file of the form that it describes."""

from __future__ import annotations

import random
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny_encoder

pytestmark = pytest.mark.recipe
ROOT = Path(__file__).parents[2]
GENRES = ["Comedy", "Drama", "Action", "Horror"]
# What a random model of two layers needs in the place of SmolLM2: more teaching, smaller prompts, no thresholds.
SMALL = {
    # A draw that is cut is never chosen: texts are short, and there is room for a whole one.
    "teacher": {"init_args": {"max_words": 15, "sentences": 1}},
    "sampler": {"init_args": {"n": 3, "max_new_tokens": 48}},
    "loop": {"rounds": 1, "users": 0.5, "warmup_users": 0.8, "eval_samples": 20},
    "prompts": {"max_words": 20},
    "distill": {"model": {"lr": 2e-2}, "trainer": {"max_epochs": 15}},
    "align": {"sets": {"min_spread": 0.0, "min_best": 0.0}},
    "ctr": {"seeds": [0], "trainer": {"max_epochs": 2}},
}


def commands() -> list[list[str]]:
    """The command lines of the section, without their comments."""
    text = (ROOT / "README.md").read_text().partition("## Use your own ratings")[2].partition("\n## ")[0]
    return [shlex.split(line, comments=True) for line in re.findall(r"^    (trackrec .*)$", text, re.MULTILINE)]


def write_ratings(path: Path) -> None:
    """Users who like one genre; a header and columns as the README names them."""
    rng = random.Random(0)
    lines = ["user_id,item_id,rating,timestamp,title,genres"]
    for user in range(24):
        for place, item in enumerate(rng.sample(range(40), 20)):
            stars = 5 if (item % 4 == user % 4) != (rng.random() < 0.2) else 2
            lines.append(f"u{user},i{item},{stars},{900_000_000 + 1000 * place + user},Film {item},{GENRES[item % 4]}")
    path.write_text("\n".join(lines) + "\n")


def test_the_commands_for_own_ratings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trackrec: Callable[..., str],
    tiny_models: Callable[..., Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    shutil.copytree(tiny_models("llama"), "data/smollm2-135m-instruct")
    save_tiny_encoder(Path("data/all-minilm-l6-v2"))
    write_ratings(Path("ratings.csv"))
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))
    found = commands()
    assert [command[1] for command in found] == ["init", "data", "fit", "fit", "test"]
    printed = [
        trackrec(*command[1:], *(["--config", "small.yaml"] if command[1] != "init" else [])) for command in found
    ]
    assert "columns.rating           rating                  2 to 5" in printed.pop(0)
    assert printed[0].startswith("480 ratings by 24 users of 40 items, 1998-07-09 to 1998-07-09\n")
    assert "stops here" not in printed[0]
    assert "caution" not in printed[0]
    assert "ctr/none" in printed[1] or "DIN, no text" in printed[1]
    assert "up to date" in printed[2]
    assert "DIN" in printed[2]
    assert Path("runs/my/report/index.html").exists()
    assert Path("runs/my/test/manifest.json").exists()


def test_ratings_alone_are_checked_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The first two commands load no language model, so none need be there; the third one does."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    write_ratings(Path("ratings.csv"))
    own = ["--config", "configs/own_ratings.yaml"]
    look, first, second = (
        ["", "data", *own],
        ["", "fit", *own, "--stages", "data,ctr", "--ctr.arms", "[none]"],
        ["", "fit", *own],
    )
    assert " ratings by 24 users" in trackrec(*look[1:])
    assert not Path("runs").exists()
    assert "DIN, no text" in trackrec(*first[1:], "--ctr.trainer.max_epochs", "1")
    with pytest.raises(SystemExit):
        trackrec(*second[1:])
    assert "backbone.model: no model (config.json) in 'data/smollm2-135m-instruct'" in capfd.readouterr().err
