"""A `headscope score` process that is stopped by a signal leaves a run that can be brought to the same end."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
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
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The numbers of the short run when nothing stops it."""
    result = headscope("score", *SHORT, "--out", tmp_path_factory.mktemp("uninterrupted"))
    assert result.exit_code == 0, result.output
    return numbers(Path(result.stdout.strip()))


# A process that has imported everything and makes a fresh one, as `headscope` starts it, for each line it reads.
STARTER = """
import os, shlex, sys
import app.progress, app.scoring, headscope.models.loading, transformers.models.llama.modeling_llama
import transformer_lens.model_bridge
from app.cli import main
print("ready", flush=True)
for line in sys.stdin:
    words = shlex.split(line)
    child = os.fork()
    if child == 0:
        for number, path in zip((1, 2), words):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), number)
        sys.argv = ["headscope", *words[2:]]
        main()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Started:
    """A `headscope` process of its own, and what it has printed so far."""

    def __init__(self, starter: subprocess.Popen[str], folder: Path, *arguments: object) -> None:
        self._starter, self._out, self._err = starter, folder / "out.txt", folder / "err.txt"
        for path in (self._out, self._err):
            path.touch()
        assert starter.stdin is not None
        starter.stdin.write(shlex.join(map(str, (self._out, self._err, *arguments))) + "\n")
        starter.stdin.flush()
        self.pid = int(self._answer())

    def _answer(self) -> str:
        assert self._starter.stdout is not None
        return self._starter.stdout.readline()

    def wait_for(self, text: str) -> None:
        """Until the process has said it on standard error."""
        end = time.monotonic() + 60
        while text not in self.stderr:
            assert time.monotonic() < end, self.stderr
            time.sleep(0.005)

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def exit_code(self) -> int:
        return int(self._answer())

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()


@pytest.fixture(scope="module")
def starter() -> Generator[subprocess.Popen[str]]:
    """The process that starts `headscope` processes without their five seconds of imports."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate(timeout=30)


def test_ctrl_c_in_a_process_ends_it_with_130_and_a_way_on(
    tmp_path: Path, starter: subprocess.Popen[str], uninterrupted: dict[str, bytes]
) -> None:
    run = Started(starter, tmp_path, "score", *SHORT, "--out", tmp_path / "runs")
    run.wait_for("[1/5] ")
    run.send(signal.SIGINT)
    assert run.exit_code() == 130
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    found = re.fullmatch(r"stopped: interrupted\. \d of 5 stages are kept in .* Continue with: headscope (.*)", last)
    assert found, last
    assert headscope(*shlex.split(found[1])).exit_code == 0
    assert numbers(list_runs(tmp_path / "runs")[0].path) == uninterrupted


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_run_that_resumes_to_the_same_numbers(
    tmp_path: Path, starter: subprocess.Popen[str], uninterrupted: dict[str, bytes]
) -> None:
    """A process for each of four stages, killed a random moment after the beginning of the stage."""
    chance, killed = random.Random(0), 0
    for stage in (1, 2, 4, 5):
        folder = tmp_path / str(stage)
        folder.mkdir()
        run = Started(starter, folder, "score", *SHORT, "--out", folder / "runs")
        run.wait_for(f"[{stage}/5] ")
        time.sleep(chance.uniform(0, 0.05))
        run.send(signal.SIGKILL)
        code = run.exit_code()
        (left,) = list_runs(folder / "runs")
        kept = [one.name for one in Run.open(left.path).manifest.stages]
        assert kept == list(STAGES[: len(kept)])
        assert len(kept) >= stage - 1
        if not Run.open(left.path).is_complete:  # it is, if the process was faster than the signal
            assert (code, run.stdout) == (-signal.SIGKILL, "")
            assert "INCOMPLETE" in headscope("show", left.path).stdout
            assert headscope("score", "--resume", left.id[:20], "--out", folder / "runs").exit_code == 0
            killed += 1
        assert numbers(left.path.with_suffix("")) == uninterrupted
    assert killed >= 2


def test_run_in_use_is_refused_and_its_writer_is_not_disturbed(
    tmp_path: Path, starter: subprocess.Popen[str], uninterrupted: dict[str, bytes]
) -> None:
    run = Started(starter, tmp_path, "score", *SHORT, "--out", tmp_path / "runs")
    run.wait_for("[2/5] ")
    run.send(signal.SIGSTOP)
    (summary,) = list_runs(tmp_path / "runs")
    result = headscope("score", "--resume", summary.path)
    run.send(signal.SIGCONT)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert re.match(rf"error: another process \(pid {run.pid}, since \S+\) is writing the run ", line)
    assert run.exit_code() == 0
    assert run.stdout == f"{summary.path.with_suffix('')}\n"
    assert numbers(summary.path.with_suffix("")) == uninterrupted
