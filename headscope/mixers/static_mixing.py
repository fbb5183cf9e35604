"""Mixing that looks at no token: means, Fourier transforms, learned frequency filters."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fft import irfft
from torch.nn.functional import interpolate

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class MeanPool(Mixer):
    """``M_ij = 1 / n_i`` over the n_i tokens that row i sees: the control that mixes and looks at nothing."""

    kind: MatrixKind = "static"
    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False

    def mix(self, given: MixerInput) -> Mix:
        """Equal weights."""
        weights = given.visible.to(given.value.dtype)
        weights = weights / weights.sum(-1, keepdim=True)
        return Mix(weights.expand(*given.value.shape[:2], -1, -1), given.value)

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        return {"mean": torch.zeros_like(token.value), "count": token.value.new_zeros(len(token.value))}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Move the mean."""
        count = state["count"] + 1
        mean = state["mean"] + (token.value - state["mean"]) / count[:, None, None, None]
        return mean, {"mean": mean, "count": count}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The mean of each channel, and how many tokens came."""
        return (self.shape.value_heads or self.shape.n_heads) * self.shape.d_head + 1


class FourierMixing(Mixer):
    """``M_ij = cos(2 pi i j / T) / sqrt(T)`` in even heads, ``-sin(2 pi i j / T) / sqrt(T)`` in odd ones.

    FNet (Lee-Thorp et al. 2021, 2105.03824, section 3.2) is ``Re(F_T x F_d) = C_T (x C_d) - S_T (x S_d)``: two heads,
    whose values are the cosine and the sine transform of the stream. Here W_V and W_O are learned in their place.
    """

    kind: MatrixKind = "static"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    causal: bool = False

    def mix(self, given: MixerInput) -> Mix:
        """Both transforms, in turn."""
        size, place = given.value.shape[2], given.columns
        turn = (place[:, None] * place % size).to(given.value.dtype) * (2 * math.pi / size)
        both = torch.stack([turn.cos(), -turn.sin()]) / math.sqrt(size)
        heads = torch.arange(self.shape.n_heads, device=place.device) % 2
        return Mix(both[heads].expand(given.value.shape[0], -1, -1, -1), given.value)

    def state_size(self, length: int) -> int:
        """The values of the whole text."""
        return length * self.shape.n_heads * self.shape.d_head


class GlobalFilter(Mixer):
    """``z = F^-1 (G * F v)`` with a learned complex G for each frequency and channel: M is a circulant matrix.

    The filter of GFNet (2107.00645, section 3.2) and of SpectFormer's spectral layers (2304.06446), along the text.
    G is held at the frequencies of the longest text and read between them for a shorter one.

    Attributes:
        spectrum: G less 1, (head, real or imaginary, d_head, frequency).
    """

    kind: MatrixKind = "per_channel"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    causal: bool = False

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.spectrum = nn.Parameter(torch.randn(shape.n_heads, 2, shape.d_head, shape.n_ctx // 2 + 1) * 0.5)

    def mix(self, given: MixerInput) -> Mix:
        """The filter along every diagonal of a circle."""
        size = given.value.shape[2]
        real, imaginary = interpolate(
            self.spectrum.flatten(1, 2), size=size // 2 + 1, mode="linear", align_corners=True
        ).chunk(2, 1)
        kernel = irfft(torch.complex(1 + real, imaginary), n=size)
        return Mix(kernel[..., given.offsets % size].expand(given.value.shape[0], -1, -1, -1, -1), given.value)

    def state_size(self, length: int) -> int:
        """The values of the whole text."""
        return length * self.shape.n_heads * self.shape.d_head
