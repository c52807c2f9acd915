"""From a parsed config to a run pipeline, and what is printed of it: the body of every command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from trackrec.align.module import StaleReferenceError
from trackrec.ctr.arms.arms import MissingEmbeddingError
from trackrec.ctr.plan import check_plan
from trackrec.interactions import DataError
from trackrec.llm.memory import MemoryLimitError
from trackrec.llm.model_files import check_model_path
from trackrec.llm.training.devices import choose_gpu
from trackrec.llm.vllm.process import VLLMError
from trackrec.pipeline.lock import ForeignFilesError, RunLockedError
from trackrec.pipeline.processes import run_in_processes
from trackrec.pipeline.stage import Stage, StageError, StageResult, StoppedByMonitorError
from trackrec.recipe.build import Objects, build_experiment, ctr_plan
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.loop import Loop
from trackrec.recipe.recommend import Recommend, all_metrics, test_reads
from trackrec.recipe.steps import Steps
from trackrec.report.render.terminal import print_report
from trackrec.runtime.packages import MissingPackageError
from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory
from trackrec.runtime.terminal_text import plain
from trackrec.storage.schemas import TableError

Parse = Callable[[Sequence[Path]], dict[str, Any]]


# Whose trainer runs a kind of stage.
_SECTION = {"distill": "distill", "align": "align", "rec_tune": "rec_tune"}


def known_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a user needs."""
    plain = (ValueError, FileNotFoundError, FloatingPointError)
    found = (DataError, StageError, TableError, RunLockedError, ForeignFilesError, MissingEmbeddingError)
    return (*found, StaleReferenceError, MemoryLimitError, MissingPackageError, VLLMError, *plain)


def run(
    command: str, config: dict[str, Any], own: dict[str, Any], objects: Objects, parse: Parse | None = None
) -> None:
    """Run one command.

    Args:
        command: ``fit``, ``test``, ``predict``, ``export``, ``tune``, ``plan``, ``sweep`` or ``report``.
        config: the resolved configuration as plain types.
        own: the command's own arguments.
        objects: builds the configuration's objects anew at each call.
        parse: reads configuration files, the later ones over the earlier ones; ``sweep`` needs it.
    """
    console = Console(highlight=False, soft_wrap=True)
    if command == "plan":
        from trackrec.commands.plan import parse_memory, plan_lines

        memory = parse_memory(own["gpu"]) if own["gpu"] else None
        console.print("\n".join(plan_lines(objects(), memory, own["prompt_tokens"])), markup=False)
        return
    if command == "sweep":
        assert parse is not None
        _sweep(config, own, parse, console)
        return
    if command == "report":
        _report(Path(config["run_dir"]).expanduser(), config, console)
        return
    experiment = build_experiment(config, objects, lambda text: console.print(plain(text, keep=""), markup=False))
    experiment.pipeline.reuse = reused_folder(own.get("reuse"))
    experiment.pipeline.spread = partial(_spread, experiment)
    steps = Steps(experiment)
    loop = Loop(experiment, steps)
    loop.add_stages()
    recommend = Recommend(experiment, loop, steps)
    recommend.add_stages()
    if command == "predict":
        from trackrec.serving.predict import predict

        predict(experiment, recommend, Path(own["requests"]), Path(own["output"]), own["arm"], own["unknown"])
        return
    if command == "export":
        from trackrec.serving.export import export

        export(experiment, own["arm"], own["seed"], Path(own["output"]))
        return
    if command == "tune":
        from trackrec.commands.tune import tune

        output = Path(own["output"]) if own["output"] else None
        tune(experiment, objects().tune, lambda changes: ctr_plan(objects, changes), own["trials"], output)
        return
    _run_stages(command, experiment, recommend, own["stages"], config, console)


def _run_stages(
    command: str,
    experiment: Experiment,
    recommend: Recommend,
    chosen: Any,
    config: dict[str, Any],
    console: Console,
) -> None:
    """``fit`` or ``test``: the stages, then what they found."""
    if command == "fit":
        check_plan(experiment.ctr)
        if "embed" in experiment.ctr_stages():
            check_model_path(experiment.embed.model, "embed")
    split = "valid"
    stages = [name.strip() for name in chosen.split(",")] if isinstance(chosen, str) else chosen
    if command == "test":
        split, stages = "test", ["test"]
        recommend.add_test()
    try:
        experiment.pipeline.run(stages)
    except StoppedByMonitorError:
        _report(experiment.pipeline.run_dir, config, console)
        raise
    facts = {"rounds": experiment.loop.rounds, "split": split, "net": net_name(config)}
    if split == "test":
        facts["test_reads"] = test_reads(experiment.pipeline.run_dir)
    metrics = all_metrics(experiment)
    if len(metrics):
        print_report(metrics, facts, Console(width=max(console.width, 120)))
    experiment.say(f"Everything is in the metrics tables under {experiment.pipeline.run_dir}.")
    _report(experiment.pipeline.run_dir, config, console)


def _sweep(config: dict[str, Any], own: dict[str, Any], parse: Parse, console: Console) -> None:
    from trackrec.commands.sweep import chosen_seeds, resolve, run_all, run_name, variant_files
    from trackrec.commands.sweep_table import print_lines, sweep_lines, sweep_report, write_sweep
    from trackrec.pipeline.lock import locked
    from trackrec.report.numbers import RunNumbers

    files, seeds, out = variant_files(own["variants"]), chosen_seeds(own["seeds"]), Path(own["output"]).expanduser()
    with locked(out, "--output"):
        variants = resolve(config, files, parse, out)
        say = lambda text: console.print(plain(text, keep=""), markup=False)  # noqa: E731
        failed = run_all(list(variants), seeds, out, say, own["jobs"])
        runs = {
            variant: {
                seed: RunNumbers(out / run_name(variant, seed), values)
                for seed in seeds
                if run_name(variant, seed) not in failed
            }
            for variant, values in variants.items()
        }
        lines = sweep_lines(runs, seeds)
        write_sweep(out, lines, runs, sweep_report(lines, out.resolve().name, seeds, failed))
    print_lines(lines, Console(width=max(console.width, 140)))
    console.print(
        f"The table is {out / 'sweep.md'}; as CSV {out / 'sweep.csv'}, every run's {out / 'runs.csv'}.", markup=False
    )
    if failed:
        raise StageError(
            f"{len(failed)} of {len(variants) * len(seeds)} runs failed and are left out: {', '.join(failed)}. Their "
            f"logs are in {out}. Mend the cause and run the same command again: what is done stays."
        )


def _report(run_dir: Path, config: dict[str, Any], console: Console) -> None:
    from trackrec.report.report import write_report

    page = write_report(run_dir, config)
    console.print(f"The report is {page}; the same as Markdown is {page.with_name('report.md')}.", markup=False)


def _spread(experiment: Experiment, stage: Stage, work: Path) -> StageResult:
    """Run a stage in several processes, which load the models themselves."""
    experiment.drop_models()
    return run_in_processes(stage.name, work, stage.processes)


def run_body(config: dict[str, Any], objects: Objects, stage: str, work: Path, loud: bool) -> StageResult:
    """The body of one stage of the loop, as one of its processes runs it: no lock, no manifest.

    Args:
        config: the resolved configuration.
        objects: see `run`.
        stage: its name.
        work: the directory that it fills.
        loud: whether this process speaks for all.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=not loud)
    experiment = build_experiment(config, objects, lambda text: console.print(plain(text, keep=""), markup=False))
    Loop(experiment, Steps(experiment)).add_stages()
    (found,) = (one for one in experiment.pipeline.stages if one.name == stage)
    choose_gpu(config[_SECTION[found.kind]]["trainer"]["devices"])
    reset_peak_memory()
    return StageResult(found.run(work), peak_memory())


def reused_folder(given: Path | None) -> Path | None:
    """The folder of ``--reuse``.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = Path(given).expanduser() if given else None
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"--reuse: no folder {str(folder)!r}. Give a run directory, or a folder of them.")
    return folder


def net_name(config: dict[str, Any]) -> str:
    """The class name of the CTR net."""
    net = config["ctr"]["net"]
    return str(net["class_path"] if isinstance(net, dict) else net).rsplit(".", 1)[-1]
