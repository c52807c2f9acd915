"""Lightning's advertisements, left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = "lightning.pytorch.utilities.rank_zero"


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


@contextmanager
def without_tips() -> Iterator[None]:
    """While a Trainer is built, Lightning doesn't say which of its other packages to install; all else it says.

    See lightning/pytorch/trainer/connectors/logger_connector/logger_connector.py: once per Trainer with any logger.
    """
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(_is_no_tip)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_tip)
