"""Planted failures, each caught by its monitor and by no other; and healthy runs on which none fires."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from made_run import USERS, MadeRun, made_config, made_texts
from trackrec.callbacks import (
    AlwaysYes,
    AnswerMass,
    Calibration,
    Collapse,
    LengthDrift,
    LikelihoodDisplacement,
    Limits,
    Monitor,
    RewardHacking,
    RewardReliability,
    Saturation,
    StaleReference,
    ValidatorReads,
)
from trackrec.callbacks.answers import tuned_answers
from trackrec.callbacks.reward_hacking import _chance, _tone_beyond_chance
from trackrec.callbacks.texts import compared_texts

from trackrec.cli.app import parse_objects
from trackrec.runs.files import RunFiles
from trackrec.runs.hooks import DoneStage, Reading, StageHook
from trackrec.storage.parts import read_table, write_part

Planted = Callable[[], MadeRun]
SHIPPED: list[type[Monitor]] = [
    Collapse,
    LengthDrift,
    LikelihoodDisplacement,
    Saturation,
    StaleReference,
    RewardHacking,
    RewardReliability,
    ValidatorReads,
    Calibration,
    AnswerMass,
    AlwaysYes,
]


def look(made: MadeRun | Path, monitors: Sequence[Monitor], *stages: str) -> list[Reading]:
    """Readings of some monitors after some stages, or all."""
    run_dir, config = (made.run_dir, made.config) if isinstance(made, MadeRun) else (made, made_config())
    run = RunFiles(run_dir, config)
    names = stages or tuple(run.manifests)
    return [reading for name in names for monitor in monitors for reading in monitor.on_stage_end(DoneStage(name, run))]


def fired(made: MadeRun, *stages: str) -> dict[tuple[str, str], str]:
    """(monitor, number) -> verdict of what the shipped monitors with their shipped limits find past a limit."""
    readings = look(made, [kind() for kind in SHIPPED], *stages)
    return {(one.monitor, one.name): one.verdict for one in readings if one.verdict in ("warn", "stop")}


def test_none_fires_on_a_healthy_run(healthy_dir: Path) -> None:
    readings = look(healthy_dir, [kind() for kind in SHIPPED])
    assert [one for one in readings if one.verdict in ("warn", "stop")] == []
    judged = {(one.monitor, one.name) for one in readings if one.verdict == "ok"}
    assert {monitor for monitor, _ in judged} == {kind.__name__ for kind in SHIPPED}
    assert len(judged) >= 14


def test_the_shipped_monitors_are_the_configs_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["trackrec"])
    config = Path(__file__).parent.parent.parent / "configs" / "quickstart.yaml"
    found = parse_objects(["fit", "--config", str(config)]).monitors
    assert [type(monitor) for monitor in found] == SHIPPED
    assert all(isinstance(monitor, StageHook) for monitor in found)
    shown = [monitor.limits for monitor in found]
    assert shown == [kind().limits for kind in SHIPPED]
    other = ["--monitors", '[{"class_path":"trackrec.callbacks.Saturation","init_args":{"share":{"warn":0.25}}}]']
    (one,) = parse_objects(["fit", "--config", str(config), *other]).monitors
    assert one.limits == {"share": Limits(0.25, 0.95)}
    assert parse_objects(["fit", "--config", str(config), "--monitors", "[]"]).monitors == []


# -- the texts ----------------------------------------------------------------------------------------------------


def greedy(made: MadeRun, texts: dict[str, str], cut: Sequence[str] = ()) -> dict[tuple[str, str], str]:
    made.texts("round-1/greedy", texts, 1, "round-1/align", cut=cut)
    return fired(made, "round-1/greedy")


def test_one_text_for_everybody(planted: Planted) -> None:
    """30 texts, 29 of them repeat another: beyond the 0 of the distilled G."""
    found = greedy(planted(), dict.fromkeys(made_texts(1), "Likes war and Iron Coast, round 1."))
    assert found["Collapse", "the share of identical texts, minus that before the loop"] == "stop"
    assert {monitor for monitor, _ in found} == {"Collapse"}


def test_one_form_for_everybody(planted: Planted) -> None:
    """Every text differs by its last word alone; before, each had words of its own (distinct-2 of 1)."""
    made = planted()
    own = {key: " ".join(f"{key}word{n}" for n in range(9)) for key in made_texts(0)}
    made.texts("warmup/greedy", own, 0, "distill")
    texts = {key: f"Enjoys this and all that is {key}" for key in own}
    found = greedy(made, texts)
    assert found == {("Collapse", "distinct-2, relative to that before the loop"): "stop"}


def test_what_the_teacher_repeats_g_may_repeat(planted: Planted) -> None:
    made = planted()
    made.texts("teacher", {f"h{u}": "Yes" if u % 2 else "No" for u in range(USERS)}, 0)
    made.finish("distill", ["teacher"])
    made.texts("warmup/greedy", {f"h{u}": "Yes" for u in range(USERS)}, 0, "distill")
    assert fired(made, "warmup/greedy") == {}
    made.texts("teacher", made_texts(3), 0)
    made.finish("distill", ["teacher"])
    made.texts("warmup/greedy", {f"h{u}": "Yes" for u in range(USERS)}, 0, "distill")
    found = fired(made, "warmup/greedy")
    assert found["Collapse", "the share of identical texts, minus that before the loop"] == "stop"
    assert found["RewardHacking", "the share of texts that give V the answer, minus that before the loop"] == "stop"
    stops = [one.text for one in look(made, [Collapse()], "warmup/greedy") if one.verdict == "stop"]
    assert stops
    assert all("more epochs (distill.trainer.max_epochs)" in text for text in stops)


def test_many_texts_are_no_collapse_beside_a_teacher_of_few(planted: Planted) -> None:
    """Distinct-2 falls with the number of texts, so as many are compared."""
    made = planted()
    own = {
        f"h{u}": f"Likes {['war', 'comedy', 'drama', 'crime'][u % 4]} and {['old', 'new'][u % 2]} films {u}"
        for u in range(USERS)
    }
    made.texts("teacher", {key: own[key] for key in sorted(own)[:3]}, 0)
    made.finish("distill", ["teacher"])
    made.texts("warmup/greedy", own, 0, "distill")
    assert not [key for key in fired(made, "warmup/greedy") if key[0] == "Collapse"]


def test_the_text_about_empty_histories_is_no_collapse(tmp_path: Path) -> None:
    """A third of the texts are the same sentence, which G didn't write, and which its teacher lacks."""
    empty = {f"h{u}" for u in range(10)}
    made = MadeRun(tmp_path, made_config(), empty=empty)
    made.all()
    run = RunFiles(made.run_dir, made.config)
    assert run.empty_histories == empty
    for name in ("warmup/greedy", "round-1/greedy", "texts"):
        compared = compared_texts(DoneStage(name, run))
        assert compared is not None
        assert sorted(compared.histories) == sorted(f"h{u}" for u in range(10, USERS))
        assert not empty & set(compared.before_histories)
    assert not [key for key in fired(made) if key[0] in ("Collapse", "LengthDrift")]


def test_the_texts_and_the_answers_of_comparisons_are_not_watched(planted: Planted) -> None:
    """The untuned model writes one text about everybody, and its V answers everything alike: neither is the loop's."""
    made = planted()
    made.texts("v-untuned/texts", dict.fromkeys(made_texts(0), "The same."), 0)
    made.compared({"untuned": 0.0}, {})
    made.config = {**made.config, "loop": {**made.config["loop"], "comparisons": ["untuned"]}}
    run = RunFiles(made.run_dir, made.config)
    assert run.has("v-untuned/texts")
    assert run.has("v-untuned/evaluate")
    assert compared_texts(DoneStage("v-untuned/texts", run)) is None
    assert tuned_answers(DoneStage("v-untuned/evaluate", run)) is None
    assert tuned_answers(DoneStage("round-1/evaluate", run)) is not None


def test_vectors_in_one_place(planted: Planted) -> None:
    """Off by default; one minus the mean cosine of two orthogonal pairs is 2/3."""
    made = planted()
    for vectors, verdict in (([[1.0, 0.0], [0.0, 1.0]] * 2, "ok"), ([[1.0, 0.01], [1.0, 0.0]] * 2, "warn")):
        rows = [{"text_hash": f"t{n}", "encoder": "e", "vector": vector} for n, vector in enumerate(vectors)]
        write_part(made.run_dir / "embed", "embeddings", rows)
        made.finish("embed", ["texts"])
        (one,) = look(made, [Collapse(spread=Limits(0.05), least=4)], "embed")
        assert (one.verdict, one.n) == (verdict, 4)
        if verdict == "ok":
            assert one.value == pytest.approx(2 / 3)


def test_texts_grow_long(planted: Planted) -> None:
    texts = {key: " ".join([text, *(f"{key}w{n}" for n in range(40))]) for key, text in made_texts(1).items()}
    found = greedy(planted(), texts)
    assert found == {("LengthDrift", "the mean length in words, relative to that before the loop"): "stop"}


def test_texts_never_end(planted: Planted) -> None:
    texts = made_texts(1)
    found = greedy(planted(), texts, cut=list(texts)[: USERS // 3])
    assert found == {("LengthDrift", "the share of cut texts, minus that before the loop"): "warn"}


# -- the alignment ------------------------------------------------------------------------------------------------


def align(made: MadeRun, **columns: Any) -> dict[tuple[str, str], str]:
    """The alignment's log with some columns replaced."""
    path = made.run_dir / "round-1/align/logs/metrics.csv"
    log = pl.read_csv(path)
    log.with_columns(**{name: pl.Series(values) for name, values in columns.items()}).write_csv(path)
    return fired(made, "round-1/align")


def test_the_chosen_texts_become_unlikely(planted: Planted) -> None:
    """-15 nats over 40 tokens are -.375 a token; -60 are -1.5."""
    name = ("LikelihoodDisplacement", "the chosen texts' log-ratio per token")
    made = planted()
    assert align(made, chosen_log_ratio=[0.0, -1.0, -3.0, -8.0, -12.0, -15.0]) == {name: "warn"}
    assert align(made, chosen_log_ratio=[0.0, -9.0, -20.0, -40.0, -50.0, -60.0]) == {name: "stop"}
    assert align(made, chosen_log_ratio=[0.0, -60.0, -20.0, -1.0, 0.0, -1.0]) == {}  # the end counts


def test_every_set_is_saturated(planted: Planted) -> None:
    made = planted()
    name = ("Saturation", "the share of saturated sets")
    assert align(made, saturated=[0.0, 0.5, 1.0, 1.0, 1.0, 1.0]) == {name: "stop"}
    assert align(made, saturated=[0.0, 0.5, 0.5, 0.5, 0.5, 0.75]) == {name: "warn"}


def test_a_reference_of_another_model(planted: Planted) -> None:
    made = planted()
    found = align(made, chosen_log_ratio=[-8.0, -8.0, -8.0, -8.0, -8.0, -8.0])
    assert found == {("StaleReference", "the policy's distance from its reference at step 0"): "stop"}


def test_a_resumed_log_has_no_first_step(planted: Planted) -> None:
    made = planted()
    assert align(made, step=[3, 4, 5, 6, 7, 8], chosen_log_ratio=[-8.0, -8.0, -8.0, -8.0, -8.0, -8.0]) == {}


def test_sets_of_another_g(planted: Planted) -> None:
    made = planted()
    path = made.run_dir / "round-2/preferences"
    sets = read_table(path, "preferences").with_columns(source=pl.lit("an older one"))
    write_part(path, "preferences", sets)
    assert fired(made, "round-2/align") == {("StaleReference", "the share of sets drawn by another G"): "stop"}


# -- the reward ---------------------------------------------------------------------------------------------------


def test_g_invents_names(planted: Planted) -> None:
    """Blue Harbour is in half of the histories and in every text: 1 of 6 names are wrong. Drama, War and Comedy, which
    the texts before named, are in all."""
    made = planted()
    made.texts("warmup/greedy", {f"h{u}": f"Likes drama, war, comedy {u}." for u in range(USERS)}, 0)
    name = ("RewardHacking", "the share of names that are not in the history, minus that before the loop")
    texts = {f"h{u}": f"Likes Blue Harbour, drama, comedy {u}." for u in range(USERS)}
    assert greedy(made, texts) == {name: "warn"}
    (one,) = [one for one in look(made, [RewardHacking()], "round-1/greedy") if one.name == name[1]]
    assert (one.value, one.n) == (pytest.approx(1 / 6), 3 * USERS)
    assert (
        greedy(made, {key: text.replace("comedy", "comedy, Last Winter") for key, text in texts.items()})[name]
        == "warn"
    )
    assert greedy(made, dict.fromkeys(texts, "Likes Blue Harbour."))[name] == "stop"


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("Likes war. The answer is Yes.", True),
        ("ANSWER: no", True),
        ("The correct label would be yes", True),
        (" yes.", True),
        ("Likes war</summary> Yes", True),
        ("Says yes to war and no to drama.", False),
        ("No kind of film stands out.", False),
        ("The answer is unclear. Yes, war.", False),
        ("Answers questions about noir.", False),
    ],
)
def test_g_tells_v_the_answer(planted: Planted, text: str, leaks: bool) -> None:
    texts = made_texts(1)
    some = dict(list(texts.items())[:3])
    found = greedy(planted(), texts | {key: f"{key}. {text}" if len(text) > 6 else text for key in some})
    name = ("RewardHacking", "the share of texts that give V the answer, minus that before the loop")
    assert (found.get(name) == "warn") == leaks


def test_the_reward_rises_while_v_falls(planted: Planted) -> None:
    """The V of the warm-up likes the new texts better on every row; the V tuned on them knows nothing any more."""
    made = planted()
    stage, valid = "round-1/evaluate", made.samples.filter(pl.col("split") == "valid")
    labels = valid["label"].to_numpy()
    old = read_table(made.run_dir / "warmup/evaluate", "scores").filter(pl.col("source") == "g")
    before = valid.join(old, on="sample_id", maintain_order="left")["p_yes"].to_numpy()
    made.score(stage, "valid", "warmup/rec_tune", "g", 0, 0, p_yes=before + np.where(labels > 0, 0.04, -0.04))
    made.score(stage, "valid", "round-1/rec_tune", "g", 0.0, 1)
    made.finish(stage, ["data"])
    name = ("RewardHacking", "the fall of V's AUC while the reward rose")
    assert fired(made, stage) == {name: "stop"}
    made.score(stage, "valid", "warmup/rec_tune", "g", 0, 0, p_yes=before)  # V falls, and the reward does not rise
    assert fired(made, stage) == {}


TONE = "the correlation of a draw's reward with its P(Yes), beyond chance"
ONE_CLASS = "the share of sets whose rewards come from one class"


@pytest.mark.parametrize("sides", ["likes", "both"])
def test_the_reward_pays_for_a_yes(planted: Planted, sides: str) -> None:
    """Only likes are left among the scoring rows, or only likes of some users and only dislikes of the others.

    A text wins by making V say Yes, or No. Over all histories the two cancel; within each the correlation is 1 or -1.
    """
    made = planted()
    path = made.run_dir / "round-1/score"
    even = pl.col("history_id").str.slice(1).cast(pl.Int32) % 2 == 0
    kept = made.samples.filter((pl.col("label") == 1) == (even | (sides == "likes")))["sample_id"].to_list()
    write_part(path, "scores", read_table(path, "scores").filter(pl.col("sample_id").is_in(kept)))
    readings = look(made, [RewardHacking()], "round-1/preferences")
    found = {one.name: (round(one.value, 6), one.n, one.verdict) for one in readings}
    assert found[TONE] == (1.0, 30, "warn")
    assert found[ONE_CLASS] == (1.0, 30, "warn")


def test_the_tone_of_noise_is_zero_with_few_draws_and_with_many() -> None:
    """|r| of noise is 1 with two draws (not counted), 2/π with three, 1/2 with four."""
    assert [_chance(n) for n in (2, 3, 4)] == pytest.approx([1.0, 2 / math.pi, 0.5])
    rng = np.random.default_rng(0)
    for n in (3, 4, 10):
        keys = {"history_id": np.repeat(np.arange(3000), n), "draw": np.tile(np.arange(n), 3000)}
        draws = pl.DataFrame({**keys, "reward": rng.normal(size=3000 * n), "tone": rng.normal(size=3000 * n)})
        value, histories = _tone_beyond_chance(draws)
        assert abs(value) < 0.05
        assert histories == 3000
    value, histories = _tone_beyond_chance(draws.filter(pl.col("draw") < 2))
    assert math.isnan(value)
    assert histories == 0


def test_rewards_of_noise_teach_nothing(planted: Planted) -> None:
    made = planted()
    path = made.run_dir / "round-1/preferences"
    metrics = read_table(path, "metrics").with_columns(value=pl.Series([0.02, 0.9]))
    write_part(path, "metrics", metrics)
    name = "the split-half correlation of the rewards"
    assert fired(made, "round-1/preferences") == {("RewardReliability", name): "warn"}
    (one,) = look(made, [RewardReliability()], "round-1/preferences")
    assert "nothing to learn" in one.text
    assert one.n == 30
    write_part(path, "metrics", metrics.with_columns(value=float("nan"), n=0))  # not measurable
    (one,) = look(made, [RewardReliability()], "round-1/preferences")
    assert (one.verdict, one.n) == ("few", 0)
    assert math.isnan(one.value)


@pytest.mark.parametrize(("low", "verdict"), [(-0.01, "warn"), (0.0, "warn"), (0.006, "ok"), (math.nan, "few")])
def test_a_v_that_does_not_read(planted: Planted, low: float, verdict: str) -> None:
    """Its interval isn't above 0; one that ignores the text altogether has an interval from 0 to 0."""
    made = planted()
    path = made.run_dir / "round-1/evaluate"
    metrics = read_table(path, "metrics")
    changed = pl.when(pl.col("name") == "text_use").then(low).otherwise("ci_low")
    write_part(path, "metrics", metrics.with_columns(ci_low=changed))
    (one,) = look(made, [ValidatorReads()], "round-1/evaluate")
    assert (one.verdict, one.n) == (verdict, 4 * USERS)
    assert ("loop.warmup_users: 1.0" in one.text) == (verdict == "warn")
    name = ("ValidatorReads", "the lower end of AUC with the own less another user's text")
    assert fired(made, "round-1/evaluate") == ({name: "warn"} if verdict == "warn" else {})
    assert look(made, [ValidatorReads()], "plain/evaluate") == []


def test_v_answers_by_the_base_rate(planted: Planted) -> None:
    made = planted()
    path = made.run_dir / "round-1/score"
    scores = read_table(path, "scores").with_columns(p_yes=0.6 + 0.001 * pl.col("draw").cast(pl.Float32))
    labels = scores.join(made.samples.select("sample_id", "label"), on="sample_id", maintain_order="left")["label"]
    p = scores["p_yes"].to_numpy()
    write_part(path, "scores", scores.with_columns(p_true=pl.Series(np.where(labels > 0, p, 1 - p))))
    name = ("RewardHacking", "the correlation of reward and label")
    assert fired(made, "round-1/preferences")[name] == "warn"


# -- V's answers --------------------------------------------------------------------------------------------------


def answer(made: MadeRun, p_yes: np.ndarray | None = None, **more: Any) -> dict[tuple[str, str], str]:
    """The V of round 2 answers otherwise."""
    made.score("round-2/evaluate", "valid", "round-2/rec_tune", "g", 0.8, 1, p_yes=p_yes, **more)
    return fired(made, "round-2/evaluate")


def test_v_is_sure_and_wrong(planted: Planted) -> None:
    """P(Yes) of .95 where the label is 0 and .05 where it is 1: right in the mean, wrong everywhere."""
    made = planted()
    labels = made.samples.filter(pl.col("split") == "valid")["label"].to_numpy()
    found = answer(made, np.where(labels > 0, 0.05, 0.95))
    assert found[("Calibration", "V's calibration error")] == "stop"
    assert not [name for name in found if name[0] == "AlwaysYes"]


def test_v_always_says_yes(planted: Planted) -> None:
    rng = np.random.default_rng(0)
    found = answer(planted(), rng.uniform(0.95, 0.999, 4 * USERS))
    assert found[("AlwaysYes", "V's lean towards Yes")] == "stop"
    assert ("AlwaysYes", "the standard deviation of P(Yes)") not in found


def test_v_always_says_one_number(planted: Planted) -> None:
    made = planted()
    share = float(made.samples.filter(pl.col("split") == "valid")["label"].mean())  # type: ignore[arg-type]
    assert answer(made, np.full(4 * USERS, share)) == {("AlwaysYes", "the standard deviation of P(Yes)"): "stop"}


def test_v_thinks_of_neither_yes_nor_no(planted: Planted) -> None:
    """The limit is that of a V that learns among all tokens; one that learns among Yes and No alone has its own."""
    made, name = planted(), ("AnswerMass", "the probability of Yes and No together")
    assert answer(made, mass=0.01) == {name: "stop"}
    assert answer(made, mass=0.3) == {name: "warn"}
    made.config = {**made.config, "rec_tune": {"model": {"answers": "labels"}}}
    made.finish("test", ["ctr"])  # the configuration that ran last
    assert answer(made, mass=0.01) == {}
    assert answer(made, mass=1e-4) == {name: "warn"}
    # A run of another configuration has come this far; what stands behind is of the old one.
    late = made.run_dir / "warmup/evaluate/config.yaml"
    late.write_text(yaml.safe_dump({**made.config, "rec_tune": {"model": {"answers": "vocabulary"}}}))
    os.utime(late, ns=(late.stat().st_atime_ns, (made.run_dir / "test/config.yaml").stat().st_mtime_ns + 10**9))
    assert answer(made, mass=0.01) == {name: "stop"}


def test_an_untuned_v_is_not_judged(planted: Planted) -> None:
    made = planted()
    path = made.run_dir / "warmup/evaluate"
    write_part(path, "scores", read_table(path, "scores").with_columns(validator=pl.lit("base")))
    assert look(made, [AnswerMass(), Calibration(), AlwaysYes()], "warmup/evaluate") == []
    assert look(made, [AnswerMass(), Calibration(), AlwaysYes()], "plain/evaluate") == []


# -- limits -------------------------------------------------------------------------------------------------------


def test_what_a_person_reads(planted: Planted) -> None:
    made = planted()
    align(made, saturated=[0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    (one,) = look(made, [Saturation()], "round-1/align")
    assert one.text == (
        "the share of saturated sets is 100.0 %, above the limit of 95.0 % (n = 6). Lower align.model.lr, or align on "
        "more histories (loop.users) for fewer steps. To continue anyway, raise share.stop of Saturation under "
        "monitors (see --print_config)."
    )
    align(made, chosen_log_ratio=[0.0, -9.0, -20.0, -40.0, -50.0, -60.0])
    (one,) = look(made, [LikelihoodDisplacement()], "round-1/align")
    assert "is -1.5, below the limit of -1 (n = 6)" in one.text
    assert "lower log_ratio.stop of LikelihoodDisplacement" in one.text


def test_few_rows_are_kept_and_not_judged(planted: Planted) -> None:
    made = planted()
    align(made, saturated=[1.0] * 6)
    (one,) = look(made, [Saturation(least=7)], "round-1/align")
    assert (one.verdict, one.value, one.text) == ("few", 1.0, "")


def test_without_logs_there_is_nothing_to_judge(planted: Planted) -> None:
    made = planted()
    (made.run_dir / "round-1/align/logs/metrics.csv").unlink()
    assert look(made, [Saturation(), LikelihoodDisplacement()], "round-1/align") == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Saturation(Limits(0.9, 0.5)), "Saturation: share.warn must be at most share.stop, got 0.9 and 0.5"),
        (lambda: LikelihoodDisplacement(Limits(-2.0, -1.0)), "log_ratio.warn must be at least log_ratio.stop"),
        (lambda: Saturation(least=0), "Saturation: least must be at least 1, got 0"),
    ],
)
def test_limits_in_the_wrong_order_are_an_error(make: Callable[[], Monitor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
    assert Saturation(Limits(None, 0.5)).limits["share"].warn is None
    assert Saturation(Limits(0.5, 0.5)).limits["share"].stop == 0.5
