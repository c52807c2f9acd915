"""The report's section "Data", from what the stage ``data`` kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from made_run import EVIL, MadeRun, made_config
from reading import row, section, tables

from trackrec.report.render.document import Code, Missing, Notice, Num, Paragraph, Report
from trackrec.report.render.markdown import to_markdown
from trackrec.report.render.page import to_html
from trackrec.report.report import build_report


def test_the_section_by_hand(made_report: Report) -> None:
    """Thirty users with the ratings 5, 2, 4 and 1, a day apart, of six films."""
    part = section(made_report, "data")
    text, *cut = (block.text for block in part.blocks if isinstance(block, Paragraph))
    assert text == (
        "120 ratings by 30 users of 6 items, from 2000-01-01 to 2000-01-04. 50.0% of them are likes, ratings above 3. "
        "0 items have no rating; 0 users like all that they rated, or nothing."
    )
    assert cut == [
        f"{name[0].upper()} lists the newest 3 items (prompts.{name}.max_history): 30 of 30 histories have more."
        for name in ("generator", "validator")
    ]
    ratings, spread, splits, counts = tables(made_report, "data")
    assert [(line[0], line[1].text, line[2].text) for line in ratings.rows] == [  # type: ignore[union-attr]
        ("1", "30", "25.0 %"),
        ("2", "30", "25.0 %"),
        ("4, a like", "30", "25.0 %"),
        ("5, a like", "30", "25.0 %"),
    ]
    likes = row(spread, "share of likes of a user (quartiles)")
    assert [likes[name].text for name in ("low", "median", "high")] == ["50.0 %"] * 3
    items = row(spread, "ratings of a rated item (10 %, median, 90 %)")
    assert [items[name].value for name in ("low", "median", "high")] == [20, 20, 20]
    train = row(splits, "train")
    assert (train["samples"].value, train["histories"].value, train["likes"].text) == (120, 30, "50.0 %")
    assert "120 score texts and 0 tune V; 30 train histories have both" in splits.caption
    assert row(counts, "users")["count"] == Num(30.0, unit="count")
    assert not [block for block in part.blocks if isinstance(block, Notice)]


def test_histories_stand_there_as_the_prompts_show_them(made_report: Report) -> None:
    """Both readers see the same; a film's name that is markup stays text."""
    shown = [block for block in section(made_report, "data").blocks if isinstance(block, Code)]
    assert [block.title for block in shown] == [f"User u{u}, 4 items, in G's and V's prompt" for u in (0, 1, 2)]
    assert shown[0].text == (
        "The films a viewer rated, oldest first:\n"
        f"Night Garden (1991) [War]: disliked\n{EVIL} (1992) [Comedy]: liked\nIron Coast (1993) [Drama]: disliked"
    )
    page = to_html(made_report)
    assert 'id="data"' in page
    assert EVIL not in page
    assert "## Data" in to_markdown(made_report)


def test_two_readers_stand_apart_and_cautions_above_all(made_dir: Any, tmp_path: Path) -> None:
    config = made_config() | {"dataset": {"class_path": "Table"}}
    config["prompts"] = {"max_history": 3, "validator": {"max_history": 1}}
    made = MadeRun(tmp_path, config)
    made.ratings = lambda: [line | {"timestamp": 7} for line in MadeRun.ratings(made)]  # type: ignore[method-assign]
    made.data()
    part = section(build_report(tmp_path, config), "data")
    titles = [block.title for block in part.blocks if isinstance(block, Code)]
    assert titles[:2] == ["User u0, 4 items, in G's prompt", "User u0 in V's prompt"]
    first = part.blocks[0]
    assert isinstance(first, Notice)
    assert first.text.startswith("All ratings have the same time")
    assert first.text.endswith("Change dataset.init_args.columns.timestamp.")


def test_without_kept_ratings_only_the_counts_are_shown(made_dir: Any, tmp_path: Path) -> None:
    run_dir, config = made_dir
    shutil.copytree(run_dir, tmp_path / "run")
    made = MadeRun(tmp_path / "run", config)
    made.ratings = list  # type: ignore[method-assign]
    made.data()
    report = build_report(tmp_path / "run", config)
    (counts,) = tables(report, "data")
    assert row(counts, "ratings kept")["count"].value == 100
    shutil.rmtree(tmp_path / "run" / "data")
    MadeRun(tmp_path / "run", config).finish("distill", [])
    (block,) = section(build_report(tmp_path / "run", config), "data").blocks
    assert isinstance(block, Missing)
