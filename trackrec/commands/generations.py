"""``trackrec generations``: the texts that `trackrec refresh` has written: list, check, go back, remove."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from jsonargparse import ArgumentParser

from trackrec.commands.call import Call
from trackrec.pipeline.lock import locked
from trackrec.runtime.errors import SettingError
from trackrec.storage.generations import Generation, current_name, finished_generations, set_current


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--folder", type=Path, required=True, help="What `trackrec refresh --output` named.")
    parser.add_argument("--verify", action="store_true", help="Compare every part with its digest.")
    parser.add_argument("--current", type=str | None, default=None, help="Make this one current, such as an older one.")
    parser.add_argument("--keep", type=int | None, default=None, help="Remove all but the newest so many and CURRENT.")


def run(call: Call) -> None:
    """Do what was asked, then list what is there.

    Raises:
        SettingError: the folder holds no generation, or ``--current`` or ``--keep`` doesn't fit.
        GenerationError: ``--verify`` found a damaged part.
    """
    own, folder = call.own, Path(call.own["folder"]).expanduser()
    found = finished_generations(folder) if folder.is_dir() else []
    if not found:
        raise SettingError(f"--folder {folder} holds no generation. `trackrec refresh --output` writes one.")
    if own["keep"] is not None and own["keep"] < 1:
        raise SettingError(f"--keep must be at least 1, got {own['keep']}.")
    names = [generation.name for generation in found]
    if own["current"] is not None and own["current"] not in names:
        raise SettingError(f"--current {own['current']!r} isn't there. There are {', '.join(names)}.")
    if own["verify"]:
        for generation in found:
            generation.verify()
        call.say(f"{len(found)} generations are as they were written")
    if own["current"] is not None or own["keep"] is not None:
        with locked(folder, "--folder"):
            if own["current"] is not None:
                set_current(folder, own["current"])
            if own["keep"] is not None:
                for generation in superfluous(found, current_name(folder), own["keep"]):
                    shutil.rmtree(generation.path)
                    call.say(f"removed {generation.name}")
    for line in listing(folder):
        call.say(line)


def superfluous(found: list[Generation], current: str | None, keep: int) -> list[Generation]:
    """Those that are neither the current one nor among the newest ``keep``."""
    return [generation for generation in found[:-keep] if generation.name != current]


def listing(folder: Path) -> list[str]:
    """One line per generation, oldest first; the current one is marked."""
    current = current_name(folder)
    lines = []
    for generation in finished_generations(folder):
        info = generation.info
        made = datetime.fromtimestamp(info["made_at"], UTC).isoformat(sep=" ", timespec="minutes")
        size = sum(part["bytes"] for part in info["parts"].values()) / 2**20
        mark = "*" if generation.name == current else " "
        lines.append(
            f"{mark} {generation.name}  {made[:16]} UTC  {info['users']:,} users  "
            f"{info['written']['written']:,} written  {size:,.1f} MiB"
        )
    return lines
