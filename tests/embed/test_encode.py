"""Each text has one vector, computed once; a missing one is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import save_tiny_encoder

from trackrec.embed.encode import EmbedSettings, embed_texts
from trackrec.embed.vectors import vectors_of
from trackrec.storage.schemas import TableError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(where)
    return str(where)


def test_equal_texts_share_a_vector_and_earlier_ones_are_taken_over(encoder: str, tmp_path: Path) -> None:
    settings = EmbedSettings(model=encoder)
    notes = embed_texts(["likes drama", "likes comedy", "likes drama"], settings, tmp_path / "one", None)
    assert (notes["texts"], notes["distinct"], notes["encoded"], notes["dim"]) == (3, 2, 2, 16)
    notes = embed_texts(["likes drama", "hates horror"], settings, tmp_path / "two", tmp_path / "one")
    assert notes["encoded"] == 1
    first = vectors_of(tmp_path / "one", ["likes drama", "likes comedy", "likes drama"])
    assert first.shape == (3, 16)
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[0], vectors_of(tmp_path / "two", ["likes drama"])[0])
    assert np.abs(first[0] - first[1]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=2e-3)


def test_another_encoder_or_scaling_takes_nothing_over(encoder: str, tmp_path: Path) -> None:
    embed_texts(["likes drama"], EmbedSettings(model=encoder), tmp_path / "one", None)
    raw = EmbedSettings(model=encoder, normalize=False)
    assert embed_texts(["likes drama"], raw, tmp_path / "two", tmp_path / "one")["encoded"] == 1
    assert np.linalg.norm(vectors_of(tmp_path / "two", ["likes drama"])) > 1.5


def test_a_missing_vector_is_an_error(encoder: str, tmp_path: Path) -> None:
    embed_texts(["likes drama"], EmbedSettings(model=encoder), tmp_path / "one", None)
    with pytest.raises(TableError, match="1 of 2 texts have no vector"):
        vectors_of(tmp_path / "one", ["likes drama", "likes jazz"])


def test_no_text_is_an_error(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text to embed"):
        embed_texts([], EmbedSettings(model=encoder), tmp_path, None)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_text_longer_than_the_encoder_reads_is_read_to_its_end(encoder: str, tmp_path: Path, normalize: bool) -> None:
    """Cut off, two long texts that differ at their ends alone would have one vector."""
    settings = EmbedSettings(model=encoder, normalize=normalize)
    start = "likes drama and war " * 80
    texts = [start + "hates horror", start + "hates comedy", "likes drama"]
    notes = embed_texts(texts, settings, tmp_path / "one", None)
    assert notes["in_pieces"] == 2
    first, second, short = vectors_of(tmp_path / "one", texts)
    assert np.abs(first - second).max() > 1e-3
    if normalize:
        np.testing.assert_allclose(np.linalg.norm(first), 1, atol=2e-3)
    assert "in_pieces" not in embed_texts(texts[2:], settings, tmp_path / "two", None)
    np.testing.assert_array_equal(short, vectors_of(tmp_path / "two", texts[2:])[0])


def test_the_pieces_of_a_text_are_the_text(encoder: str) -> None:
    from trackrec.embed.encode import _load, _pieces

    model = _load(encoder)
    text = "likes drama, and war; " * 90
    pieces = _pieces(model, text)
    assert len(pieces) > 1
    assert "".join(pieces) == text
    room = model.max_seq_length - model.tokenizer.num_special_tokens_to_add()
    lengths = [len(model.tokenizer(piece, add_special_tokens=False).input_ids) for piece in pieces]
    assert max(lengths) <= room + 1
