"""The cells of a train run in several processes at once; one process, this one, writes the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from app.running import Listener
from app.train_cells import TrainedCell, keep_cell, train_cell
from headscope.errors import RunError
from headscope.models.loading import resolve_device
from headscope.runs import RunWriter
from headscope.training.sweep import Cell, SweepConfig


@dataclass(frozen=True)
class _Done:
    trained: TrainedCell
    seconds: float


def work_in_processes(writer: RunWriter, config: SweepConfig, listener: Listener) -> None:
    """Train every cell that is not in, ``config.workers`` at a time, and add each to the run when it is trained.

    What a cell comes to does not depend on the number of processes. When this process is stopped, so are they, and
    the trainings that they were in go on from their last save.

    Raises:
        RunError: if a process dies (killed for its memory, say); the cells that are in stay.
    """
    open_cells = [cell for cell in config.cells if not writer.has(cell.stage)]
    if not open_cells:
        return
    total, workers = len(config.cells), min(config.workers, len(open_cells))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin) as pool:
        running = {pool.submit(_train, config, cell, writer.path): cell for cell in open_cells}
        try:
            listener.stage(f"{workers} processes", total - len(running), total)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    _keep(writer, cell, future)
                    listener.stage(cell.stage, total - len(running), total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _keep(writer: RunWriter, cell: Cell, future: Future[_Done]) -> None:
    try:
        done = future.result()
    except BrokenProcessPool:
        raise RunError(
            "a process of the training died, perhaps for want of memory: resume the run, or start it with fewer "
            "--workers."
        ) from None
    keep_cell(writer, cell, done.trained, seconds=done.seconds)
    writer.log(f"{cell.stage}: {done.seconds:.1f} s")
    writer.progress({"stage": cell.stage, "done": 1, "total": 1})


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


def _train(config: SweepConfig, cell: Cell, folder: Path) -> _Done:
    trained = train_cell(config, cell, resolve_device(config.device), folder=folder)
    return _Done(trained, float(trained.record["train_seconds"]))
