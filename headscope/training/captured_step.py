"""A training step as CUDA graphs: small models spend their time in launching kernels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from headscope.tasks.synthetic import SyntheticBatch

Draw = Callable[[torch.Generator], SyntheticBatch]

_NAMES = ("tokens", "targets", "inputs", "values", "asked")
_WARM = 3
"""Plain steps before the capture, which every library wants to see; they train as all others do."""
_COMPARED = 2
"""Batches that a graph must draw as the plain code does: one could be right by chance of being the first."""

_log = logging.getLogger(__name__)


@runtime_checkable
class Batches(Protocol):
    """Batches that come one after another in the same memory.

    Attributes:
        batch: the memory.
        generator: where the batches have come to.
    """

    batch: SyntheticBatch
    generator: torch.Generator

    def refill(self) -> None:
        """Put the next batch into the memory."""
        ...


class CopiedBatches:
    """`Batches` that are drawn plainly and copied."""

    def __init__(self, draw: Draw, generator: torch.Generator) -> None:
        self.generator, self._draw = generator, draw
        shape = draw(_generator_at(generator.get_state(), generator.device))  # of a twin, so that none is left out
        cloned = {name: part.clone() for name in _NAMES if (part := getattr(shape, name)) is not None}
        self.batch = replace(shape, marks={}, **cloned)

    def refill(self) -> None:
        """Draw and copy."""
        for held, new in zip(_tensors(self.batch), _tensors(self._draw(self.generator)), strict=True):
            held.copy_(new)


class GraphBatches:
    """`Batches` that a CUDA graph draws, from a generator of its own that begins in the state of another.

    A graph reads the generator's offset when it is replayed, and each replay moves it on by what one batch takes: the
    numbers are those of the plain code. A generator of its own, since one whose capture fails can no longer be used.
    """

    def __init__(self, draw: Draw, generator: torch.Generator, stream: torch.cuda.Stream) -> None:
        self.generator = _generator_at(generator.get_state(), generator.device)
        self._graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # later versions see for themselves, and warn
            self._graph.register_generator_state(self.generator)
        with torch.cuda.graph(self._graph, stream=stream):
            self.batch = draw(self.generator)

    def refill(self) -> None:
        """Replay."""
        self._graph.replay()


def are_drawn_alike(batches: Batches, draw: Draw) -> bool:
    """Whether the next batches are, bit for bit, those that ``draw`` gives; leaves ``batches`` where they were."""
    state = batches.generator.get_state()
    plain = _generator_at(state, batches.generator.device)
    try:
        for _ in range(_COMPARED):
            batches.refill()
            pairs = zip(_tensors(batches.batch), _tensors(draw(plain)), strict=True)
            if not all(_is_same(held, expected) for held, expected in pairs):
                return False
        return torch.equal(batches.generator.get_state(), plain.get_state())
    finally:
        batches.generator.set_state(state)


class CapturedStep:
    """Draws a batch and trains on it: plainly a few times, then as two graphs; each call trains once.

    What cannot be captured is run plainly, which is only slower: a step whose shapes depend on the data, batches that
    are made with the help of the CPU, or that a graph draws otherwise than the plain code.

    All of it runs on one stream, on which no other training may run at the time: the current one, or one of its own
    where that is the default stream. PyTorch keeps the workspace of matrix products by stream, and a graph remembers
    the one of the stream it was captured on, so two that are captured on one stream and replayed on two would write
    into the same memory.

    Attributes:
        generator: where the training is in its data; another object once the batches are drawn by a graph.
    """

    def __init__(
        self,
        draw: Draw,
        update: Callable[[SyntheticBatch], Tensor],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> None:
        self.generator = generator
        self._draw, self._update, self._optimizer = draw, update, optimizer
        current = torch.cuda.current_stream()
        self._stream = torch.cuda.Stream() if current == torch.cuda.default_stream() else current
        self._batches: Batches | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss: Tensor | None = None
        self._taken, self._refused = 0, False

    @property
    def parts(self) -> tuple[str, ...]:
        """What runs as a graph: ``batch``, ``update``, both or nothing."""
        if self._graph is None:
            return ()
        return ("batch", "update") if isinstance(self._batches, GraphBatches) else ("update",)

    def __call__(self) -> Tensor:
        """Train on the next batch, all of which have the same shape; returns the loss."""
        outer = torch.cuda.current_stream()
        if outer == self._stream:
            return self._step()
        self._stream.wait_stream(outer)
        with torch.cuda.stream(self._stream):
            loss = self._step()
        outer.wait_stream(self._stream)
        return loss

    def release(self) -> None:
        """Wait for what still runs, then give up the graphs and their memory."""
        self._stream.synchronize()
        self._batches, self._graph, self._loss = None, None, None

    def _step(self) -> Tensor:
        if self._graph is None and not self._refused and self._taken >= _WARM:
            self._capture()
        if self._graph is None:
            self._taken += 1
            return self._update(self._draw(self.generator))
        assert self._batches is not None and self._loss is not None  # noqa: PT018
        self._batches.refill()
        self._graph.replay()
        return self._loss.clone()

    def _capture(self) -> None:
        """Capture what can be; after a failure the training is as it was before."""
        self._optimizer.zero_grad(set_to_none=True)
        batches = self._drawn_by_a_graph() or CopiedBatches(self._draw, self.generator)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                self._loss = self._update(batches.batch)
        except RuntimeError as error:
            self._clean_up("a step of training", error)
            self._refused, self._loss = True, None
            self._optimizer.zero_grad(set_to_none=True)
        else:
            self._batches, self._graph, self.generator = batches, graph, batches.generator

    def _drawn_by_a_graph(self) -> GraphBatches | None:
        """Batches of a graph, if they can be captured and are those of the plain code."""
        if not _is_drawn_without_waiting(self._draw, self.generator):
            return None
        try:
            batches = GraphBatches(self._draw, self.generator, self._stream)
        except RuntimeError as error:
            self._clean_up("a batch", error)
            return None
        return batches if are_drawn_alike(batches, self._draw) else None

    def _clean_up(self, what: str, error: RuntimeError) -> None:
        """A capture that fails does not leave its stream."""
        _log.debug("%s cannot be captured: %s", what, error)
        torch.cuda.set_stream(self._stream)
        torch.cuda.synchronize()


def _is_drawn_without_waiting(draw: Draw, generator: torch.Generator) -> bool:
    """Whether a batch is drawn without the CPU: found out plainly, since a capture that fails leaves its traces."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        draw(_generator_at(generator.get_state(), generator.device))
    except RuntimeError as error:
        _log.debug("a batch cannot be captured: %s", error)
        return False
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return True


def _generator_at(state: Tensor, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(state)
    return generator


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Equal shapes and numbers; what is no number is equal to its like."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _tensors(batch: SyntheticBatch) -> list[Tensor]:
    """What a loss depends on."""
    return [part for name in _NAMES if (part := getattr(batch, name)) is not None]
