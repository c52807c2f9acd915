"""AUC of a run's validators (V) on train users that it didn't use: ``python scripts/score_unseen.py runs/quickstart``.

A run may have few validation rows (the quickstart's are of 13 users), and its test rows should be read only once. Many
train users are neither in the rounds nor in the warm-up, and no model was trained on them: settings of V can be chosen
on their rows. The warmed-up V and the last V read the teacher's texts about them, those of the last generator (G), and
those about other users: a V that reads is better with the own ones. Intervals resample users. Nothing is written into
the run. Its configuration is read from the run, since with another seed the users would be ones that its models were
trained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from trackrec.cli.app import parse_objects, parse_values
from trackrec.ctr.arms.shuffle import other_texts
from trackrec.distill.texts import write_teacher_texts
from trackrec.recipe.book import prompt_book
from trackrec.recipe.build import build_experiment
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.graph import add_stages
from trackrec.recipe.names import in_round
from trackrec.recipe.scoring import measure_texts
from trackrec.recipe.tables import sample_rows, texts_in
from trackrec.recipe.writing import write_texts
from trackrec.runs.files import newest_of
from trackrec.storage.atomic import stable_hash
from trackrec.storage.manifest import MANIFEST

Texts = Mapping[str, str | None]


def main() -> None:
    """Print a line for each V and kind of text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--rows", type=int, default=10, help="most rows per user")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = score(experiment_of(args.run_dir), args.users, args.rows)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def experiment_of(run_dir: Path) -> Experiment:
    """The experiment of a run, with the configuration of the stage that finished last.

    Raises:
        SystemExit: no stage finished there.
    """
    newest = newest_of(path.with_name("config.yaml") for path in run_dir.glob(f"**/{MANIFEST}"))
    if newest is None:
        raise SystemExit(f"{str(run_dir)!r} is no run directory: no stage finished there.")
    arguments = ["fit", "--config", str(newest), "--run_dir", str(run_dir)]
    return build_experiment(parse_values([newest]), lambda _=None: parse_objects(arguments), print)


def score(exp: Experiment, users: int, rows: int) -> list[dict[str, Any]]:
    """AUC of the warmed-up V, the last V, the V tuned without texts and the untuned model, by kind of text."""
    graph = add_stages(exp)
    samples = unseen_rows(exp, users, rows)
    histories = sorted(set(samples["history_id"].to_list()))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        by_teacher = Path(folder) / "teacher"
        by_generator = Path(folder) / "own"
        write_teacher_texts(exp.teacher, prompt_book(exp), histories, by_teacher, exp.seed, False)
        write_texts(exp, by_generator, histories, graph.generator, exp.loop.rounds, greedy=True)
        texts: dict[str, Texts] = {"teacher": texts_in(by_teacher), "own": texts_in(by_generator)}
        texts["none"] = dict.fromkeys(histories)
        owners = dict(samples.select("history_id", "user_id").iter_rows())
        for kind, written in (("other's teacher", "teacher"), ("other's own", "own")):
            given = {key: text for key, text in texts[written].items() if key in owners}
            texts[kind] = other_texts(given, owners, exp.seed)
        first = in_round(0, "rec_tune") if exp.loop.warmup else None
        last = graph.validator
        pairs = [
            (first, "teacher"),
            (first, "other's teacher"),
            (first, "own"),
            (last, "own"),
            (last, "other's own"),
            (last, "none"),
            (graph.plain, "none"),
            (None, "none"),
        ]
        # Without a warm-up or tuning some pairs are equal.
        for number, (validator, kind) in enumerate(dict.fromkeys(pairs)):
            with_text = samples.filter(pl.col("history_id").is_in(list(texts[kind])))
            out = Path(folder) / str(number)
            _, values = measure_texts(exp, out, with_text, texts[kind], validator, kind, exp.loop.rounds, 0)
            auc = values["auc"]
            result = {"V": validator or "base", "texts": kind, "auc": auc.value, "low": auc.low, "high": auc.high}
            results.append(result)
            print(f"{validator or 'base':20} {kind:15} AUC {auc.value:.4f} [{auc.low:.4f}, {auc.high:.4f}]", flush=True)
    print(f"{len(samples):,} rows of {len(histories)} histories")
    return results


def unseen_rows(exp: Experiment, users: int, rows: int) -> pl.DataFrame:
    """Rows of train users that have no row in rewards, tuning or warm-up.

    Raises:
        SystemExit: there are none.
    """
    cohort = cohort_of(exp)
    used = pl.concat([part["user_id"] for part in (cohort.reward, cohort.tune, cohort.warmup)]).unique()
    train = sample_rows(exp).filter(pl.col("split") == "train")
    unseen = sorted(set(train["user_id"].to_list()) - set(used.to_list()), key=lambda user: stable_hash("unseen", user))
    if not unseen:
        raise SystemExit("every train user is in the rounds or the warm-up: lower loop.users or loop.warmup_users.")
    samples = train.filter(pl.col("user_id").is_in(unseen[:users]))
    order = pl.Series("order", [stable_hash("unseen", key) for key in samples["sample_id"]], dtype=pl.String)
    number = pl.int_range(pl.len()).over("user_id")
    return samples.with_columns(order).sort("order").filter(number < rows).drop("order")


if __name__ == "__main__":
    main()
