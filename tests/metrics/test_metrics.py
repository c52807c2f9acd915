"""Metrics against float64 formulas written out here."""

import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from trackrec.metrics.intervals import Draws, evaluate, paired_bootstrap, seed_draws, user_bootstrap
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


# -- users and training seeds ---------------------------------------------------------------------------------------

T1, T2, T10 = 12.706204736174698, 4.302652729911275, 2.2281388519649385  # Student's .975 quantiles


def test_the_interval_over_seeds_alone_by_hand():
    """s² = .01 over three seeds: .2 ± t(2) · .1 / √3."""
    draws = Draws(np.array([0.1, 0.2, 0.3]), np.full((50, 3), 0.2), 40, 20)
    half = T2 * 0.1 / 3**0.5
    assert draws.interval() == pytest.approx((0.2, 0.2 - half, 0.2 + half, 40))


def test_the_interval_over_users_alone_by_hand():
    """Two resamples of two users: variance .02, doubled since the bootstrap gives (U - 1) / U of it."""
    draws = Draws(np.array([0.2, 0.2]), np.array([[0.1, 0.1], [0.3, 0.3]]), 4, 2)
    assert draws.standard_error() == pytest.approx(0.2)
    assert draws.quantile(0.975) == pytest.approx(T1)
    assert draws.interval().high == pytest.approx(0.2 + 0.2 * T1)


def test_users_and_seeds_by_hand():
    """Both add .01: the quantiles of t(10) and t(2) are weighted by 1 - .5^1.25 and .5^1.25 = .42045."""
    step = (0.01 / 1.1 / 2) ** 0.5  # two resamples at ± step have the variance 2 step²
    by_seed = np.array([-1.0, 0.0, 1.0]) * 0.03**0.5
    draws = Draws(by_seed, np.array([[step] * 3, [-step] * 3]), 33, 11)
    assert draws.variances() == pytest.approx((0.01, 0.01, 0.0), abs=1e-12)
    quantile = T10 + 0.4204482 * (T2 - T10)
    assert draws.quantile(0.975) == pytest.approx(quantile, rel=1e-6)
    assert draws.interval().high == pytest.approx(quantile * 0.02**0.5, rel=1e-6)
    t_power = (0.8790578285505887, 1.0606601717798214)  # .8 quantiles of t(10) and t(2)
    power = t_power[0] + 0.4204482 * (t_power[1] - t_power[0])
    assert draws.detectable() == pytest.approx((quantile + power) * 0.02**0.5, rel=1e-6)


def test_with_many_users_and_equal_seeds_the_detectable_difference_is_2_8_errors():
    draws = Draws(np.zeros(3), np.array([[0.1] * 3, [-0.1] * 3]), 9, 10**6)
    assert draws.detectable() / draws.standard_error() == pytest.approx(1.95996 + 0.84162, rel=1e-4)


@pytest.mark.parametrize(("beyond", "error"), [(0.01, 0.1), (-0.01, 0.0)])
def test_what_users_and_seeds_have_in_common_counts_once(beyond, error):
    """The seeds' values differ only through the users: their mean is the same on every resample."""
    both = 1.1 * 2 * 0.2**2  # the variance of one seed over resamples; over S - 1 = 1
    apart = (both + beyond) ** 0.5  # s² / S is apart²
    draws = Draws(np.array([-apart, apart]), np.array([[0.2, -0.2], [-0.2, 0.2]]), 22, 11)
    assert draws.variances() == pytest.approx((0.0, both + beyond, both))
    assert draws.standard_error() == pytest.approx(error)


def test_one_seed_gives_the_percentiles_over_users(rows):
    p, y, users = rows
    found = seed_draws(auc, users, y, p, n_resamples=50, seed=1)
    assert found.interval() == user_bootstrap(auc, users, p, y, n_resamples=50, seed=1)
    low, high = np.percentile(found.resampled[:, 0], [2.5, 97.5])
    assert found.interval()[1:3] == (low, high)


def test_seeds_are_paired_and_a_single_one_meets_all(rows):
    p, y, users = rows
    shifts = np.array([[0.0], [0.02], [0.05]])
    a = seed_draws(accuracy, users, y, np.clip(p + shifts, 0, 1), n_resamples=20)
    once = seed_draws(accuracy, users, y, p, n_resamples=20)
    assert np.array_equal((a - a).resampled, np.zeros((20, 3)))
    assert (a - once).by_seed.tolist() == (a.by_seed - once.value).tolist()
    assert (a - once).interval() != (a - a).interval()
    two = seed_draws(accuracy, users, y, np.stack([p, p]), n_resamples=20)
    with pytest.raises(ValueError, match="equally many training seeds, got 3 and 2"):
        a - two


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_intervals_hold_the_truth_as_often_as_they_say(n_seeds, share):
    """Where seeds alone differed, three of them, resampled, gave an interval above zero in 12.7 % of cases."""
    rng = np.random.default_rng([n_seeds, int(10 * share)])
    n_users, trials = 40, 1000
    weights = rng.multinomial(n_users, np.full(n_users, 1 / n_users), size=200) / n_users
    held, above = 0, 0
    for _ in range(trials):
        of_users = rng.normal(0, (1 - share) ** 0.5, n_users) * n_users**0.5
        of_seeds = rng.normal(0, (share * n_seeds) ** 0.5, n_seeds)
        resampled = (weights @ of_users)[:, None] + of_seeds
        interval = Draws(of_users.mean() + of_seeds, resampled, n_users, n_users).interval()
        held += interval.low <= 0 <= interval.high
        above += interval.low > 0
    spread = 3 * (0.05 * 0.95 / trials) ** 0.5
    assert 0.93 - spread / 2 < held / trials < (0.97 + spread / 2 if n_seeds > 2 else 1)
    assert above / trials < 0.025 + spread / 2
