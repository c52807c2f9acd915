"""The simulated world: its probabilities, its ceilings, and that no table tells the truth."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from trackrec.interactions import DataError, MovieLens, SampleRules, Simulated, build_samples
from trackrec.interactions.simulated.source import expected_auc
from trackrec.interactions.simulated.words import GENRES, draw_titles
from trackrec.interactions.simulated.world import World, WorldRules, draw_world
from trackrec.metrics.scores import auc
from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings
from trackrec.storage.schemas import to_arrow


@pytest.fixture(scope="module")
def source() -> Simulated:
    return Simulated(users=300, items=200, seed=3)


def world_of_two() -> World:
    """One user who likes Westerns, dislikes Comedy, can't stand Horror and likes old films; a film of each kind."""
    rules = WorldRules()
    weights = np.zeros((1, len(GENRES)))
    weights[0, :3] = [rules.like, rules.dislike, rules.never]
    years, quality = np.array([1950, 1990, 1950]), np.array([0.0, 0.0, 0.5])
    titles, genres = ["Dusty Canyon", "Silly Crypt", "Cursed Wager"], [(0,), (1, 2), (2, 1)]
    return World(rules, titles, years, genres, quality, weights, np.array([-rules.era]), np.array([0.2]))


def test_a_probability_is_the_sum_of_its_parts() -> None:
    """base .3 + generosity .2 + Western 1.6 + old .8 = 2.9; .5 - 1.4 - 2.6 / 2 - .8 = -3.0; .5 - 2.6 - .7 + .8 + .5."""
    p = world_of_two().probability(np.zeros(3, np.int64), np.arange(3))
    assert np.log(p / (1 - p)) == pytest.approx([2.9, -3.0, -1.5])


def test_labels_fall_with_their_probability(source: Simulated) -> None:
    """Rows in ten bins of p: the share of likes is p within four standard errors."""
    ratings = source.read().interactions
    p = source.truth().probability(ratings["user_id"].to_list(), ratings["item_id"].to_list())
    likes = (ratings["rating"] > source.threshold).to_numpy()
    assert ratings["rating"].is_between(1, 5).all()
    for low in np.arange(0, 1, 0.1):
        rows = (p >= low) & (p < low + 0.1)
        error = math.sqrt((p[rows] * (1 - p[rows])).sum()) / rows.sum()
        assert abs(likes[rows].mean() - p[rows].mean()) < 4 * error


def test_expected_auc_is_the_mean_over_fresh_labels() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(3000)
    scores = np.round(p + rng.normal(0, 0.3, p.size), 1)  # with ties
    drawn = [auc(scores, rng.random(p.size) < p) for _ in range(40)]
    assert expected_auc(scores, p) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / math.sqrt(40))


def test_expected_auc_counts_no_row_against_itself() -> None:
    """Of two rows with p 1 and 0 the only pair is won; with both at .5, scores s > t win half of all unequal pairs."""
    assert expected_auc([0.9, 0.1], [1.0, 0.0]) == 1.0
    assert expected_auc([0.9, 0.1], [0.5, 0.5]) == 0.5
    assert expected_auc([0.3, 0.3], [0.8, 0.1]) == 0.5


def test_the_ceiling_is_what_ranking_by_the_truth_reaches(source: Simulated) -> None:
    samples = build_samples(source.read(), SampleRules(), source.threshold, seed=0).samples
    ceiling = source.truth().ceiling(samples)
    p = source.truth().probability(samples["user_id"].to_list(), samples["item_id"].to_list())
    assert ceiling.auc == pytest.approx(auc(p, samples["label"].to_numpy()))
    assert ceiling.expected_auc == pytest.approx(ceiling.auc, abs=0.02)
    assert ceiling.expected_acc == pytest.approx(ceiling.acc, abs=0.02)
    noisy = p + np.random.default_rng(0).normal(0, 0.2, p.size)
    assert expected_auc(noisy, p) < ceiling.expected_auc


def test_the_shipped_rules_leave_room() -> None:
    """The numbers that `WorldRules` promises."""
    source = Simulated()
    tables = build_samples(source.read(), SampleRules(protocol="user"), source.threshold, seed=0)
    valid = tables.samples.filter(pl.col("split") == "valid")
    p = source.truth().probability(valid["user_id"].to_list(), valid["item_id"].to_list())
    told = source.truth().told_by(tables.histories, valid, source.threshold, draws=5000)
    assert expected_auc(p, p) == pytest.approx(0.85, abs=0.015)
    assert expected_auc(told, p) == pytest.approx(0.79, abs=0.02)
    assert tables.samples["label"].mean() == pytest.approx(0.5, abs=0.05)


def test_what_a_history_tells_stands_between_chance_and_the_truth(source: Simulated) -> None:
    tables = build_samples(source.read(), SampleRules(history_len=12), source.threshold, seed=0)
    p = source.truth().probability(tables.samples["user_id"].to_list(), tables.samples["item_id"].to_list())
    told = source.truth().told_by(tables.histories, tables.samples, source.threshold, draws=2000)
    assert 0.65 < expected_auc(told, p) < expected_auc(p, p) - 0.05
    assert np.abs(told.mean() - p.mean()) < 0.03


def test_an_empty_history_tells_what_the_rules_tell(source: Simulated) -> None:
    """P(like) of a cold user is the mean over all tastes, the same for every user who is asked about an item."""
    rules = SampleRules(per="sample", min_history=0)
    tables = build_samples(source.read(), rules, source.threshold, seed=0)
    empty = tables.histories.filter(pl.col("item_ids").list.len() == 0)
    assert len(empty) == source.users
    cold = tables.samples.filter(pl.col("history_id").is_in(empty["history_id"].implode()))
    told = source.truth().told_by(tables.histories, cold, source.threshold, draws=2000)
    by_item = cold.select("item_id").with_columns(p=pl.Series(told)).group_by("item_id").agg("p")
    assert by_item["p"].list.len().max() > 1
    assert all(np.ptp(values) < 1e-6 for values in by_item["p"].to_list())
    assert np.isfinite(told).all()
    assert set(source.ceilings(cold, tables.histories, source.threshold)) >= {"told_auc", "told_acc"}


def test_ceilings_read_no_label_and_no_source_of_people_has_any(source: Simulated) -> None:
    tables = build_samples(source.read(), SampleRules(history_len=12), source.threshold, seed=0)
    rows = tables.samples.filter(pl.col("split") == "valid")
    found = source.ceilings(rows, tables.histories, source.threshold)
    assert set(found) == {"bayes_auc", "bayes_acc", "told_auc", "told_acc"}
    best = source.truth().ceiling(rows)
    assert (found["bayes_auc"], found["bayes_acc"]) == (best.expected_auc, best.expected_acc)
    assert 0.65 < found["told_auc"] < found["bayes_auc"]
    assert 0.6 < found["told_acc"] < found["bayes_acc"]
    turned = rows.with_columns(label=1 - pl.col("label"))
    assert source.ceilings(turned, tables.histories, source.threshold) == found
    assert source.ceilings(rows.head(0), tables.histories, source.threshold) == {}
    assert MovieLens(root=Path("nowhere")).ceilings(rows, tables.histories, 3.0) == {}


def test_a_world_is_its_arguments(source: Simulated) -> None:
    again = Simulated(users=300, items=200, seed=3)
    assert again.read().interactions.equals(source.read().interactions)
    assert again.content_key() == source.content_key()
    for other in (
        Simulated(users=300, items=200, seed=4),
        Simulated(users=300, items=200, seed=3, rules=WorldRules(like=2.0)),
    ):
        assert other.content_key() != source.content_key()


def test_tables_fit_their_schemas(source: Simulated) -> None:
    ratings = source.read()
    for name in ("items", "users", "interactions"):
        to_arrow(name, getattr(ratings, name))
    log = ratings.interactions
    assert not log.select("user_id", "item_id").is_duplicated().any()
    assert log["timestamp"].is_sorted()
    assert not log.select("user_id", "timestamp").is_duplicated().any()
    counts = log["user_id"].value_counts()["count"]
    assert counts.min() >= source.rules.fewest
    assert counts.max() <= source.rules.most
    assert ratings.items["title"].n_unique() == source.items


def test_the_hidden_half_changes_nothing_but_ratings() -> None:
    """Two worlds that differ in what users like only: what stages read differs in the ratings' values, nowhere else."""
    one = Simulated(users=50, items=200, seed=5)
    other = Simulated(users=50, items=200, seed=5)
    other.__dict__["_world"] = one._world._replace(weights=-one._world.weights, eras=-one._world.eras)
    left, right = one.read(), other.read()
    assert left.items.equals(right.items)
    assert left.users.equals(right.users)
    known = ["user_id", "item_id", "timestamp", "row"]
    assert left.interactions.select(known).equals(right.interactions.select(known))
    assert not left.interactions["rating"].equals(right.interactions["rating"])
    assert left.users["attributes"].list.len().sum() == 0


def test_prompts_hold_nothing_of_a_user_but_the_history(source: Simulated) -> None:
    """The prompt of one user with another's history is the other's prompt."""
    ratings = source.read()
    tables = build_samples(ratings, SampleRules(), source.threshold, seed=0)
    swapped = tables.histories.with_columns(pl.col("user_id").reverse())
    shown = PromptSettings(user_attributes=True)
    books = [PromptBook(table, ratings.items, ratings.users, 3.0, shown) for table in (tables.histories, swapped)]
    for history_id in tables.histories["history_id"].head(5):
        prompts = [book.validator_prompt(history_id, "A text.", "i0") for book in books]
        assert prompts[0] == prompts[1]


def test_titles_tell_genres_in_part() -> None:
    """The share of titles that hold a word of one of their genres is between the share that all or none would."""
    world = draw_world(1, 2000, 0, WorldRules())
    told = 0
    for title, own in zip(world.titles, world.genres, strict=True):
        words = {word for genre in own for word in (*GENRES[genre].adjectives, *GENRES[genre].nouns)}
        told += bool(words & set(title.split()))
    silent = 1 - WorldRules().told
    assert 1 - silent**2 - 0.03 < told / 2000 < 1 - silent**3 + 0.03
    assert all(len(set(genre.adjectives) | set(genre.nouns)) == 16 for genre in GENRES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": 0}, "dataset.init_args.users must be at least 1, got 0"),
        ({"items": 50}, "dataset.init_args.items must be at least 120"),
        ({"seed": -1}, "dataset.init_args.seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Simulated(**arguments)


def test_fewer_ratings_fit_fewer_items() -> None:
    rules = replace(WorldRules(), fewest=10, most=12)
    assert Simulated(users=5, items=24, rules=rules).read().interactions.height >= 50


def test_more_films_than_titles() -> None:
    """Where titles tell nothing there are 196 of them: the rest get numbers."""
    genres = [(0,)] * 400
    titles = draw_titles(np.random.default_rng(0), genres, told=0.0)
    assert len(set(titles)) == 400
    assert sum(title.rsplit(" ", 1)[1].isdigit() for title in titles) >= 204
