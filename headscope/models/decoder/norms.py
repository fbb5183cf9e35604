"""Normalisation of the stream, with the hooks of TransformerLens, and of heads."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformer_lens.hook_points import HookPoint

EPSILON = 1e-6


class UnitRMS(nn.Module):
    """``x / rms(x)`` over the last axis, times a learned gain where there is one."""

    def __init__(self, width: int, *, learned: bool) -> None:
        super().__init__()
        self.width = width
        self.gain = nn.Parameter(torch.ones(width)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return rms_norm(x, (self.width,), self.gain, EPSILON)


class Norm(nn.Module):
    """The norm before a layer or the unembedding: ``x / hook_scale``, that is ``hook_normalized``, times w, plus b.

    Attributes:
        w: the gain.
        b: added after it by a layer norm, which also takes the mean off; None for the root mean square.
    """

    def __init__(self, width: int, kind: Literal["rms", "layer"]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(width))
        self.b = nn.Parameter(torch.zeros(width)) if kind == "layer" else None
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T M"]:
        """Normalise."""
        x = stream if self.b is None else stream - stream.mean(-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + EPSILON).sqrt())
        x = self.hook_normalized(x / scale) * self.w
        return x if self.b is None else x + self.b


class NoNorm(nn.Module):
    """In place of a norm where the stream is a unit vector already."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_normalized = HookPoint()

    def forward(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T M"]:
        """The stream as it is."""
        return self.hook_normalized(stream)
