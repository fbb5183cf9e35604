"""Softmax times a learned matrix of the distance: rows need not sum to 1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind


class ToeplitzSoftmax(RowMixer):
    """``M_ij = softmax(s_i)_j c_{i-j}``, c learned for each head and distance (Luo et al. 2022, arXiv 2205.13401).

    Universal relative positional encoding, URPE; the bias inside the softmax is the decoder's position axis.
    Distances of ``n_ctx`` and more take the number of the largest learned one.

    Attributes:
        factor: (head, 2 n_ctx - 1), 1 at the start; distance 0 is in the middle, tokens before the row right of it.
    """

    row_kind: RowKind = "signed"

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.factor = nn.Parameter(torch.ones(shape.n_heads, 2 * shape.n_ctx - 1))

    def mix(self, given: MixerInput) -> Mix:
        """Masked softmax, cell by cell times the factor of its distance."""
        weights = given.scores.masked_fill(~given.visible, -torch.inf).softmax(-1)
        return Mix(weights * self._factors(given), given.value)

    def _factors(self, given: MixerInput) -> Float[Tensor, "H Q K"]:
        last = self.shape.n_ctx - 1
        return self.factor[:, given.offsets.clamp(-last, last) + last]
