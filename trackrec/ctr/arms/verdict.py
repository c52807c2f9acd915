"""Compares the arms: metrics, paired differences, and whether the text helps.

Letters: N rows, S training seeds. Every interval is over users and training seeds; see `Draws`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.arms.arm import CLASSICS, NO_STATS, PLACEBOS, Arm
from trackrec.metrics.intervals import LEAST_USERS, Draws, Interval, metric_rows, seed_draws
from trackrec.metrics.scores import accuracy, auc, log_loss, uauc

_METRICS: dict[str, Callable[..., Any]] = {"auc": auc, "acc": accuracy, "log_loss": log_loss, "uauc": uauc}
_DIFFERENCES = ("auc", "acc", "log_loss")
HELPS, NO_EVIDENCE, HURTS = 1.0, 0.0, -1.0
_SLICE_RESAMPLES = 500

AllDraws = dict[str, dict[str, Draws]]


class ArmScores(NamedTuple):
    """Predictions of one arm on N rows by S seeds, with the rows' ids, labels and users."""

    p: NDArray[np.float64]
    labels: NDArray[np.int64]
    users: NDArray[Any]
    sample_ids: NDArray[Any]


def arm_scores(predictions: pl.DataFrame, samples: pl.DataFrame, split: str, arm: str) -> ArmScores:
    """(S, N) predictions of an arm on a split, rows sorted by sample id.

    Raises:
        ValueError: the seeds of an arm were not run on the same rows.
    """
    selected = predictions.filter((pl.col("split") == split) & (pl.col("arm") == arm))
    wide = selected.pivot("seed", index="sample_id", values="p").sort("sample_id")
    if any(wide[column].null_count() for column in wide.columns):
        raise ValueError(f"predictions of arm {arm} on {split}: the seeds differ in their rows")
    rows = wide.select("sample_id").join(
        samples.select("sample_id", "label", "user_id"), on="sample_id", maintain_order="left"
    )
    p = wide.drop("sample_id").to_numpy().T.astype(np.float64)
    return ArmScores(
        p, rows["label"].to_numpy().astype(np.int64), rows["user_id"].to_numpy(), wide["sample_id"].to_numpy()
    )


def best_placebos(predictions: pl.DataFrame, samples: pl.DataFrame) -> list[str]:
    """The placebos with the highest mean AUC over seeds on validation rows: one with user statistics, one without."""
    ran = set(predictions["arm"].unique().to_list())
    best = []
    for suffix in ("", NO_STATS):
        values = {}
        for arm in (f"{name}{suffix}" for name in PLACEBOS if f"{name}{suffix}" in ran):
            scores = arm_scores(predictions, samples, "valid", arm)
            values[arm] = float(np.mean([auc(p, scores.labels) for p in scores.p]))
        best += [max(values, key=lambda arm: values[arm])] if values else []
    return best


def arm_metrics(
    predictions: pl.DataFrame,
    samples: pl.DataFrame,
    split: str,
    stage: str,
    seed: int,
    slices: pl.DataFrame | None = None,
) -> list[dict[str, Any]]:
    """Rows of the metrics table: every arm on a split, differences between arms, verdicts, and slices.

    ``auc``, ``acc``, ``log_loss`` and ``uauc`` belong to an arm. ``auc_minus_none`` and so on are paired differences on
    the same rows: to no text, to each placebo, to ``best_placebo`` (chosen on validation rows, so ``predictions`` must
    hold them) and to the classic models. ``auc_minus_none_mde`` is the smallest true difference that a run of this size
    shows with 80 % power. An arm of partial coverage (``reccot@0.5``) has no placebo and no verdict.

    ``verdict`` of a text arm: 1 (helps) where the intervals of ``auc_minus_none`` and ``auc_minus_best_placebo`` are
    both above 0; -1 (hurts) where both are below 0; 0 (no evidence) otherwise. One training seed gives no verdict: its
    intervals are over users alone, and miss the chance of training.

    Args:
        predictions: of valid rows and of ``split``.
        samples: the samples table.
        split: which rows.
        stage: the ``stage`` written to the rows.
        seed: of the resampling.
        slices: `trackrec.ctr.arms.slices.sample_slices`; None leaves slices out.
    """
    scores_by_arm = {arm: arm_scores(predictions, samples, split, arm) for arm in predictions["arm"].unique().sort()}
    placebos = best_placebos(predictions, samples)
    draws = {
        arm: {name: _draws(metric, scores, seed) for name, metric in _METRICS.items()}
        for arm, scores in scores_by_arm.items()
    }
    rows: list[dict[str, Any]] = []
    for arm, scores in scores_by_arm.items():
        values = {name: drawn.interval() for name, drawn in draws[arm].items()}
        one_class = uauc(scores.p[0], scores.labels, scores.users).n_one_class
        values["users_one_class"] = _without_interval(one_class, len(set(scores.users)))
        values |= _differences(arm, draws, placebos, _DIFFERENCES)
        values |= _verdict(arm, draws, placebos)
        if arm in placebos:
            values["chosen_placebo"] = _without_interval(1.0, len(scores.labels))
        rows.extend(metric_rows(values, stage=stage, split=split, arm=arm))
    if slices is not None:
        for name, ids in slices.group_by("slice").agg("sample_id").sort("slice").iter_rows():
            in_slice = set(ids)
            cut = {arm: _rows_of(scores, in_slice) for arm, scores in scores_by_arm.items()}
            rows.extend(_slice_metrics(cut, placebos, seed, {"stage": stage, "split": split, "slice": name}))
    return rows


def _draws(metric: Callable[..., Any], scores: ArmScores, seed: int, n_resamples: int = 1000) -> Draws:
    return seed_draws(metric, scores.users, scores.labels, scores.p, n_resamples, seed)


def comparisons(arm: Arm, ran: Iterable[str], placebos: Sequence[str]) -> dict[str, str]:
    """The comparisons of an arm: name of the comparison -> the arm that it is compared with.

    Args:
        arm: the arm.
        ran: names of all arms that ran.
        placebos: the best ones on validation; the one with the same dense features counts.
    """
    ran = set(ran)
    placebo = next((name for name in placebos if Arm.parse(name).suffix == arm.suffix), None)
    if arm.model in CLASSICS:
        control = f"{arm.model}+{placebo}"
        others = {arm.model: f"{arm.model}{arm.suffix}"} if arm.texts else {}
        return others | ({"best_placebo": control} if control in ran and others and not arm.is_placebo else {})
    if arm.model != "net":
        return {}
    # An arm of partial coverage has no placebo: the placebos that run cover all users.
    controls = () if arm.coverage < 1 else PLACEBOS
    same = {name: f"{name}{arm.suffix}" for name in ("none", *controls, *CLASSICS)}
    others = {name: other for name, other in same.items() if other in ran and other != arm.name}
    if arm.coverage == 1 and placebo is not None and arm.texts and not arm.is_placebo:
        others["best_placebo"] = placebo
    return others


def _differences(arm: str, draws: AllDraws, placebos: Sequence[str], metrics: Iterable[str]) -> dict[str, Interval]:
    values: dict[str, Interval] = {}
    for label, other in comparisons(Arm.parse(arm), draws, placebos).items():
        for name in metrics:
            values[f"{name}_minus_{label}"] = (draws[arm][name] - draws[other][name]).interval()
        difference = draws[arm]["auc"] - draws[other]["auc"]
        values[f"auc_minus_{label}_mde"] = _without_interval(difference.detectable(), difference.n)
    return values


def _verdict(arm: str, draws: AllDraws, placebos: Sequence[str]) -> dict[str, Interval]:
    """Only where both controls ran, without which a gain can't be attributed to the text, with two seeds or more."""
    others = comparisons(Arm.parse(arm), draws, placebos)
    if "none" not in others or "best_placebo" not in others:
        return {}
    differences = [draws[arm]["auc"] - draws[others[name]]["auc"] for name in ("none", "best_placebo")]
    if any(len(difference.by_seed) < 2 for difference in differences):
        return {}
    value = verdict(*(difference.interval() for difference in differences))
    return {"verdict": _without_interval(value, differences[0].n)}


def verdict(minus_none: Interval, minus_placebo: Interval) -> float:
    """What an arm's differences in AUC to no text and to the best placebo say; see `arm_metrics`."""
    if min(minus_none.low, minus_placebo.low) > 0:
        return HELPS
    return HURTS if max(minus_none.high, minus_placebo.high) < 0 else NO_EVIDENCE


def _rows_of(scores: ArmScores, ids: set[str]) -> ArmScores:
    index = np.array([row for row, key in enumerate(scores.sample_ids) if key in ids], dtype=np.int64)
    return ArmScores(scores.p[:, index], scores.labels[index], scores.users[index], scores.sample_ids[index])


def _slice_metrics(
    cut: dict[str, ArmScores], placebos: Sequence[str], seed: int, key: dict[str, Any]
) -> list[dict[str, Any]]:
    """AUC of every arm and its differences on a slice; nothing where it has one class, no row or too few users."""
    if any(len(np.unique(s.labels)) < 2 or len(np.unique(s.users)) < LEAST_USERS for s in cut.values()):
        return []
    draws = {arm: {"auc": _draws(auc, scores, seed, _SLICE_RESAMPLES)} for arm, scores in cut.items()}
    rows: list[dict[str, Any]] = []
    for arm in cut:
        values = {"auc": draws[arm]["auc"].interval(), **_differences(arm, draws, placebos, ("auc",))}
        rows.extend(metric_rows(values, arm=arm, **key))
    return rows


def _without_interval(value: float, n: int) -> Interval:
    return Interval(value, float("nan"), float("nan"), n)
