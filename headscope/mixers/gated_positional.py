"""Gated positional attention: each head weighs where a token is against what it is."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer


class GatedPositionalSettings(Config):
    """Of gated positional attention.

    Attributes:
        locality: how narrow the heads' positions are at the start.
        gate: logit of the share that positions have at the start.
    """

    locality: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    gate: float = Field(default=1.0, allow_inf_nan=False)


class GatedPositional(RowMixer):
    """``M_i = (1 - g) softmax_j(s_ij) + g softmax_j(a (j-i)^2 + b (j-i))``, ``g = sigmoid(lambda)`` for each head.

    GPSA of ConViT (d'Ascoli et al. 2021, arXiv 2103.10697), in one dimension. At the start head h looks at
    the token h places before the row: ``a = -locality``, ``b = -2 h locality``.

    Attributes:
        position: a and b of each head.
        gate: lambda of each head.
    """

    settings_type: ClassVar[type[Config]] = GatedPositionalSettings

    def __init__(self, shape: MixerShape, settings: GatedPositionalSettings) -> None:
        super().__init__(shape, settings)
        back = torch.arange(shape.n_heads, dtype=torch.get_default_dtype())
        self.position = nn.Parameter(-settings.locality * torch.stack([torch.ones_like(back), 2 * back], -1))
        self.gate = nn.Parameter(torch.full((shape.n_heads,), settings.gate))

    def mix(self, given: MixerInput) -> Mix:
        """Two masked softmaxes, weighed by the gate."""
        content, positions = (
            scores.masked_fill(~given.visible, -torch.inf).softmax(-1)
            for scores in (given.scores, self._positions(given))
        )
        gate = self.gate.sigmoid()[:, None, None]
        return Mix((1 - gate) * content + gate * positions, given.value)

    def _positions(self, given: MixerInput) -> Float[Tensor, "H Q K"]:
        ahead = -given.offsets.to(given.query.dtype)
        square, straight = self.position[:, 0, None, None], self.position[:, 1, None, None]
        return square * ahead.square() + straight * ahead
