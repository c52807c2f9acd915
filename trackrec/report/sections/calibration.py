"""Calibration of the validator's (V's) probabilities: reliability by bins, calibration error, share of Yes."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import polars as pl
from markupsafe import Markup

from trackrec.metrics.intervals import Interval, user_bootstrap
from trackrec.metrics.scores import calibration_error
from trackrec.recipe.names import in_round
from trackrec.report.numbers import RunNumbers, as_num
from trackrec.report.render.document import Cell, Figure, Missing, Num, Section, TableBlock, sentence
from trackrec.report.render.figures import Bin, reliability
from trackrec.report.sections.rounds import round_name

_BINS = 10
_RESAMPLES = 200


def calibration_section(run: RunNumbers) -> Section:
    """V's probabilities against the labels, per round on validation and for the last V on test."""
    jobs = []
    for number in range(run.rounds + 1):
        stage = in_round(number, "evaluate")
        names = run.validators(stage)
        if names:
            tuned = in_round(number, "rec_tune")
            jobs.append((f"round {round_name(number)}, validation", stage, tuned if tuned in names else names[0]))
    if run.has("test"):
        jobs.append(("last V, test", "test", in_round(run.rounds, "rec_tune")))
    panels: list[Markup] = []
    rows: list[list[Cell]] = []
    for order, (name, stage, validator) in enumerate(jobs):
        answers = run.answers(stage, validator)
        if answers is None:
            continue
        panels.append(reliability(sentence(name), reliability_bins(answers), order))
        rows.append([name, *_calibration(answers), Num(len(answers), unit="count")])
    if not rows:
        return Section("calibration", "V's calibration", [Missing("V has scored nothing yet: run `trackrec fit`.")])
    table = TableBlock(
        f"ECE is the expected calibration error in {_BINS} equal-width bins; with few rows even a calibrated V has one "
        "well above zero. Says Yes: rows with P(Yes) above one half. Intervals are 95 %, over users.",
        ("answers of", "ECE", "mean P(Yes)", "liked", "says Yes", "rows"),
        rows,
    )
    caption = (
        "Of the rows with P(Yes) near .7, seven in ten should be likes: then the dots lie on the diagonal. A dot's "
        "size is its share of the rows, its bar a 95 % interval. If all dots are close together, V gives every row "
        "nearly the same probability."
    )
    return Section("calibration", "V's calibration", [Figure(caption, panels, table)])


def reliability_bins(answers: pl.DataFrame, n_bins: int = _BINS) -> list[Bin]:
    """Rows by equal-width bins of P(Yes), with Wilson's interval of the share of likes in each."""
    p, labels = answers["p_yes"].to_numpy().astype(np.float64), answers["label"].to_numpy()
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    members = [bins == number for number in range(n_bins)]
    return [
        Bin(float(p[rows].mean()), wilson(int(labels[rows].sum()), int(rows.sum()))) for rows in members if rows.any()
    ]


def wilson(hits: int, n: int) -> Num:
    """A share with Wilson's 95 % interval (Wilson 1927), which stays within 0 and 1."""
    z = 1.959964
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Num(share, max(0.0, middle - half), min(1.0, middle + half), n)


def _calibration(answers: pl.DataFrame) -> list[Num]:
    users, p = answers["user_id"].to_numpy(), answers["p_yes"].to_numpy().astype(np.float64)
    labels = answers["label"].to_numpy().astype(np.float64)

    def share(values: np.ndarray) -> Interval:
        return user_bootstrap(np.mean, users, values, n_resamples=500)

    error = user_bootstrap(partial(calibration_error, n_bins=_BINS), users, p, labels, n_resamples=_RESAMPLES)
    shares = (as_num(share(values), "share") for values in (labels, (p > 0.5).astype(np.float64)))
    return [as_num(error), as_num(share(p)), *shares]
