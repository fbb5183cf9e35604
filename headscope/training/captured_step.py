"""A training step as one CUDA graph: small models spend their time in launching kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from headscope.tasks.synthetic import SyntheticBatch

_NAMES = ("tokens", "targets", "inputs", "values", "asked")
_WARM = 3
"""Steps taken on a side stream before the capture, which every library wants to see; they train as all others do."""


class CapturedStep:
    """Runs ``update(batch)`` as a graph after a few plain steps; each call trains once."""

    def __init__(self, update: Callable[[SyntheticBatch], Tensor], optimizer: torch.optim.Optimizer) -> None:
        self._update, self._optimizer = update, optimizer
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: SyntheticBatch | None = None
        self._loss: Tensor | None = None
        self._stream = torch.cuda.Stream()
        self._taken = 0

    def __call__(self, batch: SyntheticBatch) -> Tensor:
        """Train on a batch, all of which have the same shape; returns the loss."""
        if self._taken < _WARM:
            return self._plainly(batch)
        if self._graph is None or self._batch is None or self._loss is None:
            self._capture(batch)
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
