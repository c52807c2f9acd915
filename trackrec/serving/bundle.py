"""A bundle: everything that answers requests with the nets of a run, in one folder that `trackrec export` writes.

    bundle.json            what is in it, the sha256 of every file, and the ranges of the inputs in training
    README.md              the model card
    net.onnx               inputs of `trackrec.serving.encoder.RequestEncoder.inputs` -> ``p`` (B,), P(like)
    net-without-text.onnx  the same for users without a text, where the first net can't answer them
    items.parquet          item_id, title, and how often and how well each was rated
    items.npz              indices, attributes and statistics of the items, as `trackrec.serving.tables` reads them
    neighbours.npy         similarities of items, where the nets read them; mapped, not loaded
    projection.npz         principal components of the texts, where the nets read those
    item_vectors.npy       vectors of the items' own texts, of length 1, by the encoder of the users' texts
    users.parquet          the state of every user of the run, and the vector of their text

For a server:

    bundle = open_bundle(path)                  # checks every digest; BundleError says what is wrong
    ranker = Ranker(bundle)                     # trackrec.serving.ranker; opens the nets
    for state in bundle.users(): ...            # to build a store: state.user_id, state.pack(), state.text
    bundle.check_texts(encoder, dim)            # before vectors of a generation are given to it
    bundle.model_version, bundle.info["ranges"]

Nothing here imports torch. Letters: I items, A attributes, K items with neighbours, D text dim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.features.columns import Catalogue
from trackrec.ctr.features.dense_statistics import HistoryStatistics
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.runtime.errors import reason
from trackrec.serving.errors import BundleError
from trackrec.serving.users import Taste, UserState

FORMAT = 4
INFO, CARD = "bundle.json", "README.md"
NET, WITHOUT_TEXT = "net.onnx", "net-without-text.onnx"
ITEMS, ITEM_ARRAYS, NEIGHBOURS = "items.parquet", "items.npz", "neighbours.npy"
USERS, PROJECTION, ITEM_VECTORS = "users.parquet", "projection.npz", "item_vectors.npy"
_BEFORE = "features.json"  # of a folder that an export wrote before there were bundles
_USERS_AT_ONCE = 8192


@dataclass(frozen=True)
class Net:
    """One ONNX file.

    Attributes:
        file: its name.
        arm: of the comparison that it belongs to.
        seeds: of the trainings whose mean it is.
        inputs: names of its inputs, in order.
        n_statistics: how many of the dense statistics it reads, from the first on.
        text: whether it reads texts.
        gaps: whether it was trained on rows without a text.
        log_odds: whether it reads the validator's log-odds.
    """

    file: str
    arm: str
    seeds: tuple[int, ...]
    inputs: tuple[str, ...]
    n_statistics: int
    text: bool
    gaps: bool
    log_odds: bool


class LogOdds(NamedTuple):
    """How log-odds become a dense feature: clipped to ±limit, then divided."""

    limit: float
    divisor: float


class TextVectors:
    """How the vector of a text becomes an input.

    Args:
        dim: D of the input.
        vector_dim: of the vectors that are given.
        encoder: which made them.
        live: whether a newer text of the same encoder may take the place of the one in the bundle. Not so where the
            nets read placebos or several texts.
        projection: mean, directions and scale of `trackrec.ctr.arms.texts.Projection`.
    """

    def __init__(
        self,
        dim: int,
        vector_dim: int,
        encoder: str,
        live: bool,
        projection: tuple[NDArray[np.float64], NDArray[np.float64], float] | None,
    ) -> None:
        self.dim, self.vector_dim, self.encoder, self.live = dim, vector_dim, encoder, live
        self._projection = projection

    def read(self, vector: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """(vector_dim,) -> (D,).

        Raises:
            BundleError: the vector has another width.
        """
        if vector.shape != (self.vector_dim,):
            raise BundleError(f"a text vector must have {self.vector_dim} numbers, got {vector.shape}.")
        if self._projection is None:
            return vector.astype(np.float32)
        mean, directions, scale = self._projection
        reduced: NDArray[np.float64] = (vector.astype(np.float64) - mean) @ directions / scale
        return reduced.astype(np.float32)


class Bundle:
    """An open bundle. Made by `open_bundle`.

    Attributes:
        path: its folder.
        info: the content of ``bundle.json``.
        nets: the first answers whom it can; the second, where there is one, everyone else with a rating.
        scale: of the ratings.
        history_statistics: which statistics of what the user rated the nets read.
        recent_len: H.
        cold: whether the nets were trained on rows without any earlier rating.
        base_rate: share of likes among all ratings.
        everything: count, likes and sum of all ratings, on the scale.
        log_odds: how they are read; None where no net does.
        item_ids: (I,) the catalogue.
        item_rows: item -> row, from 1.
        item_statistics, expected, kept: see `trackrec.serving.tables`.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info
        self.nets = [
            Net(**{**net, "seeds": tuple(net["seeds"]), "inputs": tuple(net["inputs"])}) for net in info["nets"]
        ]
        self.scale = RatingScale.saved(info["scale"])
        self.history_statistics = cast(HistoryStatistics, info["history_statistics"])
        self.recent_len = int(info["recent_len"])
        self.cold, self.base_rate = bool(info["cold"]), float(info["base_rate"])
        count, likes, total = info["everything"]
        self.everything = (float(count), float(likes), float(total))
        self.log_odds = LogOdds(**info["log_odds"]) if info["log_odds"] else None
        ids = pl.read_parquet(path / ITEMS, columns=["item_id"])["item_id"]
        self.item_ids: list[str] = ids.to_list()
        self.item_rows = {item: row for row, item in enumerate(self.item_ids, start=1)}
        with np.load(path / ITEM_ARRAYS) as arrays:
            self.catalogue = Catalogue(ids, arrays["index"], arrays["attributes"], arrays["years"])
            self.item_statistics, self.expected = arrays["statistics"], arrays["expected"]
            self.kept = arrays["kept"]
        self.text = self._texts()

    @property
    def model_version(self) -> str:
        """A name for what answers: twelve digits of the bundle's digest."""
        return str(self.info["digest"])[:12]

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """(K, K) similarities of items, mapped from their file."""
        weights: NDArray[np.float32] = np.load(self.path / NEIGHBOURS, mmap_mode="r")
        return weights

    def users(self) -> Iterator[UserState]:
        """The state of every user of the run; the table is read in parts."""
        table = pl.scan_parquet(self.path / USERS)
        for start in range(0, int(self.info["users"]), _USERS_AT_ONCE):
            for row in table.slice(start, _USERS_AT_ONCE).collect().iter_rows(named=True):
                yield _state(row)

    def stranger(self, user_id: str) -> UserState:
        """The state of a user whom the run doesn't know; with the text about nobody where the nets learned one."""
        text = self.info["cold_text"]
        return UserState(user_id, text=None if text is None else np.array(text, np.float32))

    def check_texts(self, encoder: str, dim: int) -> None:
        """Check that the vectors of a generation are what the nets read.

        Raises:
            BundleError: they aren't.
        """
        if self.text is None:
            raise BundleError(f"{self.path}: the nets of arm {self.info['arm']} read no text.")
        if not self.text.live:
            raise BundleError(f"{self.path}: the texts of arm {self.info['arm']} can't be written anew.")
        if (encoder, dim) != (self.text.encoder, self.text.vector_dim):
            raise BundleError(
                f"{self.path}: the nets read {self.text.vector_dim} numbers of {self.text.encoder}, and the vectors "
                f"are {dim} numbers of {encoder}. Use the generation of the same run's encoder."
            )

    def _texts(self) -> TextVectors | None:
        facts = self.info["text"]
        if facts is None:
            return None
        projection = None
        if facts["projected"]:
            with np.load(self.path / PROJECTION) as saved:
                projection = saved["mean"], saved["directions"], float(saved["scale"])
        return TextVectors(facts["dim"], facts["vector_dim"], facts["encoder"], facts["live"], projection)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle after checking the digest of every file.

    Raises:
        BundleError: the folder is no bundle, was written by another version, lacks a file, or a file was changed.
    """
    if not (path / INFO).is_file():
        before = f"{path} is an export of an earlier version" if (path / _BEFORE).is_file() else f"{path} is no bundle"
        raise BundleError(f"{before}: it holds no {INFO}. Write one with `trackrec export`.")
    try:
        info = json.loads((path / INFO).read_text())
        if info["format"] != FORMAT:
            raise BundleError(f"{path}: format {info['format']}, this trackrec reads {FORMAT}. Export again.")
        if info["digest"] != digest_of(info):
            raise BundleError(f"{path / INFO} was changed after it was written. Export again.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path / INFO} can't be read ({reason(error)}). Export again.") from error
    for name, facts in info["files"].items():
        if not (path / name).is_file():
            raise BundleError(f"{path / name} is missing. Export again.")
        if facts != file_facts(path / name):
            raise BundleError(f"{path / name} isn't what was written (its sha256 differs). Export again.")
    return Bundle(path, info)


def digest_of(info: Mapping[str, Any]) -> str:
    """sha256 of all that ``bundle.json`` says, except this digest."""
    said = {name: value for name, value in info.items() if name != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _state(row: dict[str, Any]) -> UserState:
    taste = Taste(
        row["n"],
        row["liked"],
        row["above"],
        tuple(row["taste_attributes"]),
        tuple(row["taste_counts"]),
        tuple(row["taste_sums"]),
    )
    return UserState(
        user_id=row["user_id"],
        items=tuple(row["items"]),
        ratings=tuple(row["ratings"]),
        history_items=tuple(row["history_items"]),
        history_ratings=tuple(row["history_ratings"]),
        seen=tuple(row["seen"]),
        index=row["index"],
        taste=taste,
        text=None if row["text"] is None else np.array(row["text"], np.float32),
    )
