"""V of a finished run on train users it never met: ``python scripts/judge_unseen.py runs/quickstart``.

A run's own validation rows may be few (the quickstart's: 13 users), and its test rows are to be read once. Train users
who neither play nor warm V up are many, and nothing was learned from them: settings of V are chosen here. Both V's of
the run read the teacher's texts and the last G's about them; intervals resample users. Writes nothing into the run,
and reads its configuration from it: another seed than the run's would choose users that its models know.
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
    """Print a line for each V and kind of texts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--rows", type=int, default=10, help="most rows of a user")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = judge(experiment_of(given.run_dir), given.users, given.rows)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def experiment_of(run_dir: Path) -> Experiment:
    """The experiment of a run, as the stage that ended last was configured.

    Raises:
        SystemExit: no stage ended there.
    """
    newest = newest_of(path.with_name("config.yaml") for path in run_dir.glob(f"**/{MANIFEST}"))
    if newest is None:
        raise SystemExit(f"{str(run_dir)!r} is no run directory: no stage ended there.")
    arguments = ["fit", "--config", str(newest), "--run_dir", str(run_dir)]
    return build_experiment(parse_values([newest]), lambda _=None: parse_objects(arguments), print)


def judge(exp: Experiment, users: int, rows: int) -> list[dict[str, Any]]:
    """AUC of the warmed-up, the last and the text-free V, on the texts that each may read."""
    graph = add_stages(exp)
    asked = unseen_rows(exp, users, rows)
    histories = sorted(set(asked["history_id"].to_list()))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        teacher, own = Path(folder) / "teacher", Path(folder) / "own"
        write_teacher_texts(exp.teacher, prompt_book(exp), histories, teacher, exp.seed, False)
        write_texts(exp, own, histories, graph.generator, exp.loop.rounds, greedy=True)
        texts: dict[str, Texts] = {"teacher": texts_in(teacher), "own": texts_in(own), "none": dict.fromkeys(histories)}
        first = in_round(0, "rec_tune") if exp.loop.warmup else None
        last = graph.validator
        pairs = [
            (first, "teacher"),
            (first, "own"),
            (last, "own"),
            (last, "none"),
            (graph.plain, "none"),
            (None, "none"),
        ]
        # Without a warm-up or tuning some are the same.
        for place, (validator, kind) in enumerate(dict.fromkeys(pairs)):
            which = asked.filter(pl.col("history_id").is_in(list(texts[kind])))
            out = Path(folder) / str(place)
            _, values = measure_texts(exp, out, which, texts[kind], validator, kind, exp.loop.rounds, 0)
            auc = values["auc"]
            found.append({"V": validator or "base", "texts": kind, "auc": auc.value, "low": auc.low, "high": auc.high})
            print(f"{validator or 'base':20} {kind:8} AUC {auc.value:.4f} [{auc.low:.4f}, {auc.high:.4f}]", flush=True)
    print(f"{len(asked):,} rows of {len(histories)} histories")
    return found


def unseen_rows(exp: Experiment, users: int, rows: int) -> pl.DataFrame:
    """Rows of train users of whom no row plays, tunes or warms up.

    Raises:
        SystemExit: there are none.
    """
    cohort = cohort_of(exp)
    met = pl.concat([part["user_id"] for part in (cohort.reward, cohort.tune, cohort.warmup)]).unique()
    train = sample_rows(exp).filter(pl.col("split") == "train")
    left = sorted(set(train["user_id"].to_list()) - set(met.to_list()), key=lambda user: stable_hash("unseen", user))
    if not left:
        raise SystemExit("every train user plays or warms V up: lower loop.users or loop.warmup_users.")
    own = train.filter(pl.col("user_id").is_in(left[:users]))
    order = pl.Series("order", [stable_hash("unseen", key) for key in own["sample_id"]], dtype=pl.String)
    place = pl.int_range(pl.len()).over("user_id")
    return own.with_columns(order).sort("order").filter(place < rows).drop("order")


if __name__ == "__main__":
    main()
