"""The real ML-100K files, read by `MovieLens` and by `Table` with a mapping of columns: equal ratings and samples."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from trackrec.interactions import (
    ItemColumns,
    MovieLens,
    RatingColumns,
    Ratings,
    SampleRules,
    Table,
    TextFormat,
    UserColumns,
    build_samples,
)

pytestmark = [pytest.mark.models, pytest.mark.slow]
ROOT = Path("data/ml-100k").resolve()


@pytest.fixture(scope="module")
def both() -> tuple[Ratings, Ratings]:
    if not (ROOT / "ml-100k.inter").exists():
        pytest.skip("no data/ml-100k: make models")
    table = Table(
        str(ROOT / "ml-100k.inter"),
        items=str(ROOT / "ml-100k.item"),
        users=str(ROOT / "ml-100k.user"),
        threshold=3.0,
        columns=RatingColumns(
            user="user_id:token", item="item_id:token", rating="rating:float", timestamp="timestamp:float"
        ),
        item_columns=ItemColumns(title="movie_title:token_seq", attributes="class:token_seq"),
        user_columns=UserColumns(attributes=["age:token", "gender:token", "occupation:token"]),
        text=TextFormat(separator="\t", quote=None, attribute_separator=" "),
    )
    return MovieLens(ROOT, download=False).read(), table.read()


def test_the_ratings_are_the_same(both: tuple[Ratings, Ratings]) -> None:
    films, table = both
    assert films.interactions.height == 100_000
    assert table.interactions.equals(films.interactions)
    assert table.items["item_id"].equals(films.items["item_id"])
    assert table.users["user_id"].equals(films.users["user_id"])
    same = {"ratings_read": 100_000, "duplicate_ratings": 0, "ratings_of_unknown_items": 0, "users": 943, "items": 1682}
    for ratings in both:
        assert {key: ratings.counts[key] for key in same} == same


def test_what_is_told_of_items_differs_by_the_repairs_of_films_alone(both: tuple[Ratings, Ratings]) -> None:
    """`MovieLens` leaves out the genre "unknown" and puts articles to the front."""
    films, table = (ratings.items for ratings in both)
    known = table["attributes"].list.eval(pl.element().filter(pl.element() != "unknown"))
    assert known.to_list() == films["attributes"].to_list()
    moved = dict(zip(table["title"], films["title"], strict=True))
    assert moved["Usual Suspects, The"] == "The Usual Suspects"
    assert sum(told == read for told, read in moved.items()) > 1200
    attributes = [users["attributes"].to_list()[0] for users in (both[0].users, both[1].users)]
    assert attributes == [["24 years", "male", "technician"], ["age:token 24", "M", "technician"]]


@pytest.mark.parametrize("per", ["user", "sample"])
@pytest.mark.parametrize("protocol", ["temporal", "user"])
def test_samples_and_histories_are_the_same(both: tuple[Ratings, Ratings], per: str, protocol: str) -> None:
    rules = SampleRules(protocol=protocol, per=per)  # type: ignore[arg-type]
    films, table = (build_samples(ratings, rules, 3.0, seed=42) for ratings in both)
    assert films.samples.height > 70_000
    assert table.samples.equals(films.samples)
    assert table.histories.equals(films.histories)
    assert table.counts == films.counts
