"""A function of each score by itself: keys do not compete, and a row sums to anything."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind


class SigmoidSettings(Config):
    """Of sigmoid attention.

    Attributes:
        length_bias: scores are lowered by the logarithm of the number of tokens that the row sees.
        learned_bias: each head adds a number of its own, which starts at 0.
    """

    length_bias: bool = True
    learned_bias: bool = False


class Sigmoid(RowMixer):
    """``M_ij = sigmoid(s_ij - log n_i + b)``, n_i the tokens that row i sees (Ramapuram et al. 2024, arXiv 2409.04431).

    Attributes:
        bias: b of each head, or None where it is 0.
    """

    row_kind: RowKind = "positive"
    settings_type: ClassVar[type[Config]] = SigmoidSettings

    def __init__(self, shape: MixerShape, settings: SigmoidSettings) -> None:
        super().__init__(shape, settings)
        self.length_bias = settings.length_bias
        self.bias = nn.Parameter(torch.zeros(shape.n_heads)) if settings.learned_bias else None

    def mix(self, given: MixerInput) -> Mix:
        """A sigmoid of every visible score."""
        scores = given.scores
        if self.length_bias:
            scores = scores - given.visible.sum(-1, keepdim=True).to(scores.dtype).log()
        if self.bias is not None:
            scores = scores + self.bias[:, None, None]
        return Mix(scores.sigmoid() * given.visible, given.value)


class ReluSettings(Config):
    """Of ReLU attention.

    Attributes:
        power: of the positive part of a score.
        length_power: weights are divided by the number of tokens that the row sees to this power; 0 does not divide.
    """

    power: int = Field(default=1, ge=1)
    length_power: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class Relu(RowMixer):
    """``M_ij = max(s_ij, 0)^p / n_i^a``, n_i the tokens that row i sees (Wortsman et al. 2023, arXiv 2309.08586).

    Undivided, a = 0, with a normalised z it is ReLA (Zhang, Titov and Sennrich 2021, arXiv 2104.07012).
    """

    row_kind: RowKind = "positive"
    settings_type: ClassVar[type[Config]] = ReluSettings

    def __init__(self, shape: MixerShape, settings: ReluSettings) -> None:
        super().__init__(shape, settings)
        self.power, self.length_power = settings.power, settings.length_power

    def mix(self, given: MixerInput) -> Mix:
        """The positive part of every visible score."""
        weights = given.scores.relu().pow(self.power) * given.visible
        seen = given.visible.sum(-1, keepdim=True).to(weights.dtype)
        return Mix(weights / seen.pow(self.length_power), given.value)


class PolynomialSettings(Config):
    """Of polynomial attention.

    Attributes:
        degree: of the polynomial, even so that weights are positive.
    """

    degree: int = Field(default=4, ge=2, multiple_of=2)


class Polynomial(RowMixer):
    """``M_ij = s_ij^p / (1 + sum_l s_il^p)`` with p even (Kacham et al. 2023, arXiv 2310.01655).

    The 1 is a null column.
    """

    row_kind: RowKind = "substochastic"
    settings_type: ClassVar[type[Config]] = PolynomialSettings

    def __init__(self, shape: MixerShape, settings: PolynomialSettings) -> None:
        super().__init__(shape, settings)
        self.degree = settings.degree

    def mix(self, given: MixerInput) -> Mix:
        """Powers, of scores over the row's largest so that none overflows."""
        scores = given.scores * given.visible
        largest = scores.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)
        weights = (scores / largest).pow(self.degree)
        null = largest.pow(-self.degree)
        total = null + weights.sum(-1, keepdim=True)
        return Mix(weights / total, given.value, null_mass=(null / total).squeeze(-1))
