"""`headscope compare` and `headscope variants` from end to end: stops, resumes, runs that cannot be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import app.compare_run
from headscope.runs import Run
from tests.test_train_command import SHORT, run_command

WORDS = ["mqar", "--variants", "softmax,linear", "--rates", "0.01", "--seeds", "2", *SHORT]
QUICK = ["--examples", 8, "--draws", 2, "--lengths", "10"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished train run."""
    folder = tmp_path_factory.mktemp("runs")
    result = run_command("train", *WORDS, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def trained(root: Path) -> str:
    """The id of the train run."""
    return next(one.name for one in root.iterdir())


def test_a_stopped_comparison_resumes_to_the_same_numbers(
    root: Path, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", "softmax", "linear", "--run", trained, *QUICK, "--out", root]
    whole = run_command(*words)
    assert whole.exit_code == 0, whole.output
    describe, calls = app.compare_run.describe_model, list[str]()

    def stop_at_the_third(compared: Any, *given: Any, **more: Any) -> Any:
        calls.append(compared.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return describe(compared, *given, **more)

    monkeypatch.setattr(app.compare_run, "describe_model", stop_at_the_third)
    stopped = run_command(*words)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert re.search(r"2 of 5 stages are kept in \S+\.tmp\. Continue with: headscope compare --resume", stopped.stderr)
    (left,) = root.glob("*.tmp")
    assert set(Run.open(left, verify=False).records) == set(calls[:2]), "nothing of the third"
    monkeypatch.setattr(app.compare_run, "describe_model", describe)
    again = run_command("compare", "--resume", left.name.removesuffix(".tmp"), "--out", root)
    assert again.exit_code == 0, again.output
    first, second = (Run.open(Path(one.stdout.strip()), verify=True) for one in (whole, again))
    assert first.manifest.planned == second.manifest.planned
    for stage in first.manifest.planned:
        assert str(first.record(stage)) == str(second.record(stage)), "as text: NaN is unlike itself"
    finished = run_command("compare", "--resume", second.manifest.id, "--out", root)
    assert (finished.exit_code, finished.stdout) == (2, "")
    assert len(finished.stderr.splitlines()) == 1


def test_a_train_run_that_is_not_finished_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.train_run._train_cell", stop)
    assert run_command("train", *WORDS, "--out", tmp_path).exit_code == 130
    result = run_command("compare", "softmax", "--run", "latest", "--out", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(r"error: .* is not in yet\. Go on with it: headscope train --resume \S+", line)
    assert len(list(tmp_path.iterdir())) == 1, "no folder of the comparison"


def test_a_train_run_without_weights_is_refused(tmp_path: Path) -> None:
    few = ["mqar", "--rates", "0.01", "--seeds", "1", *SHORT, "--set", "weights=false"]
    assert run_command("train", *few, "--out", tmp_path).exit_code == 0
    result = run_command("compare", "softmax", "--run", "latest", "--out", tmp_path)
    assert result.exit_code == 2
    assert "kept no weights (weights=false): train again." in result.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_a_length_that_does_not_fit_is_a_row_with_its_reason(trained: str, root: Path) -> None:
    words = ["softmax", "--run", trained, "--seeds", 1, "--examples", 4, "--draws", 1, "--lengths", "8,9,400"]
    result = run_command("compare", *words, "--out", root)
    assert result.exit_code == 0, result.output
    run = Run.open(Path(result.stdout.strip()))
    lengths = run.record(run.manifest.planned[0])["lengths"]
    assert lengths["8"]["reason"] == ""
    assert "length 9 is odd" in lengths["9"]["reason"]
    assert "is not above length 400" in lengths["400"]["reason"]
    told = json.loads(run_command("export", run.path, "--what", "lengths", "--format", "json").stdout)
    assert "length 9 is odd" in next(row for row in told["lengths"] if row["length"] == 9)["reason"]
    assert run_command("show", run.path).exit_code == 0


def test_variants_are_printed_as_plain_data() -> None:
    every = json.loads(run_command("variants", "--json").stdout)
    (one,) = json.loads(run_command("variants", "softmax", "--json").stdout)
    assert one in every
    assert one["name"] == "softmax"
    family = json.loads(run_command("variants", "--family", one["family"], "--json").stdout)
    assert family == [row for row in every if row["family"] == one["family"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["softmx"], r"no variant is called 'softmx'. Did you mean 'softmax'\?.*"),
        (["softmx", "--json"], r"no variant is called 'softmx'. Did you mean 'softmax'\?.*"),
        (["--family", "nothing"], "no family of variants is called 'nothing'.*"),
    ],
    ids=["name", "name as json", "family"],
)
def test_unknown_variants_are_one_line(words: list[str], message: str) -> None:
    result = run_command("variants", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(f"error: {message}", line)
