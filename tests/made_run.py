"""A small run directory made by hand: every stage's tables and manifests, and no model behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tiny import frame, reccot_row

from trackrec.align.reliability import measure_rewards
from trackrec.metrics.intervals import metric_rows
from trackrec.metrics.names import TEXT_USE
from trackrec.prompts.templates import NO_HISTORY
from trackrec.storage.manifest import Manifest, content_hash, read_manifest, write_manifest
from trackrec.storage.parts import write_part
from trackrec.validator.evaluate import scored_rows_of, text_use, validator_metrics

USERS = 30
EVIL = "<script>alert('x')</script> & Sons | *Two*"
ITEMS = ["The Silver River", "Night Garden", EVIL, "Iron Coast", "Blue Harbour", "Last Winter"]
GENRES = ["Drama", "War", "Comedy"]


def made_config(rounds: int = 2) -> dict[str, Any]:
    """The keys that a report reads."""
    return {
        "seed_everything": 7,
        "run_dir": "run",
        "dataset": {"class_path": "trackrec.interactions.MovieLens", "init_args": {}},
        "samples": {"protocol": "temporal", "per": "user"},
        "prompts": {"max_history": 3},
        "backbone": {
            "model": "data/tiny<b>model",
            "dtype": "float32",
            "quantize": "none",
            "lora": {"r": 2, "alpha": 4},
        },
        "validator_backbone": None,
        "teacher": {"class_path": "ProfileTeacher"},
        "loop": {"rounds": rounds, "warmup": True},
        "align": {"sets": {"min_spread": 0.01}},
        "rec_tune": {"model": {"answers": "vocabulary"}},
        "embed": {"model": "data/encoder"},
        "ctr": {"net": "DIN", "connector": "MLPConnector", "seeds": [0, 1]},
    }


class MadeRun:
    """Writes one stage after the other, as a run would.

    Args:
        run_dir: where.
        config: of the run.
        skill: how much the tuned V's answers follow the chance of a like; 0 is not at all, 1 is all there is to know.
        empty: histories without an item.
    """

    def __init__(
        self, run_dir: Path, config: Mapping[str, Any], skill: float = 0.8, empty: Collection[str] = ()
    ) -> None:
        self.run_dir, self.config, self.skill, self.empty = run_dir, config, skill, empty
        self.rng = np.random.default_rng(3)
        self.rounds = int(config["loop"]["rounds"])
        self.samples, self.chances = _samples()

    def finish(self, stage: str, inputs: Sequence[str], seconds: float = 2.0, **notes: Any) -> None:
        """The manifest, last."""
        import yaml

        path = self.run_dir / stage
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.yaml").write_text(yaml.safe_dump(dict(self.config)))
        tables = {folder.name: list(folder.glob("part-*.parquet")) for folder in path.iterdir() if folder.is_dir()}
        rows = {name: sum(len(pl.read_parquet(part)) for part in parts) for name, parts in tables.items() if parts}
        read = {name: manifest.content_hash for name in inputs if (manifest := read_manifest(self.run_dir / name))}
        made = Manifest(stage, "f", content_hash(path), rows, read, notes=notes, versions={"torch": "2"}, threads=1)
        made.seconds, made.peak_memory_bytes = seconds, 3 * 2**30
        write_manifest(path, made)

    def data(self) -> None:
        """Ratings, histories, samples."""
        path = self.run_dir / "data"
        items = [
            {"item_id": f"i{n}", "title": title, "attributes": [GENRES[n % 3]], "year": 1990 + n}
            for n, title in enumerate(ITEMS)
        ]
        histories = [
            {"history_id": f"h{u}", "user_id": f"u{u}", "item_ids": [f"i{(u + n) % 6}" for n in range(4)]}
            | {"ratings": [5.0, 2.0, 4.0, 1.0]}
            for u in range(USERS)
        ]
        nothing: dict[str, Any] = {"item_ids": [], "ratings": []}
        histories = [row | (nothing if row["history_id"] in self.empty else {}) for row in histories]
        write_part(path, "items", items)
        write_part(path, "users", [{"user_id": f"u{u}", "attributes": []} for u in range(USERS)])
        write_part(path, "interactions", self.ratings())
        write_part(path, "histories", histories)
        write_part(path, "samples", self.samples)
        counts = {"ratings": 100, "users": USERS, "samples": len(self.samples), "threshold": 3.0, "odd_count": 5}
        self.finish("data", [], **counts, **({"without_history": len(self.empty)} if self.empty else {}))

    def ratings(self) -> list[dict[str, Any]]:
        """Those of every user's history, a day apart, from the first of January 2000 on."""
        rows = [(f"u{u}", f"i{(u + n) % 6}", rating, n) for u in range(USERS) for n, rating in enumerate((5, 2, 4, 1))]
        names = ("user_id", "item_id", "rating", "timestamp", "row")
        times = [946_684_800 + 86_400 * n for *_, n in rows]
        return [dict(zip(names, (*row[:3], times[at], at), strict=True)) for at, row in enumerate(rows)]

    def texts(self, stage: str, texts: dict[str, str], round_: int, *inputs: str, cut: Sequence[str] = ()) -> None:
        """The texts of a stage."""
        rows = [
            reccot_row(key, source=stage, round=round_, text=text, finish_reason="length" if key in cut else "stop")
            for key, text in (texts | dict.fromkeys(self.empty, NO_HISTORY)).items()
            if stage != "teacher" or key not in self.empty
        ]
        write_part(self.run_dir / stage, "reccots", rows)
        self.finish(stage, ["data", *inputs], texts=len(rows), tokens=100, work="generate")

    def score(
        self,
        stage: str,
        split: str,
        validator: str,
        source: str,
        skill: float,
        part: int,
        p_yes: np.ndarray | None = None,
        mass: float = 0.9,
    ) -> pl.DataFrame:
        """V's answers on a split: noise, and ``skill`` towards the chance of a like; or ``p_yes`` as it is given."""
        rows = self.samples.filter(pl.col("split") == split)
        labels, chances = rows["label"].to_numpy(), self.chances[(self.samples["split"] == split).to_numpy()]
        p = 0.5 + skill * (chances - 0.5) + self.rng.normal(0, 0.03, len(rows)) if p_yes is None else p_yes
        p = np.clip(p, 0.001, 0.999)
        scores = rows.select("history_id", "sample_id").with_columns(
            source=pl.lit(source),
            round=pl.lit(0, pl.Int32),
            draw=pl.lit(0, pl.Int32),
            validator=pl.lit(validator),
            p_yes=pl.Series(p),
            answer_mass=pl.lit(mass),
            p_true=pl.Series(np.where(labels > 0, p, 1 - p)),
        )
        write_part(self.run_dir / stage, "scores", scores, part)
        return scored_rows_of(scores, rows, validator, source)

    def evaluate(self, number: int) -> None:
        """V's answers on validation rows, and the metrics made of them."""
        stage = f"round-{number}/evaluate" if number else "warmup/evaluate"
        scorer = f"round-{number - 1}/rec_tune" if number > 1 else "warmup/rec_tune"
        arms = {"scorer": scorer} if not number else {"scorer": scorer, "tuned": f"round-{number}/rec_tune"}
        rows: list[dict[str, Any]] = []
        for part, (arm, validator) in enumerate(arms.items()):
            scored = self.score(stage, "valid", validator, "g", self.skill, part)
            rows += metric_rows(validator_metrics(scored, 0), stage=stage, round=number, split="valid", arm=arm)
        # With another user's text V can't tell likes from dislikes.
        other = self.score(stage, "valid", validator, "shuffled", 0.0, 9, p_yes=np.full(4 * USERS, 0.5))
        key = {"stage": stage, "round": number, "split": "valid"}
        rows += metric_rows(validator_metrics(other, 0), arm="other", **key)
        rows += metric_rows({TEXT_USE: text_use(scored, other, 0)}, arm=arm, **key)
        write_part(self.run_dir / stage, "metrics", rows)
        self.finish(stage, ["data"], questions=48, histories=USERS)

    def round(self, number: int) -> None:
        """One turn of the loop."""
        name = f"round-{number}"
        draws = [
            reccot_row(f"h{u}", draw, text=f"Draw {draw}", token_ids=[draw, 1])
            for u in range(USERS)
            for draw in range(3)
        ]
        write_part(self.run_dir / name / "sample", "reccots", draws)
        self.finish(f"{name}/sample", ["data"], histories=USERS, texts=3 * USERS)
        train = self.samples.filter(pl.col("split") == "train").select("history_id", "sample_id", "label")
        scores = train.join(pl.DataFrame({"draw": [0, 1, 2]}, schema={"draw": pl.Int32}), how="cross")
        # Some draws help V with all items of a history, beside noise.
        help_ = self.rng.normal(0.0, 0.1, (USERS, 3))[scores["history_id"].str.slice(1).cast(pl.Int32), scores["draw"]]
        p = 0.55 + np.where(scores["label"] == 1, help_, -help_) + self.rng.normal(0, 0.1, len(scores))
        scores = scores.with_columns(p_yes=pl.Series(np.clip(p, 0, 1)), answer_mass=pl.lit(0.9)).with_columns(
            p_true=pl.when(pl.col("label") == 1).then("p_yes").otherwise(1 - pl.col("p_yes")),
            source=pl.lit("teacher"),
            round=pl.lit(0, pl.Int32),
            validator=pl.lit("v"),
        )
        write_part(self.run_dir / name / "score", "scores", scores.drop("label"))
        self.finish(f"{name}/score", ["data", f"{name}/sample"], questions=len(scores))
        begun = f"round-{number - 1}/align" if number > 1 else "distill"
        generator = read_manifest(self.run_dir / begun)
        source = generator.content_hash[:12] if generator else "untuned"
        pairs = {"chosen": 0, "rejected": [1, 2], "chosen_reward": 0.6, "rejected_rewards": [0.5, 0.4]}
        sets = [{"history_id": f"h{u}", "source": source, "round": number, **pairs} for u in range(USERS)]
        write_part(self.run_dir / name / "preferences", "preferences", sets)
        measured = measure_rewards(frame("reccots", draws), scores, self.samples, 0)
        metrics = metric_rows(measured, stage=f"{name}/preferences", round=number, split="train", arm="scorer")
        write_part(self.run_dir / name / "preferences", "metrics", metrics)
        counts = {"histories": USERS, "draws": 3 * USERS, "sets": USERS, "negatives": 2 * USERS, "cut_draws": 1}
        self.finish(f"{name}/preferences", [f"{name}/score"], dropped_all_wrong=2, **counts)
        self.logs(f"{name}/align", number)
        self.finish(f"{name}/align", [begun, f"{name}/preferences"], loss=0.5, optimizer_steps=6)
        self.texts(f"{name}/greedy", made_texts(number), number, f"{name}/align")
        self.finish(f"{name}/rec_tune", ["data", f"{name}/greedy"], tuning_rows=40)
        self.evaluate(number)

    def logs(self, stage: str, number: int, steps: Sequence[int] = range(6)) -> None:
        """What S-DPO logged."""
        folder = self.run_dir / stage / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        columns = {
            "step": list(steps),
            "loss": [1.1 - 0.1 * step for step in steps],
            "margin": [0.05 * step * number for step in steps],
            "accuracy": [0.5 + 0.05 * step for step in steps],
            "chosen_log_ratio": [-0.2 * step for step in steps],
            "chosen_tokens": [40.0 for _ in steps],
            "saturated": [0.0 for _ in steps],
        }
        pl.DataFrame(columns).write_csv(folder / "metrics.csv")

    def plain(self) -> None:
        """V without RecCoT."""
        self.finish("plain/rec_tune", ["data"])
        rows: list[dict[str, Any]] = []
        for part, (arm, validator) in enumerate({"untuned": "base", "plain": "plain/rec_tune"}.items()):
            scored = self.score("plain/evaluate", "valid", validator, "none", 0.1, part)
            rows += metric_rows(validator_metrics(scored, 0), stage="plain/evaluate", split="valid", arm=arm)
        write_part(self.run_dir / "plain/evaluate", "metrics", rows)
        self.finish("plain/evaluate", ["data", "plain/rec_tune"])

    def compared(self, skills: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        """The Vs that read something else, by their skill and the tokens that they read; ``other`` is of the last V."""
        for name, skill in skills.items():
            stage, validator = f"v-{name}/evaluate", f"v-{name}/rec_tune"
            scored = self.score(stage, "valid", validator, name, skill, 7)
            rows = metric_rows(validator_metrics(scored, 0), stage=stage, round=-1, split="valid", arm=f"v-{name}")
            write_part(self.run_dir / stage, "metrics", rows, 7)
            self.finish(validator, ["data"], histories=30, without_text=20 if name == "teacher" else 0)
            budget = {"budget_tokens": 17} if name in ("facts", "titles") else {}
            self.finish(stage, ["data", validator], **budget)
        places = {
            "reccot": (f"round-{self.rounds}/evaluate", self.rounds, "tuned"),
            "plain": ("plain/evaluate", -1, "plain"),
        }
        places["other"] = (f"round-{self.rounds}/evaluate", self.rounds, "other")
        for name, count in tokens.items():
            stage, round_, arm = places.get(name, (f"v-{name}/evaluate", -1, f"v-{name}"))
            row = metric_row(stage, "valid", arm, "prompt_tokens", float(count), None, None, round=round_)
            write_part(self.run_dir / stage, "metrics", [row], 8 + list(tokens).index(name))
            notes = read_manifest(self.run_dir / stage)
            assert notes is not None
            self.finish(stage, list(notes.inputs), **notes.notes)

    def ctr(
        self, stage: str = "ctr", split: str = "valid", gain: float = 0.05, extra: Any = (), verdict: float = 1.0
    ) -> None:
        """The arms' metrics: RecCoT is ``gain`` better than both others, and ``verdict`` says what that means."""
        rows: list[dict[str, Any]] = list(extra)
        for arm in ("none", "reccot", "shuffled", "item_mean"):
            own = dict.fromkeys(("auc", "acc", "log_loss", "uauc"), (0.6, 0.5, 0.7))
            if arm == "reccot":
                own |= {f"auc_minus_{other}": (gain, gain - 0.02, gain + 0.02) for other in ("none", "shuffled")}
                own |= {"log_loss_minus_none": (-0.01, -0.03, -0.001), "acc_minus_none": (0.0, -0.1, 0.1)}
            rows += [metric_row(stage, split, arm, name, *ends) for name, ends in own.items()]
            rows.append(metric_row(stage, split, arm, "users_one_class", 3.0, None, None))
        rows.append(metric_row(stage, split, "reccot", "verdict", verdict, None, None))
        rows.append(metric_row(stage, split, "shuffled", "chosen_placebo", 1.0, None, None))
        write_part(self.run_dir / stage, "metrics", rows, part=7)
        self.finish(stage, ["data"] if stage == "ctr" else ["ctr"], train=300, left_out=4)

    def test(self, gain: float = 0.05, verdict: float = 1.0) -> None:
        """The one reading of the test split."""
        jobs = [("reccot", f"round-{self.rounds}/rec_tune"), ("plain", "plain/rec_tune"), ("untuned", "base")]
        rows: list[dict[str, Any]] = []
        for part, (arm, validator) in enumerate(jobs):
            scored = self.score("test", "test", validator, "texts" if arm == "reccot" else "none", 0.2, part)
            rows += metric_rows(validator_metrics(scored, 0), stage="test", split="test", arm=f"validator/{arm}")
        self.ctr("test", "test", gain, rows, verdict)
        self.finish("test", ["ctr"], questions=48, test_reads=2)

    def all(self) -> None:
        """Everything."""
        self.data()
        self.texts("teacher", {f"h{u}": "Enjoys Drama." for u in range(USERS)}, 0)
        self.finish("distill", ["teacher"], examples=USERS)
        self.texts("warmup/greedy", made_texts(0), 0, "distill")
        self.finish("warmup/rec_tune", ["data"], tuning_rows=40)
        self.evaluate(0)
        for number in range(1, self.rounds + 1):
            self.round(number)
        self.plain()
        self.texts("texts", made_texts(9), 9, f"round-{self.rounds}/greedy")
        self.finish("embed", ["texts"])
        self.ctr()
        self.test()


def made_texts(number: int) -> dict[str, str]:
    """Texts about every history; some name a film with markup that their history doesn't hold."""
    texts = {f"h{u}": f"Likes war and {ITEMS[u % 6]}, round {number}, user {u}." for u in range(USERS)}
    return texts | {f"h{u}": f"Loves {EVIL} | <b>bold</b> `code` [x](y), {u}" for u in range(3, USERS, 6)}


def metric_row(
    stage: str, split: str, arm: str, name: str, value: float, low: float | None, high: float | None, **more: Any
) -> dict[str, Any]:
    """A row of the metrics table."""
    key = {"stage": stage, "round": -1, "split": split, "arm": arm, "slice": "all", "seed": -1, "name": name}
    return {**key, "value": value, "ci_low": low, "ci_high": high, "n": 48, **more}


def _samples() -> tuple[pl.DataFrame, np.ndarray]:
    """Four rows per user and split, and the chance of a like behind each label."""
    rng = np.random.default_rng(11)
    chances = 1 / (1 + np.exp(-rng.normal(0.2, 1.5, 3 * USERS * 4)))
    labels = iter((rng.random(len(chances)) < chances).astype(int).tolist())
    rows = [
        {
            "sample_id": f"{split}-{u}-{n}",
            "user_id": f"u{u}",
            "item_id": f"i{n}",
            "label": (next(labels), n % 2)[split == "train"],  # rewards have likes and dislikes
            "timestamp": 0,
            "history_id": f"h{u}",
            "recent_items": [],
            "recent_ratings": [],
            "split": split,
            "use": "reward" if split == "train" else "",
        }
        for split in ("train", "valid", "test")
        for u in range(USERS)
        for n in range(4)
    ]
    return frame("samples", rows), chances
