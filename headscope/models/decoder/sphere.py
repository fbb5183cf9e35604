"""nGPT: hidden states, queries, keys and weights are unit vectors (Loshchilov et al. 2024, arXiv 2410.01131).

There are no norms before layers. A layer's output, made a unit vector, is where the stream moves to, by a learned step
in each dimension, and the stream is made a unit vector again: ``h <- unit(h + a (unit(f(h)) - h))`` (section 2.2.2).
Queries and keys are ``s_qk unit(.)`` and scores are multiplied by ``sqrt(d_key)`` (2.3.2); MLP inputs by ``s_u
sqrt(d)`` (2.4.2), logits by ``s_z`` (2.1). Weights are made unit vectors along the width of the stream after every step
of the optimiser: `Decoder.normalise_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

STEP = 0.05
"""Length of the steps at the start, as in the paper."""


def unit(x: Tensor, axis: int = -1) -> Tensor:
    """``x`` with length one along an axis."""
    return normalize(x, dim=axis)


class LearnedScale(nn.Module):
    """A learned vector that starts at ``start`` but is stored at ``stored``, which sets how fast it learns (2.5).

    Attributes:
        stored: the parameter; the vector is it times ``start / stored``.
    """

    def __init__(self, *shape: int, start: float = 1.0, stored: float) -> None:
        super().__init__()
        self.factor = start / stored
        self.stored = nn.Parameter(torch.full(shape, stored))

    def forward(self) -> Tensor:
        """The vector."""
        return self.stored * self.factor


class Step(nn.Module):
    """``unit(h + |a| (unit(change) - h))``.

    Attributes:
        size: a; its absolute value counts, as in the authors' code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = LearnedScale(width, start=STEP, stored=width**-0.5)

    def forward(self, stream: Tensor, change: Tensor) -> Tensor:
        """The stream after the step."""
        return unit(stream + self.size().abs() * (unit(change) - stream))


def unit_weights(model: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Every matrix that is kept at unit length, with the axis along which it is.

    A module names its own in ``stream_axes``: parameter -> the axis that the stream's width lies on.
    """
    for module in model.modules():
        axes: dict[str, int] = getattr(module, "stream_axes", {})
        for name, axis in axes.items():
            weights = getattr(module, name)
            if weights is not None:
                yield weights, axis
