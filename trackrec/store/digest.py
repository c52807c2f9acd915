"""A digest of rows that doesn't depend on their order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

_MODULUS = 1 << 256


class RowsDigest:
    """The sum of the rows' hashes: SQLite and Redis give rows in different orders, and one digest fits both."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, table: str, row: Iterable[Any]) -> None:
        """Count a row of a table: its values in a fixed order, of plain types."""
        found = hashlib.blake2b(repr((table, *row)).encode(errors="surrogatepass"), digest_size=32).digest()
        self._sum = (self._sum + int.from_bytes(found, "big")) % _MODULUS

    def hex(self) -> str:
        """64 hex digits."""
        return f"{self._sum:064x}"
