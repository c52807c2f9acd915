"""The tables in the terminal: rounds, then arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
from rich.console import Console
from rich.table import Table

from trackrec.ctr.arms.arm import VALIDATORS, Arm
from trackrec.recipe.names import in_round
from trackrec.report.numbers import intervals_note
from trackrec.report.render.arm_names import arm_name, arm_order, text_name, validator_place
from trackrec.report.render.document import Block, Cell, Num, Paragraph, TableBlock

_COLUMNS = {"auc": "AUC", "acc": "ACC", "log_loss": "LogLoss", "uauc": "UAUC"}


class Cells:
    """Looks up metrics by their key.

    Args:
        metrics: the metrics table.
    """

    def __init__(self, metrics: pl.DataFrame) -> None:
        key = ("stage", "round", "split", "arm", "name")
        names = (*key, "value", "ci_low", "ci_high", "n")
        self._rows: dict[tuple[object, ...], tuple[float, float, float, int]] = {
            row[:5]: row[5:] for row in metrics.filter(pl.col("slice") == "all").select(names).iter_rows()
        }

    def value(self, stage: str, round_: int, split: str, arm: str, name: str) -> float | None:
        """The number without its interval, None if it wasn't measured."""
        row = self._rows.get((stage, round_, split, arm, name))
        return row[0] if row else None

    def text(self, stage: str, round_: int, split: str, arm: str, name: str, interval: bool = True) -> str:
        """``.1234 [.1111, .1357]``, or a dash."""
        row = self._rows.get((stage, round_, split, arm, name))
        if not row:
            return "-"
        value, low, high, _ = row
        if not interval or low != low:
            return number(value)
        return f"{number(value)} [{number(low)}, {number(high)}]"

    def count(self, stage: str, round_: int, split: str, arm: str, name: str) -> str:
        """How many rows a number was computed from."""
        row = self._rows.get((stage, round_, split, arm, name))
        return f"{row[3]:,}" if row else "-"


def number(value: float) -> str:
    """Four decimals without the leading zero: ``.7314``, ``-.0021``, ``1.0312``."""
    text = f"{value:.4f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def rounds_table(metrics: pl.DataFrame, rounds: int) -> Table:
    """Rounds × the generator's (G's) held-out reward, the validator's (V's) AUC and ACC, and measures of greedy texts.

    All on validation rows. The V that scored the round's draws computes both rewards: "before" is that of the G before
    the round's alignment.
    """
    cells = Cells(metrics)
    table = Table(title="Rounds (validation)", title_justify="left")
    for name in ("round", "G reward before", "G reward after", "V AUC", "V ACC", "distinct-2", "words", "cut"):
        table.add_column(name, justify="left" if name == "round" else "right", no_wrap=True)
    for round_ in range(rounds + 1):
        stage = in_round(round_, "evaluate")
        if cells.value(stage, round_, "valid", "scorer", "auc") is None:
            continue
        earlier = in_round(max(round_ - 1, 0), "evaluate")
        tuned = "tuned" if cells.value(stage, round_, "valid", "tuned", "auc") is not None else "scorer"
        before_arm = "tuned" if cells.value(earlier, round_ - 1, "valid", "tuned", "auc") is not None else "scorer"
        before = "-" if round_ == 0 else cells.text(earlier, round_ - 1, "valid", before_arm, "reward", interval=False)
        words = cells.value(stage, round_, "all", "texts", "mean_words")
        table.add_row(
            f"{round_}" if round_ else "0 (start)",
            before,
            cells.text(stage, round_, "valid", "scorer", "reward"),
            cells.text(stage, round_, "valid", tuned, "auc"),
            cells.text(stage, round_, "valid", tuned, "acc", interval=False),
            cells.text(stage, round_, "all", "texts", "distinct_2", interval=False),
            "-" if words is None else f"{words:.1f}",
            cells.text(stage, round_, "all", "texts", "cut_share", interval=False),
        )
    return table


def arms_table(metrics: pl.DataFrame, split: str, net: str, rounds: int) -> Table:
    """Arms × AUC, ACC, LogLoss and UAUC on one split, with 95 % intervals over users and the seeds, if several."""
    cells = Cells(metrics)
    table = Table(title=f"Arms ({split})", title_justify="left")
    table.add_column("arm", no_wrap=True)
    for name in (*_COLUMNS.values(), "rows"):
        table.add_column(name, justify="right", no_wrap=True)
    trained = metrics.filter((pl.col("stage") == ("test" if split == "test" else "ctr")) & (pl.col("split") == split))
    # Arms with texts for a share of the users are in `coverage_table`.
    full_coverage = [arm for arm in trained["arm"].unique() if Arm.parse(arm).coverage == 1]
    for arm in sorted({*full_coverage, *VALIDATORS}, key=arm_order):
        key = _where(arm, split, rounds)
        if cells.value(*key, "auc") is None:
            continue
        values = [cells.text(*key, name, interval=name == "auc") for name in _COLUMNS]
        table.add_row(arm_name(arm, net), *values, cells.count(*key, "auc"))
    return table


def coverage_table(metrics: pl.DataFrame, split: str, net: str) -> Table | None:
    """AUC by the share of users that keep their texts, from none to all; None if no such arm was trained."""
    cells = Cells(metrics)
    stage = "test" if split == "test" else "ctr"
    trained = metrics.filter(pl.col("stage") == stage)["arm"].unique().to_list()
    shares = {share: arm for arm in trained if (share := Arm.parse(arm).coverage) < 1}
    if not shares:
        return None
    table = Table(title=f"{net} by the share of users with a RecCoT ({split})", title_justify="left")
    for name in ("users with a text", "AUC", "minus no text", "rows"):
        table.add_column(name, justify="right", no_wrap=True)
    for share, arm in [(0.0, "none"), *sorted(shares.items()), (1.0, "reccot")]:
        key = (stage, -1, split, arm)
        if cells.value(*key, "auc") is not None:
            values = (cells.text(*key, name) for name in ("auc", "auc_minus_none"))
            table.add_row(f"{share:.0%}", *values, cells.count(*key, "auc"))
    return table


def _where(arm: str, split: str, rounds: int) -> tuple[str, int, str, str]:
    """Stage, round, split and arm of the metrics that a row of the arms table shows."""
    if split == "test":
        return "test", -1, split, arm
    if arm in VALIDATORS:
        own, round_, name = validator_place(arm, rounds)
        return own, round_, split, name
    return "ctr", -1, split, arm


def differences(metrics: pl.DataFrame, split: str, net: str) -> list[str]:
    """One line per comparison of RecCoT with its controls: the paired difference in AUC, with its interval."""
    cells = Cells(metrics)
    stage = "test" if split == "test" else "ctr"
    lines = []
    for other in ("none", "shuffled"):
        text = cells.text(stage, -1, split, "reccot", f"auc_minus_{other}")
        if text != "-":
            lines.append(f"{arm_name('reccot', net)} minus {text_name(other)}: AUC {text} ({split}, paired)")
    one_class = cells.value(stage, -1, split, "reccot", "users_one_class")
    if one_class:
        users = cells.count(stage, -1, split, "reccot", "users_one_class")
        lines.append(f"UAUC leaves out {one_class:,.0f} of {users} users, whose rows have one class.")
    return lines


def print_report(
    metrics: pl.DataFrame, facts: Mapping[str, object], console: Console, first: Sequence[Block] = ()
) -> None:
    """Print the tables that have a row.

    Args:
        metrics: all metrics of the run.
        facts: ``rounds``, ``split``, ``net``, ``seeds`` (how many, of the nets), and ``test_reads`` if the test split
            was read.
        console: where to.
        first: tables and sentences of the report that are printed before them.
    """
    for block in first:
        _print_block(block, console)
    split, net = str(facts["split"]), str(facts["net"])
    rounds = int(str(facts["rounds"]))
    tables = (rounds_table(metrics, rounds), arms_table(metrics, split, net, rounds))
    for table in (*tables, coverage_table(metrics, split, net)):
        if table is not None and table.row_count:
            console.print(table)
    lines = differences(metrics, split, net)
    for line in (*lines, intervals_note(int(str(facts["seeds"])))) if lines else ():
        console.print(line, highlight=False, soft_wrap=True)
    if split == "test":
        console.print(f"The test split was read {facts['test_reads']} time(s) in this run directory.", highlight=False)


def _print_block(block: Block, console: Console) -> None:
    """A table without its caption, or a paragraph."""
    if isinstance(block, TableBlock):
        table = Table(title=block.title, title_justify="left")
        for place, name in enumerate(block.columns):
            table.add_column(name, justify="right" if place else "left", no_wrap=True)
        for row in block.rows:
            table.add_row(*(_cell(cell) for cell in row))
        console.print(table, markup=False)
    elif isinstance(block, Paragraph):
        console.print(block.text, highlight=False, soft_wrap=True, markup=False)


def _cell(cell: Cell) -> str:
    """A cell in the characters of the other tables."""
    text = cell if isinstance(cell, str) else cell.text
    if isinstance(cell, Num) and cell.interval:
        text = f"{text} {cell.interval}"
    return text.replace("−", "-").replace("–", "-")
