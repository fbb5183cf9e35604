"""Several trainings in one process, a step of each in turn, so that a GPU works on all of them at once.

Kernels of different processes take turns on a GPU; those of different CUDA streams of one process run together. The
steps of a small model are hundreds of kernels that each fill a small part of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

K = TypeVar("K")
R = TypeVar("R")


@dataclass(frozen=True)
class Ended(Generic[K, R]):
    """A training that is over.

    Attributes:
        key: which.
        result: what it returned; None if it failed.
        error: why it failed, or None.
    """

    key: K
    result: R | None
    error: Exception | None


def to_end(steps: Generator[int, None, R], on_step: Callable[[int], None] | None = None) -> R:
    """Take every step of a training and return what it returns.

    Args:
        steps: such as `Trainer.steps` gives.
        on_step: called with the number of steps taken, after each.
    """
    while True:
        try:
            done = next(steps)
        except StopIteration as over:
            return over.value
        if on_step is not None:
            on_step(done)


def side_by_side(
    begin: Callable[[K], Generator[int, None, R]],
    take: Callable[[bool], K | None],
    *,
    width: int,
    device: torch.device,
) -> Iterator[Ended[K, R]]:
    """Step up to ``width`` trainings in turn; each that is over is handed out, and the next takes its place.

    Each has random numbers, a model and, on CUDA, a stream of its own, so its numbers are those that it has alone.
    One that fails is handed out with its error, and the others go on.

    Args:
        begin: the steps of a training, such as `Trainer.steps` gives. Whatever it does happens on the stream of the
            training.
        take: asked for the next training wherever there is room. None means that there is none now or, where it is
            called with True because nothing is running, that there will be none. Then alone may it wait.
        width: most trainings at once.
        device: what they run on.
    """
    lanes = [_Lane[K, R](torch.cuda.Stream(device) if device.type == "cuda" else None) for _ in range(width)]
    try:
        while True:
            for lane in (lane for lane in lanes if not lane.is_busy):
                key = take(not any(other.is_busy for other in lanes))
                if key is None:
                    break
                lane.start(key, begin)
            busy = [lane for lane in lanes if lane.is_busy]
            if not busy:
                return
            yield from filter(None, (lane.turn() for lane in busy))
    finally:
        for lane in lanes:
            lane.stop()


class _Lane(Generic[K, R]):
    """Room for one training; the stream stays, as trainings come and go."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._running: tuple[K, Generator[int, None, R]] | None = None

    @property
    def is_busy(self) -> bool:
        return self._running is not None

    def start(self, key: K, begin: Callable[[K], Generator[int, None, R]]) -> None:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        self._running = key, _begun(begin, key)

    def turn(self) -> Ended[K, R] | None:
        """Take a step; what it came to if there was none left."""
        assert self._running is not None
        key, steps = self._running
        with self._on_stream():
            try:
                next(steps)
            except StopIteration as over:
                ended = Ended[K, R](key, over.value, None)
            except Exception as error:  # the others go on
                ended = Ended[K, R](key, None, error)
            else:
                return None
        self.stop()
        return ended

    def stop(self) -> None:
        if self._running is None:
            return
        with self._on_stream():
            self._running[1].close()
        self._running = None
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _begun(begin: Callable[[K], Generator[int, None, R]], key: K) -> Generator[int, None, R]:
    """``begin`` is part of the first step: it happens on the stream, and its errors are those of the training."""
    return (yield from begin(key))
