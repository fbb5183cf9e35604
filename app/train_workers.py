"""The cells of a train run in several processes at once; one process, this one, writes the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import torch

from app.running import Listener
from app.train_cells import TrainedCell, cell_steps, keep_cell
from headscope.errors import HeadscopeError, RunError
from headscope.models.loading import resolve_device
from headscope.runs import RunWriter
from headscope.training.side_by_side import Ended, side_by_side
from headscope.training.sweep import Cell, SweepConfig

_SIDE_BY_SIDE = {"cuda": 8}
"""Most trainings in one process; one where a device is not named.

A GPU gives its processes turns, but runs kernels of one process's streams together. Seen on an H200 with recall (64
tokens, width 64): four processes of one training each take 1,100 steps a second in all, one process of eight 3,400.
"""
_DIED = "a process of the training died, perhaps for want of memory: resume the run, or start it with fewer --workers."


@dataclass(frozen=True)
class _Answer:
    """What came of a cell: the trained cell, or why there is none, in one line and in full."""

    cell: Cell
    trained: TrainedCell | None
    reason: str = ""
    trace: str = ""


def work_in_processes(writer: RunWriter, config: SweepConfig, listener: Listener) -> None:
    """Train every cell that is not in, ``config.workers`` at a time, and add each to the run when it is trained.

    On CUDA up to eight share a process. What a cell comes to does not depend on the number of processes, nor on those
    beside it. When this process is stopped, so are they, and the trainings that they were in go on from their last
    save.

    Raises:
        RunError: if a process dies (killed for its memory, say); the cells that are in stay. If a training fails, once
            all others are in.
    """
    waiting = deque(cell for cell in config.cells if not writer.has(cell.stage))
    if not waiting:
        return
    at_once = min(config.workers, len(waiting))
    widths = _widths(at_once, _SIDE_BY_SIDE.get(resolve_device(config.device).type, 1))
    total, left, failed = len(config.cells), len(waiting), list[_Answer]()
    listener.stage(f"{at_once} trainings at once", total - left, total)
    with closing(_answers(config, waiting, widths, writer.path)) as answers:
        for answer in answers:
            left -= 1
            if answer.trained is None:
                writer.log(f"{answer.cell.stage} failed: {answer.trace}")
                failed.append(answer)
                listener.say(f"{answer.cell.stage} failed: {answer.reason}")
            else:
                listener.say(_keep(writer, answer.cell, answer.trained))
            listener.step(total - left, total)
    if failed:
        raise _error_of(failed)


def _widths(at_once: int, most: int) -> list[int]:
    """Trainings of each process: as few processes as can be, filled evenly."""
    processes = -(-at_once // most)
    return [at_once // processes + (index < at_once % processes) for index in range(processes)]


def _answers(
    config: SweepConfig, waiting: deque[Cell], widths: Iterable[int], folder: Path
) -> Generator[_Answer, None, None]:
    """What comes of each cell, as it comes; no process is left behind, however it ends."""
    workers = list[_Worker]()
    try:
        for width in widths:
            workers.append(_Worker.start(config, folder, width))
            for _ in range(width):
                workers[-1].give(waiting.popleft())
        while busy := {worker.connection: worker for worker in workers if worker.cells}:
            for connection in wait(list(busy)):
                worker = busy[cast("Connection", connection)]
                answer = worker.heard()
                if waiting:
                    worker.give(waiting.popleft())
                yield answer
    except BaseException:
        for worker in workers:
            worker.process.terminate()
        raise
    finally:
        for worker in workers:
            worker.connection.close()  # one that waits for a cell ends
        for worker in workers:
            worker.process.join()


@dataclass
class _Worker:
    """A process that trains, seen from this one.

    Attributes:
        process: it.
        connection: cells go there, answers come back.
        cells: so many it is training.
    """

    process: BaseProcess
    connection: Connection
    cells: int = 0

    @classmethod
    def start(cls, config: SweepConfig, folder: Path, width: int) -> _Worker:
        context = _context()
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(config, folder, width, theirs), daemon=True)
        process.start()
        theirs.close()  # else its end would not be the end of the connection
        return cls(process, ours)

    def give(self, cell: Cell) -> None:
        try:
            self.connection.send(cell)
        except OSError:
            raise RunError(_DIED) from None
        self.cells += 1

    def heard(self) -> _Answer:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise RunError(_DIED) from None
        self.cells -= 1
        return answer


def _context() -> SpawnContext | ForkServerContext:
    """How processes start: as forks of one that has only imported torch, seconds of work for each of them saved.

    Nothing has computed in that one, nor asked for a GPU, so that a fork of it is as good as new. Elsewhere than on
    Linux the libraries of the system need not survive a fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _keep(writer: RunWriter, cell: Cell, trained: TrainedCell) -> str:
    """Add a cell to the run; returns what there is to say of it."""
    seconds = float(trained.record["train_seconds"])
    keep_cell(writer, cell, trained, seconds=seconds)
    told = f"{cell.stage}: {seconds:.1f} s, accuracy {trained.record['accuracy']:.3f}"
    writer.log(told)
    writer.progress({"stage": cell.stage, "done": 1, "total": 1})
    return told


def _error_of(failed: Sequence[_Answer]) -> RunError:
    more = f" (so did {len(failed) - 1} more)" if len(failed) > 1 else ""
    return RunError(
        f"the training {failed[0].cell.stage} failed{more}: {failed[0].reason} Whatever did not fail is in, and the "
        "run's log.txt has the details: resume the run to try again."
    )


def _work(config: SweepConfig, folder: Path, width: int, connection: Connection) -> None:
    """A process that trains: cells come in, answers go out, until the connection ends."""
    _begin()
    device = resolve_device(config.device)

    def begin(cell: Cell) -> Generator[int, None, TrainedCell]:
        return cell_steps(config, cell, device, folder=folder)

    def take(is_idle: bool) -> Cell | None:
        try:
            return connection.recv() if is_idle or connection.poll() else None
        except EOFError:
            return None

    for ended in side_by_side(begin, take, width=width, device=device):
        connection.send(_answer(ended))


def _answer(ended: Ended[Cell, TrainedCell]) -> _Answer:
    if ended.error is None:
        return _Answer(ended.key, ended.result)
    text = str(ended.error).strip() or "no reason given."
    reason = text if isinstance(ended.error, HeadscopeError) else f"{type(ended.error).__name__}: {text}"
    return _Answer(ended.key, None, reason, "".join(traceback.format_exception(ended.error)))


def _begin() -> None:
    """A worker computes on one thread, leaves Ctrl-C to the process that writes, and ends when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
