"""``trackrec sweep``: variants of one experiment, each with several seeds, and one table of what they change.

Every run is a ``trackrec fit`` in a process of its own, in a directory of its own under one folder. The runs of a seed
come one after the other, several seeds at once where ``--jobs`` says so. A stage whose fingerprint another run of the
sweep has made already is taken from there. A sweep that was cut off goes on when it is started again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from rich.console import Console

from trackrec.commands.call import Call
from trackrec.pipeline.lock import locked
from trackrec.pipeline.stage import StageError
from trackrec.runtime.errors import MissingFileError, SettingError
from trackrec.runtime.parent import PARENT
from trackrec.runtime.shell_paths import expand_path
from trackrec.storage.atomic import write_atomic

BASE = "base"
Values = Mapping[str, Any]


def add_arguments(parser: ArgumentParser) -> None:
    """The command's own arguments."""
    files = "YAML files with the keys that differ; the experiment as it is runs too."
    parser.add_argument("--variants", type=str, nargs="+", default=[], help=files)
    parser.add_argument("--seeds", type=str, nargs="+", default=["0,1,2"], help="Of whole runs, one per variant.")
    parser.add_argument("--jobs", type=int, default=1, help="Seeds that run at once, each with a share of the cores.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the runs.")


def run(call: Call) -> None:
    """Run every variant and seed, then write and print the table.

    Raises:
        StageError: some runs failed; the table is written without them.
    """
    from trackrec.commands.sweep_table import print_lines, sweep_lines, sweep_report, write_sweep
    from trackrec.report.numbers import RunNumbers

    own = call.own
    files, seeds, out = variant_files(own["variants"]), chosen_seeds(own["seeds"]), Path(own["output"]).expanduser()
    with locked(out, "--output"):
        variants = resolve(call.config, files, call.parse, out)
        failed = run_all(list(variants), seeds, out, call.say, own["jobs"])
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
    print_lines(lines, Console(width=max(call.console.width, 140)))
    call.say(f"The table is {out / 'sweep.md'}; as CSV {out / 'sweep.csv'}, every run's {out / 'runs.csv'}.")
    if failed:
        raise StageError(
            f"{len(failed)} of {len(variants) * len(seeds)} runs failed and are left out: {', '.join(failed)}. Their "
            f"logs are in {out}. Mend the cause and run the same command again: what is done stays."
        )


def listed(given: Sequence[str]) -> list[str]:
    """What was typed as ``a b``, ``a,b`` or ``[a, b]``."""
    return [part.strip() for text in given for part in text.strip().strip("[]").split(",") if part.strip()]


def chosen_seeds(given: Sequence[str]) -> list[int]:
    """The seeds of ``--seeds``.

    Raises:
        SettingError: they are no different whole numbers.
    """
    words = listed(given)
    if not words or any(not word.isdecimal() for word in words) or len({*map(int, words)}) != len(words):
        raise SettingError(f"--seeds must be different whole numbers such as 0,1,2, got {' '.join(given)!r}.")
    return [int(word) for word in words]


def variant_files(given: Sequence[str]) -> dict[str, Path]:
    """The files of ``--variants`` by the name of their variant.

    Raises:
        MissingFileError: there is no such file.
        SettingError: two have one name.
    """
    files = [Path(expand_path(word, "--variants")) for word in listed(given)]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise MissingFileError(f"--variants: no file {missing[0]!r}.")
    names = [BASE, *(file.stem for file in files)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingError(
            f"--variants: two are called {twice[0]!r}; {BASE!r} is the experiment as it is. Rename a file."
        )
    return {file.stem: file for file in files}


def resolve(
    config: Values, files: Mapping[str, Path], parse: Callable[[Sequence[Path]], tuple[Values, Any]], out_dir: Path
) -> dict[str, Values]:
    """The whole configuration of the base and of every variant, each also written as ``<variant>.yaml``.

    Args:
        config: the experiment as it is, every default in its place.
        files: the keys that differ, by variant.
        parse: see `Call.parse`.
        out_dir: of the sweep.

    Raises:
        SettingError: a file doesn't fit over the base.
    """
    base = out_dir / f"{BASE}.yaml"
    write_atomic(base, yaml.safe_dump(dict(config), sort_keys=False))
    variants: dict[str, Values] = {BASE: config}
    for name, file in files.items():
        try:
            values = parse([base, file])[0]
        except SystemExit as stop:  # the parser has said what is wrong
            raise SettingError(f"--variants: {file} can't be read over the experiment.") from stop
        variants[name] = values
        write_atomic(out_dir / f"{name}.yaml", yaml.safe_dump(dict(values), sort_keys=False))
    return variants


def run_name(variant: str, seed: int) -> str:
    """The directory of one run, and the name of its log."""
    return f"{variant}-seed{seed}"


def run_all(
    variants: Sequence[str], seeds: Sequence[int], out_dir: Path, say: Callable[[str], None], jobs: int = 1
) -> list[str]:
    """Run every variant with every seed.

    Args:
        variants: their names; ``<variant>.yaml`` in ``out_dir`` holds the configuration.
        seeds: of whole runs.
        out_dir: one run directory per variant and seed comes into it, and a log beside it.
        say: prints one line.
        jobs: seeds that run at once, each with its share of the processor's cores; the runs of one seed have stages in
            common and come one after the other.

    Returns:
        Names of the runs that failed; the others went on.

    Raises:
        SettingError: no job at all.
    """
    if jobs < 1:
        raise SettingError(f"--jobs must be at least 1, got {jobs}.")
    total = len(seeds) * len(variants)

    def run_seed(place: int) -> list[str]:
        failed = []
        for number, variant in enumerate(variants, place * len(variants) + 1):
            name, shown = run_name(variant, seeds[place]), f"[{number:2d}/{total}]"
            say(f"{shown} {name} starts, log {out_dir / name}.log")
            if _run(variant, seeds[place], out_dir, jobs):
                say(f"{shown} {name} done")
            else:
                failed.append(name)
                say(f"{shown} {name} failed: {_last_line(out_dir / f'{name}.log')}")
        return failed

    with ThreadPoolExecutor(jobs) as pool:
        return [name for failed in pool.map(run_seed, range(len(seeds))) for name in failed]


def _run(variant: str, seed: int, out_dir: Path, jobs: int) -> bool:
    name = run_name(variant, seed)
    command = [sys.executable, "-m", "trackrec", "fit", "--config", str(out_dir / f"{variant}.yaml")]
    command += ["--seed_everything", str(seed), "--run_dir", str(out_dir / name), "--reuse", str(out_dir)]
    # A sweep that was killed must not leave a run behind: the next one could not have its directory.
    env = {**os.environ, PARENT: str(os.getpid())}
    if jobs > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    env["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    with (out_dir / f"{name}.log").open("wb") as log:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, check=False)
    return ran.returncode == 0


def _last_line(log: Path) -> str:
    """What a failed run said in the end."""
    _, known, message = log.read_text(errors="replace").rpartition("trackrec: error:")
    lines = message.strip().splitlines() or ["it printed nothing"]
    return lines[0] if known else lines[-1]
