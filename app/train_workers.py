"""The cells of a train run in several processes at once; one process, this one, writes the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from app.running import Listener
from app.train_cells import TrainedCell, cell_steps, keep_cell
from headscope.errors import HeadscopeError, RunError
from headscope.models.loading import resolve_device
from headscope.runs import RunWriter
from headscope.training.side_by_side import Ended, side_by_side
from headscope.training.sweep import Cell, SweepConfig

_SIDE_BY_SIDE = {"cuda": 4}
"""Most trainings in one process; one where a device is not named.

A GPU gives its processes turns, but runs kernels of one process's streams together. The thread that launches for all
of them is what bounds them: a step takes it about a quarter of the time that the step takes the GPU.
"""
_DIED = (
    "a process of the training died, perhaps for want of memory: resume the run, or start it with fewer --workers."
)


@dataclass(frozen=True)
class _Answer:
    """What came of a cell: the trained cell, or why there is none, in one line and in full."""

    cell: Cell
    trained: TrainedCell | None
    reason: str = ""
    trace: str = ""


def work_in_processes(writer: RunWriter, config: SweepConfig, listener: Listener) -> None:
    """Train every cell that is not in, ``config.workers`` at a time, and add each to the run when it is trained.

    On CUDA up to four share a process. What a cell comes to does not depend on the number of processes, nor on those
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
    total, failed = len(config.cells), list[_Answer]()
    listener.stage(f"{at_once} trainings at once", total - len(waiting), total)
    left = len(waiting)
    for answer in _answers(config, waiting, widths, writer.path):
        left -= 1
        if answer.trained is None:
            writer.log(f"{answer.cell.stage} failed: {answer.trace}")
            failed.append(answer)
        else:
            _keep(writer, answer.cell, answer.trained)
        listener.stage(answer.cell.stage, total - left, total)
    if failed:
        raise _error_of(failed)


def _widths(at_once: int, most: int) -> list[int]:
    """Trainings of each process: as few processes as can be, filled evenly."""
    processes = -(-at_once // most)
    return [at_once // processes + (index < at_once % processes) for index in range(processes)]


def _answers(
    config: SweepConfig, waiting: deque[Cell], widths: Iterable[int], folder: Path
) -> Generator[_Answer, None, None]:
    """What comes of each cell, as it comes; nobody is left behind, however it ends."""
    crew, running = list[SpawnProcess](), dict[Connection, int]()
    try:
        for width in widths:
            process, connection = _started(config, folder, width)
            crew.append(process)
            running[connection] = 0
            for _ in range(width):
                _hand_out(waiting, running, connection)
        while any(running.values()):
            for connection in [one for one, cells in running.items() if cells]:
                if connection in wait(running):
                    answer = _heard(connection)
                    running[connection] -= 1
                    _hand_out(waiting, running, connection)
                    yield answer
    except BaseException:
        for process in crew:
            process.terminate()
        raise
    finally:
        for connection in running:
            connection.close()
        for process in crew:
            process.join()
