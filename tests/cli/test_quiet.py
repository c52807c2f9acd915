"""What libraries say on every run is left out, and their warnings are not."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
from lightning.pytorch import Trainer

from trackrec.cli.quiet import quiet_libraries

NAMES = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "bitsandbytes")


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in NAMES}
    formatter = logging.lastResort.formatter if logging.lastResort else None
    with warnings.catch_warnings():
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    if logging.lastResort:
        logging.lastResort.setFormatter(formatter)


def test_lightning_repeats_and_advertises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger(NAMES[0]).setLevel(logging.INFO)
    Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert "GPU available" in caplog.text  # else there is nothing to leave out any more
    assert "Tip" in caplog.text
    caplog.clear()
    quiet_libraries()
    Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert caplog.text == ""
    logging.getLogger(NAMES[0]).warning("a warning")
    assert "a warning" in caplog.text
