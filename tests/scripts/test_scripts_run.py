"""Every Python script runs to its end at a tiny size, on tiny random models and random ratings."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny_model

pytestmark = [pytest.mark.recipe, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SIMULATED = "configs/experiments/simulated.yaml"
# A simulated run of a few seconds: its model comes with the repository.
SMALL_RUN = (
    "--dataset.init_args.users 60 --dataset.init_args.items 130 --sampler.init_args.n 3 "
    "--sampler.init_args.max_new_tokens 24 --loop.rounds 1 --loop.users 0.2 --loop.warmup_users 0.3 --loop.targets 2 "
    "--loop.eval_samples 40 --align.sets.min_spread 0.0 --align.sets.min_best 0.0 --distill.trainer.max_steps 2 "
    "--align.trainer.max_steps 2 --rec_tune.trainer.max_steps 2 --ctr.trainer.max_epochs 1 --ctr.seeds [0] "
    "--monitors []"
)
TINY_LLM = "--model {model} --dtype float32 --prompt 30 --draws 2 --new 6 --repeats 1"
# Script and arguments; what the output must contain.
RUNS = [
    ("align_step.py --config configs/quickstart.yaml --shape tiny --new-tokens 8", r"adapter tensors moved: [1-9]"),
    (
        "bench_attention.py --decode_rows 2 --cache 8 --rows 2 --tokens 8 --heads 2 --groups 1 --dim 16 --repeats 1",
        r"packed rows, forward and backward",
    ),
    ("bench_ctr.py --rows 200 --batch-size 64 --repeats 1 --nets DeepFM --beside", r"DeepFM +trackrec +rows/s [1-9]"),
    ("bench_ctr_growth.py --divide 1000 --steps 2 --batch-size 16 --nets DIN", r"lazy rows +first batch"),
    ("bench_export.py --data {ratings} --nets DIN --candidates 5 --repeats 3", r"differs from torch by at most"),
    (f"bench_fit.py --config {SIMULATED} --last distill {SMALL_RUN}", r"all +packed .* plain .*x"),
    (f"bench_llm.py {TINY_LLM} --target 4 --gradients", r"sampling: .*'largest_gap': 0\.0"),
    (f"bench_llm.py {TINY_LLM} --target 4 --memory --only Rec-Tuning", r"'plain rows': \d"),
    ("liked_lists.py --root {ratings} --output {out}", r"1,200 rows, \d+ of them with an empty list, 40 items"),
    (
        "compare_runs.py --ours {run}:none --others {run}:item_mean --resamples 50",
        r"= [+-]\.\d{4} \[|= [+-]0\.\d{4} \[",
    ),
    ("rating_units.py --data {ratings} --nets DIN --seeds 0", r"plays +0\.\d{4}"),
    ("bench_predict.py --data {ratings} --requests 50", r"50 requests at once"),
    ("bench_refresh.py --users 300 --each 5", r"300 users of 5 ratings planned and written: .* largest process"),
    ("bench_retrieval.py --data {ratings} --epochs 1", r"popular"),
    ("bench_start.py --repeats 1", r"plan --config +\d+\.\d\d s"),
    ("bench_step.py --model {model} --rows 1 --batches 1 --repeats 1", r"trackrec +\d\.\d\d s a step"),
    ("bench_table.py --rows 2000 --users 60 --items 50", r"\| 2,000 rows, 60 users, 50 items, per user \|"),
    (f"bench_trl.py {TINY_LLM}", r"'log-probability gap': 0\.0"),
    ("bench_vllm.py --model {model} --prompt 30 --prompts 1 --draws 2 --new 6 --repeats 1", r"HF / ours"),
    (
        "calibrate_intervals.py --trials 3 --resamples 20 --users 12 --seeds 2 --shares 0.7",
        r"shift, 3 trials(?s:.*)\| 2 \| 0\.7 \| \d(?s:.*)rows, 3 trials",
    ),
    (
        "ctr_table.py --data {ratings} --protocols user --nets DIN --seeds 0 --resamples 20 --test",
        r"user, ties strict, test: \d+ rows(?s:.*)DIN +AUC",
    ),
    ("fuzz_readers.py --minutes 0.01 --seed 1", r"files, 0 kinds of failure, seed 1"),
    (
        "pool_splits.py {run}",
        r"V: RecCoT minus plain +[+−]\.\d{4} (?s:.*)net: RecCoT minus none +[+−]\.\d{4} ",
    ),
    ("score_unseen.py {run} --users 6 --rows 3", r"base +none +AUC(?s:.*)18 rows of 6 histories"),
    ("position_bias.py --logs 2 --lists 50", r"\| logs that prefer the reader \| \d of 2"),
    ("train_world_model.py --steps 2 --out {out}", r"step 1: told"),
    ("world_rewards.py {run}", r"\| 1 \| log-probability \| \d+ \| (–|-?\d\.\d{3} \[)"),
    (
        f"when_text_pays.py --config {SIMULATED} --output {{out}} --seen 0,2 {SMALL_RUN}",
        r"\| V \| 0 \| \.\d{4}(?s:.*)\| V \| 2 \|(?s:.*)\| net, statistics all \| 2 \| \.\d{4}",
    ),
    ("world_truth.py {run}", r"\| the truth \|(?s:.*)\| sampled in round 1, train users \|"),
]
# More than ten seconds each: `make test-long`.
LONG = {
    "bench_ctr.py",
    "bench_export.py",
    "bench_fit.py",
    "bench_predict.py",
    "bench_refresh.py",
    "bench_retrieval.py",
    "bench_start.py",
    "compare_runs.py",
    "rating_units.py",
    "score_unseen.py",
    "train_world_model.py",
    "when_text_pays.py",
    "world_rewards.py",
    "world_truth.py",
}
PACKAGES = {"bench_export.py": "onnxruntime", "bench_trl.py": "trl", "bench_vllm.py": "vllm"}
ELSEWHERE = {
    "bench_gpu.py": "tests/scripts/test_bench_gpu.py",
    "fetch_models.py": "test_models_that_are_there_are_linked",
    "bench_serve.py": "it needs wrk and two free cores",
    "world_corpus.py": "tests/scripts/test_world_corpus.py: it has no command line",
}


def run_script(*arguments: str | Path, **env: str) -> str:
    """What the command prints; it runs as a user runs it, from the root of the repository."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return save_tiny_model(folder / "model")


@pytest.fixture(scope="module")
def ratings(folder: Path) -> Path:
    """Files in RecBole's form of ML-100K, in which users like one genre."""
    root, rng = folder / "ml-100k", random.Random(0)
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    items += [f"{item}\tFilm {item}\t1990\t{('Comedy', 'Drama', 'War')[item % 3]}" for item in range(40)]
    users = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    users += [f"{user}\t30\tF\twriter\t10000" for user in range(60)]
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(60):
        for number, item in enumerate(rng.sample(range(40), 20)):
            liked = (item % 3 == user % 3) != (rng.random() < 0.2)
            rows.append(f"{user}\t{item}\t{5 if liked else 2}\t{900_000_000 + 1000 * number + user}")
    root.mkdir()
    for suffix, lines in (("item", items), ("user", users), ("inter", rows)):
        (root / f"ml-100k.{suffix}").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A finished run on the simulated world."""
    run_dir = folder / "run"
    run_script("-m", "trackrec", "fit", "--config", SIMULATED, "--run_dir", run_dir, *SMALL_RUN.split())
    return run_dir


def cases() -> list[Any]:
    """The runs, each with the script's name as its id."""
    names = [command.split()[0] for command, _ in RUNS]
    marks = [[pytest.mark.long] if name in LONG else [] for name in names]
    return [pytest.param(*run, id=name, marks=mark) for run, name, mark in zip(RUNS, names, marks, strict=True)]


@pytest.mark.parametrize(("command", "printed"), cases())
def test_it_runs(command: str, printed: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    script, *arguments = command.split()
    package = PACKAGES.get(script)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{script} needs {package}")
    names = re.findall(r"{(model|ratings|run)}", command)
    paths = {name: request.getfixturevalue(name) for name in names} | {"out": tmp_path / "out"}
    output = run_script(f"scripts/{script}", *(argument.format_map(paths) for argument in arguments))
    assert re.search(printed, output), output


@pytest.mark.parametrize("script", PACKAGES)
def test_help_needs_no_further_package(script: str) -> None:
    assert "--repeats" in run_script(f"scripts/{script}", "--help")


def test_models_that_are_there_are_linked(tmp_path: Path) -> None:
    """Nothing is fetched, so this needs no network."""
    names = ("smollm2-135m-instruct", "all-minilm-l6-v2", "ml-100k")
    for name in names:
        (tmp_path / "cache" / name).mkdir(parents=True)
    cache = str(tmp_path / "cache")
    printed = run_script("scripts/fetch_models.py", "--data", tmp_path / "data", TRACKREC_CACHE=cache)
    assert [line.split(",")[0] for line in printed.splitlines()] == [f"{name}: there" for name in names]
    assert all((tmp_path / "data" / name).resolve() == tmp_path / "cache" / name for name in names)


def test_every_script_is_run() -> None:
    scripts = {path.name for path in (ROOT / "scripts").glob("*.py")}
    assert scripts == {command.split()[0] for command, _ in RUNS} | set(ELSEWHERE)
