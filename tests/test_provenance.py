"""What a run says it was made with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from headscope.runs import provenance


def test_provenance_names_versions_and_machine_but_no_host_and_no_user() -> None:
    found = json.dumps([provenance.versions(), provenance.machine()])
    assert {"python", "headscope", "numpy", "torch", "transformers"} <= set(provenance.versions())
    assert provenance.machine()["logical_cores"] == os.cpu_count()
    for private in (os.uname().nodename, str(Path.home())):
        assert private not in found
    peak = provenance.peak_memory_bytes()
    assert peak is not None
    assert 10_000_000 < peak < 10**13


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_is_that_of_the_checkout_and_none_for_an_installed_copy_inside_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "headscope" / "runs"
    installed = tmp_path / ".venv" / "headscope" / "runs"
    for place in (package, installed):
        place.mkdir(parents=True)
        (place / "provenance.py").write_text("pass\n")
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert provenance.source_commit() is None  # nothing committed yet
    git(tmp_path, "add", "headscope")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("not source")
    assert provenance.source_commit() == commit
    (package / "provenance.py").write_text("changed\n")
    assert provenance.source_commit() == f"{commit}+dirty"
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert provenance.source_commit() is None
