"""The page and the Markdown file: well-formed, inert, the same facts, every figure drawn."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
from made_run import EVIL, USERS
from markupsafe import Markup

from trackrec.report.render.document import (
    Badge,
    Block,
    Code,
    Example,
    Figure,
    Folded,
    Missing,
    Notice,
    Num,
    Paragraph,
    Report,
    Section,
    Span,
    TableBlock,
    Verdict,
)
from trackrec.report.render.figures import forest
from trackrec.report.render.markdown import plain, to_markdown
from trackrec.report.render.page import to_html
from trackrec.report.report import write_report

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Tree(HTMLParser):
    """Checks that every element is closed in its turn, and collects elements, attributes, texts and table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "caption":
            self.captions.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "caption" in self.open:
            self.captions[-1] += data
        elif {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(made_report: Report) -> Tree:
    return Tree(to_html(made_report))


def test_the_page_is_well_formed_and_needs_nothing_from_outside(page: Tree, made_report: Report) -> None:
    text = to_html(made_report)
    assert text.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert not page.all("script")
    assert not re.search(r'(?:src|href|action|data)="(?!#|data:,)', text.replace('data-label="', ""))
    assert not re.search(r"@import|url\(", text)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_user_text_is_inert(page: Tree, made_report: Report) -> None:
    """A title with markup, in the history, in a text, as a claim; a model's name; the run's name."""
    text = to_html(made_report)
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; Sons" in text
    assert any(EVIL in word for word in page.words)
    assert "a <run>" in page.words
    assert "data/tiny<b>model, float32, LoRA r 2, alpha 4" in page.words
    marked = re.findall(r"<mark[^>]*>(.*?)</mark>", text)
    assert any("script" in mark for mark in marked)


def test_user_text_is_inert_in_markdown(made_report: Report) -> None:
    text = to_markdown(made_report)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<", prose)
    assert plain(EVIL) in prose
    assert r"\<b\>bold\</b\> \`code\` \[x\](y)" in prose


def test_it_is_accessible(page: Tree) -> None:
    assert len(page.captions) == len(page.tables) >= 12
    assert all(caption.strip() for caption in page.captions)
    drawings = page.all("svg")
    assert len(drawings) >= 20
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"] or "") > 15
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    anchors = {attributes["href"] for attributes in page.all("a")}
    assert anchors == {f"#{attributes['id']}" for attributes in page.all("section")}
    assert len(page.all("main")) == len(page.all("nav")) == 1
    for row in page.tables[0][1:]:
        assert len(row) == len(page.tables[0][0])


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Cells of all tables, as a reader of the rendered file sees them."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        if not line.startswith("| "):
            inside = False
            continue
        if not inside:
            tables.append([])
        inside = True
        cells = [re.sub(r"\\(.)", r"\1", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not set("".join(cells)) <= set("-: "):
            tables[-1].append(cells)
    return tables


def test_both_state_the_same_numbers(page: Tree, made_report: Report) -> None:
    shown = [[[" ".join(cell.split()) for cell in row] for row in table] for table in page.tables]
    assert markdown_tables(to_markdown(made_report)) == shown


def test_both_state_the_same_sentences_and_texts(page: Tree, made_report: Report) -> None:
    prose = " ".join("".join(page.words).split())
    marks = re.sub(r"\\(.)", r"\1", to_markdown(made_report)).replace("**", "")
    ours = re.compile("`")  # our sentences set commands in back quotes, which the page shows as code
    for block in made_report.blocks():
        words = []
        if isinstance(block, Paragraph | Missing | Notice):
            words = [block.text]
        elif isinstance(block, TableBlock | Figure):
            words = [block.caption]
        elif isinstance(block, Verdict):
            words = [block.question, block.answer.text, *block.grounds]
        elif isinstance(block, Example):
            texts = [block.title, *("".join(span.text for span in spans) for _, spans in block.texts)]
            assert all(text in prose and text in marks for text in texts)
        for text in words:
            assert ours.sub("", text) in prose
            assert text in marks


def test_every_figure_is_drawn(made_report: Report) -> None:
    figures = [block for block in made_report.blocks() if isinstance(block, Figure)]
    assert len(figures) >= 7
    for figure in figures:
        assert figure.panels
        assert figure.numbers.rows
        for panel in figure.panels:
            assert re.search(r"<(circle|rect|polyline)", panel)
            assert "nan" not in panel.lower()
    (steps,) = (figure for figure in figures if figure.numbers.columns[:2] == ("round", "measure"))
    drawn = sum(panel.count("<polyline") for panel in steps.panels)
    assert drawn == len(steps.numbers.rows)  # a curve for every round and logged value of its table


def test_every_kind_of_block_is_written() -> None:
    table = TableBlock("A caption", ("name", "value"), [["x", Num(0.5, 0.4, 0.6, 9)], ["y", Badge("helps", "good")]])
    blocks: list[Any] = [
        Paragraph("Text with `code`."),
        Missing("Nothing."),
        Notice(Badge("stopped", "bad"), "Too <far>."),
        Verdict("So?", Badge("Yes", "good"), ["because"]),
        table,
        Figure("See", [Markup("<svg></svg>")], table, legend=["a"], folded=True),
        Example("u", [("A film", True)], [("teacher", [Span("Likes "), Span("war", True)]), ("round 1", [])]),
        Code("Config", "a: `b`\n"),
        Folded("More", [table]),
    ]
    report = Report("t", ["f"], [Section("k", "T", blocks)])
    tree, text = Tree(to_html(report)), to_markdown(report)
    for words in (".5000", "[.4000, .6000]", "helps", "Nothing.", "Stopped.", "Too <far>.", "because", "a: `b`", "war"):
        assert words in " ".join(tree.words)
        assert words in re.sub(r"\\(.)", r"\1", text)
    assert "no text" in " ".join(tree.words)
    assert "Likes **war**" in text
    with pytest.raises(TypeError, match="no HTML for int"):
        to_html(Report("t", [], [Section("k", "T", [3])]))  # type: ignore[list-item]


def test_every_text_of_every_block_is_escaped() -> None:
    given: list[str] = []

    def evil() -> Any:
        given.append(f"""<b>"&'{len(given)};""")
        return given[-1]

    num = Num(0.5, 0.4, 0.6)
    columns = [evil() for _ in range(7)]
    row = [evil(), num, Badge(evil(), evil()), *(evil() for _ in columns[3:])]
    table = TableBlock(evil(), columns, [row])
    drawn = [forest(evil(), [(evil(), num)]), evil()]  # the second one isn't Markup
    blocks: list[Block] = [
        Paragraph(f"{evil()} `{evil()}`"),
        Missing(evil()),
        Notice(Badge(evil(), evil()), evil()),
        Verdict(evil(), Badge(evil(), evil()), [evil()]),
        table,
        Figure(evil(), drawn, table, legend=[evil()]),
        Example(
            evil(), [(evil(), True), (evil(), False)], [(evil(), [Span(evil()), Span(evil(), True)]), (evil(), [])]
        ),
        Code(evil(), evil()),
    ]
    blocks.append(Folded(evil(), list(blocks)))
    assert {type(block) for block in blocks} == set(get_args(Block))
    text = to_html(Report(evil(), [evil()], [Section(evil(), evil(), blocks)]))
    assert "<b>" not in text
    tree = Tree(text)
    shown = [*tree.words, *(value or "" for _, attributes in tree.elements for value in attributes.values())]
    for words in given:
        assert any(words in place for place in shown), words


def test_the_files_are_written_whole(made_dir: Any) -> None:
    run_dir, config = made_dir
    path = write_report(run_dir, config)
    assert path == run_dir / "report" / "index.html"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["index.html", "report.md"]
    assert f"{USERS} histories" in path.with_name("report.md").read_text()
    assert write_report(run_dir, config).read_text() == path.read_text()


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_and_lines_have_contrast(made_report: Report, theme: int) -> None:
    """WCAG AA: 4.5 for words, 3 for what is drawn."""
    block = re.findall(r":root \{(.*?)\}", to_html(made_report), flags=re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    words = [("ink", "paper"), ("soft", "paper"), ("link", "paper"), ("ink", "card"), ("mark-ink", "mark")]
    words += [(tone, f"{tone}-soft") for tone in ("good", "bad", "open")] + [("ink", "open-soft")]
    drawn = [(f"s{order}", "paper") for order in range(5)] + [("good", "paper"), ("bad", "paper")]
    for least, pairs in ((4.5, words), (3.0, drawn)):
        for front, back in pairs:
            low, high = sorted(luminance(colours[name]) for name in (front, back))
            assert (high + 0.05) / (low + 0.05) >= least, (front, back)
