"""A bundle and a store that were opened, checked against one another and warmed: what a request is answered from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import polars as pl

from trackrec.server.settings import ServerSettings
from trackrec.serving.bundle import ITEMS, Bundle, open_bundle
from trackrec.serving.ranker import Ranker
from trackrec.serving.retrieve import Retriever
from trackrec.serving.users import UserState
from trackrec.store.errors import StoreAwayError, StoreError
from trackrec.store.events import Event, EventLog
from trackrec.store.records import Record, StoredText
from trackrec.store.store import Store, open_store

_WARM_ITEMS = 100
_UNKNOWN_SHARE = 4  # events of items that the catalogue doesn't hold are skipped, so more are read


class User(NamedTuple):
    """What is known of a user at a request.

    Attributes:
        state: with the newest events and the vector of the newest text.
        text: the stored text whose vector the state holds; None where it is the bundle's, or where there is none.
        known: whether the store or an event knows the user.
        stored: the stored text, whether it is read or not.
    """

    state: UserState
    text: StoredText | None
    known: bool
    stored: StoredText | None


@dataclass(frozen=True)
class Loaded:
    """See the module.

    Attributes:
        bundle, ranker, store: open.
        live_text: whether the vectors of the store's texts are what the nets read.
    """

    bundle: Bundle
    ranker: Ranker
    store: Store
    live_text: bool

    @cached_property
    def retriever(self) -> Retriever:
        """Finds items for a user who names none."""
        return Retriever(self.bundle)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Item -> title."""
        table = pl.read_parquet(self.bundle.path / ITEMS, columns=["item_id", "title"])
        return dict(table.with_columns(pl.col("title").fill_null("")).iter_rows())

    @cached_property
    def popular(self) -> list[tuple[str, str, int]]:
        """Item, title and number of ratings, the most rated first."""
        table = pl.read_parquet(self.bundle.path / ITEMS, columns=["item_id", "title", "ratings"])
        return table.with_columns(pl.col("title").fill_null("")).sort("ratings", descending=True).rows()

    def user(self, user_id: str, record: Record, events: Sequence[Event]) -> User:
        """A user from what is stored and the newest events, oldest first."""
        if record.state is None:
            state = self.bundle.stranger(user_id)
        else:
            state = UserState.unpack(record.state.packed).with_text(record.state.vector)
        text = record.text if self.live_text and record.text and record.text.vector is not None else None
        if text is not None:
            state = state.with_text(text.vector)
        if events:
            state = state.newer([event.item for event in events], [event.rating for event in events])
        known = bool(record.state or record.text or events)
        return User(state, text, known, record.text)

    def events_of(self, log: EventLog, user_id: str) -> list[Event]:
        """The events that a request of the user reads, oldest first.

        Raises:
            StoreError: the log can't be read.
        """
        newest = log.newest(user_id, _UNKNOWN_SHARE * self.bundle.recent_len)
        return [event for event in newest if event.time > self.store.info.events_after]


def load(settings: ServerSettings) -> Loaded:
    """Open a bundle and a store, check both, and answer once, so that the first request is as fast as the next.

    Raises:
        BundleError, StoreError: one is missing, damaged or doesn't fit the other.
        StoreAwayError: Redis can't be reached.
    """
    bundle = open_bundle(settings.bundle)
    store = open_store(settings.store)
    try:
        live = _check_fit(bundle, store)
        if settings.verify:
            store.verify()
        loaded = Loaded(bundle, Ranker(bundle), store, live)
        for user in [*store.some_users(2), ""]:
            state = loaded.user(user, store.get(user), []).state
            loaded.ranker.answer(state, bundle.item_ids[:_WARM_ITEMS])
            loaded.retriever.candidates(state, _WARM_ITEMS)
    except BaseException:
        store.close()
        raise
    return loaded


def _check_fit(bundle: Bundle, store: Store) -> bool:
    """Whether the store's texts are read.

    Raises:
        StoreError: the states are another bundle's.
        BundleError: the vectors are not what the nets read.
    """
    info = store.info
    if info.bundle and info.bundle != bundle.info["digest"]:
        raise StoreError(
            f"--store: its states were made of another bundle ({info.bundle[:12]}), and --bundle {bundle.path} is "
            f"{bundle.model_version}. Build the store with --bundle {bundle.path}."
        )
    if not info.texts or bundle.text is None or not bundle.text.live:
        return False
    bundle.check_texts(info.encoder, info.dim)
    return True


NOTHING = Record(None, None)


class Away:
    """Remembers that a store was away, so that not every request waits for it.

    Args:
        pause_s: for how long it isn't asked again.
    """

    def __init__(self, pause_s: float = 1.0) -> None:
        self._pause_s, self._until = pause_s, 0.0

    def is_away(self, now: float) -> bool:
        """Whether it isn't asked now."""
        return now < self._until

    def was_away(self, now: float) -> None:
        """It was away just now."""
        self._until = now + self._pause_s


def look_up(loaded: Loaded, log: EventLog, user_id: str, away: Away, now: float) -> tuple[User, bool]:
    """A user, and whether all that is stored could be read; without it the user is answered as a stranger."""
    if away.is_away(now):
        return loaded.user(user_id, NOTHING, []), False
    try:
        return loaded.user(user_id, loaded.store.get(user_id), loaded.events_of(log, user_id)), True
    except StoreError as error:
        if isinstance(error, StoreAwayError):
            away.was_away(now)
        return loaded.user(user_id, NOTHING, []), False
