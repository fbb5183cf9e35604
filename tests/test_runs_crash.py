"""A run survives being killed at any moment: the finished stages are left, no more, and it can be resumed."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headscope.checks import CausalCheck
from headscope.heads import HeadScores, ScoreDefinition
from headscope.runs import ModelRecord, Run, RunWriter, list_runs

Compare = Callable[[HeadScores, HeadScores], None]
ROOT = Path(__file__).resolve().parent.parent


class Crash(BaseException):
    """Stands for a kill: nothing after it runs."""


def crash(*_: object, **__: object) -> None:
    raise Crash


def crash_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Make one of the calls that change the disk, the ``step``-th, crash before it acts."""
    calls = itertools.count(1)

    def wrapped(act: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **options: object) -> object:
            if next(calls) == step:
                raise Crash
            return act(*arguments, **options)

        return counted

    for owner, name in (
        (os, "fsync"),
        (Path, "replace"),
        (Path, "rename"),
        (Path, "mkdir"),
        (shutil, "rmtree"),
    ):
        patch.setattr(owner, name, wrapped(getattr(owner, name)))


@pytest.fixture
def write_short_run(tiny_model: ModelRecord, fill_tiny_run: Callable[[RunWriter], None]) -> Callable[[Path], None]:
    """A function that writes a run of two stages from beginning to end, or from where it was stopped."""

    def write(root: Path) -> None:
        found = list_runs(root)
        planned = ["entropy", "check_induction"]
        with (
            RunWriter.resume(found[0].path)
            if found
            else RunWriter.create(
                root,
                kind="score",
                model=tiny_model,
                config={},
                command="",
                seed=0,
                planned=planned,
                card=None,
            )
        ) as writer:
            fill_tiny_run(writer)
            writer.finish(peak_memory_bytes=None)

    return write


def test_crash_before_any_change_of_the_disk_leaves_a_run_that_resumes_to_the_same_numbers(
    tmp_path: Path,
    write_short_run: Callable[[Path], None],
    tiny_scores: dict[str, list[HeadScores]],
    tiny_checks: list[CausalCheck],
    assert_same_scores: Compare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A short run is crashed at its first change of the disk, at its second, and so on to its end."""
    seen: set[tuple[bool, int]] = set()
    for step in range(1, 100):
        root = tmp_path / str(step)
        root.mkdir()
        with monkeypatch.context() as patch:
            crash_at(patch, step)
            try:
                write_short_run(root)
                break
            except Crash:
                pass
        if not list_runs(root):
            continue  # crashed before the folder had its name
        run = Run.open(list_runs(root)[0].path)
        stages = len(run.manifest.stages)
        seen.add((run.is_complete, stages))
        assert list(run.scores()) == ["entropy"][:stages]
        if not run.is_complete:
            write_short_run(root)
        (summary,) = list_runs(root)
        whole = Run.open(summary.path)
        assert (summary.status, whole.checks()) == ("done", tiny_checks[:1])
        assert_same_scores(whole.score("entropy"), tiny_scores["entropy"][0])
        assert not (whole.path / "stages").exists()
    assert step > 25
    assert seen == {(False, 0), (False, 1), (False, 2), (True, 2)}


def test_run_stopped_just_before_its_folder_got_its_name_can_be_resumed_and_stopped_again(
    tmp_path: Path, write_short_run: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest has sealed the logs already; a resume opens them again."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", crash)
        with pytest.raises(Crash):
            write_short_run(tmp_path)
    (summary,) = list_runs(tmp_path)
    assert summary.status == "unfinished (2 of 2 stages)"
    with RunWriter.resume(summary.path) as writer:
        writer.log("stopped again")
    assert list(Run.open(summary.path).scores()) == ["entropy"]
    write_short_run(tmp_path)
    assert Run.open(list_runs(tmp_path)[0].path).is_complete


CHILD = """
import sys
from pathlib import Path
import numpy as np
from headscope.checks import CausalCheck
from headscope.heads import HeadScores, ScoreDefinition
from headscope.runs import ModelRecord, RunWriter

names = [f"s{i}" for i in range(16)]
shape = {"n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_model": 32, "n_ctx": 64}
model = ModelRecord(name="made-up", source="nowhere", **shape)
settings = {"kind": "score", "config": {}, "command": "", "seed": 0, "card": None}
root = Path(sys.argv[1])
writer = RunWriter.create(root, model=model, planned=names, **settings)
print("ready", flush=True)
for i, name in enumerate(names):
    d = ScoreDefinition(name, name, "1", "", "", "", name)
    grid = np.full((3, 4), i / 7)
    scores = HeadScores(d, "made-up", grid, grid, grid, np.full((3, 4), i), 2)
    writer.save_scores(name, [scores], samples={name: np.full((500, 3, 4), i, np.float32)}, seconds=0.0)
    print(name, flush=True)
"""


@pytest.mark.slow
def test_kill_9_while_saving_keeps_exactly_the_finished_stages(tmp_path: Path, assert_same_scores: Compare) -> None:
    """Eight writers, each killed at a random moment of saving a stage (which takes some 30 milliseconds)."""
    chance = random.Random(0)
    for turn in range(8):
        kill_one(tmp_path / str(turn), 2 * turn, chance.uniform(0, 0.03), assert_same_scores)


def kill_one(root: Path, stages: int, delay_s: float, assert_same_scores: Compare) -> None:
    """Start a writer, kill it a moment after it has saved some stages, check what is left and finish it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root)], env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        told = [child.stdout.readline().strip() for _ in range(stages)]
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        told += child.stdout.read().split()
    (summary,) = list_runs(root)
    run = Run.open(summary.path)
    kept = [stage.name for stage in run.manifest.stages]
    planned = list(run.manifest.planned)
    assert kept == planned[: len(kept)]
    assert len(told) <= len(kept) <= len(told) + 1  # at most one was in before the child could say so
    assert list(run.scores()) == kept
    for i, name in enumerate(kept):
        assert (run.score(name).values == i / 7).all()
        assert run.samples(name).shape == (500, 3, 4)
    resume_all(run, assert_same_scores)


def resume_all(run: Run, assert_same_scores: Compare) -> None:
    """Save the stages that miss, with the value -1, and check that those there before are as they were."""
    before, missing = run.scores(), run.missing_stages
    grid = np.full((3, 4), -1.0)
    with RunWriter.resume(run.path) as writer:
        for name in missing:
            definition = ScoreDefinition(name, name, "1", "", "", "", name)
            scores = HeadScores(definition, "made-up", grid, grid, grid, np.ones((3, 4), int), 2)
            writer.save_scores(name, [scores], seconds=0.0)
        whole = Run.open(writer.finish(peak_memory_bytes=None))
    for name, score in before.items():
        assert_same_scores(whole.score(name), score)
    assert all((whole.score(name).values == -1).all() for name in missing)
