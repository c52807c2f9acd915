"""Compare finished runs on the simulated world with its truth: ``python scripts/world_truth.py runs/simulated ...``.

Four tables on the validation rows: the ranking by the validator (V), by those that it is compared with, and the best
possible ones; what each alignment of
the generator (G) changed under the same V; what each Rec-Tuning of V changed on the same texts; and how many claims of
G's texts are true. Numbers are means over the runs, with 95 % intervals that resample users, followed by the value of
each run. "Expected" ones use the true probabilities instead of the labels, so they have no label noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.interactions.simulated.source import Simulated, Truth, expected_auc
from trackrec.interactions.simulated.world import WorldRules
from trackrec.metrics.intervals import user_bootstrap
from trackrec.metrics.scores import auc, balanced_mean
from trackrec.recipe.names import COMPARISONS, SHUFFLED, in_comparison, in_round, without_text
from trackrec.runs.files import RunFiles

RESAMPLES = 500
Float = NDArray[np.float64]
Measure = Callable[..., float]


class Run(NamedTuple):
    """A finished run and the truth about it."""

    files: RunFiles
    truth: Truth
    samples: pl.DataFrame
    histories: pl.DataFrame
    threshold: float


def load(directory: Path) -> Run:
    """A run whose dataset is `Simulated`."""
    files = RunFiles(directory, {"loop": {"rounds": 1_000}})
    files = RunFiles(directory, files.saved_config)
    dataset = files.saved_config.get("dataset", {})
    if not str(dataset.get("class_path", "")).endswith("Simulated"):
        raise SystemExit(f"{directory}: dataset is {dataset.get('class_path')}: only a Simulated world has a truth")
    options = dict(dataset["init_args"])
    rules = options.pop("rules", None)
    world = Simulated(**options, rules=WorldRules(**rules) if rules else None)
    samples, histories = files.table("data", "samples"), files.table("data", "histories")
    if samples is None or histories is None:
        raise SystemExit(f"{directory}: no finished data stage")
    return Run(files, world.truth(), samples, histories, float(files.notes("data")["threshold"]))


def answers(runs: list[Run], stage: str, validator: str, source: str | None = None) -> pl.DataFrame | None:
    """One validator's scores in a stage of every run, with the true probabilities; None if a run has none."""
    frames = []
    for number, run in enumerate(runs):
        rows = run.files.answers(stage, validator, source)
        if rows is None:
            return None
        rows = rows.join(run.samples.select("sample_id", "item_id"), on="sample_id").sort("sample_id")
        p = run.truth.probability(rows["user_id"].to_list(), rows["item_id"].to_list())
        frames.append(rows.with_columns(pl.Series("truth", p), run=pl.lit(number)))
    return pl.concat(frames)


def measured(measure: Measure, rows: pl.DataFrame, *columns: str) -> str:
    """``.7314 [.7100, .7520] (.7310 .7320 .7312)``: the mean over runs, its interval, and each run's value."""

    def mean_over_runs(run: Float, *arrays: Float) -> float:
        return float(np.mean([measure(*(values[run == number] for values in arrays)) for number in np.unique(run)]))

    arrays = [rows[name].to_numpy().astype(np.float64) for name in ("run", *columns)]
    clusters = rows.select(pl.format("{} {}", "run", "user_id")).to_series().to_numpy()
    mean = user_bootstrap(mean_over_runs, clusters, *arrays, n_resamples=RESAMPLES)
    text = f"{mean.value:.4f} [{mean.low:.4f}, {mean.high:.4f}]"
    by_run = [measure(*(values[arrays[0] == number] for values in arrays[1:])) for number in np.unique(arrays[0])]
    return text if len(by_run) == 1 else f"{text} ({' '.join(f'{value:.4f}' for value in by_run)})"


def expected_gain(a: Float, b: Float, p: Float) -> float:
    """Difference of two expected AUCs."""
    return expected_auc(a, p) - expected_auc(b, p)


def expected_reward(p_yes: Float, p: Float) -> float:
    """Mean of P_V(label) per class of the label, then over both classes, with labels weighted by true probability."""
    return 0.5 * float((p * p_yes).sum() / p.sum() + ((1 - p) * (1 - p_yes)).sum() / (1 - p).sum())


def expected_reward_gain(a: Float, b: Float, p: Float) -> float:
    """Difference of two expected rewards."""
    return expected_reward(a, p) - expected_reward(b, p)


def reward_gain(a: Float, b: Float, labels: Float) -> float:
    """Difference of two rewards on the drawn labels."""
    return balanced_mean(a, labels) - balanced_mean(b, labels)


def rounds_of(runs: list[Run]) -> int:
    """Rounds that every run has finished."""
    counts = []
    for run in runs:
        done = [n for n in range(1, run.files.rounds + 1) if run.files.has(in_round(n, "evaluate"))]
        counts.append(max(done, default=0))
    return min(counts)


def print_validators(runs: list[Run]) -> None:
    """V's AUC and the best possible AUCs."""
    plain = answers(runs, without_text("evaluate"), without_text("rec_tune"))
    if plain is None:
        raise SystemExit("no finished plain/evaluate stage: let the run end first")
    by_name: dict[str, pl.DataFrame | None] = {
        "V untuned, no text": answers(runs, without_text("evaluate"), "base"),
        "V plain: tuned, no text": plain,
    }
    for number in range(rounds_of(runs) + 1):
        name = f"V after round {number}" if number else "V warmed up, distilled G"
        by_name[name] = answers(runs, in_round(number, "evaluate"), in_round(number, "rec_tune"))
    last = in_round(rounds_of(runs), "evaluate"), in_round(rounds_of(runs), "rec_tune")
    by_name["the last V, another user's text"] = answers(runs, *last, SHUFFLED)
    for reads in COMPARISONS:
        by_name[f"V tuned on: {reads}"] = answers(
            runs, in_comparison(reads, "evaluate"), in_comparison(reads, "rec_tune")
        )
    ours = answers(runs, *last)
    print(f"\n{len(runs)} run(s), {plain.height} validation rows\n")
    print(
        "| ranking | AUC | expected AUC | minus V plain | the last V with its text minus this |\n|---|---|---|---|---|"
    )
    from_histories = np.concatenate(
        [
            run.truth.told_by(run.histories, rows.select("sample_id", "item_id", "history_id"), run.threshold)
            for run, (_, rows) in zip(runs, plain.group_by("run", maintain_order=True), strict=True)
        ]
    )
    for name, scores in (("the truth", plain["truth"].to_numpy()), ("the best reader of histories", from_histories)):
        rows = plain.with_columns(pl.Series("p_yes", scores))
        level = measured(expected_auc, rows, "p_yes", "truth")
        print(f"| {name} | {measured(auc, rows, 'p_yes', 'label')} | {level} | | |")
    for name, rows in by_name.items():
        if rows is None:
            continue
        both = rows.join(
            plain.select("run", "sample_id", plain="p_yes"), on=["run", "sample_id"], maintain_order="left"
        )
        gain = "" if rows is plain else measured(expected_gain, both, "p_yes", "plain", "truth")
        lead = ""
        if ours is not None and not ours["p_yes"].equals(rows["p_yes"]):
            lead = measured(expected_gain, _joined(ours, rows), "p_yes", "p_yes_old", "truth")
        print(
            f"| {name} | {measured(auc, rows, 'p_yes', 'label')} | "
            f"{measured(expected_auc, rows, 'p_yes', 'truth')} | {gain} | {lead} |"
        )


def print_changes(runs: list[Run]) -> None:
    """What each alignment changed under one V, and what each Rec-Tuning changed on the same texts."""
    print(
        "\n| alignment of round | scored by V of | G's reward before | after | difference | expected difference | "
        "expected AUC, difference |\n|---|---|---|---|---|---|---|"
    )
    pairs = []
    for number in range(1, rounds_of(runs) + 1):
        before = answers(runs, in_round(number - 1, "evaluate"), in_round(number - 1, "rec_tune"))
        after = answers(runs, in_round(number, "evaluate"), in_round(number - 1, "rec_tune"))
        retuned = answers(runs, in_round(number, "evaluate"), in_round(number, "rec_tune"))
        if before is not None and after is not None:
            both = _joined(after, before)
            print(
                f"| {number} | {in_round(number - 1, 'rec_tune')} | "
                f"{measured(balanced_mean, both, 'p_true_old', 'label')} | "
                f"{measured(balanced_mean, both, 'p_true', 'label')} | "
                f"{measured(reward_gain, both, 'p_true', 'p_true_old', 'label')} | "
                f"{measured(expected_reward_gain, both, 'p_yes', 'p_yes_old', 'truth')} | "
                f"{measured(expected_gain, both, 'p_yes', 'p_yes_old', 'truth')} |"
            )
        if after is not None and retuned is not None:
            pairs.append((number, _joined(retuned, after)))
    print("\n| Rec-Tuning of round | expected AUC before | after | difference |\n|---|---|---|---|")
    for number, both in pairs:
        print(
            f"| {number} | {measured(expected_auc, both, 'p_yes_old', 'truth')} | "
            f"{measured(expected_auc, both, 'p_yes', 'truth')} | "
            f"{measured(expected_gain, both, 'p_yes', 'p_yes_old', 'truth')} |"
        )


def _joined(new: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """Two scores of the same rows; the columns of the older one end in ``_old``."""
    columns = ["run", "sample_id", "p_yes", "p_true"]
    return new.join(old.select(columns), on=["run", "sample_id"], suffix="_old", maintain_order="left")


def claims(runs: list[Run], stage: str, everyone: bool) -> pl.DataFrame | None:
    """Counts of the claims of every text of a stage, about validation users only or about everyone."""
    frames = []
    for number, run in enumerate(runs):
        texts = run.files.table(stage, "reccots", ("history_id", "draw", "text"))
        if texts is None:
            return None
        if not everyone:
            valid = run.samples.filter(pl.col("split") == "valid")["history_id"].unique()
            texts = texts.filter(pl.col("history_id").is_in(valid.implode()))
        texts = texts.join(run.histories.select("history_id", "user_id"), on="history_id").sort("history_id", "draw")
        checks = [run.truth.check(user, text) for user, text in texts.select("user_id", "text").iter_rows()]
        counts = pl.DataFrame(checks, schema=["true", "false", "unknown", "unparsable"], orient="row")
        frames.append(pl.concat([texts.select("user_id"), counts], how="horizontal").with_columns(run=pl.lit(number)))
    return pl.concat(frames)


def true_share(true: Float, false: Float) -> float:
    """Share of true claims among those that the world's truth decides."""
    return float(true.sum() / max(1.0, true.sum() + false.sum()))


def print_claims(runs: list[Run]) -> None:
    """Shares of true claims: in the teacher's texts, G's greedy texts on validation users, and the sampled texts."""
    rounds = range(1, rounds_of(runs) + 1)
    stages = [("teacher, train users", "teacher", True), ("distilled G, greedy", in_round(0, "greedy"), False)]
    stages += [(f"G of round {n}, greedy", in_round(n, "greedy"), False) for n in rounds]
    stages += [(f"sampled in round {n}, train users", in_round(n, "sample"), True) for n in rounds]
    print(
        "\n| texts | n | claims | true ones | true of the decided | undecided | unparsable |"
        "\n|---|---|---|---|---|---|---|"
    )
    for name, stage, everyone in stages:
        counted = claims(runs, stage, everyone)
        if counted is None:
            continue
        true, false, unknown, unparsable = counted.select("true", "false", "unknown", "unparsable").sum().row(0)
        total = true + false + unknown
        print(
            f"| {name} | {counted.height} | {total / counted.height:.2f} | {true / counted.height:.2f} | "
            f"{measured(true_share, counted, 'true', 'false')} | {unknown / max(1, total):.3f} | "
            f"{unparsable / max(1, total + unparsable):.3f} |"
        )


def final(runs: list[Run]) -> pl.DataFrame:
    """The last V's scores on the last texts; without Rec-Tuning in the rounds the last V is the warmed-up one."""
    last = rounds_of(runs)
    rows = answers(runs, in_round(last, "evaluate"), in_round(last, "rec_tune"))
    rows = answers(runs, in_round(last, "evaluate"), in_round(0, "rec_tune")) if rows is None else rows
    if rows is None:
        raise SystemExit(
            f"{runs[0].files.run_dir}: no finished {in_round(last, 'evaluate')} stage: let the run end first"
        )
    return rows


def print_against(runs: list[Run], others: list[Run], name: str) -> None:
    """Final results of runs and of others with the same seeds: they have the same rows, so differences are paired."""
    ours = final(runs)
    theirs = final(others)
    if ours.select("run", "sample_id").rows() != theirs.select("run", "sample_id").rows():
        raise SystemExit("--against: the other runs scored other rows: give runs of the same seeds, in the same order")
    both = _joined(ours, theirs)
    print(f"\n| after the last round | these runs | {name} | difference |\n|---|---|---|---|")
    for title, measure, difference in (
        ("V's expected AUC", expected_auc, expected_gain),
        ("G's expected reward, each by the V of its run", expected_reward, expected_reward_gain),
    ):
        new, old = (measured(measure, both, column, "truth") for column in ("p_yes", "p_yes_old"))
        print(f"| {title} | {new} | {old} | {measured(difference, both, 'p_yes', 'p_yes_old', 'truth')} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dirs", type=Path, nargs="+", help="runs of one config that differ in their seed")
    against = "runs of a variant with the same seeds, in the same order; only the comparison is printed"
    parser.add_argument("--against", type=Path, nargs="+", default=[], help=against)
    args = parser.parse_args()
    runs = [load(directory) for directory in args.run_dirs]
    if args.against:
        print_against(runs, [load(directory) for directory in args.against], args.against[0].name)
        return
    print_validators(runs)
    print_changes(runs)
    print_claims(runs)


if __name__ == "__main__":
    main()
