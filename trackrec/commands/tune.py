"""``trackrec tune``: hyper-parameters of the CTR net by Optuna, on validation rows alone.

Everything lies under ``tune/`` of the run directory: ``study.db`` (SQLite), one part of predictions per trial, and
``chosen.yaml``. A trial is a pure function of the seed and of the finished trials before it, so a run that was killed
and goes on ends with the trials of an undisturbed one.

Letters: N validation rows, S training seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import yaml
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from trackrec.commands.call import Call, open_run
from trackrec.commands.search_space import Dimension, TuneSettings, at, changed, read_space
from trackrec.metrics.intervals import Draws, Interval, seed_draws
from trackrec.metrics.scores import auc
from trackrec.pipeline.lock import locked
from trackrec.pipeline.stage import Stage
from trackrec.recipe.arm_texts import stages_read
from trackrec.recipe.build import ctr_plan
from trackrec.recipe.ctr_inputs import ctr_inputs, threshold_of_data
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.stages.ctr import CTRNets
from trackrec.runtime.errors import SettingError
from trackrec.runtime.packages import need
from trackrec.storage.atomic import stable_hash, write_atomic
from trackrec.storage.parts import standing_part, write_part

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from trackrec.ctr.arms.assemble import CTRInputs
    from trackrec.ctr.arms.text_settings import TextSettings
    from trackrec.ctr.features.dense_statistics import FeatureSettings
    from trackrec.ctr.features.features import CTRData
    from trackrec.ctr.settings import CTRSettings

DIRECTORY, CHOSEN = "tune", "chosen.yaml"
_SHOWN = 10
_ERROR = "error"  # attribute of a trial whose net can't be built or trained
# What decides a trial's AUC, beside what it changes.
_KEYS = ("net", "connector", "model", "data", "trainer", "patience", "text")
PlanOf = Callable[[dict[str, Any]], "CTRSettings"]


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--trials", type=int | None, default=None, help="Instead of tune.trials.")
    parser.add_argument("--output", type=Path | None, default=None, help="YAML to write; null: tune/chosen.yaml.")


def run(call: Call) -> None:
    """Search, and write the chosen values."""
    experiment, _ = open_run(call)
    output = Path(call.own["output"]) if call.own["output"] else None
    settings = call.objects().tune
    tune(experiment, settings, lambda changes: ctr_plan(call.objects, changes), call.own["trials"], output)


def check_optuna() -> None:
    """Whether the extra ``tune`` is installed.

    Raises:
        MissingPackageError: it isn't.
    """
    need("trackrec tune", "tune", "optuna")


def tune(exp: Experiment, settings: TuneSettings, plan_of: PlanOf, trials: int | None, output: Path | None) -> None:
    """Try settings of the CTR net until there are so many, print the best, and write the chosen ones.

    Args:
        exp: a run whose stages before ``ctr`` are done.
        settings: the section ``tune``.
        plan_of: the plan of the CTR stage with some keys changed.
        trials: instead of ``settings.trials``.
        output: the YAML file to write; None is ``tune/chosen.yaml`` under the run directory.

    Raises:
        MissingPackageError: optuna isn't installed.
        StageError: a stage that it reads isn't done, or is damaged.
        SettingError: the space doesn't fit the configuration, the arm can't run, or no trial gave a net.
    """
    check_optuna()
    wanted = settings.trials if trials is None else trials
    if wanted < 1:
        raise SettingError(f"--trials must be at least 1, got {wanted}.")
    config = exp.pipeline.config
    space = read_space(settings, config)
    names = stages_read(exp)
    keys = (*(f"ctr.{key}" for key in _KEYS), "tune.arm", "tune.seeds")
    # A trial trains as the stage does: what makes the stage run again makes a study of its own.
    code, threshold = CTRNets.__module__, partial(threshold_of_data, exp)
    facts = exp.pipeline.fingerprint(Stage(DIRECTORY, keys, names, code, lambda _: {}, outside=threshold))
    name = stable_hash(facts, json.dumps(space))
    with locked(exp.pipeline.run_dir):
        data = validation_data(ctr_inputs(exp), exp.ctr.text, exp.ctr.features, settings.arm)
        search = Search(exp, data, settings, space, plan_of, exp.directory(DIRECTORY), name)
        search.run(wanted)
        best = search.report()
        path = output or exp.directory(DIRECTORY) / CHOSEN
        write_atomic(path, overlay(config, best, search))
    exp.say(f"Chosen values are in {path}: `trackrec fit --config … --config {path}` takes them.")


class Found(NamedTuple):
    """The chosen trial: its number (None: the configured net, which nothing beat), values, and AUC on validation."""

    number: int | None
    values: dict[str, Any]
    auc: Interval
    gain: Interval  # over the configured net, paired on the same rows


class Search:
    """One study: what is tried and what was found.

    Args:
        exp: the run.
        data: `validation_data`.
        settings: the section ``tune``.
        space: dimensions.
        plan_of: see `tune`.
        folder: where the study lies.
        name: of the study; another space, net or input is another study.
    """

    def __init__(
        self,
        exp: Experiment,
        data: CTRData,
        settings: TuneSettings,
        space: Sequence[Dimension],
        plan_of: PlanOf,
        folder: Path,
        name: str,
    ) -> None:
        self.exp, self.settings, self.space, self.plan_of = exp, settings, space, plan_of
        self.folder, self.name = folder / name, name
        self.data = data
        self.study = _open_study(folder / "study.db", name)

    def run(self, wanted: int) -> None:
        """Train until ``wanted`` trials are finished; those of an earlier run count."""
        self._drop_unfinished()
        if standing_part(self.folder, "predictions", 0) is None:
            self.exp.say(f"    configured: valid AUC {self._fit({}, 0):.4f}")
        while (done := len(self.finished())) < wanted:
            self.study.sampler = _sampler(self.exp.seed, done)
            self._try(self.study.ask(), f"{done + 1} of {wanted}")

    def finished(self) -> list[FrozenTrial]:
        """Trials with an AUC, or with a net that can't be trained; not those that were cut off."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        return [one for one in trials if one.state == TrialState.COMPLETE or _ERROR in one.user_attrs]

    def _drop_unfinished(self) -> None:
        """A trial that was cut off is forgotten; the next one takes its values."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _try(self, trial: Trial, place: str) -> None:
        from optuna.trial import TrialState

        values = {one.key: one.ask(trial) for one in self.space}
        trial.set_user_attr("values", values)
        label = f"trial {trial.number} ({place})"
        tried = ", ".join(f"{_short(key)} {_value(value)}" for key, value in values.items())
        try:
            found = self._fit(values, 1 + trial.number)
        except (ValueError, FloatingPointError) as error:  # a size that doesn't fit, or a step that is too large
            trial.set_user_attr(_ERROR, str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            self.exp.say(f"    {label}: no net: {error} ({tried})")
            return
        self.study.tell(trial, found)
        self.exp.say(f"    {label}: valid AUC {found:.4f}  ({tried})")

    def _fit(self, values: dict[str, Any], part: int) -> float:
        """Train every seed; returns the mean AUC. The predictions are kept, for the intervals."""
        from trackrec.ctr.arms.assemble import draw_arm
        from trackrec.ctr.training.train import fit_arm

        plan, arm = self.plan_of(values), self.settings.arm
        frames, found = [], []
        for seed in self.settings.seeds:
            data = draw_arm(self.data, arm, self.exp.seed, seed)
            result = fit_arm(plan, data, arm, seed, self.folder / "logs")
            p = result.predictions["valid"]
            found.append(auc(p, self.labels))
            frames.append(pl.DataFrame({"sample_id": self.data.sample_ids["valid"], "p": p}))
            frames[-1] = frames[-1].with_columns(model=pl.lit("ctr"), arm=pl.lit(arm), seed=pl.lit(seed))
        write_part(self.folder, "predictions", pl.concat(frames).with_columns(split=pl.lit("valid")), part)
        return float(np.mean(found))

    @property
    def labels(self) -> NDArray[np.float32]:
        """(N,) of validation rows."""
        return self.data.splits["valid"]["label"].numpy()

    def _draws(self, part: int) -> Draws:
        """AUC of a part of the predictions, by seed and over resampled users."""
        rows = standing_part(self.folder, "predictions", part)
        if rows is None:
            raise SettingError(
                f"{self.folder} lacks predictions of trial {part - 1}. Delete the folder and tune again."
            )
        p = rows["p"].to_numpy().reshape(len(self.settings.seeds), -1)
        return seed_draws(auc, np.asarray(self.data.user_ids["valid"]), self.labels, p, seed=self.exp.seed)

    def report(self) -> Found:
        """Print the best trials and return the chosen one.

        Raises:
            SettingError: no trial gave a net.
        """
        ranked = sorted((one for one in self.finished() if one.value is not None), key=lambda one: -(one.value or 0.0))
        if not ranked:
            last = self.finished()[-1].user_attrs[_ERROR]
            raise SettingError(f"tune: none of {len(self.finished())} trials gave a net, the last one because: {last}")
        configured, best = self._draws(0), self._draws(1 + ranked[0].number)
        self.exp.say(
            f"Best of {len(ranked)} trials, validation AUC of arm {self.settings.arm}, mean of "
            f"{len(self.settings.seeds)} seed(s); configured {configured.value:.4f}"
        )
        self.exp.say("  ".join(["trial", "   AUC", *(_short(one.key) for one in self.space)]))
        for one in ranked[:_SHOWN]:
            cells = [_value(one.user_attrs["values"][d.key]).rjust(len(_short(d.key))) for d in self.space]
            self.exp.say("  ".join([f"{one.number:5d}", f"{one.value:.4f}", *cells]))
        if best.value <= configured.value:
            return Found(None, {}, configured.interval(), (configured - configured).interval())
        values = dict(ranked[0].user_attrs["values"])
        return Found(ranked[0].number, values, best.interval(), (best - configured).interval())


def validation_data(inputs: CTRInputs, text: TextSettings, features: FeatureSettings, arm: str) -> CTRData:
    """Features of train and valid rows with what the arm reads; no test row is in it.

    Args:
        inputs: what the CTR stage reads.
        text: how texts enter the nets.
        features: what the dense features hold.
        arm: its name.

    Raises:
        SettingError: the arm can't run.
    """
    from trackrec.ctr.arms.assemble import prepare, runnable_arms

    kept, left_out = runnable_arms(inputs, [arm], text, "tune.arm")
    if arm not in kept:
        raise SettingError(f"tune.arm: {'; '.join(left_out)}.")
    data = prepare(inputs, [arm], text, features)
    # After the features: what is a test row decides which ratings no statistic may count.
    return replace(data, splits={name: data.splits[name] for name in ("train", "valid")})


def _open_study(path: Path, name: str) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every trial; so does this module
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=f"sqlite:///{path.resolve()}", study_name=name, direction="maximize", load_if_exists=True
    )


def _sampler(seed: int, done: int) -> Any:
    """A new sampler for each trial: the state of one isn't kept by the study."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(stable_hash("tune", seed, done, digits=8), 16))


def overlay(config: dict[str, Any], found: Found, search: Search) -> str:
    """The chosen values as YAML, with how they were found; a class is written with all its arguments."""
    values: dict[str, Any] = {}
    after = changed({"ctr": config["ctr"]}, found.values)
    for one in search.space:
        # init_args alone would lose their class: the whole entry stands in for the file's.
        key = one.key.partition(".init_args.")[0]
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = at(after, key)
    done = search.finished()
    which = "the configured net, which no trial beat" if found.number is None else f"trial {found.number}"
    settings = search.settings
    net = str(at(config, "ctr.net.class_path")).rsplit(".", 1)[-1]
    over = "users and seeds" if len(settings.seeds) > 1 else "users only, since there is one seed"
    comment = [
        f"Found by `trackrec tune`: {which}, of {len(done)} trials (Optuna TPE, seed {search.exp.seed}).",
        f"Metric: validation AUC of {net}, arm {settings.arm}, mean of seeds {', '.join(map(str, settings.seeds))}.",
        f"AUC {_interval(found.auc)} on {found.auc.n:,} rows; minus the configured net's "
        f"{_interval(found.gain, '+')}: 95 %, over {over}.",
        "Chosen as the best on these rows, so both numbers flatter it. No test row was read.",
        "Space: " + "; ".join(one.describe() for one in search.space) + ".",
    ]
    return "".join(f"# {line}\n" for line in comment) + yaml.safe_dump(values, sort_keys=False)


def _interval(value: Interval, sign: str = "") -> str:
    return f"{value.value:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


def _short(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
