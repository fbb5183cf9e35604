"""A score run that was stopped is marked unfinished, and is brought to the same end or refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.progress import Progress
from headscope.models.bridged import BridgedModel
from headscope.runs import Run, list_runs

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"needle_examples": 4, "sink_examples": 8, "repeated_examples": 4, "ks": "[1]"}
SHORT = [
    *("planted:all", "--probes", "induction,sink,retrieval", "--checks", "induction,retrieval"),
    *("--lengths", "128", "--draws", "3", "--seed", "4"),
    *(word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")),
]
STAGES = ("induction", "sink", "retrieval", "check_induction", "check_retrieval")


def headscope(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def numbers(folder: Path) -> dict[str, bytes]:
    """The content of every file of a finished run that holds numbers of heads."""
    paths = [folder / "scores.parquet", folder / "checks.json", *sorted((folder / "tensors").iterdir())]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short run when nothing stops it."""
    result = headscope("score", *SHORT, "--out", tmp_path_factory.mktemp("finished"))
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


@pytest.fixture(scope="module")
def uninterrupted(finished: Path) -> dict[str, bytes]:
    """Its numbers."""
    return numbers(finished)


def interrupt_in(patch: pytest.MonkeyPatch, stage: str) -> None:
    """Ctrl-C after the first step of a stage."""
    begin = Progress.stage

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def begun(self: Progress, name: str, index: int, count: int) -> None:
        begin(self, name, index, count)
        if name == stage:
            patch.setattr(Progress, "step", stop)

    patch.setattr(Progress, "stage", begun)


def interrupted(out: Path, stage: str, *what: object) -> tuple[Path, Result]:
    """The folder of a run that Ctrl-C stopped in a stage, and what the command printed."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(patch, stage)
        result = headscope("score", *(what or SHORT), "--out", out)
    (folder,) = out.iterdir()
    return folder, result


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_in_any_stage_a_run_resumes_to_the_numbers_of_an_uninterrupted_one(
    tmp_path: Path, stage: str, uninterrupted: dict[str, bytes]
) -> None:
    folder, result = interrupted(tmp_path, stage)
    done = STAGES.index(stage)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1] == (
        f"stopped: interrupted. {done} of 5 stages are kept in {folder}. "
        f"Continue with: headscope score --resume {folder}"
    )
    assert folder.suffix == ".tmp"
    run = Run.open(folder)
    assert [one.name for one in run.manifest.stages] == list(STAGES[:done])
    assert {one.definition.probe for one in run.scores().values()} == {*STAGES[:done]} - {"check_induction"}

    resumed = headscope("score", "--resume", folder)
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout == f"{folder.with_suffix('')}\n"
    assert f"[{done + 1}/5] {stage} ..." in resumed.stderr
    assert all(f"] {before} ..." not in resumed.stderr for before in STAGES[:done])
    assert os.listdir(tmp_path) == [folder.stem]
    assert numbers(folder.with_suffix("")) == uninterrupted


def test_interrupted_twice_it_still_ends_in_the_same_numbers(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    interrupted(tmp_path, "sink")
    folder, result = interrupted(tmp_path, "check_retrieval", "--resume", "latest")
    assert "4 of 5 stages are kept" in result.stderr
    assert headscope("score", "--resume", "latest", "--out", tmp_path).exit_code == 0
    run = Run.open(folder)
    assert numbers(run.path) == uninterrupted
    assert [stage.name for stage in run.manifest.stages] == list(STAGES)
    logged = (run.path / "log.txt").read_text()
    assert re.findall(r"resumed with (\d) of 5 stages", logged) == ["1", "4"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its first check: not to be changed."""
    return interrupted(tmp_path_factory.mktemp("stopped"), "check_induction")[0]


@pytest.fixture
def unfinished(tmp_path: Path, stopped: Path) -> Path:
    """A copy of the stopped run."""
    return Path(shutil.copytree(stopped, tmp_path / "runs" / stopped.name))


def test_unfinished_run_can_be_looked_at_and_says_that_it_is_incomplete(unfinished: Path, tmp_path: Path) -> None:
    banner = "INCOMPLETE: these stages are missing: check_induction, check_retrieval. "
    for arguments in (["show", unfinished], ["show", "latest", "-p", "sink", "--root", unfinished.parent]):
        shown = headscope(*arguments)
        assert shown.exit_code == 0
        assert banner in shown.stdout
    page = tmp_path / "report.html"
    reported = headscope("report", unfinished, "--out", page)
    assert (reported.exit_code, reported.stdout) == (0, f"{page}\n")
    assert reported.stderr.startswith(banner)
    assert "INCOMPLETE" in page.read_text()
    exported = headscope("export", unfinished)
    assert exported.stderr.startswith(banner)
    assert len(exported.stdout.splitlines()) == 1 + 10 * 24
    assert "unfinished (3 of 5 stages)" in headscope("runs", "--root", unfinished.parent).stdout


@pytest.mark.parametrize("given", ["id", "start of the id", "latest", "path without .tmp"])
def test_run_to_resume_can_be_named_in_every_way(
    unfinished: Path, given: str, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    names = {
        "id": unfinished.stem,
        "start of the id": unfinished.stem[:20],
        "latest": "latest",
        "path without .tmp": f"runs/{unfinished.stem}",
    }
    monkeypatch.chdir(unfinished.parent.parent)
    place = [] if given.startswith("path") else ["--out", "runs"]
    result = headscope("score", "--resume", names[given], *place)
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.strip()).resolve() == unfinished.with_suffix("")
    assert numbers(unfinished.with_suffix("")) == uninterrupted


def assert_refused(result: Result, message: str) -> str:
    """Exit code 2, nothing on standard output, the last line on standard error an error."""
    assert (result.exit_code, result.stdout) == (2, "")
    *before, line = result.stderr.splitlines()
    assert re.fullmatch(f"error: {message}", line), line
    assert all(re.fullmatch(r"(load|capability card)( \.\.\.|: \d+\.\d s)", one) for one in before)
    return line


def test_finished_run_cannot_be_resumed(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert_refused(headscope("score", "--resume", finished), ".* is finished: nothing is left to resume.")
    assert_refused(headscope("score", "--resume", "latest", "--out", finished.parent), ".* is finished: .*")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def edit_manifest(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "manifest cut short": (
        lambda run: (run / "manifest.json").write_bytes((run / "manifest.json").read_bytes()[:700]),
        "the run .* is corrupt: manifest.json is cut short .*",
    ),
    "manifest missing": (lambda run: (run / "manifest.json").unlink(), ".* is no run folder.*"),
    "stage changed": (
        lambda run: (run / "stages" / "sink.parquet").write_bytes(
            (run / "stages" / "sink.parquet").read_bytes().swapcase()
        ),
        "the run .* is corrupt: stages/sink.parquet was changed.*",
    ),
    "stage missing": (
        lambda run: (run / "stages" / "sink.parquet").unlink(),
        "the run .* is corrupt: stages/sink.parquet is missing.*",
    ),
    "stage of another version": (
        lambda run: edit_manifest(run, "check_retrieval", "check_singing"),
        "the run .* has the stages check_singing, which this version of headscope does not.*",
    ),
    "setting of another version": (
        lambda run: edit_manifest(run, '"draws"', '"tosses"'),
        "there is no setting 'tosses'.*",
    ),
    "newer layout": (
        lambda run: edit_manifest(run, '"schema_version": 1', '"schema_version": 2'),
        "the run .* has layout 2, .* Update headscope to open it.",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_run_is_refused_and_left_alone(unfinished: Path, damage: str) -> None:
    act, message = DAMAGE[damage]
    act(unfinished)
    before = sorted(unfinished.rglob("*"))
    line = assert_refused(headscope("score", "--resume", unfinished), message)
    assert "Continue with" not in line
    assert sorted(unfinished.rglob("*")) == before


def test_run_whose_model_has_other_weights_now_is_refused(tmp_path: Path, tiny: Callable[[str], BridgedModel]) -> None:
    """The folder of a model is trained on between the stop and the resume: same name, same configuration."""
    model, out = tmp_path / "model", tmp_path / "runs"
    tiny("llama").plain.save_pretrained(model)
    tiny("llama").tokenizer.save_pretrained(model)
    words = [str(model) if word == "planted:all" else word for word in SHORT]
    interrupted(out, "sink", *words)
    (run,) = list_runs(out)
    assert run.status == "unfinished (1 of 5 stages)"
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    line = assert_refused(
        headscope("score", "--resume", run.path),
        "the run was started with .* at sha256:.*, now it is at sha256:.*: .* Start a new run.",
    )
    assert "Continue with" not in line
    assert [stage.name for stage in Run.open(run.path).manifest.stages] == ["induction"]


@pytest.mark.parametrize("option", ["--haystack", "--needles"])
def test_run_whose_text_is_another_now_is_refused(tmp_path: Path, option: str) -> None:
    needle = {"name": "n", "cue": "the ship spells", "answer": "amber walrus", "question": "what ?", "end": " ."}
    file = tmp_path / "text.json"
    file.write_text(json.dumps([{**needle, "name": f"n{i}"} for i in range(100)]))
    folder, _ = interrupted(tmp_path / "runs", "sink", *SHORT, option, file)
    before = file.read_text()
    file.write_text(before.replace("walrus", "falcon"))
    line = assert_refused(headscope("score", "--resume", folder), "the haystack or needle file has changed since.*")
    assert "Continue with" not in line
    file.unlink()
    assert_refused(headscope("score", "--resume", folder), ".*")
    file.write_text(before)
    assert "[2/5] sink ..." in interrupted(tmp_path / "runs", "sink", "--resume", folder)[1].stderr


@pytest.mark.parametrize("option", [["--seed", "4"], ["--probes", "sink"], ["--set", "ks=[1]"], ["--device", "cpu"]])
def test_settings_beside_resume_are_refused_not_ignored(unfinished: Path, option: list[str]) -> None:
    result = headscope("score", "--resume", unfinished, *option)
    assert_refused(result, f".* settings that the run was started with: leave out {option[0]}.")


def test_model_beside_resume_is_refused(unfinished: Path) -> None:
    result = headscope("score", "planted:all", "--resume", unfinished)
    assert_refused(result, "give either a MODEL to score or --resume RUN.*")


def test_reading_a_run_starts_no_thread(finished: Path) -> None:
    """A thread of pyarrow that holds a Python object when the process ends aborts it (exit code 134)."""
    code = (
        "import os, sys; from pathlib import Path; from headscope.runs import Run\n"
        "before = os.listdir('/proc/self/task')\n"
        "scores = Run.open(Path(sys.argv[1])).scores()\n"
        "assert os.listdir('/proc/self/task') == before and len(scores) == 10"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_resumed_run_keeps_its_seed_command_and_times(unfinished: Path) -> None:
    before = json.loads((unfinished / "manifest.json").read_text())
    assert headscope("score", "--resume", unfinished).exit_code == 0
    after = json.loads((unfinished.with_suffix("") / "manifest.json").read_text())
    for key in ("id", "config", "seed", "command", "started", "model", "card", "planned", "versions"):
        assert after[key] == before[key]
    assert after["stages"][:3] == before["stages"]
    assert after["seconds"] >= before["seconds"]
