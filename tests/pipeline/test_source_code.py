"""The code that a stage's result depends on is found by following imports, and only what computes counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trackrec.pipeline import source_code
from trackrec.pipeline.source_code import class_modules, class_paths, code_of, module_file, package_modules

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, in which files may be edited; source_code reads it instead of the installed one."""
    for folder in ("trackrec", "callbacks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    folders = {"trackrec": tmp_path / "trackrec", "trackrec.callbacks": tmp_path / "callbacks"}
    monkeypatch.setattr(source_code, "_folder", folders.__getitem__)
    caches = (source_code.module_file, source_code._parse)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def changed(tree: Path) -> Callable[..., set[str]]:
    """Edits a file of the copy; returns which of some modules have other code afterwards."""

    def edit(file: str, old: str, new: str, *roots: str) -> set[str]:
        before = {root: code_of([root]) for root in roots}
        path = tree / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        source_code.module_file.cache_clear()
        source_code._parse.cache_clear()
        return {root for root in roots if code_of([root]) != before[root]}

    return edit


LOSS, SCORES = "trackrec.align.softmax_dpo", "trackrec.metrics.scores"
ALIGN, CTR = "trackrec.recipe.stages.align", "trackrec.recipe.stages.ctr"


def test_an_edit_reaches_what_imports_it_at_any_distance_and_nothing_else(changed: Callable[..., set[str]]) -> None:
    """softmax_dpo is two imports away from the body of ``align``, which imports it inside a function."""
    found = changed("trackrec/align/softmax_dpo.py", "def ", "_ADDED = 1\n\n\ndef ", LOSS, ALIGN, CTR)
    assert found == {LOSS, ALIGN}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""', '"""Another docstring. '),
        ("from __future__", "# a comment\nfrom __future__"),
        ("def softmax_dpo(", "def softmax_dpo(  "),
    ],
)
def test_docstrings_comments_and_formatting_change_nothing(
    old: str, new: str, changed: Callable[..., set[str]]
) -> None:
    assert changed("trackrec/align/softmax_dpo.py", old, new, LOSS, ALIGN) == set()


def test_an_import_for_types_alone_is_none(changed: Callable[..., set[str]]) -> None:
    """The stages know the experiment's type, and not its code: else everything would reach everything."""
    found = changed("trackrec/recipe/experiment.py", "return self.pipeline.seed", "return 1", ALIGN, CTR)
    assert found == set()


def test_a_package_that_re_exports_leads_to_the_one_module_that_defines_the_name() -> None:
    own, outside = class_modules(["trackrec.ctr.DIN"])
    assert (own, outside) == ({"trackrec.ctr.nets.din"}, {})
    found = code_of(own).modules
    assert "trackrec.ctr.nets.inputs" in found
    assert "trackrec.ctr.nets.deepfm" not in found
    assert "trackrec.ctr" not in found


def test_a_module_that_is_started_by_its_name_counts() -> None:
    assert "trackrec.llm.vllm.child" in code_of(["trackrec.llm.vllm.process"]).modules


def test_callbacks_are_found_beside_the_package_and_their_relative_imports_inside_it() -> None:
    own, _ = class_modules(["trackrec.callbacks.Saturation"])
    assert own == {"trackrec.callbacks.alignment"}
    assert {"trackrec.callbacks.alignment", "trackrec.callbacks.monitor"} <= set(code_of(own).modules)


def test_other_packages_are_named() -> None:
    assert {"torch", "peft", "transformers"} <= code_of(["trackrec.llm.backbone"]).packages
    assert "torch" not in code_of(["trackrec.recipe.names"]).packages


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no module trackrec\.nothing"):
        code_of(["trackrec.nothing"])


def test_classes_from_outside_count_by_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outside_net.py").write_text("class Small:\n    size = 1\n")
    (tmp_path / "unused.py").write_text("raise RuntimeError\n")
    own, first = class_modules(["outside_net.Small"])
    assert own == set()
    (tmp_path / "outside_net.py").write_text("class Small:\n    size = 22\n")
    assert list(first) == ["outside_net.Small"]
    assert first != class_modules(["outside_net.Small"])[1]


def test_class_paths_are_found_at_any_depth_and_functions_by_their_bare_path() -> None:
    values = {"net": {"class_path": "a.B", "init_args": {"inner": [{"class_path": "c.D"}], "text": "ratings.csv"}}}
    assert list(class_paths(values)) == ["a.B", "c.D"]
    assert list(class_paths({"net": "shutil.copytree", "other": "shutil.nothing"})) == ["shutil.copytree"]


def test_every_file_of_the_package_is_a_module() -> None:
    names = package_modules()
    files = {path for folder in ("trackrec", "callbacks") for path in (ROOT / folder).rglob("*.py")}
    assert {module_file(name) for name in names} == files


def test_init_files_only_re_export() -> None:
    """Else what they do would count for nobody: an import of a submodule doesn't count its packages.

    A package may import on first use what it names under TYPE_CHECKING.
    """
    import ast

    lazy = []
    for path in (ROOT / "trackrec").rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        for node in body:
            if isinstance(node, ast.If):
                assert ast.unparse(node.test) == "TYPE_CHECKING", path
                assert {type(inner) for inner in node.body} == {ast.ImportFrom}, path
            elif isinstance(node, ast.FunctionDef):
                assert node.name == "__getattr__", path
                lazy.append(path.parent.name)
            else:
                assert isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign), path
    assert lazy == ["ctr"]


def test_a_name_that_a_package_imports_on_first_use_leads_to_its_module() -> None:
    import trackrec.ctr

    for name in trackrec.ctr.__all__:
        assert class_modules([f"trackrec.ctr.{name}"])[0] == {getattr(trackrec.ctr, name).__module__}
    with pytest.raises(AttributeError, match="no attribute 'DINN'"):
        _ = trackrec.ctr.DINN
