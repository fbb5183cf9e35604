"""A training step as one CUDA graph: small models spend their time in launching kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from headscope.tasks.synthetic import SyntheticBatch

_NAMES = ("tokens", "targets", "inputs", "values", "asked")
_WARM = 3
"""Steps taken on a side stream before the capture, which every library wants to see; they train as all others do."""


_log = logging.getLogger(__name__)


class CapturedStep:
    """Runs ``update(batch)`` as a graph after a few plain steps; each call trains once.

    A step whose shapes depend on the data cannot be captured: it is then run plainly, which is only slower.
    """

    def __init__(self, update: Callable[[SyntheticBatch], Tensor], optimizer: torch.optim.Optimizer) -> None:
        self._update, self._optimizer = update, optimizer
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: SyntheticBatch | None = None
        self._loss: Tensor | None = None
        self._stream = torch.cuda.Stream()
        self._taken, self._refused = 0, False

    def __call__(self, batch: SyntheticBatch) -> Tensor:
        """Train on a batch, all of which have the same shape; returns the loss."""
        if self._taken < _WARM or self._refused:
            return self._plainly(batch)
        if self._graph is None and not self._is_captured(batch):
            return self._plainly(batch)
        assert self._graph is not None and self._batch is not None and self._loss is not None  # noqa: PT018
        for held, new in zip(_tensors(self._batch), _tensors(batch), strict=True):
            held.copy_(new)
        self._graph.replay()
        return self._loss.clone()

    def _plainly(self, batch: SyntheticBatch) -> Tensor:
        self._taken += 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._update(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _is_captured(self, batch: SyntheticBatch) -> bool:
        """Try to capture; after a failure the step is as it was before."""
        plain = torch.cuda.current_stream()
        try:
            self._capture(batch)
        except RuntimeError as error:
            _log.debug("a step of training cannot be captured: %s", error)
            torch.cuda.set_stream(plain)
            torch.cuda.synchronize()
            self._refused, self._graph, self._batch, self._loss = True, None, None, None
            self._optimizer.zero_grad(set_to_none=True)
        return not self._refused

    def _capture(self, batch: SyntheticBatch) -> None:
        cloned = {name: part.clone() for name in _NAMES if (part := getattr(batch, name)) is not None}
        self._batch = replace(batch, **cloned)
        self._optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._update(self._batch)


def _tensors(batch: SyntheticBatch) -> list[Tensor]:
    """What a loss depends on."""
    return [part for name in _NAMES if (part := getattr(batch, name)) is not None]
