"""`trackrec refresh` on a tiny run: the same bytes from both engines, through kills, and only what changed."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from tiny import save_tiny_encoder

from trackrec.storage.generations import INFO, bucket_of, current_name, open_generation
from trackrec.storage.manifest import content_hash

pytestmark = [pytest.mark.recipe, pytest.mark.slow]
KILLS = int(os.environ.get("TRACKREC_KILLS", "4"))
DAY = 86_400


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_models: Callable[..., Path]) -> Path:
    """A run whose G is the untuned tiny model, and its finished data stage."""
    root = tmp_path_factory.mktemp("bulk")
    write_log(root / "log.csv", 90)
    lines = ["item,title,kind", *(f"{item},Film {item},{'War' if item % 2 else 'Drama'}" for item in range(30))]
    (root / "items.csv").write_text("\n".join(lines) + "\n")
    values = {
        "run_dir": str(root / "run"),
        "dataset": {
            "class_path": "Table",
            "init_args": {
                "ratings": str(root / "log.csv"),
                "items": str(root / "items.csv"),
                "columns": {"user": "user", "item": "item", "rating": "stars", "timestamp": "when"},
                "item_columns": {"id": "item", "title": "title", "attributes": "kind"},
            },
        },
        "samples": {"history_len": 4},
        "prompts": {"max_words": 20, "max_history": 5},
        "backbone": {"model": str(tiny_models("llama")), "dtype": "float32"},
        "sampler": {"class_path": "HFSampler", "init_args": {"max_new_tokens": 8}},
        "teacher": {"class_path": "ProfileTeacher", "init_args": {"fraction": 1.0}},
        "loop": {"rounds": 1, "distill": False, "align": False, "warmup": False},
        "embed": {"model": str(save_tiny_encoder(root / "encoder"))},
        "ctr": {"arms": ["none"]},
        "bulk": {"part_users": 12, "threads": 1},
    }
    path = root / "bulk.yaml"
    path.write_text(yaml.safe_dump(values))
    run("fit", path, "--stages", "data")
    return path


def write_log(path: Path, users: int, more: tuple[int, ...] = ()) -> None:
    """Eight ratings of each user, and one more of some."""
    rng = random.Random(2)
    rows = ["user,item,stars,when"]
    for user in range(users):
        for place, item in enumerate(rng.sample(range(30), 8)):
            rows.append(f"u{user},{item},{5 if item % 2 == user % 2 else 1},{(user + place) * DAY}")
    rows += [f"u{user},{item},5,{500 * DAY}" for user in more for item in (28, 29)]
    path.write_text("\n".join(rows) + "\n")


def run(command: str, config: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "trackrec", command, "--config", str(config), *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def refresh(config: Path, output: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("refresh", config, "--output", str(output), "--now", "2026-12-01", *args, check=check)


def texts(output: Path) -> dict[str, bytes]:
    """Part -> bytes of the current generation."""
    generation = open_generation(output)
    return {str(path.relative_to(generation.path)): path.read_bytes() for path in generation.parts()}


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("gens") / "gens"
    refresh(config, output)
    return output


def test_a_generation_holds_every_user_with_text_and_vector(undisturbed: Path) -> None:
    generation = open_generation(undisturbed)
    rows = pl.concat(list(generation.iter_frames()))
    assert set(rows["user_id"]) == {f"u{user}" for user in range(90)}
    assert rows["user_id"].is_unique().all()
    assert set(rows["vector"].list.len()) == {16}
    assert len(generation.parts()) == generation.info["buckets"] == 8
    assert all(bucket_of(user, 8) < 8 for user in rows["user_id"])
    assert not (undisturbed / ".partial" / generation.name).exists()
    assert generation.info["dim"] == 16
    generation.verify()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed")
def test_ray_writes_the_same_bytes(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    refresh(config, tmp_path / "gens", "--engine", "ray", "--engine.workers", "2")
    assert texts(tmp_path / "gens") == texts(undisturbed)


def test_a_dry_run_prints_who_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    said = refresh(config, tmp_path / "gens", "--dry-run", "--bulk.gpu_hour_price", "2").stdout
    assert "full                  90          90" in said
    assert "price" in said
    assert list(tmp_path.iterdir()) == []


def test_only_the_changed_are_written_again(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "gens"
    refresh(config, output)
    first = open_generation(output)
    assert "nothing to write" in refresh(config, output).stdout
    assert current_name(output) == first.name
    write_log(tmp_path / "today.csv", 91, more=(3, 8, 44))
    changed = ("--ratings", str(tmp_path / "today.csv"))
    said = refresh(config, output, *changed).stdout
    second = open_generation(output)
    assert second.name != first.name
    assert second.info["parent"] == first.name
    assert (second.info["written"]["written"], second.info["written"]["kept"]) == (4, 87)
    assert "grown" in said
    before, after = (pl.concat(list(one.iter_frames())).sort("user_id") for one in (first, second))
    new = pl.col("user_id").is_in(["u3", "u8", "u44", "u90"])
    assert after.filter(~new).equals(before.filter(~pl.col("user_id").is_in(["u3", "u8", "u44"])))
    parquet = tmp_path / "today.parquet"
    pl.read_csv(tmp_path / "today.csv").select(
        user_id="user", item_id=pl.col("item").cast(pl.String), rating="stars", timestamp="when"
    ).write_parquet(parquet)
    assert "nothing to write" in refresh(config, output, "--ratings", str(parquet)).stdout


def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(
    config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    rng = random.Random(KILLS)
    expected = texts(undisturbed)
    for number in range(KILLS):
        output = tmp_path / str(number)
        kill_once(config, output, rng, driver=bool(number % 2))
        refresh(config, output)
        assert texts(output) == expected
        assert not list(output.glob(".partial/*"))


def kill_once(config: Path, output: Path, rng: random.Random, driver: bool) -> None:
    """Start a refresh, and end it or its worker with SIGKILL once a random number of parts stands."""
    words = [sys.executable, "-m", "trackrec", "refresh", "--config", str(config), "--output", str(output)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([*words, "--now", "2026-12-01"], env=env, stdout=subprocess.DEVNULL)
    wanted = rng.randrange(8)
    while process.poll() is None:
        standing = len(list(output.glob(".partial/*/gen/*/*/part-*.parquet")))
        started = list(output.glob(".partial/*/plan.json"))
        if started and standing >= wanted:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            victim = process.pid if driver or not children else int(children[0])
            os.kill(victim, signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()


def test_a_second_refresh_of_the_same_folder_is_refused(config: Path, tmp_path: Path) -> None:
    from trackrec.pipeline.lock import locked

    with locked(tmp_path / "gens", "--output"):
        said = refresh(config, tmp_path / "gens", check=False)
    assert said.returncode == 1
    assert f"--output {tmp_path / 'gens'} is in use by process {os.getpid()}" in said.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--ratings", "nowhere.csv"), "--ratings nowhere.csv: no such file or folder"),
        (("--now", "yesterday"), "--now must be a date or time"),
        (("--bulk.tiers", "[{name: full, config: gone.yaml}]"), "the config of full, gone.yaml, isn't there"),
        (("--bulk.part_user", "3"), "part_user"),
        (("--bulk.merge_adapter", "maybe"), "bulk.merge_adapter"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(config: Path, tmp_path: Path, args: tuple[str, ...], text: str) -> None:
    said = refresh(config, tmp_path / "gens", *args, check=False)
    assert said.returncode in (1, 2)
    assert text in said.stderr
    assert "Traceback" not in said.stderr
    assert not list((tmp_path / "gens").glob("gen-*"))
    assert not list((tmp_path / "gens").glob(".partial/*"))


def test_a_damaged_parent_is_named(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "gens"
    refresh(config, output)
    generation = open_generation(output)
    hash_before = content_hash(generation.path)
    generation.parts()[0].write_bytes(b"PAR1")
    said = refresh(config, output, "--only", "all", check=False)
    assert said.returncode == 1
    assert "can't be read as a part of a generation" in said.stderr
    assert "Traceback" not in said.stderr
    assert hash_before != content_hash(generation.path)
    (generation.path / INFO).write_text(json.dumps({"format": 99}))
    said = refresh(config, output, check=False)
    assert "format 99, this trackrec reads 1" in said.stderr
