"""What the tests of trainings share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from adapter_stages import TEXTS
from tiny import reccot_row

from trackrec.storage.parts import write_part


@pytest.fixture
def quiet_lightning() -> Iterator[None]:
    names = ["lightning.pytorch", "lightning.pytorch.utilities.rank_zero"]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def texts_dir(tmp_path: Path) -> Path:
    """A teacher's stage: ten texts about h0 ... h5."""
    rows = [reccot_row(f"h{i % 6}", i // 6, text=f"{TEXTS[i % 4]} {TEXTS[(i + 1) % 4]}") for i in range(10)]
    write_part(tmp_path / "texts", "reccots", rows)
    return tmp_path / "texts"
