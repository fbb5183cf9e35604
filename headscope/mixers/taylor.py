"""Linear attention by a polynomial of the score: the first terms of the exponential, or its square."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from headscope.config import Config
from headscope.mixers.interface import MixerShape
from headscope.mixers.linear import FeatureMixer


def squares(x: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch E*E"]:
    """All products of two channels: ``squares(x) . squares(y) = (x . y)^2``."""
    return (x[..., :, None] * x[..., None, :]).flatten(-2)


def taylor_features(x: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch F"]:
    """``[1, x, (x x^T) / sqrt 2]``, whose dot product is ``1 + s + s^2 / 2`` with ``s = x . y``."""
    return torch.cat([torch.ones_like(x[..., :1]), x, squares(x) * 2**-0.5], -1)


class TaylorSettings(Config):
    """Of polynomial attention.

    Attributes:
        polynomial: of the score s: ``taylor``: 1 + s + s^2 / 2; ``square``: s^2.
        inputs: what is done to queries and keys: ``plain``: nothing; ``norm``: layer normalisation with a learned gain
            and offset for queries and for keys; ``unit``: unit length and a learned temperature for each head, in place
            of the scale.
    """

    polynomial: Literal["taylor", "square"] = "taylor"
    inputs: Literal["plain", "norm", "unit"] = "plain"


class Taylor(FeatureMixer):
    """``M_ij = p(s_ij) / sum_l p(s_il)`` with p of second degree and never negative.

    ``1 + s + s^2 / 2`` is BASED (Arora et al. 2024, 2402.18668), with unit queries and keys TaylorShift
    (Nauen et al. 2024, 2403.02920); the square of normalised queries and keys is ReBased (Aksenov et al. 2024,
    2402.10644). A product of features either way, so that the state is a sum.

    Attributes:
        gain: (query or key, d_key), of the norm.
        offset: the same.
        temperature: (head, 1, 1), of unit vectors.
    """

    settings_type: ClassVar[type[Config]] = TaylorSettings

    def __init__(self, shape: MixerShape, settings: TaylorSettings) -> None:
        super().__init__(shape, settings)
        self.polynomial, self.inputs = settings.polynomial, settings.inputs
        below = 1 + shape.d_key if self.polynomial == "taylor" else 0
        self.feature_width = below + shape.d_key**2
        normed = self.inputs == "norm"
        self.gain = nn.Parameter(torch.ones(2, shape.d_key)) if normed else None
        self.offset = nn.Parameter(torch.zeros(2, shape.d_key)) if normed else None
        self.temperature = nn.Parameter(torch.ones(shape.n_heads, 1, 1)) if self.inputs == "unit" else None

    def products(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """The polynomial of the scores themselves: features have d_key^2 numbers, a score is one."""
        scores = self._scaled(query, scale) @ self._prepared(key, 1).mT
        return 1 + scores + scores.square() / 2 if self.polynomial == "taylor" else scores.square()

    def query_features(self, query: Tensor, scale: float) -> Tensor:
        """The powers of a scaled query."""
        return self._powers(self._scaled(query, scale))

    def key_features(self, key: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """The powers of a key."""
        return self._powers(self._prepared(key, 1))

    def _scaled(self, query: Tensor, scale: float) -> Tensor:
        factor = scale if self.temperature is None else self.temperature
        return self._prepared(query, 0) * factor

    def _prepared(self, x: Tensor, which: int) -> Tensor:
        if self.gain is not None and self.offset is not None:
            return layer_norm(x, x.shape[-1:]) * self.gain[which] + self.offset[which]
        return normalize(x, dim=-1) if self.inputs == "unit" else x

    def _powers(self, x: Tensor) -> Tensor:
        return taylor_features(x) if self.polynomial == "taylor" else squares(x)
