"""A global convolution whose filter is made from the text."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.fft import irfft, rfft

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.same_width import check_same_width


class Orchid(Mixer):
    """``z_i = sum_j h_{(i - j) mod T} v_j``, ``h_l = sum_t q_t k_{(t + l) mod T} / T``, channel by channel.

    Orchid's cross-correlation filter (Karami and Ghodsi 2024, 2402.18508, section 3): shifting the text in a circle
    leaves h as it is, and shifts z. The filter reads the whole text, so that it works both ways only.
    """

    kind: MatrixKind = "per_channel"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    causal: bool = False

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        check_same_width(shape, "orchid")

    def mix(self, given: MixerInput) -> Mix:
        """The filter along every diagonal of a circle."""
        size = given.key.shape[2]
        kernel = irfft(self._spectrum(given), n=size)
        return Mix(kernel[..., given.offsets % size], given.value)

    def operation(self, given: MixerInput) -> Tensor:
        """By Fourier transforms."""
        return irfft(self._spectrum(given) * rfft(given.value.mT), n=given.key.shape[2]).mT

    def state_size(self, length: int) -> int:
        """The whole text: keys, queries and values."""
        return length * self.shape.n_heads * (2 * self.shape.d_key + self.shape.d_head)

    def _spectrum(self, given: MixerInput) -> Tensor:
        return torch.conj(rfft(given.query.mT)) * rfft(given.key.mT) / given.key.shape[2]
