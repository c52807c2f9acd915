"""Features of a small set of ratings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attached import with_shuffled, with_texts
from ctr_tables import Tables, make_tables

from trackrec.ctr.features.features import CTRData


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ratings() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 6, (12, 15)).astype(np.float64)


@pytest.fixture(scope="session")
def tables(ratings) -> Tables:
    return make_tables(ratings)


@pytest.fixture(scope="session")
def data(tables) -> CTRData:
    """Features with the arms ``reccot`` and ``shuffled`` (text width 6)."""
    vectors = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)
    features = with_texts(tables.features(), "reccot", [f"h{u}" for u in range(12)], vectors)
    return with_shuffled(features, seed=3)
