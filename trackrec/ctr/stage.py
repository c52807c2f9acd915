"""The CTR stage: trains every arm and seed on the same rows; writes predictions, nets and validation metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from trackrec.ctr.arms.arm import MEANS, Arm
from trackrec.ctr.arms.assemble import CTRInputs, draw_arm, prepare, runnable_arms, sample_rows
from trackrec.ctr.arms.baselines import baseline_predictions
from trackrec.ctr.arms.classic import check_classics, classic_predictions
from trackrec.ctr.arms.slices import sample_slices
from trackrec.ctr.arms.verdict import arm_metrics
from trackrec.ctr.features.features import CTRData, FeatureSpec
from trackrec.ctr.saved import features_file, saved_net
from trackrec.ctr.settings import CTRSettings
from trackrec.ctr.training.train import ArmResult, fit_arm
from trackrec.metrics.intervals import Interval, metric_rows
from trackrec.storage.atomic import write_atomic
from trackrec.storage.parts import read_table, standing_part, write_part


def run_ctr(
    inputs: CTRInputs, settings: CTRSettings, out_dir: Path, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train every arm and seed, and write predictions (valid and test), nets and validation metrics.

    Each part of the predictions table holds one arm and seed; existing parts are kept.

    Args:
        inputs: tables and vectors.
        settings: what to train.
        out_dir: the stage directory.
        seed: of the run, for what is drawn for an arm, and for the intervals.
        say: prints one line per training.

    Returns:
        Counts for the manifest.
    """
    check_classics(settings.classics)
    arms, notes = runnable_arms(inputs, settings.arms, settings.text)
    data = prepare(inputs, arms, settings.text, settings.features)
    rows = {name: len(ids) for name, ids in data.sample_ids.items()}
    left_out = len(inputs.samples) - sum(rows.values())
    say(f"    rows {rows}, {left_out:,} rows left out because their history has no text")
    for note in notes:
        say(f"    {note}")
    parts = [(arm, arm_seed) for arm in arms for arm_seed in settings.seeds]
    for part, (arm, arm_seed) in enumerate(parts):
        if standing_part(out_dir, "predictions", part) is None:
            _train(draw_arm(data, arm, seed, arm_seed), settings, arm, arm_seed, out_dir, part, say)
    specs = {arm: draw_arm(data, arm, seed, settings.seeds[0]).spec_for(arm) for arm in arms}
    _write_features(data, specs, out_dir)
    write_part(out_dir, "predictions", baseline_rows(inputs, settings), part=len(parts))
    if settings.classics:
        whole = [arm for arm in map(Arm.parse, arms) if arm.coverage == 1]
        without_text = dict.fromkeys(f"none{arm.suffix}" for arm in whole)
        beside = [*without_text, *(arm.name for arm in whole if arm.texts)]
        classics = classic_predictions(data, settings.classics, beside, settings.seeds, seed)
        write_part(out_dir, "predictions", classics, part=len(parts) + 1)
    predictions = read_table(out_dir, "predictions")
    metrics = arm_metrics(predictions, inputs.samples, "valid", "ctr", seed, sample_slices(inputs))
    write_part(out_dir, "metrics", metrics)
    return {**rows, "left_out": left_out, "trainings": len(parts), "arms": arms}


def _train(
    data: CTRData, settings: CTRSettings, arm: str, seed: int, out_dir: Path, part: int, say: Callable[[str], None]
) -> None:
    """One training. Its predictions are written last, so that an interrupted training is repeated."""
    from safetensors.torch import save

    result = fit_arm(settings, data, arm, seed, out_dir / "logs")
    weights = save({name: value.contiguous() for name, value in result.state_dict.items()})
    write_atomic(saved_net(out_dir, arm, seed), weights)
    if result.facts:
        n_texts = len(data.splits["valid"]["history"].unique())
        values = {name: Interval(value, float("nan"), float("nan"), n_texts) for name, value in result.facts.items()}
        rows = metric_rows(values, stage="ctr", split="valid", arm=arm, seed=seed)
        write_part(out_dir, "metrics", rows, part=1 + part)
    write_part(out_dir, "predictions", _prediction_rows(result, data), part)
    say(
        f"    {arm} seed {seed}: valid AUC {result.valid_auc:.4f} at epoch {result.best_epoch} of "
        f"{result.epochs}, {result.seconds:.1f} s"
    )


def _write_features(data: CTRData, specs: Mapping[str, FeatureSpec], out_dir: Path) -> None:
    """What `trackrec.ctr.saved` needs to build the same nets again."""
    content = {
        "spec": asdict(data.spec),
        "vocabularies": asdict(data.vocabularies),
        "gaps": {arm: spec.text_gaps for arm, spec in specs.items()},
        "scale": asdict(data.scale),
    }
    write_atomic(features_file(out_dir), json.dumps(content, sort_keys=True))


def _prediction_rows(result: ArmResult, data: CTRData) -> pl.DataFrame:
    frames = [
        pl.DataFrame({"sample_id": data.sample_ids[split], "p": values, "split": [split] * len(values)})
        for split, values in result.predictions.items()
    ]
    return pl.concat(frames).with_columns(model=pl.lit("ctr"), arm=pl.lit(result.arm), seed=pl.lit(result.seed))


def baseline_rows(inputs: CTRInputs, settings: CTRSettings) -> pl.DataFrame:
    """Predictions of the item mean, the user mean and their sum for the valid and test rows that the nets predict."""
    wide = baseline_predictions(
        sample_rows(inputs, settings.text),
        inputs.histories,
        inputs.interactions,
        inputs.threshold,
        whole=inputs.samples,
        history_statistics=settings.features.history_statistics,
    )
    wide = wide.filter(pl.col("split") != "train")
    means = [name for name in MEANS if name in wide.columns]
    return wide.unpivot(means, index=["sample_id", "split"], variable_name="arm", value_name="p").with_columns(
        model=pl.lit("baseline"), seed=pl.lit(0)
    )
