"""``trackrec forget``: removes a user from the generations and the events, and names what else holds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
from jsonargparse import ArgumentParser

from trackrec.commands.call import Call
from trackrec.pipeline.lock import locked
from trackrec.runtime.errors import SettingError
from trackrec.storage.generations import (
    PARTIAL,
    Generation,
    current_name,
    finished_generations,
    holds_user,
    set_current,
    without_user,
)
from trackrec.storage.schemas import TableError


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--user", type=str, required=True, help="Their id, as in the ratings.")
    parser.add_argument("--folder", type=Path, required=True, help="Of generations: `trackrec refresh --output`.")
    parser.add_argument("--events", type=Path | None, default=None, help="The SQLite file of a server's events.")
    parser.add_argument("--runs", type=Path | None, default=None, help="Name the runs under it that hold the user.")


def run(call: Call) -> None:
    """Write the current generation without the user, delete all that hold them, clear events, name what is left.

    Raises:
        SettingError: there is no generation or events file, or a refresh is half done, whose files hold the user too.
    """
    own, folder, user = call.own, Path(call.own["folder"]).expanduser(), str(call.own["user"])
    found = finished_generations(folder) if folder.is_dir() else []
    if not found:
        raise SettingError(f"--folder {folder} holds no generation. `trackrec refresh --output` writes one.")
    events = None if own["events"] is None else Path(own["events"]).expanduser()
    if events is not None and not events.is_file():
        raise SettingError(f"--events {events}: no such file.")
    with locked(folder, "--folder"):
        if any((folder / PARTIAL).glob("*")):
            raise SettingError(
                f"--folder {folder}: a refresh is half done, and its files may hold the user. Let the same command end "
                "it, or delete .partial there."
            )
        holding = [generation for generation in found if holds_user(generation, user)]
        _replace(call, folder, holding, user)
    if events is not None:
        from trackrec.store.events import SQLiteEvents

        log = SQLiteEvents(events)
        try:
            call.say(f"{log.forget(user):,} events removed from {events}")
        finally:
            log.close()
    call.say("a store that was built of them still holds the user: `trackrec store build` again, and reload the server")
    for run_dir in runs_with(Path(own["runs"]).expanduser(), user) if own["runs"] is not None else ():
        call.say(f"{run_dir} holds the user: their ratings, histories and texts. Delete it, or run it without them")
    call.say("the log of ratings is yours: leave the user out of it, or the next refresh writes about them again")


def _replace(call: Call, folder: Path, holding: list[Generation], user: str) -> None:
    current = current_name(folder)
    for generation in holding:
        if generation.name == current:
            made = without_user(generation, user)
            set_current(folder, made.name)
            call.say(f"{made.name} is {generation.name} without the user, and current")
    for generation in holding:
        shutil.rmtree(generation.path)
        call.say(f"removed {generation.name}, which held the user")
    if not holding:
        call.say(f"no generation in {folder} holds the user {user!r}")


def runs_with(folder: Path, user: str) -> list[Path]:
    """The run directories under a folder, itself among them, whose ratings have the user.

    Raises:
        SettingError: there is no such folder.
    """
    from trackrec.storage.parts import read_table

    if not folder.is_dir():
        raise SettingError(f"--runs {folder}: no such folder.")
    found = []
    for tables in sorted(folder.rglob("data/interactions")):
        try:
            users = read_table(tables.parent, "interactions", columns=("user_id",))
        except TableError:
            found.append(tables.parent.parent)  # it can't be read, so it may hold the user
            continue
        if users.filter(pl.col("user_id") == user).height:
            found.append(tables.parent.parent)
    return found
