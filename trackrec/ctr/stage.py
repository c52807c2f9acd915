"""The CTR stage: every arm and seed on the same rows, their predictions, nets, and validation metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from trackrec.ctr.baselines import baseline_predictions
from trackrec.ctr.data import TensorLoader, attach_shuffled, attach_text
from trackrec.ctr.features import CTRData, Vocabularies, build_features
from trackrec.ctr.train import ArmResult, fit_arm
from trackrec.metrics import Interval, accuracy, auc, evaluate, log_loss, metric_rows, paired_bootstrap, uauc
from trackrec.tables import part_path, read_table, write_part

ARMS = ("none", "reccot", "shuffled")
BASELINES = ("item_mean", "user_mean", "item_user")
_METRICS: dict[str, Callable[..., Any]] = {"auc": auc, "acc": accuracy, "log_loss": log_loss}


class CTRInputs(NamedTuple):
    """The tables the stage reads, and the texts' vectors by history."""

    samples: pl.DataFrame
    histories: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    threshold: float
    vectors: Mapping[str, NDArray[np.float32]]


class CTRPlan(NamedTuple):
    """What to train: factories and arguments of `fit_arm`, and which arms and seeds."""

    net: Callable[..., nn.Module]
    connector: Callable[..., nn.Module] | None
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: Callable[[], dict[str, Any]]
    arms: Sequence[str]
    seeds: Sequence[int]
    patience: int


def with_texts(samples: pl.DataFrame, history_ids: Sequence[str]) -> pl.DataFrame:
    """The samples whose history has a text."""
    return samples.filter(pl.col("history_id").is_in(list(history_ids)))


def prepare(
    inputs: CTRInputs,
    arms: Sequence[str],
    seed: int,
    vocabularies: Vocabularies | None = None,
    recent_len: int | None = None,
) -> CTRData:
    """Features of all samples with a text, and the text arms.

    Args:
        inputs: tables and vectors.
        arms: which arms to attach.
        seed: of the shuffled arm.
        vocabularies: of an earlier training, for rows to predict.
        recent_len: of that training.

    Raises:
        ValueError: an arm is unknown.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise ValueError(f"ctr.arms must be among {', '.join(ARMS)}, got {unknown[0]!r}.")
    samples = with_texts(inputs.samples, list(inputs.vectors))
    data = build_features(
        samples,
        inputs.histories,
        inputs.items,
        None,  # user attributes didn't help on validation (docs/benchmarks.md)
        inputs.interactions,
        threshold=inputs.threshold,
        recent_len=recent_len,
        vocabularies=vocabularies,
    )
    if set(arms) - {"none"}:
        ids = sorted(inputs.vectors)
        data = attach_text(data, "reccot", ids, np.stack([inputs.vectors[key] for key in ids]))
    if "shuffled" in arms:
        data = attach_shuffled(data, "reccot", "shuffled", seed)
    return data


def run_ctr(inputs: CTRInputs, plan: CTRPlan, out_dir: Path, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train every arm and seed, and write predictions (valid and test), nets and validation metrics.

    A part of the predictions table is one arm and seed; parts that stand are kept.

    Args:
        inputs: tables and vectors.
        plan: what to train.
        out_dir: the stage directory.
        seed: of the shuffled arm and of the intervals.
        say: prints one line per training.

    Returns:
        Counts for the manifest.
    """
    data = prepare(inputs, plan.arms, seed)
    rows = {name: len(ids) for name, ids in data.sample_ids.items()}
    left_out = len(inputs.samples) - sum(rows.values())
    say(f"    rows {rows}, {left_out:,} rows left out because their history has no text")
    parts = [(arm, arm_seed) for arm in plan.arms for arm_seed in plan.seeds]
    for part, (arm, arm_seed) in enumerate(parts):
        if part_path(out_dir, "predictions", part).exists():
            continue
        result = fit_arm(
            plan.net,
            plan.connector,
            data,
            arm,
            arm_seed,
            plan.model,
            plan.data,
            plan.trainer(),
            out_dir / "logs",
            patience=plan.patience,
        )
        _save_net(result, out_dir)
        write_part(out_dir, "predictions", _prediction_rows(result, data), part)
        say(
            f"    {arm} seed {arm_seed}: valid AUC {result.valid_auc:.4f} at epoch {result.best_epoch} of "
            f"{result.epochs}, {result.seconds:.1f} s"
        )
    spec = {"spec": asdict(data.spec), "vocabularies": asdict(data.vocabularies)}
    (out_dir / "nets" / "features.json").write_text(json.dumps(spec, sort_keys=True))
    write_part(out_dir, "predictions", baseline_rows(inputs), part=len(parts))
    predictions = read_table(out_dir, "predictions")
    write_part(out_dir, "metrics", arm_metrics(predictions, inputs.samples, "valid", "ctr", seed))
    return {**rows, "left_out": left_out, "trainings": len(parts)}


def _save_net(result: ArmResult, out_dir: Path) -> None:
    from safetensors.torch import save_file

    folder = out_dir / "nets"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in result.state_dict.items()}
    save_file(weights, folder / "_new")
    (folder / "_new").replace(folder / f"{result.arm}-{result.seed}.safetensors")


def _prediction_rows(result: ArmResult, data: CTRData) -> pl.DataFrame:
    frames = [
        pl.DataFrame({"sample_id": data.sample_ids[split], "p": values, "split": [split] * len(values)})
        for split, values in result.predictions.items()
    ]
    return pl.concat(frames).with_columns(model=pl.lit("ctr"), arm=pl.lit(result.arm), seed=pl.lit(result.seed))


def baseline_rows(inputs: CTRInputs) -> pl.DataFrame:
    """Predictions of the item mean, the user mean and their sum for the valid and test rows that the nets predict."""
    samples = with_texts(inputs.samples, list(inputs.vectors))
    wide = baseline_predictions(samples, inputs.histories, inputs.interactions, inputs.threshold)
    wide = wide.filter(pl.col("split") != "train")
    return wide.unpivot(BASELINES, index=["sample_id", "split"], variable_name="arm", value_name="p").with_columns(
        model=pl.lit("baseline"), seed=pl.lit(0)
    )


class ArmScores(NamedTuple):
    """Predictions of one arm on N rows by S seeds, with the rows' labels and users."""

    p: NDArray[np.float64]
    labels: NDArray[np.int64]
    users: NDArray[Any]


def arm_scores(predictions: pl.DataFrame, samples: pl.DataFrame, split: str, arm: str) -> ArmScores:
    """(S, N) predictions of an arm on a split, rows in the order of their ids.

    Raises:
        ValueError: the seeds of an arm were not run on the same rows.
    """
    own = predictions.filter((pl.col("split") == split) & (pl.col("arm") == arm))
    wide = own.pivot("seed", index="sample_id", values="p").sort("sample_id")
    if any(wide[column].null_count() for column in wide.columns):
        raise ValueError(f"predictions of arm {arm} on {split}: the seeds differ in their rows")
    rows = wide.select("sample_id").join(
        samples.select("sample_id", "label", "user_id"), on="sample_id", maintain_order="left"
    )
    p = wide.drop("sample_id").to_numpy().T.astype(np.float64)
    return ArmScores(p, rows["label"].to_numpy().astype(np.int64), rows["user_id"].to_numpy())


def arm_metrics(
    predictions: pl.DataFrame, samples: pl.DataFrame, split: str, stage: str, seed: int
) -> list[dict[str, Any]]:
    """Metrics of every arm on a split, and the differences between arms, with user-clustered intervals.

    Rows named ``auc`` and so on belong to an arm; rows named ``auc_minus_none`` and ``auc_minus_shuffled`` are paired
    differences on the same rows, over users and seeds.
    """
    found = {arm: arm_scores(predictions, samples, split, arm) for arm in predictions["arm"].unique().sort()}
    rows: list[dict[str, Any]] = []
    for arm, scores in found.items():
        values: dict[str, Interval] = evaluate(scores.p, scores.labels, scores.users, seed=seed)
        one_class = uauc(scores.p[0], scores.labels, scores.users).n_one_class
        values["users_one_class"] = Interval(one_class, float("nan"), float("nan"), len(set(scores.users)))
        for other in ("none", "shuffled"):
            if arm in ARMS and arm != other and other in found:
                for name, metric in _METRICS.items():
                    values[f"{name}_minus_{other}"] = paired_bootstrap(
                        metric, scores.users, scores.labels, scores.p, found[other].p, seed=seed
                    )
        rows.extend(metric_rows(values, stage=stage, split=split, arm=arm))
    return rows


def predict_rows(
    inputs: CTRInputs, plan: CTRPlan, ctr_dir: Path, rows: pl.DataFrame, arm: str, seed: int
) -> NDArray[np.float32]:
    """P(like) of new rows by the saved nets of an arm, averaged over its seeds.

    Args:
        inputs: the tables on which the stage ran.
        plan: of the stage.
        ctr_dir: its directory.
        rows: samples of split ``request``.
        arm: whose nets.
        seed: of the shuffled arm.

    Raises:
        ValueError: the stage has no nets of this arm.
    """
    from safetensors.torch import load_file

    weights = sorted((ctr_dir / "nets").glob(f"{arm}-*.safetensors"))
    if not weights:
        known = sorted({path.stem.rsplit("-", 1)[0] for path in (ctr_dir / "nets").glob("*.safetensors")})
        raise ValueError(f"--arm must be among {', '.join(known)}, got {arm!r}.")
    saved = json.loads((ctr_dir / "nets" / "features.json").read_text())
    vocabularies = Vocabularies(**saved["vocabularies"])
    both = inputs._replace(samples=pl.concat([inputs.samples.select(rows.columns), rows]))
    data = prepare(both, [arm], seed, vocabularies, int(saved["spec"]["recent_len"]))
    spec = data.spec_for(arm)
    found = []
    for path in weights:
        connector = plan.connector(spec.text_dim) if spec.text_dim and plan.connector else None
        net = plan.net(spec, connector)
        net.load_state_dict(load_file(path))
        net.eval()
        with torch.inference_mode():
            batches = TensorLoader(data, "request", arm, batch_size=8192, labels=False)
            found.append(torch.cat([net(batch).sigmoid() for batch in batches]).numpy())
    return np.asarray(np.mean(found, axis=0, dtype=np.float64), np.float32)
