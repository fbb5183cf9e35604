"""Sparse normalisers: rows that sum to 1 and are exactly 0 at low scores."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer


class EntmaxSettings(Config):
    """Of entmax.

    Attributes:
        form: ``entmax`` has alpha 1.5, half way from softmax to ``sparsemax``, which has 2.
    """

    form: Literal["entmax", "sparsemax"] = "entmax"


class Entmax(RowMixer):
    """``M_ij = max((a - 1) s_ij - tau_i, 0)^(1 / (a - 1))`` with the tau for which the row sums to 1.

    Sparsemax is a = 2 (Martins and Astudillo 2016, arXiv 1602.02068), 1.5-entmax a = 1.5 (Peters et al. 2019,
    arXiv 1905.05702); in attention: Correia et al. 2019, arXiv 1909.00015.
    """

    settings_type: ClassVar[type[Config]] = EntmaxSettings

    def __init__(self, shape: MixerShape, settings: EntmaxSettings) -> None:
        super().__init__(shape, settings)
        self.alpha = 1.5 if settings.form == "entmax" else 2.0

    def mix(self, given: MixerInput) -> Mix:
        """Scores below their row's largest, a threshold, and a power."""
        scores = given.scores.masked_fill(~given.visible, -torch.inf)
        # whatever lies 1 or more below the largest is out, so that -2 stands for all of it
        below = ((scores - scores.amax(-1, keepdim=True)) * (self.alpha - 1)).clamp_min(-2.0)
        over = (below - self._threshold(below)).relu()
        return Mix(over if self.alpha == 2.0 else over.square(), given.value)

    def _threshold(self, x: Float[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q 1"]:
        """Tau, in closed form of the moments of the scores that get weight."""
        with torch.no_grad():
            ordered = x.sort(-1, descending=True).values
            count = torch.arange(1, x.shape[-1] + 1, device=x.device)
            total, squares = ordered.cumsum(-1), ordered.square().cumsum(-1)
            size = (self._solve(total, squares, count) < ordered).sum(-1, keepdim=True)
            support = x >= ordered.gather(-1, size - 1)
        return self._solve_on(x, support)

    def _solve_on(self, x: Float[Tensor, "B H Q K"], support: Bool[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q 1"]:
        inside = x * support
        return self._solve(
            inside.sum(-1, keepdim=True), inside.square().sum(-1, keepdim=True), support.sum(-1, keepdim=True)
        )

    def _solve(self, total: Tensor, squares: Tensor, count: Tensor) -> Tensor:
        """Tau of rows whose scores with weight, this many, have these sums."""
        mean = total / count
        if self.alpha == 2.0:
            return mean - 1 / count
        spread = (1 - (squares - total * mean)) / count
        return mean - spread.clamp_min(torch.finfo(total.dtype).tiny).sqrt()
