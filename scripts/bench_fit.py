"""`trackrec fit` stage by stage, packed against plain: ``python scripts/bench_fit.py --small``.

Plain is the same package with one row per branch and one cache row per draw, as it runs a model that it can't pack.
Both ways do each stage from the same files, in turn, each in a process of its own that has loaded nothing before;
seconds are those of the stage's manifest. Further arguments are those of ``trackrec fit``. With the shipped number of
users the plain way takes an hour or two: ``--small`` takes a tenth of them and one round.
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
# The stages of a language model; the others are the same either way.
STAGES = ("distill", "greedy", "sample", "score", "align", "rec_tune", "evaluate", "texts")


class Took(NamedTuple):
    """Seconds and peak bytes of a stage."""

    seconds: float
    peak: int


def main() -> None:
    """Run, print a table, and write it where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    given, more = parser.parse_known_args()
    arguments = ["--config", given.config, *(SMALL if given.small else []), *more]
    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments, Path(folder))
    total = {way: sum(took[way].seconds for took in found.values()) for way in ("packed", "plain")}
    for stage, took in found.items():
        packed, plain = took["packed"], took["plain"]
        print(
            f"{stage:20} packed {packed.seconds:7.1f} s {packed.peak / 2**20:6.0f} MiB   plain {plain.seconds:7.1f} s "
            f"{plain.peak / 2**20:6.0f} MiB   {plain.seconds / packed.seconds:.2f}x"
        )
    ratio = total["plain"] / total["packed"]
    print(f"{'all':20} packed {total['packed']:7.1f} s plain {total['plain']:7.1f} s   {ratio:.2f}x")
    if given.json:
        report = {stage: {way: one._asdict() for way, one in took.items()} for stage, took in found.items()}
        given.json.write_text(json.dumps({"arguments": arguments, "stages": report, "total": total}, indent=1) + "\n")


def compare(arguments: Sequence[str], folder: Path) -> dict[str, dict[str, Took]]:
    """What each stage of a language model took either way; the packed way's files are the next stage's input."""
    kept, other = folder / "packed", folder / "plain"
    found: dict[str, dict[str, Took]] = {}
    for place, stage in enumerate(_stages(arguments, kept)):
        if stage.rsplit("/", 1)[-1] not in STAGES:
            _fit(arguments, kept, stage, plain=False)
            continue
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(kept, other)
        turns = [("packed", kept), ("plain", other)]
        found[stage] = {}
        for way, run_dir in turns if place % 2 else reversed(turns):
            found[stage][way] = _fit(arguments, run_dir, stage, plain=way == "plain")
        print(stage, {way: round(took.seconds, 1) for way, took in found[stage].items()}, flush=True)
    return found


def _stages(arguments: Sequence[str], run_dir: Path) -> list[str]:
    """Names of the stages up to the final texts, in order."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_name_stages, args=(list(arguments), str(run_dir), send))
    process.start()
    send.close()
    names: list[str] = receive.recv()
    process.join()
    return names[: names.index("texts") + 1]


def _name_stages(arguments: list[str], run_dir: str, send: Any) -> None:
    from trackrec.pipeline.pipeline import Pipeline

    def tell(pipeline: Pipeline, _: Sequence[str] | None = None) -> list[str]:
        send.send([stage.name for stage in pipeline.stages])
        return []

    Pipeline.run = tell  # type: ignore[method-assign]
    _run(arguments, run_dir)


def _fit(arguments: Sequence[str], run_dir: Path, stage: str, plain: bool) -> Took:
    process = multiprocessing.get_context("spawn").Process(
        target=_fit_here, args=([*arguments, "--stages", stage], str(run_dir), plain)
    )
    process.start()
    process.join()
    manifest = read_manifest(run_dir / stage)
    if process.exitcode or manifest is None:
        raise SystemExit(f"stage {stage} did not end well")
    return Took(manifest.seconds, manifest.peak_memory_bytes)


def _fit_here(arguments: list[str], run_dir: str, plain: bool) -> None:
    from trackrec.llm.backbone import LanguageModel

    if plain:
        LanguageModel.can_pack = lambda _: False  # type: ignore[method-assign]
    _run(arguments, run_dir)


def _run(arguments: list[str], run_dir: str) -> None:
    from trackrec.cli.app import run_cli

    sys.argv = ["trackrec"]  # what Lightning would warn of beside arguments given here
    run_cli(["fit", *arguments, "--run_dir", run_dir])


if __name__ == "__main__":
    main()
