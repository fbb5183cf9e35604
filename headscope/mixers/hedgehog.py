"""Hedgehog: learned features that can be as spiky as softmax."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import MixerShape
from headscope.mixers.log_features import LogFeatureMixer


class HedgehogSettings(Config):
    """Of Hedgehog.

    Attributes:
        width: channels of the learned map; ``d_key`` by default. A key has twice as many features.
    """

    width: int | None = Field(default=None, ge=1)


class Hedgehog(LogFeatureMixer):
    """``M_ij = phi(q_i) . phi'(k_j) / sum``, ``phi(x) = [softmax(W x + b), softmax(-W x - b)]``.

    Zhang et al. 2024 (2402.04347): one map for each head's queries and one for its keys, each starting as
    the identity where the width allows.

    Attributes:
        weight: (query or key, head, d_key, width).
        offset: (query or key, head, 1, width).
    """

    settings_type: ClassVar[type[Config]] = HedgehogSettings

    def __init__(self, shape: MixerShape, settings: HedgehogSettings) -> None:
        super().__init__(shape, settings)
        width = settings.width or shape.d_key
        self.feature_width = 2 * width
        self.weight = nn.Parameter(torch.eye(shape.d_key, width).repeat(2, shape.n_heads, 1, 1))
        self.offset = nn.Parameter(torch.zeros(2, shape.n_heads, 1, width))

    def log_query_features(self, query: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """Logarithms of both softmaxes of the map of a query."""
        return self._spiky(query, 0)

    def log_key_features(self, key: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """Logarithms of both softmaxes of the map of a key."""
        return self._spiky(key, 1)

    def _spiky(self, x: Tensor, which: int) -> Tensor:
        mapped = x @ self.weight[which] + self.offset[which]
        return torch.cat([mapped.log_softmax(-1), (-mapped).log_softmax(-1)], -1)
