"""The code that a stage's result depends on, found by following imports.

Start at the module that holds the stage's body and at the classes that its configuration names; follow every import,
inside functions too, but none under ``TYPE_CHECKING``. Each module counts as its syntax tree without docstrings, so a
comment, a docstring or a change of format changes nothing. Nothing is imported to find this out: files are parsed.

A package's ``__init__.py`` only re-exports names: ``from trackrec.ctr import DIN`` leads to the module that defines
``DIN`` and to no other net.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trackrec.storage.atomic import stable_hash

PACKAGE = __name__.partition(".")[0]
# Mapped into the package from a folder beside it (setup.py).
_MAPPED = (f"{PACKAGE}.callbacks",)


class Code(NamedTuple):
    """Modules of the package by name with a hash of each, and the other packages that they import."""

    modules: dict[str, str]
    packages: frozenset[str]


@dataclass(frozen=True)
class _Module:
    """One parsed file: a hash of its code, the imports of the package, the other top-level packages, the exports."""

    digest: str
    imports: frozenset[tuple[str, str]]  # (module, name); name is "" for `import module`
    packages: frozenset[str]
    exports: dict[str, tuple[str, str]]  # name -> (module, name) that an import of this file binds


def code_of(roots: Iterable[str]) -> Code:
    """Everything that the named modules of the package reach through imports, themselves included.

    Args:
        roots: dotted names of modules.

    Raises:
        ValueError: a root is no module of the package.
    """
    left, found, packages = sorted(set(roots)), dict[str, str](), set[str]()
    if strange := [name for name in left if module_file(name) is None]:
        raise ValueError(f"no module {strange[0]}")
    while left:
        name = left.pop()
        if name in found:
            continue
        path = module_file(name)
        assert path is not None
        parsed = _parse(name, path, path.stat().st_mtime_ns)
        found[name] = parsed.digest
        packages |= parsed.packages
        left.extend(target for module, member in parsed.imports if (target := _defining(module, member)) is not None)
    return Code(dict(sorted(found.items())), frozenset(packages))


def class_modules(paths: Iterable[str]) -> tuple[set[str], dict[str, str]]:
    """The modules of classes given by path, such as ``trackrec.ctr.DIN`` or ``mynet.Small``.

    Returns:
        Modules of the package; and for every class from outside, its path with a hash of the source file that holds it
        (empty where it has none).

    Raises:
        ValueError: a path into the package leads nowhere.
    """
    own, outside = set[str](), dict[str, str]()
    for path in paths:
        module, _, member = path.rpartition(".")
        if path == PACKAGE or path.startswith(f"{PACKAGE}."):
            if (target := _defining(module, member)) is None:
                raise ValueError(f"no module of {path}")
            own.add(target)
        elif module:
            outside[path] = _outside_hash(module, member)
    return own, outside


def class_paths(values: Any) -> Iterator[str]:
    """Every ``class_path`` in plain configuration values, and the path of every function that stands in its place.

    A function is given by its bare path, ``mynet.build``. It was imported when the configuration was parsed; any other
    text that looks like a path, such as ``ratings.csv``, names nothing that is loaded.
    """
    if isinstance(values, dict):
        for key, value in values.items():
            if key == "class_path" and isinstance(value, str):
                yield value
            else:
                yield from class_paths(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from class_paths(value)
    elif isinstance(values, str) and _is_loaded_function(values):
        yield values


def _is_loaded_function(path: str) -> bool:
    module, _, member = path.rpartition(".")
    return module in sys.modules and inspect.isfunction(getattr(sys.modules[module], member, None))


@cache
def module_file(name: str) -> Path | None:
    """The file of a module of the package; None where there is none."""
    for root in (*_MAPPED, PACKAGE):
        if name == root or name.startswith(f"{root}."):
            folder = _folder(root)
            if folder is None:
                return None
            path = folder.joinpath(*name.removeprefix(root).lstrip(".").split("."))
            candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
            return next((one for one in candidates if one.is_file()), None)
    return None


def package_modules() -> list[str]:
    """Dotted names of all modules of the package, sorted."""
    names = []
    for root in (PACKAGE, *_MAPPED):
        folder = _folder(root)
        for path in sorted(folder.rglob("*.py")) if folder else ():
            parts = path.relative_to(folder).with_suffix("").parts if folder else ()
            names.append(".".join((root, *(parts[:-1] if parts[-1] == "__init__" else parts))))
    return sorted(names)


@cache
def _folder(root: str) -> Path | None:
    spec = importlib.util.find_spec(root)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _defining(module: str, member: str) -> str | None:
    """The module that an import leads to: a submodule, the module that defines a re-exported name, or the module."""
    seen = set[tuple[str, str]]()
    while (module, member) not in seen:
        seen.add((module, member))
        if member and module_file(f"{module}.{member}") is not None:
            return f"{module}.{member}"
        path = module_file(module)
        if path is None:
            return None
        if path.name != "__init__.py" or not member:
            return module
        exports = _parse(module, path, path.stat().st_mtime_ns).exports
        if member not in exports:
            return module
        module, member = exports[member]
    return None


@cache
def _parse(name: str, path: Path, _changed: int) -> _Module:
    """A file's code; ``_changed`` is its time of modification, so that an edited file is read again."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports, packages, exports = set[tuple[str, str]](), set[str](), dict[str, tuple[str, str]]()
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _is_own(alias.name):
                    imports.add((alias.name, ""))
                else:
                    packages.add(alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            if not _is_own(module):
                packages.add(module.partition(".")[0])
                continue
            imports.update((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _names_module(node.value):
            imports.add((node.value, ""))  # started by its name: `python -m trackrec.llm.vllm.child`
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _names_callback(node.value):
            module, _, member = node.value.rpartition(".")
            imports.add((module, member))
    for node in ast.walk(tree):  # what a package loads on first use, it names under TYPE_CHECKING
        if isinstance(node, ast.ImportFrom) and _is_own(module := _absolute(node, package)):
            exports.update({alias.asname or alias.name: (module, alias.name) for alias in node.names})
    digest = stable_hash(ast.dump(_without_docstrings(tree), include_attributes=False), digits=32)
    return _Module(digest, frozenset(imports), frozenset(packages), exports)


def _is_own(module: str) -> bool:
    return module.startswith(f"{PACKAGE}.") or module == PACKAGE


def _names_module(text: str) -> bool:
    return text.startswith(f"{PACKAGE}.") and module_file(text) is not None


def _names_callback(text: str) -> bool:
    """Whether a text is the path of a class in ``trackrec.callbacks``, which no module of the package imports.

    Paths into other rooms are the choices of a configuration, which names those that count.
    """
    return text.rpartition(".")[0] in _MAPPED and text.rpartition(".")[2].isidentifier()


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module of ``from x import y`` as an absolute name."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, at any depth, except those under ``if TYPE_CHECKING``."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            left.extend(node.orelse)
        else:
            left.extend(ast.iter_child_nodes(node))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without any expression that is only a string: docstrings of modules, classes, functions and names."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                kept = [one for one in body if not _is_string(one)]
                setattr(node, field, kept)
    return tree


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _outside_hash(module: str, member: str) -> str:
    """A hash of the file that defines a class from outside the package; empty where it can't be found.

    A class of an installed distribution counts by its file, too: its version may stay while it is edited.
    """
    try:
        found = getattr(importlib.import_module(module), member, None)
        path = inspect.getsourcefile(found) if inspect.isclass(found) or inspect.isfunction(found) else None
    except ImportError:  # the parser has already refused what can't be imported
        path = None
    return stable_hash(Path(path).read_bytes().hex(), digits=32) if path else ""
