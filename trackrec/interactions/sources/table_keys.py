"""Which column of a file holds what: the groups of settings of `Table`."""

from __future__ import annotations

from dataclasses import dataclass

from trackrec.interactions.source import DataError
from trackrec.interactions.sources.columns import ARGS


@dataclass(frozen=True)
class RatingColumns:
    """The columns of ``ratings``, the log. Exactly one of ``rating``, ``label`` and ``impressions`` must be set.

    Attributes:
        user: Column of the user's id.
        item: Column of the item's id.
        rating: Column of a number, liked above ``threshold``.
        label: Column of 0 or 1.
        impressions: Column of "N1-1 N2-0": the items shown together and whether each was chosen. Takes the place of
            ``item`` and ``label``; the order shown is the order of rows.
        timestamp: Column of the time; null takes the order of the file for it.
        position: Column of the place, from 1, at which a row's item was shown; empty where unknown. It is kept in the
            interactions table, and no prompt or feature reads it.
        split: Column of train, valid or test (or training, validation, val, dev ...), for ``samples.protocol: given``.
        history: Column with a row's own history, oldest first: a Parquet list or item ids between
            ``text.history_separator``. It takes the place of the history computed from the ratings. A row with an empty
            or null list has no history; ``samples.min_history: 0`` keeps it.
        history_ratings: Column with the ratings of that history. Null: it holds what the user chose. Prompts list its
            items as liked, but no count of likes, like-rate or mean of the user is taken from it.
    """

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    label: str | None = None
    impressions: str | None = None
    timestamp: str | None = None
    position: str | None = None
    split: str | None = None
    history: str | None = None
    history_ratings: str | None = None

    def check(self) -> None:
        """Check that the columns fit each other. The default names no rating, so this isn't done when it is made.

        Raises:
            DataError: they don't.
        """
        key = f"{ARGS}.columns"
        sources = {"rating": self.rating, "label": self.label, "impressions": self.impressions}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise DataError(
                f"{key}: exactly one of rating, label and impressions must name a column, got {given or 'none'}."
            )
        if self.position and self.impressions:
            raise DataError(
                f"{key}.position must be null where {key}.impressions is set, got {self.position!r}: a row has many."
            )
        if self.history_ratings and not self.history:
            raise DataError(f"{key}.history_ratings needs {key}.history, the items that the ratings are of.")


@dataclass(frozen=True)
class ItemColumns:
    """What is told of items: columns of ``items``, or of ``ratings`` where ``items`` is null.

    Attributes:
        id: The item's id in ``items``; null is ``columns.item``.
        title: Column of the title; an item without one is called by its id.
        attributes: Column or columns of genres, categories, tags: Parquet lists, or text between
            ``text.attribute_separator``.
        year: Column of a year or date.
    """

    id: str | None = None
    title: str | None = None
    attributes: str | list[str] | None = None
    year: str | None = None

    @property
    def attribute_names(self) -> list[str]:
        """The columns of ``attributes``."""
        return [self.attributes] if isinstance(self.attributes, str) else list(self.attributes or ())


@dataclass(frozen=True)
class UserColumns:
    """What is told of users: columns of ``users``, or of ``ratings`` where ``users`` is null.

    Attributes:
        id: The user's id in ``users``; null is ``columns.user``.
        attributes: Columns to show of a user; a number is shown with its column's name.
    """

    id: str | None = None
    attributes: list[str] | None = None
