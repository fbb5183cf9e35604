"""Length-scaled softplus attention, and its re-weighting."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize, softplus

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer

_UNSHIFTED = 3
"""Rows that see at most this many tokens are not shifted before they are re-weighted."""

_FLAT = 1e-5
"""A row whose weights all lie within this share of their mean is flat: powers would sharpen rounding errors."""


class LssaSettings(Config):
    """Of length-scaled softplus attention.

    Attributes:
        reweight: sharpen rows (LSSAR).
        power: how much.
    """

    reweight: bool = False
    power: int = Field(default=15, ge=1)


class Lssa(RowMixer):
    """``A_ij = f(c_ij) / sum_l f(c_il)``, ``f = softplus``, ``c_ij = log(d) log(n_i) cos(q_i, k_j)``.

    n_i is the number of tokens that row i sees, d the width of a key. With ``reweight``,
    ``M_ij = r_ij / sum_l r_il``, ``r = max(n_i A_ij - o_i, 0)^p``, where o is 1, and 0 in rows that see at most three
    tokens (Gao, Spratling and Gionfrida 2025, arXiv 2501.13428). The scale of the decoder is not used.
    """

    settings_type: ClassVar[type[Config]] = LssaSettings

    def __init__(self, shape: MixerShape, settings: LssaSettings) -> None:
        super().__init__(shape, settings)
        self.reweight, self.power = settings.reweight, settings.power

    def mix(self, given: MixerInput) -> Mix:
        """Softplus of scaled cosines over their sum; then the re-weighting."""
        seen = given.visible.sum(-1, keepdim=True).to(given.query.dtype)
        query = normalize(given.query, dim=-1) * seen.log()
        cosines = replace(given, query=query, key=normalize(given.key, dim=-1), scale=math.log(self.shape.d_key))
        weights = softplus(cosines.scores) * given.visible
        weights = weights / weights.sum(-1, keepdim=True)
        return Mix(self._sharpened(weights, seen) if self.reweight else weights, given.value)

    def _sharpened(self, weights: Float[Tensor, "B H Q K"], seen: Float[Tensor, "Q 1"]) -> Float[Tensor, "B H Q K"]:
        """Powers of what lies above the row's mean, over the largest so that none vanishes.

        A row whose weights are all the same has nothing above its mean and stays as it is.
        """
        above = (weights * seen - (seen > _UNSHIFTED).to(weights.dtype)).relu()
        largest = above.detach().amax(-1, keepdim=True)
        flat = largest < _FLAT
        powers = (above / torch.where(flat, 1.0, largest)).pow(self.power)
        total = torch.where(flat, 1.0, powers.sum(-1, keepdim=True))
        return torch.where(flat, weights, powers / total)
