"""`headscope train --workers`: several processes train what one process trains."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import app.train_workers
from app.cli import app as cli
from headscope.runs import Run
from headscope.training.sweep import SweepConfig
from headscope.training.trainer import Trainer

WORDS = ["mqar", "--variants", "softmax,delta", "--rates", "0.01", "--seeds", "2", "--widths", "16", "--steps", "16"]
SMALL = ["--batch", "8", "--set", "evaluate_every=8", "--set", "evaluated=16"]
TASK = ["--option", "task.d_vocab=16", "--option", "task.length=12", "--option", "task.pairs=2"]


def train(*more: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in ("train", *more)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    result = train(*WORDS, *SMALL, *TASK, "--out", tmp_path_factory.mktemp("alone"))
    torch.set_num_threads(before)
    assert result.exit_code == 0, result.output
    return Run.open(Path(result.stdout.strip()))


def assert_same(one: Run, other: Run) -> None:
    sweep = SweepConfig.parse(one.manifest.config)
    for cell in sweep.cells:
        here, there = one.record(cell.stage), other.record(cell.stage)
        assert here["curve"] == there["curve"]
        assert here["accuracy"] == there["accuracy"]
        weights = [f"weights.{name}" for name in Trainer(sweep.training(cell)).model.state_dict()]
        assert all(np.array_equal(one.tensor(cell.stage, name), other.tensor(cell.stage, name)) for name in weights)
    assert one.record("summary") == other.record("summary")


def test_processes_that_were_stopped_resume_to_what_one_process_trains(
    alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, kept = app.train_workers.keep_cell, list[str]()

    def stop_at_the_second(writer: Any, cell: Any, trained: Any, *, seconds: float) -> None:
        if kept:
            raise KeyboardInterrupt
        kept.append(cell.stage)
        keep(writer, cell, trained, seconds=seconds)

    monkeypatch.setattr(app.train_workers, "keep_cell", stop_at_the_second)
    stopped = train(*WORDS, *SMALL, *TASK, "--workers", 2, "--out", tmp_path)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert "1 of 5 stages are kept" in stopped.stderr
    monkeypatch.undo()
    again = train("--resume", "latest", "--out", tmp_path)
    assert again.exit_code == 0, again.output
    run = Run.open(Path(again.stdout.strip()), verify=True)
    assert_same(alone, run)
    assert not list(run.path.glob("partial*"))


def test_processes_with_several_trainings_each_train_what_one_process_trains(
    alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: two processes, one of two trainings and one of one."""
    monkeypatch.setattr(app.train_workers, "_SIDE_BY_SIDE", {"cpu": 2})
    result = train(*WORDS, *SMALL, *TASK, "--workers", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    run = Run.open(Path(result.stdout.strip()), verify=True)
    assert_same(alone, run)
    assert not list(run.path.glob("partial*"))


@pytest.mark.parametrize(
    ("at_once", "most", "widths"),
    [(4, 1, [1, 1, 1, 1]), (1, 4, [1]), (4, 4, [4]), (5, 4, [3, 2]), (11, 4, [4, 4, 3]), (8, 4, [4, 4])],
)
def test_there_are_as_few_processes_as_can_be_filled_evenly(at_once: int, most: int, widths: list[int]) -> None:
    assert app.train_workers._widths(at_once, most) == widths  # pyright: ignore[reportPrivateUsage]


def test_a_training_that_fails_is_named_when_all_others_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.train_workers, "_SIDE_BY_SIDE", {"cpu": 4})
    monkeypatch.setattr(app.train_workers, "_work", work_with_one_that_fails)
    failed = train(*WORDS, *SMALL, *TASK, "--workers", 4, "--out", tmp_path)
    assert failed.exit_code == 2
    assert "softmax.16.0.01.1 failed: RuntimeError: out of something" in failed.stderr.replace("\n", " ")
    assert "3 of 5 stages are kept" in failed.stderr
    assert "Traceback" not in failed.stderr
    (folder,) = tmp_path.glob("*.tmp")
    assert "Traceback" in (folder / "log.txt").read_text()
    monkeypatch.undo()
    again = train("--resume", "latest", "--out", tmp_path)
    assert again.exit_code == 0, again.output
    (run,) = (Run.open(path) for path in tmp_path.iterdir())
    record = run.record("softmax.16.0.01.1")
    said = f"softmax.16.0.01.1: {record['train_seconds']:.1f} s, accuracy {record['accuracy']:.3f}"
    assert said in again.stderr.splitlines(), "its own time, not that since the one before"


def test_a_process_that_is_killed_is_named_and_what_is_in_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.train_workers, "_work", killed)
    result = train(*WORDS, *SMALL, *TASK, "--workers", 2, "--out", tmp_path)
    assert result.exit_code == 2
    assert "start it with fewer --workers" in result.stderr
    assert "0 of 5 stages are kept" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_processes_end_when_the_one_that_writes_is_killed(tmp_path: Path) -> None:
    code = "from app.cli import main; main()"
    words = [*WORDS, *SMALL, *TASK, "--steps", "1000000", "--workers", "2", "--out", str(tmp_path)]
    writer = Popen([sys.executable, "-c", code, "train", *words], stdout=DEVNULL, stderr=DEVNULL)
    try:
        wait_for(lambda: len(workers_of(writer.pid)) == 2)
        own = workers_of(writer.pid)
    finally:
        writer.kill()
        writer.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in own))


def workers_of(writer: int) -> list[int]:
    """Processes that train for it: started by itself or, as forks, by the process that it started for that."""
    parents, words = dict[int, int](), dict[int, bytes]()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words[int(place.name)] = (place / "cmdline").read_bytes()
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    servers = [pid for pid, parent in parents.items() if parent == writer and b"forkserver" in words[pid]]
    forked = [pid for pid, parent in parents.items() if parent in servers]
    return forked + [pid for pid, parent in parents.items() if parent == writer and b"spawn_main" in words[pid]]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], bool]) -> None:
    """Until something is so, at most a minute."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def work_with_one_that_fails(*given: Any) -> None:
    """A process in which one training fails at its third step, as for want of memory."""
    update = Trainer.update

    def fails(self: Trainer, batch: Any) -> torch.Tensor:
        if self.step == 2 and self.config.seed == 1 and self.config.decoder.mixer[0].kind == "softmax":
            raise RuntimeError("out of something")
        return update(self, batch)

    Trainer.update = fails
    app.train_workers._work(*given)  # pyright: ignore[reportPrivateUsage]


def killed(*_: object) -> None:
    """What the kernel does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_more_processes_than_a_machine_has_use_for_are_refused(tmp_path: Path) -> None:
    result = train(*WORDS, "--workers", 1000, "--out", tmp_path)
    assert result.exit_code == 2
    assert "workers" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_on_a_gpu_trainings_at_once_are_those_one_after_another(tmp_path: Path) -> None:
    words = [*WORDS, *SMALL, *TASK, "--device", "cuda"]
    results = [train(*words, "--workers", workers, "--out", tmp_path / str(workers)) for workers in (1, 4)]
    one, other = (Run.open(Path(result.stdout.strip()), verify=True) for result in results)
    for cell in SweepConfig.parse(one.manifest.config).cells:
        curves = [[point["loss"] for point in run.record(cell.stage)["curve"]] for run in (one, other)]
        assert curves[1] == pytest.approx(curves[0], rel=2e-3)
