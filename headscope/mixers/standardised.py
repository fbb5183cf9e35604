"""Rows that are standardised in place of a softmax: mean and deviation are learned, weights may be negative."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind

_SMALL = 1e-5


class Standardised(RowMixer):
    """``M_ij = g (s_ij - mean_i) / std_i + b`` over the tokens that row i sees.

    Normalised attention pooling (Richter and Wattenhofer 2020, arXiv 2005.09561). A row that sees one
    token has no deviation and gives it b.

    Attributes:
        gain: g of each head, 1 at the start.
        bias: b of each head, 0 at the start.
    """

    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = True

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.gain = nn.Parameter(torch.ones(shape.n_heads))
        self.bias = nn.Parameter(torch.zeros(shape.n_heads))

    def mix(self, given: MixerInput) -> Mix:
        """Masked moments."""
        scores, visible = given.scores, given.visible
        seen = visible.sum(-1, keepdim=True).to(scores.dtype)
        centred = (scores - (scores * visible).sum(-1, keepdim=True) / seen) * visible
        variance = centred.square().sum(-1, keepdim=True) / seen
        weights = self.gain[:, None, None] * centred * (variance + _SMALL).rsqrt() + self.bias[:, None, None]
        return Mix(weights * visible, given.value)
