"""``trackrec export``: a trained CTR net as ONNX, with what a server needs to feed it.

The folder holds

* ``net.onnx``: the inputs of `trackrec.serving.requests.net_inputs`, for any number B of rows -> ``p`` (B,), P(like);
* ``features.json``: sizes, vocabularies, the order and scale of the dense features, statistics of every item;
* ``users.parquet``: user_id, history_id, and the text vector as the net reads it;
* ``ratings.parquet``: the ratings that statistics count.

`trackrec.serving.requests.RequestEncoder` reads the folder and turns requests into inputs.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trackrec.ctr.arms.assemble import CTRInputs, sample_rows
from trackrec.ctr.features.dense_statistics import ITEM_NAMES, EarlierItemRatings, dense_names, item_years
from trackrec.ctr.features.features import MAX_ATTRIBUTES, CTRData
from trackrec.ctr.features.past import FIRST, PADDING, UNKNOWN, source_rows
from trackrec.ctr.saved import load_net, saved_features, saved_net, saved_seeds
from trackrec.ctr.settings import CTRSettings
from trackrec.recipe.ctr_inputs import check_nets, ctr_inputs
from trackrec.recipe.experiment import Experiment
from trackrec.runtime.errors import SettingError, reason
from trackrec.runtime.packages import need
from trackrec.serving.requests import FEATURES, FORMAT, NET, RATINGS, USERS, after_all, net_inputs, newest_histories

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-5
_CHECKED_ROWS = 512
_EXTERNAL_BYTES = 2**30  # larger weights are written to a second file: protobuf is limited to 2 GiB
_LOG_ODDS_COLUMNS = ("log_odds", "has_log_odds")


class Exported(NamedTuple):
    """What was written: the net's class, its seed, and the largest difference between onnxruntime and torch."""

    net: str
    seed: int
    difference: float
    rows: int


def export(exp: Experiment, arm: str, seed: int | None, output: Path) -> None:
    """Write the net of one arm and seed of a finished run; see the module.

    Args:
        exp: a run whose ctr stage is done.
        arm: one of those the ctr stage trained.
        seed: of that training; None takes the first.
        output: folder to write; it must not exist.

    Raises:
        MissingPackageError: a package of the extra ``export`` is missing.
        StageError: a stage that it reads isn't done, or is damaged.
        SettingError: the folder exists, there is no such net, or onnxruntime doesn't agree with torch.
    """
    check_packages()
    check_nets(exp)
    exported = export_net(ctr_inputs(exp), exp.ctr, exp.directory("ctr"), arm, seed, exp.seed, output)
    exp.say(
        f"{exported.net} of arm {arm}, seed {exported.seed}, in {output}: onnxruntime differs from torch by at most "
        f"{exported.difference:.1e} on {exported.rows} validation rows"
    )


def check_packages() -> None:
    """Check that the extra ``export`` is installed.

    Raises:
        MissingPackageError: it isn't.
    """
    need("trackrec export", "export", *PACKAGES)


def export_net(
    inputs: CTRInputs, settings: CTRSettings, ctr_dir: Path, arm: str, net_seed: int | None, seed: int, output: Path
) -> Exported:
    """The body of `export`: built in a temporary folder, checked, then renamed.

    Args:
        inputs: the tables on which the stage ran.
        settings: of the stage.
        ctr_dir: the stage's directory.
        arm: the arm of the net.
        net_seed: of the net's training; None takes the first.
        seed: of the run, for what is drawn for the arm.
        output: folder to write.
    """
    if output.exists():
        raise SettingError(f"--output {output} exists already. Name a folder that doesn't, or delete it.")
    seeds = saved_seeds(ctr_dir, arm)
    chosen = seeds[0] if net_seed is None else net_seed
    if chosen not in seeds:
        raise SettingError(f"--seed must be among {', '.join(map(str, seeds))}, got {chosen}.")
    data = saved_features(inputs, settings, ctr_dir, arm, seed, chosen)
    net = load_net(settings, data.spec_for(arm), saved_net(ctr_dir, arm, chosen))
    work = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        example = net_inputs(data, arm, "valid", slice(_CHECKED_ROWS))
        write_onnx(net, example, work / NET)
        difference = largest_difference(net, example, work / NET)
        _write_tables(data, inputs, settings, arm, work)
        shapes = [
            {"name": name, "type": str(value.dtype), "shape": ["batch", *value.shape[1:]]}
            for name, value in example.items()
        ]
        facts = {"net": type(net).__name__, "arm": arm, "seed": chosen, "inputs": shapes}
        (work / FEATURES).write_text(
            json.dumps({**facts, **_features(data, inputs, settings, arm, work)}, indent=1) + "\n"
        )
        work.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(type(net).__name__, chosen, difference, len(example["item"]))


class _Positional(nn.Module):
    """A net whose inputs are arguments in a fixed order, and whose output is a probability."""

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)

    def forward(self, *values: Tensor) -> Tensor:
        logits: Tensor = self.net(dict(zip(self.names, values, strict=True)))
        return logits.sigmoid()


def write_onnx(net: nn.Module, example: dict[str, NDArray[Any]], path: Path) -> None:
    """Write a net as ONNX; its first dimension is free.

    Args:
        net: batch -> logits (B,).
        example: inputs by name, at least two rows.
        path: file to write.

    Raises:
        SettingError: the net can't be expressed in ONNX.
    """
    batch = torch.export.Dim("batch", min=1)
    values = tuple(torch.from_numpy(value) for value in example.values())
    size = sum(weight.numel() * weight.element_size() for weight in net.parameters())
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                _Positional(net, list(example)).eval(),
                values,
                input_names=list(example),
                output_names=["p"],
                dynamo=True,
                dynamic_shapes={"values": tuple({0: batch} for _ in values)},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise SettingError(
            f"ctr.net: {type(net).__name__} can't be written as ONNX: {reason(error.__cause__ or error)}"
        ) from error
    assert program is not None
    program.save(path, external_data=size > _EXTERNAL_BYTES)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which logs packages that no net uses and warns about its own deprecated calls."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def largest_difference(net: nn.Module, example: dict[str, NDArray[Any]], path: Path) -> float:
    """Between onnxruntime's probabilities and torch's, on all rows at once and on the first row only.

    Raises:
        SettingError: it is above `TOLERANCE`, or NaN.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for rows in (slice(None), slice(1)):
        part = {name: value[rows] for name, value in example.items()}
        with torch.inference_mode():
            expected = net({name: torch.from_numpy(value) for name, value in part.items()}).sigmoid().numpy()
        (p,) = session.run(["p"], part)
        largest = max(largest, float(np.abs(p - expected).max()))
    if not largest <= TOLERANCE:
        raise SettingError(
            f"ctr.net: onnxruntime differs from torch by {largest:.1e} on {type(net).__name__}, more than "
            f"{TOLERANCE:.0e}. Nothing was written."
        )
    return largest


def _write_tables(data: CTRData, inputs: CTRInputs, settings: CTRSettings, arm: str, work: Path) -> None:
    """``users.parquet`` and ``ratings.parquet``."""
    samples = sample_rows(inputs, settings.text)
    source_rows(inputs.samples, inputs.histories, inputs.interactions).write_parquet(work / RATINGS)
    users = newest_histories(samples, set(samples["history_id"].to_list()))
    texts: list[list[float] | None] = [None] * len(users)
    if arm in data.arms:
        text_arm = data.arms[arm]
        position = {history: row for row, history in enumerate(data.history_ids)}
        rows = text_arm.rows[[position[history] for history in users["history_id"].to_list()]].tolist()
        texts = [None if row < 0 else text_arm.matrix[row].tolist() for row in rows]
    users.with_columns(text=pl.Series(texts, dtype=pl.List(pl.Float32))).write_parquet(work / USERS)


def _features(data: CTRData, inputs: CTRInputs, settings: CTRSettings, arm: str, work: Path) -> dict[str, Any]:
    """The content of ``features.json`` except the net and its inputs."""
    spec = data.spec_for(arm)
    text = {"dim": spec.text_dim, "use": spec.text_use, "gaps": spec.text_gaps} if spec.text_dim else None
    has_log_odds = arm in data.columns
    statistics = "none" if arm in data.without_statistics else settings.features.history_statistics
    return {
        "format": FORMAT,
        "scale": asdict(data.scale),
        "history_statistics": statistics,
        "max_attributes": MAX_ATTRIBUTES,
        "indices": {"padding": PADDING, "unknown": UNKNOWN, "first": FIRST},
        "spec": asdict(spec),
        "vocabularies": asdict(data.vocabularies),
        "dense": [*dense_names(statistics), *(_LOG_ODDS_COLUMNS if has_log_odds else ())],
        "text": text,
        "log_odds": has_log_odds,
        "published_lists": inputs.published_lists,
        "items": _item_facts(data, inputs, pl.read_parquet(work / RATINGS)),
    }


def _item_facts(data: CTRData, inputs: CTRInputs, ratings: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Item -> its index, its attributes' indices, and its user-independent dense features after the last rating."""
    items = inputs.items
    times = np.full(len(items), after_all(inputs.interactions), np.int64)
    known = {item: FIRST + position for position, item in enumerate(data.vocabularies.items)}
    of_items = EarlierItemRatings(ratings, items, data.scale)
    statistics = of_items.statistics(1 + np.arange(len(items)), times)
    columns = np.concatenate([statistics, np.nan_to_num(item_years(items)[1:])[:, None]], axis=1)
    return {
        item: {
            "index": known.get(item, UNKNOWN),
            "attributes": [index for index in attributes if index != PADDING],
            "dense": dict(zip(ITEM_NAMES, values, strict=True)),
        }
        for item, attributes, values in zip(
            items["item_id"].to_list(), data.item_attributes[1:].tolist(), columns.tolist(), strict=True
        )
    }
