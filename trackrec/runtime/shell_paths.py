"""Paths as a shell would read them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from trackrec.runtime.errors import SettingError

_VARIABLE = re.compile(r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\})")
_LEFT = re.compile(r"\$[A-Za-z_{(]")


def expand_path(text: str, key: str) -> str:
    """A path with its ``~``, ``~user``, ``$NAME``, ``${NAME}`` and ``${NAME:-default}`` replaced.

    Args:
        text: as typed.
        key: config key or flag, for errors.

    Raises:
        SettingError: a variable isn't set, there is no such user, or the text holds another form of a shell's.
    """

    def value(found: re.Match[str]) -> str:
        name, default = found["plain"] or found["braced"], found["default"]
        given = os.environ.get(name)
        if given or (given is not None and default is None):
            return given
        if default is not None:
            return default
        raise SettingError(
            f"{key} is {text!r}, but the environment variable {name} isn't set. Export it, or write the path out."
        )

    expanded = _VARIABLE.sub(value, text)
    if _LEFT.search(expanded):  # of the value of a variable, too: a saved configuration is expanded once more
        became = f", which becomes {expanded!r}" if expanded != text else ""
        raise SettingError(
            f"{key} is {text!r}{became}: of a shell's forms with $ only $NAME, ${{NAME}} and ${{NAME:-default}} are "
            "read. Write the path out, without a $."
        )
    if not expanded.startswith("~"):
        return expanded
    try:
        return str(Path(expanded).expanduser())
    except RuntimeError as error:
        user = expanded.split("/", 1)[0]
        raise SettingError(
            f"{key} is {text!r}, but no home folder of {user!r} is known. Write the path out; for a folder of that "
            f"name put ./ before it."
        ) from error
