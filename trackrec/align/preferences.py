"""Preference sets: from the validator's (V's) scores of a history's draws, one chosen and several rejected texts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from trackrec.metrics.scores import Float, balanced_mean
from trackrec.runtime.errors import DivergedError, SettingError
from trackrec.storage.atomic import stable_hash

Reward = Literal["probability", "log_gain"]
_EPS = 1e-6  # a float32 probability reaches 0: the row stays finite, at most 13.8 nats


@dataclass(frozen=True)
class PreferenceSettings:
    """Which draws make a set, and which sets are kept.

    Attributes:
        reward: what V gives a draw, per class of the label first. ``probability`` is its mean probability of the true
            label (the paper's). ``log_gain`` is the mean of log P(true label | text) - log P(true label | no text) of
            the same V on the same rows: what the text adds, in nats. Within a history it orders the draws as their mean
            log-probability does, since the part without a text is common to them: unlike a probability it pays most
            for rows on which V is sure and wrong. Its level tells what texts are worth to V: at 0 nothing. The stage
            ``score`` then also reads each history without a text.
        ungrounded: cost of a text that claims what G was not shown: the reward falls by this times the share of
            unsupported ones among the catalogue's titles and attributes that the text names
            (`trackrec.prompts.grounding.ClaimChecker`); a text that names none costs nothing.
        negatives: how many of the other draws are rejected; ``all`` or a number.
        pick: with a number, which draws: the ``hardest`` (highest reward) or ``random`` ones.
        min_spread: a set is dropped when its chosen and its lowest reward, its spread, differ by less than this.
        drop_flattest: share of a round's sets that is dropped besides, those with the smallest spread. Unlike
            ``min_spread`` it means the same for a V that is nearly always sure and one that never is.
        min_best: a set is dropped when its best reward, without the cost of what isn't grounded, is below this: V is
            wrong on every draw. null is .5 for a ``probability`` and 0 for a ``log_gain``.
        weight: how much a set's loss counts in the training: ``none``, all the same (paper), or ``spread``, its chosen
            minus its lowest rejected reward, divided by the round's mean. V's order of draws whose rewards hardly
            differ is mostly noise; ``min_spread`` and ``drop_flattest`` cut such sets off, this fades them out.
        shuffle_rewards: permute the rewards among a history's draws at random. This is the control for aligning on V's
            scores: as many sets, with the same spreads.
    """

    reward: Reward = "probability"
    ungrounded: float = 0.0
    negatives: Literal["all"] | int = "all"
    pick: Literal["hardest", "random"] = "hardest"
    min_spread: float = 0.01
    drop_flattest: float = 0.0
    min_best: float | None = None
    weight: Literal["none", "spread"] = "none"
    shuffle_rewards: bool = False

    def __post_init__(self) -> None:
        if self.negatives != "all" and self.negatives < 1:
            raise SettingError(f"align.sets.negatives must be 'all' or at least 1, got {self.negatives}.")
        if self.ungrounded < 0:
            raise SettingError(f"align.sets.ungrounded must be at least 0, got {self.ungrounded}.")
        if not 0 <= self.drop_flattest < 1:
            raise SettingError(
                f"align.sets.drop_flattest must be in [0, 1), a share of the sets, got {self.drop_flattest}."
            )

    @property
    def least_best(self) -> float:
        """``min_best``, or what stands for null."""
        if self.min_best is not None:
            return self.min_best
        return {"probability": 0.5, "log_gain": 0.0}[self.reward]


class ScoredDraw(NamedTuple):
    """One draw, its reward, and what the reward was lowered by for what isn't grounded."""

    draw: int
    token_ids: tuple[int, ...]
    finished: bool
    reward: float
    cost: float = 0.0


class PreferenceSets(NamedTuple):
    """Rows of the preferences table, and counts of the sets made and of the histories dropped, by reason."""

    rows: list[dict[str, Any]]
    counts: dict[str, Any]


def log_probability(p: Sequence[float] | Float) -> Float:
    """Natural logarithms of probabilities, those below 1e-6 taken as 1e-6."""
    logarithms: Float = np.log(np.maximum(np.asarray(p, np.float64), _EPS))
    return logarithms


def draw_reward(p_true: Sequence[float], labels: Sequence[int], without: Sequence[float] | None = None) -> float:
    """Mean of P(true label), per class first: a text that only makes V say Yes more often gains nothing.

    A single row is rewarded as it is, as in the paper.

    Args:
        p_true: V's probability of each row's label.
        labels: of the rows.
        without: the same without a text; then it is the mean log-probability less that without a text.

    Raises:
        ValueError: several rows are of one class, so that such a text would win or lose.
    """
    if len(labels) > 1 and len(set(labels)) == 1:
        raise ValueError(f"a reward from {len(labels)} rows of one class, {labels[0]}: it would pay for V's tone alone")
    values = np.asarray(p_true) if without is None else log_probability(p_true) - log_probability(without)
    return balanced_mean(values, np.asarray(labels))


def collect_draws(
    draws: pl.DataFrame,
    scores: pl.DataFrame,
    samples: pl.DataFrame,
    without: pl.DataFrame | None = None,
    costs: Mapping[tuple[str, int], float] | None = None,
) -> tuple[dict[str, list[ScoredDraw]], float]:
    """Draws with their rewards, by history.

    Args:
        draws: the reccots table of the round.
        scores: V's scores of them.
        samples: for the labels.
        without: V's scores of the same rows without a text; with them the rewards are log gains.
        costs: by (history, draw), what its reward is lowered by; None: by nothing.

    Returns:
        The draws, and the correlation of a row's reward with its label over all rows (near 0 unless V favours one
        answer).

    Raises:
        ValueError: a draw has no score, or one of its rows none without a text.
        DivergedError: a score is not finite.
    """
    key = ["history_id", "source", "round", "draw"]
    labelled = scores.join(samples.select("sample_id", "label"), on="sample_id", how="inner")
    if without is not None:
        bare = without.select("sample_id", bare="p_true")
        labelled = labelled.join(bare, on="sample_id", how="left", maintain_order="left")
        if missing := labelled["bare"].null_count():
            raise ValueError(f"{missing} of {len(labelled)} scores have none without a text")
    values = [name for name in ("p_true", "bare") if name in labelled.columns]
    joined = draws.join(labelled.group_by(key).agg(*values, "label"), on=key, how="left").sort(key)
    if joined["p_true"].null_count():
        raise ValueError(f"{joined['p_true'].null_count()} of {len(joined)} draws have no score")
    finite = pl.all_horizontal(pl.col(name).is_finite() for name in values)
    if wrong := labelled.filter(~finite)["history_id"].unique().sort().to_list():
        raise DivergedError(
            f"V's scores of {len(wrong)} histories are not finite, the first is {wrong[0]}. Set backbone.dtype: "
            "bfloat16 or float32 (float16 overflows), or look at rec_tune.model.lr."
        )
    by_history: dict[str, list[ScoredDraw]] = {}
    for row in joined.iter_rows(named=True):
        cost = costs[row["history_id"], row["draw"]] if costs else 0.0
        draw = ScoredDraw(
            row["draw"],
            tuple(row["token_ids"]),
            row["finish_reason"] == "stop",
            draw_reward(row["p_true"], row["label"], row.get("bare")) - cost,
            cost,
        )
        by_history.setdefault(row["history_id"], []).append(draw)
    correlation = labelled.select(pl.corr("p_true", "label")).item()
    return by_history, 0.0 if correlation is None or correlation != correlation else float(correlation)


def build_preferences(
    draws: Mapping[str, Sequence[ScoredDraw]], settings: PreferenceSettings, source: str, round_: int, seed: int
) -> PreferenceSets:
    """One set per history, or a count of the reason why it has none; the flattest sets are dropped last.

    A cut draw may be rejected but never chosen; one with a higher reward than the chosen draw is left out of the set.

    Args:
        draws: the scored draws of each history.
        settings: which sets to make and keep.
        source: of the draws.
        round_: of the draws.
        seed: of the random pick.
    """
    counts: Counter[str] = Counter(dict.fromkeys(("histories", "draws", "sets", "negatives"), 0))
    rows: list[dict[str, Any]] = []
    spreads: dict[str, float] = {}
    for history_id, scored in sorted(draws.items()):
        unique = _merge_equal(scored)
        if settings.shuffle_rewards:
            rewards = [(draw.reward, draw.cost) for draw in unique]
            random.Random(stable_hash("rewards", seed, round_, history_id)).shuffle(rewards)
            unique = [
                draw._replace(reward=reward, cost=cost) for draw, (reward, cost) in zip(unique, rewards, strict=True)
            ]
        counts["histories"] += 1
        counts["draws"] += len(scored)
        counts["equal_draws_merged"] += len(scored) - len(unique)
        counts["cut_draws"] += sum(not draw.finished for draw in scored)
        chosen = max((draw for draw in unique if draw.finished), key=lambda d: (d.reward, -d.draw), default=None)
        reason = _reason_to_drop(unique, chosen, settings)
        if reason or chosen is None:
            counts[reason] += 1
            continue
        rng = random.Random(stable_hash("negatives", seed, round_, history_id))
        others = [draw for draw in unique if draw is not chosen and draw.reward <= chosen.reward]
        rejected = _negatives(others, settings, rng)
        spreads[history_id] = chosen.reward - min(draw.reward for draw in unique)
        rows.append(
            {
                "history_id": history_id,
                "source": source,
                "round": round_,
                "chosen": chosen.draw,
                "rejected": [draw.draw for draw in rejected],
                "chosen_reward": chosen.reward,
                "rejected_rewards": [draw.reward for draw in rejected],
            }
        )
    flattest = set(sorted(spreads, key=lambda key: (spreads[key], key))[: int(settings.drop_flattest * len(rows))])
    if flattest:
        counts["dropped_flattest"] = len(flattest)
        rows = [row for row in rows if row["history_id"] not in flattest]
    counts["sets"] = len(rows)
    counts["negatives"] = sum(len(row["rejected"]) for row in rows)
    return PreferenceSets(rows, dict(counts))


def _merge_equal(scored: Sequence[ScoredDraw]) -> list[ScoredDraw]:
    """The draws without repeated token sequences; of equal ones the first is kept."""
    seen: dict[tuple[int, ...], ScoredDraw] = {}
    for draw in sorted(scored, key=lambda entry: entry.draw):
        seen.setdefault(draw.token_ids, draw)
    return list(seen.values())


def _reason_to_drop(unique: Sequence[ScoredDraw], chosen: ScoredDraw | None, settings: PreferenceSettings) -> str:
    """Why these draws make no set; empty if they make one."""
    rewards = [draw.reward for draw in unique]
    if len(unique) < 2:
        return "dropped_one_draw"
    if chosen is None:
        return "dropped_all_cut"
    if chosen.reward + chosen.cost < settings.least_best:
        return "dropped_all_wrong"
    if chosen.reward - min(rewards) < settings.min_spread or chosen.reward <= min(rewards):
        return "dropped_small_spread"
    return ""


def _negatives(others: Sequence[ScoredDraw], settings: PreferenceSettings, rng: random.Random) -> list[ScoredDraw]:
    """The rejected draws, highest reward first: all of them, or ``settings.negatives``."""
    ranked = sorted(others, key=lambda draw: (-draw.reward, draw.draw))
    if settings.negatives == "all":
        return ranked
    if settings.pick == "random":
        picked = rng.sample(ranked, min(settings.negatives, len(ranked)))
        return sorted(picked, key=lambda draw: (-draw.reward, draw.draw))
    return ranked[: settings.negatives]
