"""The shipped config of Amazon's books, from files of its two releases to samples and prompts, by the command line."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import polars as pl
import pytest

from trackrec.cli.app import parse_objects, run_cli
from trackrec.prompts.book import PromptBook
from trackrec.storage.manifest import read_manifest
from trackrec.storage.parts import read_table

pytestmark = pytest.mark.recipe
CONFIG = Path(__file__).parent.parent.parent / "configs" / "amazon_books.yaml"


def write_books(root: Path, users: int = 12, books: int = 15) -> None:
    """Reviews of the 2023 release: every reader has ten, of which one is of a book that nobody else reviews."""
    rng = random.Random(0)
    root.mkdir()
    reviews, titles = [], []
    for user in range(users):
        chosen = [*rng.sample(range(books), 9), 1000 + user]
        for place, book in enumerate(chosen):
            when = 1_400_000_000_000 + 86_400_000 * (users * place + user)
            rating = 5.0 if rng.random() < 0.5 else 4.0
            reviews.append({"user_id": f"R{user}", "parent_asin": f"B{book}", "rating": rating, "timestamp": when})
            titles.append(
                {"parent_asin": f"B{book}", "title": f"Book &amp; {book}", "author": {"name": f"Author {book}"}}
            )
            titles[-1] |= {"store": None, "categories": ["Books", "Fiction"], "details": {}}
    for name, rows in (("Books.jsonl", reviews), ("meta_Books.jsonl", titles)):
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_shipped_config_reads_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_books(tmp_path / "books")
    flags = ["--config", str(CONFIG), "--run_dir", str(tmp_path / "run"), "--stages", "data"]
    flags += ["--dataset.init_args.root", str(tmp_path / "books")]
    flags += ["--dataset.init_args.min_user_ratings", "5", "--dataset.init_args.min_item_ratings", "2"]
    monkeypatch.setattr(sys, "argv", ["trackrec"])
    run_cli(["fit", *flags])
    data = tmp_path / "run" / "data"
    manifest = read_manifest(data)
    assert manifest is not None
    notes = manifest.notes
    assert (notes["ratings_read"], notes["millisecond_times"], notes["ratings_outside_core"]) == (120, 120, 12)
    assert (notes["items"], notes["users"], notes["threshold"]) == (15, 12, 4.0)
    samples = read_table(data, "samples", check_keys=True)
    interactions = read_table(data, "interactions", check_keys=True)
    stars = samples.join(interactions, on=["user_id", "item_id"], how="left")["rating"]
    assert samples["label"].to_list() == (stars > 4).cast(pl.Int8).to_list()
    objects = parse_objects(["fit", *flags])
    tables = [read_table(data, name) for name in ("histories", "items", "users")]
    book = PromptBook(*tables, 4.0, objects.prompts)
    history_id, target = samples.select("history_id", "item_id").row(0)
    text = "".join(book.validator_prompt(history_id, None, target))
    assert text.startswith("The books a reader read, oldest first:\nBook & ")
    assert "Will this reader love the next book? Answer Yes or No." in text
    assert "[Author " in text
    assert not [word for word in ("film", "viewer", "disliked") if word in text]
