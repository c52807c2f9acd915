"""What a store holds of a user, and its bytes: zstd for text and state, float16 for the vectors of
texts.

Letters: D text dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from trackrec.store.errors import StoreError

_LEVEL = 3  # 1,168-byte texts: higher levels save under 3 % and cost the build three times as long
_LARGEST = 1 << 24  # no record is as large; a damaged length must not ask for more memory

TEXT_COLUMNS = (
    "text",
    "vector",
    "prompt_hash",
    "generator",
    "encoder",
    "tier",
    "made_at",
    "status",
    "n_ratings",
    "newest",
)


class StoredText(NamedTuple):
    """A user's text as `trackrec refresh` wrote it.

    Attributes:
        text: the RecCoT, or the profile text that stands in for it.
        vector: (D,) float16, the encoder's output; None where nothing was encoded.
        prompt_hash: of the prompt that it answers.
        generator: version of what wrote it.
        encoder: name of the encoder.
        tier: whose settings wrote it.
        made_at: seconds since 1970, UTC.
        status: ``written``, or ``failed``: a profile text stands in for the model's.
        n_ratings: ratings of the user that were known then.
        newest: the time of the newest of them.
    """

    text: str
    vector: NDArray[np.float16] | None
    prompt_hash: str
    generator: str
    encoder: str
    tier: str
    made_at: int
    status: str
    n_ratings: int
    newest: int


class StoredState(NamedTuple):
    """What a bundle knows of a user.

    Attributes:
        packed: the bytes of `trackrec.serving.users.UserState.pack`.
        vector: (D,) float32, of the text that the bundle knows; None where there is none.
    """

    packed: bytes
    vector: NDArray[np.float32] | None


class Record(NamedTuple):
    """All that is stored of a user; None where there is none of it."""

    text: StoredText | None
    state: StoredState | None


class Codec:
    """Turns records to bytes and back. One thread uses it at a time."""

    def __init__(self) -> None:
        self._pack = zstandard.ZstdCompressor(level=_LEVEL)
        self._unpack = zstandard.ZstdDecompressor()

    def text_row(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """A row of a generation as the values of `TEXT_COLUMNS`."""
        vector = row["vector"]
        packed = None if vector is None else np.asarray(vector, np.float16).astype("<f2").tobytes()
        return (self._pack.compress(row["text"].encode()), packed, *(row[name] for name in TEXT_COLUMNS[2:]))

    def text_of(self, values: Sequence[Any]) -> StoredText:
        """The text of `text_row`.

        Raises:
            StoreError: the bytes are damaged.
        """
        text = self._bytes(values[0]).decode(errors="replace")
        vector = None if values[1] is None else np.frombuffer(values[1], "<f2")
        return StoredText(text, vector, *values[2:])

    def state_row(self, state: StoredState) -> tuple[bytes, bytes | None]:
        """A state as two values: packed, and the bytes of its vector."""
        vector = None if state.vector is None else np.asarray(state.vector, "<f4").tobytes()
        return self._pack.compress(state.packed), vector

    def state_of(self, values: Sequence[Any]) -> StoredState:
        """The state of `state_row`.

        Raises:
            StoreError: the bytes are damaged.
        """
        return StoredState(self._bytes(values[0]), None if values[1] is None else np.frombuffer(values[1], "<f4"))

    def _bytes(self, packed: bytes) -> bytes:
        try:
            return self._unpack.decompress(packed, max_output_size=_LARGEST)
        except zstandard.ZstdError as error:
            raise StoreError(f"a stored record can't be unpacked ({error}). Build the store again.") from error
