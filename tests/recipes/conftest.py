"""A whole recipe on a tiny random model and made-up ratings."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny_encoder

GENRES = ["Comedy", "Drama", "Action", "Horror"]


def write_ratings(root: Path, users: int = 24, items: int = 40, each: int = 20) -> None:
    """A RecBole-like data set in which users like one genre."""
    rng = random.Random(0)
    root.mkdir(parents=True)
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    lines += [f"{item}\tFilm {item}\t{1980 + item % 20}\t{GENRES[item % 4]}" for item in range(items)]
    (root / "ml-100k.item").write_text("\n".join(lines) + "\n")
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    people = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    for user in range(users):
        people.append(f"{user}\t30\tF\twriter\t10000")
        for place, item in enumerate(rng.sample(range(items), each)):
            good = (item % 4 == user % 4) != (rng.random() < 0.2)
            rows.append(f"{user}\t{item}\t{5 if good else 2}\t{1000 * place + user * 7 + 900_000_000}")
    (root / "ml-100k.inter").write_text("\n".join(rows) + "\n")
    (root / "ml-100k.user").write_text("\n".join(people) + "\n")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_models: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("recipe")
    write_ratings(root / "ml-100k")
    save_tiny_encoder(root / "encoder")
    texts = [f"{user},{'Yes' if user % 2 else 'No'}" for user in range(24)]
    (root / "texts.csv").write_text("\n".join(["user_id,text", *texts]) + "\n")
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    values = {
        "run_dir": str(root / "run"),
        "dataset": {"class_path": "MovieLens", "init_args": {"root": str(root / "ml-100k")}},
        "samples": {"history_len": 6, "recent_len": 5},
        "prompts": {"max_words": 20, "max_history": 5},
        "backbone": {"model": str(tiny_models("llama")), "dtype": "float32", "lora": {"r": 8, "alpha": 16}},
        "sampler": {"class_path": "HFSampler", "init_args": {"n": 3, "max_new_tokens": 8}},
        "teacher": {"class_path": "TableTeacher", "init_args": {"path": str(root / "texts.csv")}},
        "loop": {
            "rounds": 2,
            "users": 0.5,
            "warmup_users": 0.8,
            "targets": 2,
            "eval_samples": 20,
            "shard_histories": 4,
        },
        # A random model hardly ever ends a text: it is taught to, since a draw that is cut is never chosen.
        "distill": {"model": {"lr": 2e-2}, "data": {"batch_size": 2}, "trainer": {**trainer, "max_epochs": 15}},
        "align": {"sets": {"min_spread": 0.0, "min_best": 0.0}, "trainer": dict(trainer)},
        "rec_tune": {"trainer": dict(trainer)},
        "embed": {"model": str(root / "encoder")},
        "ctr": {"net": "DIN", "connector": "MLPConnector", "seeds": [0, 1], "trainer": {**trainer, "max_epochs": 2}},
    }
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
