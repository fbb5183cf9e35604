"""Every name that a file imports from this project is there: in benchmarks and peers, too, which no test imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("headscope", "probes", "circuits", "app", "benchmarks", "notebooks", "tests")
FILES = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]


@cache
def defined(module: str) -> frozenset[str] | None:
    """Names at the top of a module, those of a package's files included; None where there is no such module."""
    place = ROOT.joinpath(*module.split("."))
    package = place / "__init__.py"
    file = package if package.is_file() else place.with_suffix(".py")
    if not file.is_file():
        return frozenset(one.stem for one in place.glob("*.py")) if place.is_dir() else None
    names = {name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for name in bound(node)}
    return frozenset(names | {one.stem for one in place.glob("*")} if file == package else names)


def bound(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)


def missing(file: Path) -> list[str]:
    """Imports of a file that lead nowhere."""
    found = list[str]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.module.split(".")[0] not in ROOMS:
            continue
        names = defined(node.module)
        if names is None:
            found.append(node.module)
        elif "__getattr__" not in names:
            found += [f"{node.module}: {alias.name}" for alias in node.names if alias.name not in names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_imported_is_there(room: str) -> None:
    files = [file for file in FILES if file.is_relative_to(ROOT / room)]
    assert files
    assert {str(file.relative_to(ROOT)): gone for file in files if (gone := missing(file))} == {}


def test_a_name_that_is_gone_is_found(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("from headscope.heads import Head, Tail\nfrom headscope.nowhere import x\n", encoding="utf-8")
    assert missing(file) == ["headscope.heads: Tail", "headscope.nowhere"]
