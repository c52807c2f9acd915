"""The model card of a bundle: what the nets were trained on, how good they are, and what they aren't for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from trackrec.ctr.arms.arm import MEANS
from trackrec.storage.parts import read_table

_METRICS = {"auc": "AUC", "uauc": "AUC within users", "acc": "accuracy", "log_loss": "log loss"}


def bundle_card(info: Mapping[str, Any], ctr_dir: Path, samples: pl.DataFrame, interactions: pl.DataFrame) -> str:
    """The card as Markdown with the front matter of the Hugging Face Hub.

    Args:
        info: the content of ``bundle.json``.
        ctr_dir: of the stage, which holds the metrics.
        samples: the rows on which the nets were trained, and those held out.
        interactions: all ratings.
    """
    seeds = ", ".join(map(str, info["seeds"]))
    training = f"the training with seed {seeds}" if len(info["seeds"]) == 1 else f"the mean of seeds {seeds}"
    arms = list(dict.fromkeys([*(net["arm"] for net in info["nets"]), "none", *MEANS]))
    parts = [
        "---\nlibrary_name: trackrec\ntags: [recommendation, click-through-rate]\nlicense: other\n---",
        f"# {info['net']} of arm `{info['arm']}`",
        f"A bundle of trackrec {info['trackrec']}, written {datetime.now(UTC):%Y-%m-%d}. It answers with P(like) for a "
        f"user and an item: {training}. `trackrec serve --bundle` answers requests with it.",
        "## Data\n\n" + _data(info, interactions),
        "## Split\n\n" + split_table(samples),
        "## Metrics\n\n" + _metrics(ctr_dir, arms),
        "## Who is answered by what\n\n" + _ladder(info),
        "## Limits\n\n" + _limits(info),
        "## Licence\n\nThe code is Apache-2.0. The weights are made from the ratings and, where texts are read, from "
        "the output of a language model: their licences decide what may be done with this bundle. `users.parquet` "
        "holds ratings of single users and must not be published where they are not public.",
    ]
    return "\n\n".join(parts) + "\n"


def _data(info: Mapping[str, Any], log: pl.DataFrame) -> str:
    text = info["text"]
    lines = [
        f"- {len(log):,} ratings of {info['users']:,} users and {info['items']:,} items, "
        f"{_day(log['timestamp'].min())} to {_day(log['timestamp'].max())}; above {info['threshold']:g} is a like",
        f"- statistics of what a user rated: {info['history_statistics']}; recent list: {info['recent_len']} ratings",
    ]
    if text:
        lines.append(
            f"- texts: vectors of `{text['encoder'] or 'an encoder that is not recorded'}`, {text['dim']} read"
        )
    return "\n".join(lines)


def _day(seconds: Any) -> str:
    return datetime.fromtimestamp(int(seconds or 0), UTC).date().isoformat()


def split_table(samples: pl.DataFrame) -> str:
    """Rows, users and likes of each split, as Markdown."""
    counts = samples.group_by("split").agg(
        rows=pl.len(), users=pl.col("user_id").n_unique(), likes=pl.col("label").mean()
    )
    by_name = {row[0]: row[1:] for row in counts.iter_rows()}
    rows = [
        [name, f"{by_name[name][0]:,}", f"{by_name[name][1]:,}", f"{by_name[name][2]:.3f}"]
        for name in ("train", "valid", "test")
        if name in by_name
    ]
    return _table(["split", "rows", "users", "share of likes"], rows)


def _metrics(ctr_dir: Path, arms: Sequence[str]) -> str:
    metrics = read_table(ctr_dir, "metrics").filter(
        pl.col("slice") == "all", pl.col("seed") == -1, pl.col("name").is_in(list(_METRICS))
    )
    values = {
        (arm, name): (value, low, high)
        for arm, name, value, low, high in metrics.select("arm", "name", "value", "ci_low", "ci_high").iter_rows()
    }
    rows = [
        [f"`{arm}`", *(_interval(values.get((arm, name))) for name in _METRICS)]
        for arm in arms
        if any((arm, name) in values for name in _METRICS)
    ]
    note = "Validation rows, mean over the training seeds, with 95 % intervals over users and seeds."
    return f"{note}\n\n{_table(['arm', *_METRICS.values()], rows)}"


def metrics_table(metrics: pl.DataFrame) -> str:
    """All numbers of a metrics table over all rows and seeds, with their intervals, as Markdown."""
    rows = metrics.filter(pl.col("slice") == "all", pl.col("seed") == -1).sort("arm", "name")
    return _table(
        ["arm", "metric", "value", "n"],
        [
            [f"`{arm}`", name, _interval((value, low, high)), f"{n:,}"]
            for arm, name, value, low, high, n in rows.select(
                "arm", "name", "value", "ci_low", "ci_high", "n"
            ).iter_rows()
        ],
    )


def _interval(value: tuple[float, float, float] | None) -> str:
    if value is None or math.isnan(value[0]):
        return ""
    number, low, high = value
    return f"{number:.4f}" if math.isnan(low) else f"{number:.4f} [{low:.4f}, {high:.4f}]"


def _ladder(info: Mapping[str, Any]) -> str:
    main, *rest = info["nets"]
    reads_text = main["text"] and not main["gaps"]
    lines = [f"1. `{main['arm']}`: " + ("users with a text" if reads_text else "users with a rating")]
    lines += [f"{2 + place}. `{net['arm']}`: other users with a rating" for place, net in enumerate(rest)]
    if info["history_statistics"] != "none":
        lines.append(f"{len(lines) + 1}. `item_user`: other users with a rating, from like-rates of item and user")
    lines.append(f"{len(lines) + 1}. `item_mean`: users without a rating, from the item's like-rate")
    lines.append(f"{len(lines) + 1}. `base_rate`: items that the catalogue doesn't hold, {info['base_rate']:.3f}")
    if info["cold"]:
        lines.append("\nThe nets were trained on rows without earlier ratings, and answer users without a rating too.")
    return "\n".join(lines)


def _limits(info: Mapping[str, Any]) -> str:
    words = info["vocabularies"]
    return (
        f"- The nets know {words['items']:,} items and {words['users']:,} users by an embedding; others share one.\n"
        "- Statistics of items and users stay as they were in training; only the recent list takes newer ratings.\n"
        "- The metrics are of one data set and one split in time; they say nothing about what showing the "
        "recommendations would change.\n"
        "- Probabilities were not calibrated after training.\n"
        "- Ranges of all inputs in training are in `bundle.json`; where live inputs leave them, train again."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
