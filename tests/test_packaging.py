"""The wheel holds exactly the four packages, whole."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("headscope", "probes", "circuits", "app")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built here, offline."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level_of_the_wheel_is_exactly_the_four_packages(wheel_names: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert len(top) == len(PACKAGES) + 1


def test_every_file_of_the_packages_is_in_the_wheel(wheel_names: set[str]) -> None:
    """No ignore rule hides a source file, a template or the type marker."""
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == {name for name in wheel_names if ".dist-info/" not in name}
    assert {"headscope/py.typed", "headscope/runs/__init__.py"} <= files
    assert any(name.startswith("app/report/templates/") for name in files)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_code_is_a_package(package: str) -> None:
    """A folder without ``__init__.py`` would work here and vanish for import-linter and pyright."""
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert folders
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
