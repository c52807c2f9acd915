"""Builds the features of the CTR stage and attaches every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.arms.arm import Arm, parse_arms
from trackrec.ctr.arms.log_odds import (
    log_odds_arm,
    log_odds_of_some_users,
    random_log_odds,
    shuffled_log_odds,
)
from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.arms.texts import (
    only_where,
    principal_components,
    random_texts,
    shuffled_texts,
    text_arm,
    texts_of_some_users,
)
from trackrec.ctr.features.dense_statistics import FeatureSettings
from trackrec.ctr.features.features import CTRData, FeatureBuilder, TextArm, Vocabularies
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.runtime.errors import SettingError

# With ``missing: leave_out`` every row has a RecCoT. A comparator or the prompt must cover this share of the histories;
# a learned vector replaces the others. With lower coverage the arms would not be comparable.
MIN_COVERAGE = 0.99

Vectors = Mapping[str, NDArray[np.float32]]


class CTRInputs(NamedTuple):
    """What the stage reads.

    Attributes:
        samples, histories, items, interactions: the tables of :mod:`trackrec.storage.schemas`.
        threshold: a rating above it is a like.
        vectors: field of texts (``reccot``, ``prompt``, ``facts``, ``untuned``, ``teacher``) -> history -> text vector;
            empty where no arm reads one.
        log_odds: log-odds of the validator (V) by arm (``reccot``; ``plain``, without any text; ``shuffled``, with
            another user's text) and sample, for ``ctr.text.use: log_odds``. See
            :func:`trackrec.ctr.arms.log_odds.log_odds_of`.
        seen_users: users on whose labels the generator (G) and V were tuned; None where that isn't known.
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
    """The samples of every arm: those whose history has a RecCoT.

    All samples with ``missing: keep``, with ``use: log_odds``, and where no arm has texts.
    """
    if text.missing == "keep" or text.use == "log_odds" or not inputs.vectors:
        return inputs.samples
    return inputs.samples.filter(pl.col("history_id").is_in(list(inputs.vectors.get("reccot", {}))))


def runnable_arms(
    inputs: CTRInputs, arms: Sequence[str], text: TextSettings, key: str = "ctr.arms"
) -> tuple[list[str], list[str]]:
    """The arms whose texts exist, plus those of ``text.coverage``, and a line for each arm that is left out.

    Args:
        inputs: what the CTR stage reads.
        arms: names of the arms.
        text: how texts enter the nets.
        key: the key that names the arms, for errors.

    Raises:
        SettingError: an arm is unknown, no arm can run, or ``use: log_odds`` and there are no log-odds.
    """
    parsed = parse_arms(arms, key)
    if text.use == "log_odds" and not inputs.log_odds:
        raise SettingError(
            "ctr.text.use: log_odds needs V's log-odds of the samples, and there are none. Name an arm that reads them."
        )
    reasons = {arm.name: _why_not(arm, inputs, text) for arm in parsed}
    kept = [arm for arm in arms if not reasons[arm]]
    if not kept:
        raise SettingError(f"{key}: none of {', '.join(arms)} can run: {'; '.join(filter(None, reasons.values()))}.")
    if "reccot" in kept:
        kept += [f"reccot@{share:g}" for share in text.coverage or ()]
    return kept, [f"arm {arm} left out: {reason}" for arm, reason in reasons.items() if reason]


def _why_not(arm: Arm, inputs: CTRInputs, text: TextSettings) -> str:
    """Why an arm can't run; empty where it can."""
    if not arm.texts:
        return ""
    if text.use == "log_odds":
        log_odds = inputs.log_odds.get(arm.source) or inputs.log_odds.get(arm.text)
        return "" if log_odds else f"there are no log-odds of {arm.source}"
    missing = [field for field in arm.source.split("+") if not inputs.vectors.get(field)]
    if missing:
        return f"there are no vectors of {missing[0]}"
    if text.missing == "leave_out" and arm.source != "reccot":
        wanted = set(sample_rows(inputs, text)["history_id"].unique().to_list())
        share = len(wanted & set(_vectors(inputs, arm.source))) / max(len(wanted), 1)
        if share < MIN_COVERAGE:
            return f"its texts cover {share:.1%} of the histories, less than {MIN_COVERAGE:.0%}"
    return ""


def prepare(
    inputs: CTRInputs, arms: Sequence[str], text: TextSettings | None = None, features: FeatureSettings | None = None
) -> CTRData:
    """Features of the stage's samples, and what its arms read.

    Args:
        inputs: tables and vectors.
        arms: which arms to attach; each must be able to run, see `runnable_arms`.
        text: how texts are used.
        features: what the dense features hold.
    """
    text = text or TextSettings()
    build = feature_builder(inputs, text, features or FeatureSettings())
    return attach_arms(build(sample_rows(inputs, text)), inputs, arms, text)


def feature_builder(
    inputs: CTRInputs,
    text: TextSettings,
    features: FeatureSettings,
    vocabularies: Vocabularies | None = None,
    recent_len: int | None = None,
    scale: RatingScale | None = None,
    now: int | None = None,
) -> FeatureBuilder:
    """The builder of features for the stage's samples and for further rows.

    Args:
        inputs: the tables.
        text: how texts are used, which decides the samples of the stage.
        features: what the dense features hold.
        vocabularies: of an earlier training, for rows to predict.
        recent_len, scale: of that training.
        now: see `FeatureBuilder`.
    """
    return FeatureBuilder(
        sample_rows(inputs, text),
        inputs.histories,
        inputs.items,
        inputs.interactions,
        threshold=inputs.threshold,
        recent_len=recent_len,
        history_statistics=features.history_statistics,
        scale=scale,
        vocabularies=vocabularies,
        whole=inputs.samples,
        now=now,
    )


def attach_arms(data: CTRData, inputs: CTRInputs, arms: Sequence[str], text: TextSettings) -> CTRData:
    """``data`` with what arms read, except for what `draw_arm` draws: of such an arm, what it is drawn from.

    Reads the ids, users and histories of the rows, not their features.
    """
    parsed = [Arm.parse(name) for name in arms]
    with_text = [arm for arm in parsed if arm.texts]
    data = replace(data, without_statistics=frozenset(arm.name for arm in parsed if not arm.statistics))
    if text.use == "log_odds":
        scored = {arm.name: arm.text for arm in with_text if arm.coverage == 1 and inputs.log_odds.get(arm.text)}
        read = {arm.name: scored.get(arm.name, arm.source) for arm in with_text}
        columns = {name: log_odds_arm(data, name, inputs.log_odds[name]) for name in dict.fromkeys(read.values())}
        own = {arm.name: columns[read[arm.name]] for arm in with_text if arm.name in scored or not arm.is_drawn}
        return replace(data, columns={**data.columns, **columns, **own})
    texts = {source: _source(data, inputs, source, text) for source in dict.fromkeys(arm.source for arm in with_text)}
    own_texts = {arm.name: texts[arm.source] for arm in with_text if not arm.is_drawn}
    return replace(data, spec=replace(data.spec, text_use=text.use), arms={**data.arms, **texts, **own_texts})


def draw_arm(data: CTRData, arm: str, seed: int, net_seed: int) -> CTRData:
    """``data`` with an arm as one training reads it.

    ``shuffled``, ``random`` and the choice of the users of a coverage arm are drawn anew for each training: one draw
    for all of them would decide the result, and no interval would show it. Every other arm stays as it is, and so does
    one for which the validator (V) has scored the rows.

    Args:
        data: of `prepare` or `attach_arms`.
        arm: one of its arms, or ``none``.
        seed: of the run.
        net_seed: of the net's training.
    """
    parsed, seeds = Arm.parse(arm), (seed, net_seed)
    if not parsed.is_drawn or arm in data.columns:
        return data
    if parsed.source in data.columns:
        columns = data.columns[parsed.source]
        if parsed.text == "shuffled":
            columns = shuffled_log_odds(data, columns, seeds)
        elif parsed.text == "random":
            columns = random_log_odds(columns, seeds)
        else:
            columns = log_odds_of_some_users(data, columns, parsed.coverage, seeds)
        return replace(data, columns={**data.columns, arm: columns})
    texts = data.arms[parsed.source]
    if parsed.text == "shuffled":
        texts = shuffled_texts(data, texts, seeds)
    elif parsed.text == "random":
        texts = random_texts(texts, seeds)
    else:
        texts = texts_of_some_users(data, texts, parsed.coverage, seeds)
    return replace(data, arms={**data.arms, arm: texts})


def _source(data: CTRData, inputs: CTRInputs, source: str, text: TextSettings) -> TextArm:
    """The texts of an arm that is not drawn."""
    vectors = _vectors(inputs, source)
    ids = sorted(vectors)
    gaps = text.missing == "keep" or source != "reccot"
    texts = text_arm(data, source, ids, np.stack([vectors[key] for key in ids]), gaps)
    if text.pca_dim is not None:
        texts = principal_components(data, texts, text.pca_dim, source)
    return only_where(data, texts, list(inputs.vectors.get("reccot", {}))) if source in ("prompt", "facts") else texts


def _vectors(inputs: CTRInputs, source: str) -> Vectors:
    """The vectors of a field, or of joined fields end to end, where a history has all of them."""
    first, *rest = (inputs.vectors[field] for field in source.split("+"))
    shared = [key for key in first if all(key in other for other in rest)]
    return {key: np.concatenate([first[key], *(other[key] for other in rest)]) for key in shared} if rest else first
