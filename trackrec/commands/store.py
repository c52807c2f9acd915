"""``trackrec store build|info|verify``: what a server looks up per user."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trackrec.commands.call import Call
from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    from trackrec.store.build import States


def add_arguments(parser: Any) -> None:
    """The command's own arguments."""
    parser.add_argument("action", type=Literal["build", "info", "verify"], help="What to do.")
    parser.add_argument("--generation", type=Path | None, default=None, help="build: texts, such as gens/CURRENT.")
    parser.add_argument("--bundle", type=Path | None, default=None, help="build: whose users' states are stored.")
    parser.add_argument("--output", type=str | None, default=None, help="build: file to write, or redis://host:port/0.")
    parser.add_argument("--store", type=str | None, default=None, help="info, verify: a file, or redis://host:port/0.")
    parser.add_argument(
        "--events_after",
        type=int,
        default=0,
        help="build: the bundle holds events up to this moment (seconds since 1970); a server adds later ones only.",
    )


def run(call: Call) -> None:
    """Do it, and print what the store says of itself.

    Raises:
        SettingError: an argument is missing.
        StoreError, GenerationError, BundleError: something can't be read, or doesn't fit.
    """
    own = call.own
    if own["action"] == "build":
        _build(call)
        return
    from trackrec.store.store import open_store

    place = own["store"] or own["output"]
    if place is None:
        raise SettingError(f"trackrec store {own['action']}: give --store, a file or redis://host:port/0.")
    store = open_store(place)
    if own["action"] == "verify":
        store.verify()
        call.say(f"{place} is what was written.")
    for key, value in asdict(store.info).items():
        call.say(f"{key:<12} {value}")
    store.close()


def _build(call: Call) -> None:
    from trackrec.runtime.packages import need
    from trackrec.storage.generations import open_generation
    from trackrec.store.store import is_redis

    own = call.own
    output = own["output"]
    if output is None:
        raise SettingError("trackrec store build: give --output, the file to write or redis://host:port/0.")
    need("trackrec store build", "serve", "zstandard")
    generation = None if own["generation"] is None else open_generation(own["generation"])
    states = None if own["bundle"] is None else states_of(own["bundle"])
    if generation is not None:
        generation.verify()
    start = time.monotonic()
    if is_redis(output):
        from trackrec.store.redis_store import build_redis

        info = build_redis(generation, states, output, own["events_after"])
    else:
        from trackrec.store.build import build_sqlite

        info = build_sqlite(generation, states, Path(output), own["events_after"])
    call.say(f"{info.texts:,} texts and {info.states:,} states in {output} after {time.monotonic() - start:.1f} s")


def states_of(bundle: Path) -> States:
    """The states of a bundle's users, read a part at a time.

    Raises:
        BundleError: it is damaged.
    """
    from trackrec.serving.bundle import open_bundle
    from trackrec.store.build import States
    from trackrec.store.records import StoredState

    opened = open_bundle(bundle)
    rows = ((state.user_id, StoredState(state.pack(), state.text)) for state in opened.users())
    return States(str(opened.info["digest"]), rows)
