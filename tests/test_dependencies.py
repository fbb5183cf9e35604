"""What the packages import, what `pyproject.toml` declares and what the documentation explains agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("headscope", "probes", "circuits", "app")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
USED_BY_ANOTHER = {"gguf"}  # transformers imports it to read the embedded model's file


def names(requirements: list[str]) -> set[str]:
    """Distribution names of a list of requirements."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported_modules() -> set[str]:
    """Top-level names of every import in the packages, inside functions too."""
    found: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def test_the_runtime_dependencies_are_exactly_what_the_packages_import() -> None:
    owners = packages_distributions()
    imported = {canonicalize_name(owners[module][0]) for module in imported_modules()}
    assert names(PROJECT["dependencies"]) - USED_BY_ANOTHER == imported


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]])
def test_every_dependency_has_its_reason_in_the_documentation(extra: str | None) -> None:
    declared = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    explained = set(re.findall(r"[a-z][a-z0-9-]+", (ROOT / "docs" / "dependencies.md").read_text()))
    assert names(declared) - explained == set()
