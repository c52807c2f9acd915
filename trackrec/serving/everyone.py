"""Answers every request of `trackrec predict` by the best that can: the tables' side of `trackrec.serving.ranker`.

Letters: N requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.arms.arm import Arm
from trackrec.ctr.arms.assemble import CTRInputs, sample_rows
from trackrec.ctr.features.dense_statistics import EarlierItemRatings, ItemRatingsAt
from trackrec.ctr.features.past import encode, source_rows
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.ctr.saved import SavedNets, features_file, saved_seeds
from trackrec.ctr.settings import CTRSettings
from trackrec.recipe.tables import without_items
from trackrec.runtime.errors import SettingError
from trackrec.serving.ladder import BASE_RATE, ITEM_MEAN, ITEM_USER, base_rate, item_user
from trackrec.serving.requests import after_all, newest_histories, newest_lists

NOBODY = "no history"  # the id of an empty history, for users whom the histories table doesn't hold
AskNets = Callable[[SavedNets, pl.DataFrame, pl.DataFrame, CTRInputs], NDArray[np.float32]]


class Everyone(NamedTuple):
    """Answers to N requests: P(like), and who answered; see `trackrec.serving.ranker`."""

    p: NDArray[np.float32]
    answered_by: list[str]


class Ladder:
    """The nets of an arm, those without text, and like-rates.

    Args:
        inputs: the tables on which the stage ran.
        settings: of the stage.
        ctr_dir: the stage's directory.
        arm: the arm that is asked first.
        seed: of the run.
        empty_text: whether the text about an empty history fits every new user.
    """

    def __init__(
        self, inputs: CTRInputs, settings: CTRSettings, ctr_dir: Path, arm: str, seed: int, empty_text: bool = True
    ) -> None:
        nobody = {"history_id": NOBODY, "user_id": "", "item_ids": [], "ratings": []}
        row = pl.DataFrame([nobody], schema=inputs.histories.schema)
        self._inputs = inputs._replace(histories=pl.concat([inputs.histories, row]))
        self._settings, self._ctr_dir, self._arm, self._seed = settings, ctr_dir, Arm.parse(arm), seed
        self._empty_text = empty_text
        self._samples = sample_rows(inputs, settings.text)
        self._saved = json.loads(features_file(ctr_dir).read_text())

    def answer(self, wanted: pl.DataFrame, first: AskNets, others: AskNets) -> Everyone:
        """Answer every request.

        Args:
            wanted: user_id, item_id.
            first: asks the nets of the arm: nets, requests, their histories, tables -> (N',).
            others: the same for the nets without text.
        """
        rung = self._rungs(wanted)
        p, names = np.empty(len(wanted), np.float32), np.full(len(wanted), BASE_RATE, object)
        for place, arm, ask in ((0, self._arm.name, first), (1, self._without_text, others)):
            rows = rung == place
            if rows.any() and arm is not None:
                requests = wanted.filter(pl.Series(rows))
                nets = SavedNets(
                    self._inputs, self._settings, self._ctr_dir, arm, self._seed, after_all(self._inputs.interactions)
                )
                p[rows], names[rows] = ask(nets, requests, self._histories(requests["user_id"]), self._inputs), arm
        rows = rung == 2
        if rows.any():
            p[rows], names[rows] = self._by_rates(wanted.filter(pl.Series(rows)))
        p[rung == 3] = self._base_rate
        return Everyone(p, names.tolist())

    def _rungs(self, wanted: pl.DataFrame) -> NDArray[np.int64]:
        """(N,) who answers: 0 the arm, 1 the nets without text, 2 rates of the item, 3 the rate of everything."""
        histories = self._histories(wanted["user_id"])
        with_net = set(self._recent(wanted).filter(pl.col("recent_items").list.len() > 0)["user_id"])
        if (self._samples.filter(pl.col("split") == "train")["recent_items"].list.len() == 0).any():
            with_net = set(wanted["user_id"])
        with_text = with_net
        if self._needs_text:
            told = histories.filter(pl.col("history_id").is_in(self._samples["history_id"].unique().implode()))
            with_text = with_net & set(told["user_id"])
        without = with_net if self._without_text is not None else set()
        users = pl.DataFrame({"user_id": wanted["user_id"].unique()})
        rungs = [0 if user in with_text else 1 if user in without else 2 for user in users["user_id"]]
        by_user = users.with_columns(rung=pl.Series(rungs, dtype=pl.Int64))
        rung = wanted.select("user_id").join(by_user, on="user_id", how="left", maintain_order="left")["rung"]
        known = wanted["item_id"].is_in(self._inputs.items["item_id"].implode())
        return np.where(known.to_numpy(), rung.to_numpy(), 3)

    @property
    def _needs_text(self) -> bool:
        """Whether the arm's nets answer only users with a text."""
        reads = bool(self._arm.texts) and self._settings.text.use != "log_odds"
        return reads and not self._saved["gaps"][self._arm.name]

    @property
    def _without_text(self) -> str | None:
        name = f"none{self._arm.suffix}"
        if not self._needs_text:
            return None
        try:
            saved_seeds(self._ctr_dir, name)
        except SettingError:  # the run has no such arm
            return None
        return name

    def _histories(self, users: pl.Series) -> pl.DataFrame:
        """user_id, history_id of everyone: the newest that the arm can answer, the newest of all, or an empty one."""
        found = self._newest
        inputs, asked = self._inputs, users.unique().sort().to_frame("user_id")
        empty = sorted(without_items(inputs.histories) & set(self._samples["history_id"]))
        known = pl.concat([inputs.interactions["user_id"], inputs.samples["user_id"]]).implode()
        told = empty[0] if empty and self._empty_text else NOBODY
        return asked.join(found, on="user_id", how="left", maintain_order="left").with_columns(
            pl.col("history_id").fill_null(
                pl.when(pl.col("user_id").is_in(known)).then(pl.lit(NOBODY)).otherwise(pl.lit(told))
            )
        )

    @cached_property
    def _newest(self) -> pl.DataFrame:
        return newest_histories_of_all(self._inputs.samples, set(self._samples["history_id"].to_list()))

    def _recent(self, wanted: pl.DataFrame) -> pl.DataFrame:
        published = self._inputs.samples if self._inputs.published_lists else None
        width = int(self._saved["spec"]["recent_len"])
        return newest_lists(wanted, width, self._inputs.interactions, published)

    @cached_property
    def _ratings(self) -> EarlierItemRatings:
        source = source_rows(self._inputs.samples, self._inputs.histories, self._inputs.interactions)
        return EarlierItemRatings(source, self._inputs.items, RatingScale.saved(self._saved["scale"]))

    @cached_property
    def _base_rate(self) -> float:
        now = np.full(1, after_all(self._inputs.interactions), np.int64)
        return base_rate(self._ratings.overall(np.zeros(1, np.int64), now))

    def _by_rates(self, wanted: pl.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
        """Requests for known items, by the like-rates of item and user."""
        items = self._inputs.items["item_id"]
        rows = 1 + encode(wanted["item_id"], items)
        at = ItemRatingsAt(self._ratings, len(items), after_all(self._inputs.interactions))
        rates = 1.0 / (1.0 + np.exp(-at.statistics(rows, rows)[:, 0].astype(np.float64)))
        if self._settings.features.history_statistics == "none":
            return rates, [ITEM_MEAN] * len(wanted)
        ratings = pl.col("recent_ratings").list.drop_nulls()
        likes = ratings.list.eval(pl.element() > self._saved["scale"]["threshold"]).list.sum()
        counts = self._recent(wanted).select("user_id", n=ratings.list.len(), likes=likes)
        of_user = wanted.join(counts, on="user_id", how="left", maintain_order="left").select(
            pl.col("n", "likes").fill_null(0).cast(pl.Float64)
        )
        n, liked = of_user["n"].to_numpy(), of_user["likes"].to_numpy()
        both = item_user(rates, n, liked, self._base_rate)
        return np.where(n > 0, both, rates), [ITEM_USER if count else ITEM_MEAN for count in n.tolist()]


def newest_histories_of_all(samples: pl.DataFrame, answerable: set[str]) -> pl.DataFrame:
    """user_id, history_id of every user of the samples: the newest answerable history, else the newest of all."""
    newest = newest_histories(samples, answerable)
    others = newest_histories(samples, set(samples["history_id"].to_list()))
    return pl.concat([newest, others.join(newest, on="user_id", how="anti").select(newest.columns)])
