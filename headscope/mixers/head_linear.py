"""A linear map of the stream for each head: what gates are made of."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.mixers.interface import MixerShape


class HeadLinear(nn.Module):
    """``W_h x_t + b_h`` for every head h, ``width`` numbers each.

    Attributes:
        weight: (head, d_model, width).
        bias: (head, width).
    """

    def __init__(self, shape: MixerShape, width: int = 1, *, bias: float = 0.0, size: float = 1.0) -> None:
        """Random weights of standard deviation ``size / sqrt(d_model)``, every bias at ``bias``."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape.n_heads, shape.d_model, width) * shape.d_model**-0.5 * size)
        self.bias = nn.Parameter(torch.full((shape.n_heads, width), bias))

    def forward(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B H T W"]:
        """All heads' numbers for every token."""
        return torch.einsum("btm,hmw->bhtw", stream, self.weight) + self.bias[:, None]

    def scalar(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B H T"]:
        """The one number of a map of width 1."""
        return self(stream).squeeze(-1)
