"""Kolmogorov-Arnold attention: a learned operator on rows of scores in place of the softmax."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind


class FourierRowsSettings(Config):
    """Of Fourier-KArAt.

    Attributes:
        rank: numbers that a row is put through; None learns an operator of full rank.
        frequencies: terms of each Fourier series.
    """

    rank: int | None = Field(default=12, ge=1)
    frequencies: int = Field(default=3, ge=1)


class FourierRows(RowMixer):
    """``M_i = W phi(s_i)``, ``phi(s_i)_p = sum_j sum_m a_pjm cos(m s_ij) + b_pjm sin(m s_ij)``.

    Fourier-KArAt (Maity et al. 2025, arXiv 2503.10632, section 4, equation 2), without its optional projection onto the
    simplex. At full rank there is no W. The sum and the weights are those of the tokens that a row sees; a token
    further than ``n_ctx`` takes the coefficients of the last one.

    Attributes:
        cosine: a, (head, rank, n_ctx, frequency).
        sine: b, likewise.
        W_row: (head, n_ctx, rank), or None at full rank.
    """

    row_kind: RowKind = "signed"
    settings_type: ClassVar[type[Config]] = FourierRowsSettings

    def __init__(self, shape: MixerShape, settings: FourierRowsSettings) -> None:
        super().__init__(shape, settings)
        size, rank = shape.n_ctx, settings.rank or shape.n_ctx
        std = (size * settings.frequencies) ** -0.5 * (1 if settings.rank else size**-0.5)
        self.cosine = nn.Parameter(torch.randn(shape.n_heads, rank, size, settings.frequencies) * std)
        self.sine = nn.Parameter(torch.randn(shape.n_heads, rank, size, settings.frequencies) * std)
        row = torch.randn(shape.n_heads, size, rank) * (size * rank) ** -0.5 if settings.rank else None
        self.W_row = None if row is None else nn.Parameter(row)

    def mix(self, given: MixerInput) -> Mix:
        """The series of every visible score, summed, and spread over the row again."""
        at = given.columns.clamp_max(self.shape.n_ctx - 1)
        hidden = self._series(given.scores, given.visible, at)
        weights = hidden[..., at] if self.W_row is None else hidden @ self.W_row[:, at].mT
        return Mix(weights * given.visible, given.value)

    def _series(self, scores: Float[Tensor, "B H Q K"], visible: Tensor, at: Tensor) -> Float[Tensor, "B H Q R"]:
        total = scores.new_zeros(*scores.shape[:3], self.cosine.shape[1])
        for index in range(self.cosine.shape[-1]):
            angle = scores * (index + 1)
            total = total + (angle.cos() * visible) @ self.cosine[:, :, at, index].mT
            total = total + (angle.sin() * visible) @ self.sine[:, :, at, index].mT
        return total
