"""Differential attention: one softmax minus a share of another."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind


class Differential(RowMixer):
    """``M = softmax(q1 k1^T / sqrt(d/2)) - lambda softmax(q2 k2^T / sqrt(d/2))`` on two halves of queries and keys.

    ``lambda = exp(a1 . b1) - exp(a2 . b2) + start``, with vectors a, b that all heads of the layer share and
    ``start = 0.8 - 0.6 exp(-0.3 layer)``, the first layer being 0 (Ye et al. 2024, arXiv 2410.05258).
    The halves are the even and the odd channels: a rotation by position turns channels that lie d/2 apart, so that it
    stays within each half where d is a multiple of 4. The score hook sees the first map only. The paper's norm of each
    head is the decoder's ``output_norm``.

    Attributes:
        left: a1 and a2.
        right: b1 and b2.
        start_share: what lambda starts around.
    """

    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = True

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        if shape.d_key % 2:
            raise ConfigError(f"the mixer 'differential' halves keys: d_key cannot be {shape.d_key}, give an even one.")
        self.start_share = 0.8 - 0.6 * math.exp(-0.3 * shape.layer)
        self.left = nn.Parameter(torch.randn(2, shape.d_key // 2) * 0.1)
        self.right = nn.Parameter(torch.randn(2, shape.d_key // 2) * 0.1)

    @property
    def share(self) -> Tensor:
        """Lambda, the share of the second map that is taken off the first."""
        first, second = (self.left * self.right).sum(-1).exp().unbind()
        return first - second + self.start_share

    def mix(self, given: MixerInput) -> Mix:
        """Two masked softmaxes."""
        first, second = (
            replace(given, query=given.query[..., half::2], key=given.key[..., half::2], scale=given.scale * 2**0.5)
            for half in (0, 1)
        )
        second = replace(second, edit_scores=None)
        one, other = (half.scores.masked_fill(~given.visible, -torch.inf).softmax(-1) for half in (first, second))
        return Mix(one - self.share * other, given.value)
