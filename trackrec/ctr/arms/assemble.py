"""From what the stage is given to features with every arm attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from trackrec.ctr.arms.arms import (
    ARMS,
    TextSettings,
    attach_log_odds,
    attach_random,
    attach_random_log_odds,
    attach_shuffled,
    attach_shuffled_log_odds,
    attach_text,
    coverage_of,
    is_arm,
    keep_share,
    reduce_texts,
    source_of,
)
from trackrec.ctr.features.features import CTRData, FeatureBuilder, Vocabularies

# Without gaps in the RecCoTs a comparator or the prompt may still lack this share of the histories (a learned vector
# stands for them); below it the arms would not be comparable.
MIN_COVERAGE = 0.99

Vectors = Mapping[str, NDArray[np.float32]]


class CTRInputs(NamedTuple):
    """What the stage reads.

    Attributes:
        samples, histories, items, interactions: the tables of :mod:`trackrec.storage.schemas`.
        threshold: a rating above it is a like.
        vectors: field of texts (``reccot``, ``prompt``, ``untuned``, ``teacher``) -> history -> text vector; empty
            where no arm reads one.
        log_odds: V's log-odds by arm (``reccot``; ``plain``, without any text; ``shuffled``, given another user's) and
            sample, for ``ctr.text.use: log_odds``. See :func:`trackrec.ctr.arms.arms.log_odds_of`.
        seen_users: users on whose labels G and V were tuned; None where that isn't known.
        published_lists: whether the dataset gives each sample its history and recent list.
    """

    samples: pl.DataFrame
    histories: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    threshold: float
    vectors: Mapping[str, Vectors]
    log_odds: Mapping[str, Mapping[str, float]] = {}
    seen_users: frozenset[str] | None = None
    published_lists: bool = False


def sample_rows(inputs: CTRInputs, text: TextSettings) -> pl.DataFrame:
    """The samples of every arm: all where no arm has texts, else those whose history has a RecCoT."""
    if text.missing == "keep" or text.use == "log_odds" or not inputs.vectors:
        return inputs.samples
    return inputs.samples.filter(pl.col("history_id").is_in(list(inputs.vectors.get("reccot", {}))))


def check_arms(arms: Sequence[str], key: str = "ctr.arms") -> None:
    """Say a misspelt arm before anything runs.

    Args:
        arms: the arms.
        key: where they were named.

    Raises:
        ValueError: an arm is unknown, or there is none.
    """
    unknown = [arm for arm in arms if not is_arm(arm)]
    if unknown or not arms:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"{key} must be among {', '.join(ARMS)}, or such as reccot+prompt, got {got}.")


def runnable_arms(
    inputs: CTRInputs, arms: Sequence[str], text: TextSettings, key: str = "ctr.arms"
) -> tuple[list[str], list[str]]:
    """The arms whose texts exist, those of ``text.coverage`` added, and a line for each that is left out.

    Args:
        inputs: what the CTR stage reads.
        arms: the arms.
        text: how texts enter the nets.
        key: where the arms were named.

    Raises:
        ValueError: an arm is unknown, nothing can run, or log-odds are to be used and there are none.
    """
    check_arms(arms, key)
    if text.use == "log_odds" and not inputs.log_odds:
        raise ValueError(
            "ctr.text.use: log_odds needs V's log-odds of the samples, and there are none. Name an arm that reads them."
        )
    reasons = {arm: _why_not(arm, inputs, text) for arm in arms}
    kept = [arm for arm in arms if not reasons[arm]]
    if not kept:
        raise ValueError(f"{key}: none of {', '.join(arms)} can run: {'; '.join(filter(None, reasons.values()))}.")
    if "reccot" in kept:
        kept += [f"reccot@{share:g}" for share in text.coverage or ()]
    return kept, [f"arm {arm} left out: {reason}" for arm, reason in reasons.items() if reason]


def _why_not(arm: str, inputs: CTRInputs, text: TextSettings) -> str:
    """Why an arm can't run; empty where it can."""
    if arm == "none":
        return ""
    source = source_of(arm)
    if text.use == "log_odds":
        return "" if inputs.log_odds.get(source) or inputs.log_odds.get(arm) else f"there are no log-odds of {source}"
    missing = [field for field in source.split("+") if not inputs.vectors.get(field)]
    if missing:
        return f"there are no vectors of {missing[0]}"
    if text.missing == "leave_out" and source != "reccot":
        wanted = set(sample_rows(inputs, text)["history_id"].unique().to_list())
        share = len(wanted & set(_vectors(inputs, source))) / max(len(wanted), 1)
        if share < MIN_COVERAGE:
            return f"its texts cover {share:.1%} of the histories, less than {MIN_COVERAGE:.0%}"
    return ""


def prepare(inputs: CTRInputs, arms: Sequence[str], seed: int, text: TextSettings | None = None) -> CTRData:
    """Features of the stage's samples, and its arms.

    Args:
        inputs: tables and vectors.
        arms: which arms to attach; each must be able to run, see `runnable_arms`.
        seed: of the placebos and of the coverage arms.
        text: how texts are used.
    """
    text = text or TextSettings()
    return attach_arms(feature_builder(inputs, text)(sample_rows(inputs, text)), inputs, arms, seed, text)


def feature_builder(
    inputs: CTRInputs,
    text: TextSettings,
    vocabularies: Vocabularies | None = None,
    recent_len: int | None = None,
    now: int | None = None,
) -> FeatureBuilder:
    """What makes features of the stage's samples, and of rows like them.

    Args:
        inputs: the tables.
        text: how texts are used: it says which samples the stage has.
        vocabularies: of an earlier training, for rows to predict.
        recent_len: of that training.
        now: see `FeatureBuilder`.
    """
    return FeatureBuilder(
        sample_rows(inputs, text),
        inputs.histories,
        inputs.items,
        None,  # user attributes didn't help on validation (docs/benchmarks.md)
        inputs.interactions,
        threshold=inputs.threshold,
        recent_len=recent_len,
        vocabularies=vocabularies,
        whole=inputs.samples,
        now=now,
    )


def attach_arms(data: CTRData, inputs: CTRInputs, arms: Sequence[str], seed: int, text: TextSettings) -> CTRData:
    """``data`` with arms; see `prepare`. It reads whose its rows are, and none of their features."""
    if text.use == "log_odds":
        return _attach_log_odds(data, inputs, arms, seed)
    data = replace(data, spec=replace(data.spec, text_use=text.use))
    for source in dict.fromkeys(source_of(arm) for arm in arms if arm != "none"):
        data = _attach_source(data, source, _vectors(inputs, source), text)
    for arm in arms:
        if arm == "shuffled":
            data = attach_shuffled(data, "reccot", arm, seed)
        elif arm == "random":
            data = attach_random(data, "reccot", arm, seed)
        elif coverage_of(arm) < 1:
            data = keep_share(data, source_of(arm), arm, coverage_of(arm), seed)
        elif arm == "prompt":
            data = _only_where_reccots_are(data, inputs, arm)
    return data


def _vectors(inputs: CTRInputs, source: str) -> Vectors:
    """The vectors of a field, or of joined fields end to end, where a history has all of them."""
    first, *rest = (inputs.vectors[field] for field in source.split("+"))
    shared = [key for key in first if all(key in other for other in rest)]
    return {key: np.concatenate([first[key], *(other[key] for other in rest)]) for key in shared} if rest else first


def _attach_source(data: CTRData, source: str, vectors: Vectors, text: TextSettings) -> CTRData:
    ids = sorted(vectors)
    gaps = text.missing == "keep" or source != "reccot"
    data = attach_text(data, source, ids, np.stack([vectors[key] for key in ids]), gaps)
    return data if text.pca_dim is None else reduce_texts(data, source, text.pca_dim)


def _only_where_reccots_are(data: CTRData, inputs: CTRInputs, arm: str) -> CTRData:
    """A placebo has no text where the RecCoT has none: else its coverage would be what it is judged by."""
    own = data.arms[arm]
    has = torch.tensor([history in inputs.vectors.get("reccot", {}) for history in data.history_ids])
    rows = torch.where(has, own.rows, -1)
    used = torch.cat([split["history"] for split in data.splits.values()]).unique()
    return replace(data, arms={**data.arms, arm: replace(own, rows=rows, gaps=bool((rows[used] < 0).any()))})


def _attach_log_odds(data: CTRData, inputs: CTRInputs, arms: Sequence[str], seed: int) -> CTRData:
    for arm in dict.fromkeys([source_of(arm) for arm in arms if arm != "none"]):
        data = attach_log_odds(data, arm, inputs.log_odds[arm])
    if "shuffled" in arms:
        given = inputs.log_odds.get("shuffled")
        if given:
            data = attach_log_odds(data, "shuffled", given)
        else:
            data = attach_shuffled_log_odds(data, "reccot", "shuffled", seed)
    if "random" in arms:
        data = attach_random_log_odds(data, "reccot", "random", seed)
    for arm in arms:
        if coverage_of(arm) < 1:
            data = keep_share(data, source_of(arm), arm, coverage_of(arm), seed)
    return data
