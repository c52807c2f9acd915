"""`trackrec fit` stage by stage, packed against plain: ``python scripts/bench_fit.py --small``.

Plain is the same package with one row per branch and one cache row per draw, which is how it runs a model that can't be
packed. Both ways do each stage from the same files, in turn, each in a new process; seconds are those of the stage's
manifest. Further arguments are those of ``trackrec fit``. With the shipped number of users the plain way takes an hour
or two: ``--small`` takes a tenth of them and one round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trackrec.storage.manifest import read_manifest

SMALL = ["--loop.users", "0.016", "--loop.warmup_users", "0.032", "--loop.rounds", "1", "--loop.eval_samples", "60"]
# The stages of a language model; the others don't differ between the ways.
STAGES = ("distill", "greedy", "sample", "score", "align", "rec_tune", "evaluate", "texts")


class Took(NamedTuple):
    """Seconds and peak bytes of a stage."""

    seconds: float
    peak: int


def main() -> None:
    """Run, print a table, and write it to ``--json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--last", default="texts", help="the last stage to run, such as warmup/greedy")
    parser.add_argument("--json", type=Path)
    args, more = parser.parse_known_args()
    arguments = ["--config", args.config, *(SMALL if args.small else []), *more]
    with tempfile.TemporaryDirectory() as folder:
        by_stage = compare(arguments, Path(folder), args.last)
    total = {way: sum(took[way].seconds for took in by_stage.values()) for way in ("packed", "plain")}
    for stage, took in by_stage.items():
        packed, plain = took["packed"], took["plain"]
        print(
            f"{stage:20} packed {packed.seconds:7.1f} s {packed.peak / 2**20:6.0f} MiB   plain {plain.seconds:7.1f} s "
            f"{plain.peak / 2**20:6.0f} MiB   {plain.seconds / packed.seconds:.2f}x"
        )
    ratio = total["plain"] / total["packed"]
    print(f"{'all':20} packed {total['packed']:7.1f} s plain {total['plain']:7.1f} s   {ratio:.2f}x")
    if args.json:
        report = {stage: {way: costs._asdict() for way, costs in took.items()} for stage, took in by_stage.items()}
        args.json.write_text(json.dumps({"arguments": arguments, "stages": report, "total": total}, indent=1) + "\n")


def compare(arguments: Sequence[str], folder: Path, last: str) -> dict[str, dict[str, Took]]:
    """What each stage of a language model took either way; the packed way's files are the next stage's input."""
    packed, plain = folder / "packed", folder / "plain"
    by_stage: dict[str, dict[str, Took]] = {}
    for index, stage in enumerate(_stages(arguments, packed, last)):
        if stage.rsplit("/", 1)[-1] not in STAGES:
            _fit(arguments, packed, stage, plain=False)
            continue
        shutil.rmtree(plain, ignore_errors=True)
        shutil.copytree(packed, plain)
        turns = [("packed", packed), ("plain", plain)]
        by_stage[stage] = {}
        for way, run_dir in turns if index % 2 else reversed(turns):
            by_stage[stage][way] = _fit(arguments, run_dir, stage, plain=way == "plain")
        print(stage, {way: round(took.seconds, 1) for way, took in by_stage[stage].items()}, flush=True)
    return by_stage


def _stages(arguments: Sequence[str], run_dir: Path, last: str) -> list[str]:
    """Names of the stages up to ``last``, in order."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_name_stages, args=(list(arguments), str(run_dir), send))
    process.start()
    send.close()
    names: list[str] = receive.recv()
    process.join()
    return names[: names.index(last) + 1]


def _name_stages(arguments: list[str], run_dir: str, send: Any) -> None:
    from trackrec.pipeline.pipeline import Pipeline

    def send_names(pipeline: Pipeline, _: Sequence[str] | None = None) -> list[str]:
        send.send([stage.name for stage in pipeline.stages])
        return []

    Pipeline.run = send_names  # type: ignore[method-assign]
    _run(arguments, run_dir)


def _fit(arguments: Sequence[str], run_dir: Path, stage: str, plain: bool) -> Took:
    process = multiprocessing.get_context("spawn").Process(
        target=_fit_here, args=([*arguments, "--stages", stage], str(run_dir), plain)
    )
    process.start()
    process.join()
    manifest = read_manifest(run_dir / stage)
    if process.exitcode or manifest is None:
        raise SystemExit(f"stage {stage} failed")
    return Took(manifest.seconds, manifest.peak_memory_bytes)


def _fit_here(arguments: list[str], run_dir: str, plain: bool) -> None:
    from trackrec.llm.backbone import LanguageModel

    if plain:
        LanguageModel.can_pack = lambda _: False  # type: ignore[method-assign]
    _run(arguments, run_dir)


def _run(arguments: list[str], run_dir: str) -> None:
    from trackrec.cli.app import run_cli

    sys.argv = ["trackrec"]  # LightningCLI warns if there are arguments on the command line besides those passed to it
    run_cli(["fit", *arguments, "--run_dir", run_dir])


if __name__ == "__main__":
    main()
