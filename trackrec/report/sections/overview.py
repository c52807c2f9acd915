"""What was run: rows in each stage, models, seeds, versions, costs, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from trackrec.recipe.graph import stage_names
from trackrec.recipe.names import in_round
from trackrec.report.numbers import RunNumbers
from trackrec.report.render.document import Block, Cell, Code, Figure, Missing, Num, Section, TableBlock
from trackrec.report.render.figures import bars


def run_section(run: RunNumbers) -> Section:
    """Rows of the stages, models and versions."""
    blocks: list[Block] = []
    if counts := _stage_counts(run):
        blocks.append(TableBlock("What the stages processed.", ("stage", "what", "count"), counts))
    blocks.append(_models_table(run))
    return Section("run", "What was run", blocks)


def about(run: RunNumbers) -> list[str]:
    """Short facts for the top of the page."""
    config = run.saved_config
    validator = config.get("validator_backbone")
    model = short_model(config["backbone"])
    models = f"G and V: {model}" if not validator else f"G: {model}, V: {short_model(validator)}"
    return [
        class_name(config["dataset"]),
        models,
        f"{run.rounds} rounds",
        class_name(config["ctr"]["net"]),
        f"seed {config['seed_everything']}",
    ]


def class_name(value: Any) -> str:
    """The class that a config entry names, without its module."""
    return str(value["class_path"] if isinstance(value, Mapping) else value).rsplit(".", 1)[-1]


def short_model(backbone: Mapping[str, Any]) -> str:
    """The last part of a model's path."""
    return str(backbone["model"]).rstrip("/").rsplit("/", 1)[-1]


def missing_blocks(run: RunNumbers) -> list[Block]:
    """What the run hasn't done yet, in one line each."""
    blocks: list[Block] = []
    absent = [name for name in stage_names(run.config) if not run.has(name)]
    if absent:
        blocks.append(Missing(f"Not done yet: {', '.join(absent)}. `trackrec fit` with the same config continues."))
    if not run.has("test"):
        blocks.append(Missing("The test split has not been read for this state of the run: `trackrec test` reads it."))
    if run.outdated:
        names = ", ".join(run.outdated)
        blocks.append(
            Missing(f"Left out, since their inputs have been replaced: {names}. `trackrec fit` runs them again.")
        )
    if run.foreign:
        names = ", ".join(run.foreign)
        blocks.append(Missing(f"Left out, since this configuration has no such stages: {names}."))
    return blocks


def _stage_counts(run: RunNumbers) -> list[list[Cell]]:
    """What the finished stages processed: stage, what, count."""
    wanted = [
        ("teacher", "asked", "histories given to the teacher"),
        ("teacher", "without_text", "of them without a text"),
        ("teacher", "without_history", "empty histories, about which no teacher is asked"),
        ("distill", "examples", "texts that G was distilled on"),
        (in_round(0, "rec_tune"), "tuning_rows", "rows of the warm-up of V"),
        (in_round(1, "sample"), "histories", "histories in a round"),
        (in_round(1, "sample"), "texts", "draws in a round"),
        (in_round(1, "sample"), "left_out_without_history", "empty histories, about which nothing is drawn"),
        (in_round(1, "score"), "questions", "scores by V in a round"),
        (in_round(run.rounds, "rec_tune"), "tuning_rows", "rows that tuned V in the last round"),
        (in_round(run.rounds, "evaluate"), "questions", "validation rows of V"),
        (in_round(run.rounds, "evaluate"), "histories", "histories of these"),
        ("texts", "texts", "further histories that got a final text"),
        ("texts", "without_history", "empty histories among these, whose text is fixed"),
        ("ctr", "train", "train rows of the CTR nets"),
        ("ctr", "valid", "validation rows of the CTR nets"),
        ("ctr", "test", "test rows of the CTR nets"),
        ("ctr", "left_out", "rows left out: no text about their history"),
        ("test", "questions", "test rows of V"),
    ]
    return [
        [stage, text, Num(float(run.notes(stage)[key]), unit="count")]
        for stage, key, text in wanted
        if isinstance(run.notes(stage).get(key), int | float)
    ]


def _models_table(run: RunNumbers) -> TableBlock:
    config = run.saved_config
    rows: list[list[Cell]] = [["generator G", _describe(config["backbone"])]]
    validator = config.get("validator_backbone")
    rows.append(["validator V", _describe(validator) if validator else "another adapter on the same model"])
    rows.append(["teacher", class_name(config["teacher"])])
    rows.append(["text encoder", str(config["embed"]["model"])])
    connector = config["ctr"].get("connector")
    rows.append(["CTR net", class_name(config["ctr"]["net"]) + (f" + {class_name(connector)}" if connector else "")])
    rows.append(["seeds", f"run {config['seed_everything']}, CTR {', '.join(map(str, config['ctr']['seeds']))}"])
    rows.append(["split", f"{config['samples']['protocol']}, history per {config['samples']['per']}"])
    for versions, stages in _versions(run).items():
        rows.append(["versions" if len(stages) == len(run.manifests) else f"versions ({', '.join(stages)})", versions])
    return TableBlock("Models, seeds and versions.", ("what", "value"), rows)


def _describe(backbone: Mapping[str, Any]) -> str:
    lora = backbone.get("lora") or {}
    parts = [str(backbone["model"]), str(backbone.get("dtype", ""))]
    if backbone.get("quantize", "none") != "none":
        parts.append(str(backbone["quantize"]))
    return ", ".join([*filter(None, parts), f"LoRA r {lora.get('r')}, alpha {lora.get('alpha')}"])


def _versions(run: RunNumbers) -> dict[str, list[str]]:
    """Versions as one line, with the stages that ran on them."""
    stages: dict[str, list[str]] = {}
    for stage, manifest in run.manifests.items():
        line = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        stages.setdefault(line, []).append(stage)
    return stages


# -- time and memory ----------------------------------------------------------------------------------------------


def cost_section(run: RunNumbers) -> Section:
    """Seconds and peak memory of every stage."""
    title = "Where time and memory went"
    if not run.manifests:
        return Section("cost", title, [Missing("No stage is done.")])
    rows: list[list[Cell]] = []
    seconds: dict[str, float] = {}
    memory: Counter[str] = Counter()
    for stage, manifest in run.manifests.items():
        kind = stage.rsplit("/", 1)[-1]
        seconds[kind] = seconds.get(kind, 0.0) + manifest.seconds
        memory[kind] = max(memory[kind], manifest.peak_memory_bytes)
        tokens = manifest.notes.get("tokens")
        count, unit = (sum(manifest.rows.values()), "rows") if tokens is None else (int(tokens), "tokens")
        rate = Num(count / manifest.seconds, unit="one") if count and manifest.seconds else "–"
        cells: list[Cell] = [Num(manifest.seconds, unit="one"), Num(float(count), unit="count"), unit, rate]
        rows.append([stage, *cells, Num(manifest.peak_memory_bytes / 2**30, unit="one")])
    total = sum(seconds.values())
    rows.append(["all", Num(total, unit="one"), "", "", "", Num(max(memory.values()) / 2**30, unit="one")])
    top = sorted(seconds.items(), key=lambda entry: -entry[1])
    panels = [
        bars("Seconds", [(kind, value, f"{value:,.0f} s") for kind, value in top]),
        bars("Peak memory", [(kind, memory[kind], f"{memory[kind] / 2**30:.1f} GiB") for kind, _ in top]),
    ]
    threads = sorted({manifest.threads for manifest in run.manifests.values()})
    table = TableBlock(
        f"The last run of every stage, with {' or '.join(map(str, threads))} threads. Peak memory is the process's "
        "(with a GPU, the GPU's) while the stage ran, including models that earlier stages left loaded.",
        ("stage", "seconds", "amount", "of", "per second", "peak GiB"),
        rows,
    )
    caption = (
        f"{total / 60:,.0f} minutes in all, by kind of stage over all rounds; the memory is the highest of a kind."
    )
    return Section("cost", title, [Figure(caption, panels, table, folded=True)])


def settings_section(run: RunNumbers) -> Section:
    """The resolved configuration."""
    text = yaml.safe_dump(_without_nulls(run.saved_config), sort_keys=False, allow_unicode=True)
    blocks: list[Block] = [Code("The resolved configuration (values that are null are left out)", text)]
    return Section("settings", "Settings", blocks)


def _without_nulls(value: Any) -> Any:
    """A config without its null entries: of a trainer's sixty flags few are set."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return value
