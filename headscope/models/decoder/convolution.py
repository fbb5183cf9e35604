"""A short causal convolution over positions, one filter for each channel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad


class ShortConvolution(nn.Module):
    """``y_t = sum_w filter_w x_{t-w}`` for each channel, w from 0 to ``width - 1``.

    Attributes:
        filter: (channel, width); the last tap is the token itself.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(channels, width) * width**-0.5)

    @property
    def state_size(self) -> int:
        """Numbers kept of the last tokens."""
        return self.filter.shape[0] * (self.filter.shape[1] - 1)

    def forward(self, x: Float[Tensor, "B T H D"]) -> Float[Tensor, "B T H D"]:
        """Convolve every channel of every head."""
        batch, size, heads, width = x.shape
        channels = x.reshape(batch, size, heads * width).mT
        mixed = conv1d(pad(channels, (self.filter.shape[1] - 1, 0)), self.filter[:, None], groups=self.filter.shape[0])
        return mixed.mT.reshape(batch, size, heads, width)
