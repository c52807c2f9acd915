"""Metrics against float64 formulas written out here."""

import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from trackrec.metrics.intervals import evaluate, paired_bootstrap, seed_draws, user_bootstrap
from trackrec.metrics.scores import accuracy, auc, calibration_error, log_loss, uauc
from trackrec.metrics.texts import distinct_n, mean_words

METRICS = {"auc": auc, "accuracy": accuracy, "log_loss": log_loss, "uauc": uauc}


def pair_auc(p, y):
    """Mean over all (positive, negative) pairs of 1(p⁺ > p⁻) + ½ 1(p⁺ = p⁻)."""
    pos, neg = p[y == 1][:, None], p[y == 0][None, :]
    return float(np.mean((pos > neg) + 0.5 * (pos == neg)))


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    p = rng.integers(1, 10, 400) / 10  # many ties
    y = (rng.random(400) < p).astype(np.int64)
    return p, y, rng.integers(0, 40, 400)


def test_auc_counts_pairs_and_half_of_ties(rows):
    p, y, _ = rows
    assert auc(p, y) == pytest.approx(pair_auc(p, y), abs=1e-6)
    assert auc(np.full(4, 0.3), np.array([0, 1, 0, 1])) == pytest.approx(0.5)


def test_auc_takes_torch_tensors(rows):
    import torch

    p, y, _ = rows
    assert auc(torch.tensor(p), torch.tensor(y)) == auc(p, y)


def test_one_class_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(auc(np.array([0.1, 0.2]), np.array([1, 1])))
        interval = user_bootstrap(auc, np.array([0, 1]), np.array([0.1, 0.2]), np.array([1, 1]))
    assert np.isnan(interval).tolist() == [True, True, True, False]


def test_log_loss_accuracy_and_calibration(rows):
    p, y, _ = rows
    assert log_loss(p, y) == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
    assert accuracy(p, y) == np.mean((p > 0.5) == y)
    assert accuracy(p, y, threshold=0.8) == np.mean((p > 0.8) == y)
    assert np.isfinite(log_loss(np.array([0.0, 1.0]), np.array([1, 0])))
    shifted = p - 0.03  # off the edges of the bins
    bins = np.floor(shifted * 15).astype(int)
    ece = sum(abs(shifted[bins == b].mean() - y[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins))
    assert calibration_error(shifted, y) == pytest.approx(ece, abs=1e-6)


@pytest.mark.parity
def test_the_calibration_error_is_that_of_torchmetrics(rows):
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    p, y, _ = rows
    for n_bins in (1, 10, 15):
        due = binary_calibration_error(torch.from_numpy(p - 0.003), torch.from_numpy(y), n_bins=n_bins, norm="l1")
        assert calibration_error(p - 0.003, y, n_bins) == pytest.approx(float(due), abs=1e-6)
    assert calibration_error(np.array([0.0, 1.0]), np.array([0, 1])) == 0
    assert calibration_error(np.array([0.0, 1.0]), np.array([1, 0])) == 1


def test_uauc_leaves_one_class_users_out_and_counts_them():
    users = np.array(["a", "a", "a", "b", "b", "c", "c"])
    y = np.array([1, 0, 0, 1, 1, 0, 1])
    p = np.array([0.5, 0.5, 0.2, 0.9, 0.1, 0.8, 0.3])
    # a: (½ + 1) / 2 = 0.75; b has one class; c: 0
    assert uauc(p, y, users) == (pytest.approx(0.375), 2, 1)


def test_uauc_is_the_mean_of_user_aucs(rows):
    p, y, users = rows
    each = [pair_auc(p[users == u], y[users == u]) for u in np.unique(users) if 0 < y[users == u].mean() < 1]
    assert uauc(p, y, users).value == pytest.approx(np.mean(each))


@pytest.mark.parametrize("name", ["auc", "accuracy", "log_loss"])
def test_the_fast_bootstrap_equals_repeating_rows(rows, name):
    p, y, users = rows
    metric = METRICS[name]
    fast = user_bootstrap(metric, users, p, y, n_resamples=20, seed=3)
    slow = user_bootstrap(lambda a, b: metric(a, b), users, p, y, n_resamples=20, seed=3)
    assert fast == pytest.approx(slow, abs=1e-6)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Rows of a user share their noise, so that only resampling users gives the right width."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(100):
        rate = np.repeat(rng.beta(3, 3, 60), 10)
        y = (rng.random(600) < rate).astype(int)
        interval = user_bootstrap(accuracy, np.repeat(np.arange(60), 10), np.ones(600), y, n_resamples=200)
        covered += interval.low <= 0.5 <= interval.high
    assert 87 <= covered <= 99


def test_a_thousand_resamples_are_fast():
    rng = np.random.default_rng(0)
    p, y, users = rng.random(10_000), rng.integers(0, 2, 10_000), rng.integers(0, 500, 10_000)
    started = time.perf_counter()
    interval = user_bootstrap(auc, users, p, y)
    assert time.perf_counter() - started < 5
    assert interval.low < interval.value < interval.high
    assert interval.n == 10_000


def test_paired_bootstrap_of_equal_predictions_is_zero(rows):
    p, y, users = rows
    seeds = np.stack([p, 1 - p])
    assert paired_bootstrap(auc, users, y, p, p, n_resamples=30) == (0, 0, 0, len(p))
    assert paired_bootstrap(auc, users, y, seeds, seeds, n_resamples=30)[:3] == (0, 0, 0)


def test_paired_bootstrap_is_narrower_than_two_single_ones_and_wider_with_seeds(rows):
    p, y, users = rows
    rng = np.random.default_rng(2)
    better = np.clip(p + 0.05 * (y - 0.5), 0, 1)
    paired = paired_bootstrap(auc, users, y, better, p, n_resamples=200)
    single = user_bootstrap(auc, users, p, y, n_resamples=200)
    assert paired.value == pytest.approx(auc(better, y) - auc(p, y), abs=1e-6)
    assert 0 < paired.low <= paired.value <= paired.high
    assert paired.high - paired.low < single.high - single.low
    noisy = np.stack([better, np.clip(better + rng.normal(0, 0.5, len(p)), 0, 1)])
    seeded = paired_bootstrap(auc, users, y, noisy, np.stack([p, p]), n_resamples=200)
    assert seeded.high - seeded.low > paired.high - paired.low


def test_paired_uauc_and_unequal_seed_counts(rows):
    p, y, users = rows
    paired = paired_bootstrap(uauc, users, y, np.stack([p, p, p]), 1 - p, n_resamples=30)
    expected = uauc(p, y, users).value - uauc(1 - p, y, users).value
    assert paired.value == pytest.approx(expected)


def test_evaluate_names_its_metrics(rows):
    p, y, users = rows
    found = evaluate(p, y, users, n_resamples=20, seed=0)
    assert list(found) == ["auc", "acc", "log_loss", "uauc"]
    assert found["uauc"].value == pytest.approx(uauc(p, y, users).value)
    assert found == evaluate(p, y, users, n_resamples=20, seed=0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="1 NaN or infinite of 2"):
        log_loss(np.array([0.1, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match="shapes"):
        auc(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="one entry per row"):
        uauc(np.zeros(2), np.array([0, 1]), np.zeros(3))
    with pytest.raises(ValueError, match="0 and 1 only"):
        auc(np.zeros(2), np.array([1, 2]))


def test_text_diversity():
    assert distinct_n(["a b a b", "A b"]) == 2 / 4  # (a b), (b a), (a b), (a b)
    assert distinct_n(["a a a"], n=1) == 1 / 3
    assert np.isnan(distinct_n(["one"]))
    assert mean_words(["a b", "a b c d"]) == 3


def test_importing_metrics_imports_no_framework():
    code = "import sys, trackrec.metrics.scores; assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_the_mean_over_seeds_keeps_the_whole_variance(n_seeds):
    """Where seeds alone differ, the bootstrap's variance is s^2 / S, not (S - 1) / S of it."""
    values = np.linspace(0.2, 0.8, n_seeds)
    labels, users = np.array([0, 1] * 20), np.repeat(np.arange(20), 2)
    p = np.where(labels == 1, values[:, None], 0.0)

    def level(p, y):
        return float(p[y == 1].mean())

    drawn = seed_draws(level, users, labels, p, n_resamples=4000)
    assert drawn.resampled.std() == pytest.approx(values.std(ddof=1) / n_seeds**0.5, rel=0.06)
