"""Turns a user's state and some items into the inputs of a bundle's nets, without torch and without a data frame.

    bundle = open_bundle(Path("export"))
    encoder = RequestEncoder(bundle)
    inputs = encoder.inputs(state, ["i1", "i2"])        # one row an item: {"item": (2,), "dense": (2, F), ...}
    (p,) = session.run(["p"], encoder.of_net(bundle.nets[0], inputs))

Most callers want `trackrec.serving.ranker.Ranker`, which runs the nets and answers everyone.

Letters: N items of a request, H recent list, A attributes, F dense features, D text dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackrec.ctr.features.columns import Rows, Statistics, columns_of
from trackrec.ctr.features.past import RaggedLists, RatedLists
from trackrec.serving.bundle import Bundle, Net
from trackrec.serving.errors import UnknownItemError
from trackrec.serving.tables import KeptItems, KeptNeighbours, KeptTastes
from trackrec.serving.users import Ratings, UserState

Inputs = dict[str, NDArray[Any]]


class RequestEncoder:
    """Makes the inputs of a bundle's nets.

    A request is answered as if it came after every rating: the recent list is the newest ratings of the state, and
    statistics are those that the nets were trained on.

    Args:
        bundle: an open one.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.width = bundle.recent_len
        history = bundle.history_statistics
        self._catalogue = bundle.catalogue
        self._statistics = Statistics(
            history,
            KeptItems(bundle.item_statistics, bundle.expected),
            None if history == "none" else KeptNeighbours(bundle.kept, bundle.weights),
        )
        self._wide_index = self._catalogue.item_index.astype(np.int64)
        self._wide_attributes = self._catalogue.attributes.astype(np.int64)

    def item_rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """(N,) rows of the catalogue, 0 for an item that it doesn't hold."""
        rows = self._bundle.item_rows
        return np.array([rows.get(item, 0) for item in item_ids], np.int64)

    def inputs(self, user: UserState, item_ids: Sequence[str]) -> Inputs:
        """The inputs of N rows, one an item, for any net of the bundle; `of_net` picks those of one net.

        ``user``, ``item`` (N,); ``item_attributes`` (N, A); ``recent_items`` (N, H); ``recent_attributes`` (N, H, A);
        ``recent_ratings`` (N, H) float32; ``recent_mask`` (N, H) bool; ``dense`` (N, F) float32, all of the statistics;
        where the bundle has texts ``text`` (N, D) float32 and ``text_mask`` (N,) bool; where a net reads the
        validator's log-odds ``log_odds`` (N, 2) float32. Indices are int64.

        Raises:
            UnknownItemError: items aren't in the catalogue, or there is no item.
        """
        rows = self.item_rows(item_ids)
        if not len(rows) or not rows.all():
            raise UnknownItemError([item for item, row in zip(item_ids, rows, strict=True) if not row])
        n, same = len(rows), np.zeros(len(rows), np.int64)
        recent = self._lists(user.items, user.ratings, self.width).padded(self.width)
        made = columns_of(
            Rows(
                users=np.full(n, user.index, np.int32),
                items=rows,
                histories=same,
                times=same,
                recent=RatedLists(*(np.repeat(values, n, axis=0) for values in recent)),
                rated=self._lists(user.history_items, user.history_ratings).padded(),
            ),
            self._catalogue,
            self._of_user(user),
        )
        inputs: Inputs = {
            "user": made["user"].astype(np.int64),
            "item": self._wide_index[rows],
            "recent_items": np.repeat(self._wide_index[recent.rows], n, axis=0),
            "recent_ratings": made["recent_ratings"],
            "recent_mask": made["recent_mask"],
            "dense": made["dense"],
            "item_attributes": self._wide_attributes[rows],
            "recent_attributes": np.repeat(self._wide_attributes[recent.rows], n, axis=0),
        }
        return {**inputs, **self._text(user, n), **self._log_odds(user, item_ids)}

    def of_net(self, net: Net, inputs: Inputs) -> Inputs:
        """The inputs that one net reads, in its order."""
        dense = inputs["dense"][:, : net.n_statistics]
        if net.log_odds:
            dense = np.concatenate([dense, inputs["log_odds"]], axis=1)
        return {name: dense if name == "dense" else inputs[name] for name in net.inputs}

    def _lists(self, items: Sequence[str], ratings: Ratings, newest: int | None = None) -> RaggedLists:
        """One list of rated items as numbers; items that the catalogue doesn't hold are left out."""
        rows = self.item_rows(items)
        known = np.flatnonzero(rows)
        if newest is not None:
            known = known[-newest:]
        scale = self._bundle.scale
        scaled = scale(np.array([np.nan if rating is None else rating for rating in ratings], np.float32))[known]
        rated = ~np.isnan(scaled)
        numbers = np.where(rated, scaled, scale.liked).astype(np.float32)
        return RaggedLists(rows[known].astype(np.int32), numbers, rated, np.array([0, len(known)]))

    def _of_user(self, user: UserState) -> Statistics:
        if self._statistics.history != "all":
            return self._statistics
        everything = self._bundle.everything
        return self._statistics._replace(users=KeptTastes(user.taste, everything, self._catalogue.attributes))

    def _text(self, user: UserState, n: int) -> Inputs:
        text = self._bundle.text
        if text is None:
            return {}
        vector = np.zeros(text.dim, np.float32)
        if user.text is not None:
            vector = text.read(np.asarray(user.text))
        return {"text": np.repeat(vector[None], n, axis=0), "text_mask": np.full(n, user.text is not None)}

    def _log_odds(self, user: UserState, item_ids: Sequence[str]) -> Inputs:
        settings = self._bundle.log_odds
        if settings is None:
            return {}
        known = user.log_odds or {}
        pairs = np.array([[known.get(item, 0.0), float(item in known)] for item in item_ids], np.float32)
        pairs[:, 0] = pairs[:, 0].clip(-settings.limit, settings.limit) / np.float32(settings.divisor)
        return {"log_odds": pairs}
