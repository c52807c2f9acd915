"""What the CTR stage reads of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from trackrec.ctr.arms.arm import text_sources
from trackrec.pipeline.stage import StageError
from trackrec.recipe.arm_texts import stages_read, text_fields
from trackrec.recipe.cohort import cohort_of, learned_samples
from trackrec.recipe.names import CTR, DATA, EMBED, LOG_ODDS
from trackrec.recipe.tables import sample_rows

if TYPE_CHECKING:
    from trackrec.ctr.arms.assemble import CTRInputs
    from trackrec.recipe.experiment import Experiment


def threshold_of_data(exp: Experiment) -> dict[str, str]:
    """The threshold that the tables were made with: the nets' features hold it, the tables' content may not."""
    manifest = exp.pipeline.done(DATA)
    return {"threshold": str(manifest.notes["threshold"])} if manifest else {}


def check_nets(exp: Experiment) -> None:
    """Whether the nets were trained on what `ctr_inputs` reads.

    Raises:
        StageError: a stage isn't done, is damaged, or was made again after the nets.
    """
    made_of = exp.pipeline.manifest(CTR).inputs
    for stage in stages_read(exp):
        if made_of.get(stage) != exp.pipeline.manifest(stage).content_hash:
            raise StageError(
                f"the nets in {exp.directory(CTR)} were trained on another {stage} than the one in the run directory "
                "now. Run `trackrec fit` first."
            )


def ctr_inputs(exp: Experiment) -> CTRInputs:
    """What the CTR stage reads."""
    from trackrec.ctr.arms.assemble import CTRInputs
    from trackrec.embed.vectors import vectors_of

    vectors = {}
    for name, texts in text_fields(exp).items():
        matrix = vectors_of(exp.directory(EMBED), list(texts.values()))
        vectors[name] = dict(zip(texts, matrix, strict=True))
    seen = None
    if text_sources(exp.ctr.arms) != {"none"}:  # without texts there may be too few rows for a cohort
        cohort = cohort_of(exp)
        tuned = pl.concat([rows["user_id"] for rows in (cohort.reward, cohort.tune, cohort.warmup)])
        seen = frozenset(tuned.to_list())
    made_with = exp.pipeline.manifest(DATA).notes
    return CTRInputs(
        samples=exp.ctr.features.seen(sample_rows(exp)),
        histories=exp.table(DATA, "histories"),
        items=exp.table(DATA, "items"),
        interactions=exp.table(DATA, "interactions"),
        threshold=float(made_with["threshold"]),
        vectors=vectors,
        log_odds=_log_odds(exp),
        seen_users=seen,
        published_lists="published_lists" in made_with,
    )


def _log_odds(exp: Experiment) -> dict[str, dict[str, float]]:
    """V's log-odds of the samples by arm, where the CTR stage reads them."""
    from trackrec.ctr.arms.log_odds import log_odds_of

    if LOG_ODDS not in stages_read(exp):
        return {}
    scores, learned = exp.table(LOG_ODDS, "scores"), learned_samples(exp)
    arms = scores["source"].unique(maintain_order=True).to_list()
    return {arm: log_odds_of(scores.filter(pl.col("source") == arm), learned) for arm in arms}
