"""`trackrec init` on the files of published data sets: what it writes is what a person would write, and it runs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from shapes import SHAPES

from trackrec.commands.init import Chooser
from trackrec.interactions.guess.choices import Candidate

ROOT = Path(__file__).parents[2]
RATED = {"rated": "rated", "like": "like"}
FILM = {"item": "film", "items": "films", "user": "viewer", **RATED}
BOOK = {"item": "book", "items": "books", "user": "reader", **RATED}
GAME = {"item": "game", "items": "games", "user": "player"}
TSV = {"separator": "\t", "header": False, "quote": None}
# By shape: the files beside the log, what a person would write below `init_args` and `samples`, and the words of the
# prompts. A column that holds the same for all, as the brands of Amazon's made-up games do, tells nothing.
EXPECTED: dict[str, tuple[dict[str, str], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "movielens": (
        {"items": "movies.csv"},
        {
            "columns": {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"},
            "item_columns": {"title": "title", "attributes": "genres"},
            "threshold": 3.0,
        },
        {},
        FILM,
    ),
    "goodreads": (
        {"items": "goodreads_books_children.json.gz"},
        {
            "columns": {"user": "user_id", "item": "book_id", "rating": "rating", "timestamp": "date_added"},
            "item_columns": {"title": "title", "year": "publication_year", "attributes": "popular_shelves.name"},
            "threshold": 3.0,
            "time_unit": "%a %b %d %H:%M:%S %z %Y",
        },
        {},
        BOOK,
    ),
    "steam": (
        {"items": "steam_games.json.gz"},
        {
            "columns": {"user": "username", "item": "product_id", "rating": "hours", "timestamp": "date"},
            "item_columns": {"id": "id", "title": "title", "year": "release_date", "attributes": ["genres", "tags"]},
            "threshold": 10.0,
            "time_unit": "iso",
        },
        {},
        {
            **GAME,
            "rated": "played",
            "like": "spend long on",
            "liked": "played for long",
            "disliked": "played briefly",
        },
    ),
    "amazon 2018": (
        {"items": "meta_Video_Games.json.gz"},
        {
            "columns": {"user": "reviewerID", "item": "asin", "rating": "overall", "timestamp": "unixReviewTime"},
            "item_columns": {"title": "title", "attributes": "category"},
            "threshold": 3.0,
        },
        {},
        {**GAME, **RATED},
    ),
    "amazon 2023": (
        {"items": "meta_Video_Games.jsonl.gz"},
        {
            "columns": {"user": "user_id", "item": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
            "item_columns": {"title": "title", "attributes": "categories"},
            "threshold": 3.0,
            "time_unit": "ms",
        },
        {},
        {**GAME, **RATED},
    ),
    "mind": (
        {"items": "news.tsv"},
        {
            "columns": {"user": "2", "impressions": "5", "timestamp": "3", "history": "4"},
            "item_columns": {"id": "1", "title": "4", "attributes": ["2", "3"]},
            "text": TSV,
            "time_unit": "%m/%d/%Y %I:%M:%S %p",
        },
        {"per": "sample"},
        {
            **{"item": "article", "items": "articles", "user": "reader"},
            **{"rated": "was shown", "like": "click", "liked": "clicked", "disliked": "skipped"},
        },
    ),
    "lastfm": (
        {"users": "usersha1-profile.tsv"},
        {
            "columns": {"user": "1", "item": "3", "rating": "4"},
            "user_columns": {"attributes": ["2", "3"]},
            "text": TSV,
            "threshold": 64.0,
        },
        {"protocol": "user"},
        {
            **{"item": "artist", "items": "artists", "user": "listener", "user_attributes": True},
            **{"rated": "played", "like": "often play", "liked": "often played", "disliked": "seldom played"},
        },
    ),
    "yelp": (
        {"items": "yelp_academic_dataset_business.json", "users": "yelp_academic_dataset_user.json"},
        {
            "columns": {"user": "user_id", "item": "business_id", "rating": "stars", "timestamp": "date"},
            "item_columns": {"title": "name", "attributes": "categories"},
            "text": {"attribute_separator": ","},
            "threshold": 3.0,
            "time_unit": "iso",
        },
        {},
        {"item": "place", "items": "places", "user": "visitor", **RATED},
    ),
    "book-crossing": (
        {"items": "BX-Books.csv", "users": "BX-Users.csv"},
        {
            "columns": {"user": "User-ID", "item": "ISBN", "rating": "Book-Rating"},
            "item_columns": {
                "title": "Book-Title",
                "year": "Year-Of-Publication",
                "attributes": "Book-Author",
            },
            "user_columns": {"attributes": ["Age"]},
            "text": {"separator": ";", "escape": "\\"},
            "threshold": 6.0,
        },
        {"protocol": "user"},
        {**BOOK, "user_attributes": True},
    ),
}
Run = Callable[..., str]


@pytest.fixture
def refused(trackrec: Run, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must fail; returns its error."""

    def run(*args: str) -> str:
        with pytest.raises(SystemExit):
            trackrec(*args)
        return capfd.readouterr().err

    return run


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_written_is_what_a_person_would_write(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run
) -> None:
    """The files are named from where the command runs, and columns, form, threshold and words are all there is."""
    monkeypatch.chdir(tmp_path)
    log = SHAPES[name](Path("data"))
    if name == "movielens":  # under its own name it has a source of its own
        log = log.rename(log.with_name("log.csv"))
    beside, args, samples, words = EXPECTED[name]
    files = {key: f"data/{file}" for key, file in beside.items()}
    printed = trackrec("init", "--ratings", str(log), *(w for k, v in files.items() for w in (f"--{k}", v)))
    written = yaml.safe_load(Path("my.yaml").read_text())
    assert written["run_dir"] == "runs/my"
    assert written["dataset"] == {"class_path": "Table", "init_args": {"ratings": str(log), **files, **args}}
    assert written["samples"] == {**samples, "max_history": 60}
    assert {key: written["prompts"][key] for key in words} == words
    assert written["prompts"].get("user_attributes", False) == words.get("user_attributes", False)
    assert "That reads 750 ratings of 30 users and 40 items; 41% of the ratings are likes." in printed
    assert "trackrec data --config my.yaml" in printed
    assert len(printed.splitlines()) < 40
    assert {path.name for path in tmp_path.iterdir()} == {"data", "my.yaml"}


@pytest.mark.recipe
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_written_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run) -> None:
    monkeypatch.chdir(tmp_path)
    log = SHAPES[name](tmp_path)
    files = [word for key, file in EXPECTED[name][0].items() for word in (f"--{key}", file)]
    trackrec("init", "--ratings", log.name, *files, "--yes")
    short = ["--ctr.seeds", "[0]", "--ctr.trainer.max_epochs", "1", "--ctr.classics", "[]"]
    printed = trackrec("fit", "--config", "my.yaml", "--stages", "data,ctr", "--ctr.arms", "[none]", *short)
    assert "DIN, no text" in printed
    assert Path("runs/my/ctr/manifest.json").exists()


def test_the_sizes_for_a_laptop_are_those_of_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run
) -> None:
    """A made-up data set of 30 users takes part whole; all else is as in configs/own_ratings.yaml."""
    monkeypatch.chdir(tmp_path)
    trackrec("init", "--ratings", SHAPES["movielens"](tmp_path).name)
    written = yaml.safe_load(Path("my.yaml").read_text())
    template = yaml.safe_load((ROOT / "configs/own_ratings.yaml").read_text())
    for key in ("sampler", "teacher", "scoring", "distill", "align", "rec_tune"):
        assert written[key] == template[key], key
    assert written["loop"] == template["loop"] | {"users": 1, "warmup_users": 1}
    assert written["backbone"] == template["backbone"] | {"model": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    assert {key: written["prompts"][key] for key in template["prompts"]} == template["prompts"]


def test_a_title_with_a_number_is_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run) -> None:
    """Of the words of "Film 3" every second one is the id of an item."""
    monkeypatch.chdir(tmp_path)
    kinds = ("Drama|War", "Comedy")
    rows = [f"{user},{item},{1 + (user + item) % 5},{881250949 + 90 * item},Film {item},{kinds[item % 2]}"
            for user in range(20) for item in range(12)]  # fmt: skip
    Path("log.csv").write_text("user_id,item_id,rating,timestamp,title,genres\n" + "\n".join(rows) + "\n")
    trackrec("init", "--ratings", "log.csv")
    args = yaml.safe_load(Path("my.yaml").read_text())["dataset"]["init_args"]
    assert args["columns"] == {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp"}
    assert args["item_columns"] == {"title": "title", "attributes": "genres"}


LINES = "ann,b1,5\nbob,b2,2\nann,b2,4\nbob,b1,3\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "--ratings: 'log.csv': no such file"),
        ("", "--ratings: log.csv is empty"),
        ("user,item,rating\n", "--ratings: log.csv has a header and no rows"),
        ("user\nann\nbob\n", "--ratings: log.csv has one column"),
        ("stars,note\n5,aa\n3,bb\n4,cc\n2,dd\n1,ee\n", "no column of log.csv could hold the user"),
        ("user,stars\n" + "ann,5\nbob,3\nann,4\nbob,1\n", "no column of log.csv could hold the item"),
        ("user,item\nann,b1\nbob,b2\nann,b2\n", "If every row is a like"),
        ("user,item,page\nann,b1,1\nbob,b2,2\nann,b2,3\n", "says what a user thought: it has the columns user, item"),
    ],
)
def test_what_cannot_be_guessed_is_said_and_nothing_is_written(
    text: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("log.csv").write_text(text)
    error = refused("init", "--ratings", "log.csv")
    assert words in error
    assert "dataset.init_args" not in error
    assert not Path("my.yaml").exists()


def test_files_that_do_not_belong_together_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("user,item,stars\n" + LINES)
    Path("tabs.csv").write_text("item\tname\nb1\tBread\nb2\tSalt\n")
    Path("other.csv").write_text("item,name\nx1,Bread\nx2,Salt\n")
    assert "are read in one form" in refused("init", "--ratings", "log.csv", "--items", "tabs.csv")
    error = refused("init", "--ratings", "log.csv", "--items", "other.csv")
    assert "--items: no column of other.csv holds the ids of --ratings, such as " in error


def test_a_file_that_is_there_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run, refused: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("user,item,stars\n" + LINES)
    Path("own.yaml").write_text("mine")
    assert "--output: 'own.yaml' is there already" in refused("init", "--ratings", "log.csv", "--output", "own.yaml")
    assert Path("own.yaml").read_text() == "mine"
    trackrec("init", "--ratings", "log.csv", "--output", "own.yaml", "--force")
    assert yaml.safe_load(Path("own.yaml").read_text())["run_dir"] == "runs/own"


def test_bad_rows_are_dropped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("user,item,stars\n" + LINES * 6 + "ann,b3,\n")
    printed = trackrec("init", "--ratings", "log.csv")
    assert "1 rows can't be read and are left out" in printed
    assert yaml.safe_load(Path("my.yaml").read_text())["dataset"]["init_args"]["bad_rows"] == "drop"


def test_published_splits_are_found_by_the_names_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        Path(f"log_{part}.csv").write_text("user,item,stars\n" + LINES)
    trackrec("init", "--ratings", "log_*.csv")
    written = yaml.safe_load(Path("my.yaml").read_text())
    assert written["dataset"]["init_args"]["ratings"] == {"test": "log_test.csv", "train": "log_train.csv"}
    assert written["samples"] == {"protocol": "given", "max_history": 60}


def test_movielens_as_grouplens_ships_it_has_a_source_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackrec: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    SHAPES["movielens"](tmp_path)
    printed = trackrec("init", "--ratings", "ratings.csv", "--items", "movies.csv")
    written = yaml.safe_load(Path("my.yaml").read_text())
    assert written["dataset"] == {"class_path": "MovieLens", "init_args": {"root": ".", "threshold": 3.0}}
    assert {key: written["prompts"][key] for key in FILM} == FILM
    assert "That reads 750 ratings of 30 users and 40 items; 41% of the ratings are likes." in printed


CLOSE = [Candidate("title", 9.0, "The River"), Candidate("name", 8.5, "River")]


@pytest.mark.parametrize(("typed", "taken"), [("", "title"), ("2", "name"), ("name", "name"), ("7|2", "name")])
def test_a_close_guess_is_asked_on_a_terminal(typed: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console, answers = Console(file=io.StringIO()), iter(typed.split("|"))
    monkeypatch.setattr(console, "input", lambda *_, **__: next(answers))
    assert Chooser(console, ask=True)("Which column holds the title?", CLOSE).value == taken


def test_a_close_guess_is_taken_and_said_elsewhere() -> None:
    chooser = Chooser(Console(file=io.StringIO()), ask=False)
    assert chooser("Which column holds the title?", CLOSE).value == "title"
    assert chooser.taken == ["Which column holds the title? title; name would fit too."]
