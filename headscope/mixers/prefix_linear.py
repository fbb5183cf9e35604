"""Prefix linear attention: a first part of the text is read as a whole, then everything left to right."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape
from headscope.mixers.kinds import RowKind
from headscope.mixers.low_rank import BothWays
from headscope.mixers.taylor import taylor_features


class PrefixLinearSettings(Config):
    """Of prefix linear attention.

    Attributes:
        prefix: tokens that are read as a whole; half of ``n_ctx`` by default.
    """

    prefix: int | None = Field(default=None, ge=1)


class PrefixLinear(BothWays):
    """``z_i = phi(q_i) [sum_{j <= i} phi(k_j) v_j + sum_{j < P} phi(k'_j) v'_j] / norm``: JRT-RNN.

    Arora et al. 2024 (2407.05483): phi are BASED's features, and the first P tokens are read once more
    with keys k' and values v' of their own, which every row sees. Those are extra columns, of kind ``past``, each
    standing for its token: the first row sees all of the prefix, so this is no causal mixer.

    Attributes:
        second_key: (head, d_model, d_key), what k' is made with.
        second_value: (head, d_model, d_head).
    """

    row_kind: RowKind = "stochastic"
    gate_names: ClassVar[tuple[str, ...]] = ("prefix_key", "prefix_value")
    settings_type: ClassVar[type[Config]] = PrefixLinearSettings

    def __init__(self, shape: MixerShape, settings: PrefixLinearSettings) -> None:
        super().__init__(shape, settings)
        self.prefix = settings.prefix or max(1, shape.n_ctx // 2)
        size, heads = shape.d_model, shape.n_heads
        self.second_key = nn.Parameter(torch.randn(heads, size, shape.d_key) * size**-0.5)
        self.second_value = nn.Parameter(torch.randn(heads, size, shape.d_head) * size**-0.5)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Second keys and values of every token; only those of the prefix are used."""
        second = (self.second_key, self.second_value)
        return {
            name: torch.einsum("btm,hme->bhte", stream, part)
            for name, part in zip(self.gate_names, second, strict=True)
        }

    def mix(self, given: MixerInput) -> Mix:
        """Products with earlier keys and with all of the prefix, over one sum."""
        prefix = min(self.prefix, given.key.shape[2])
        key, value = (given.gates[name][:, :, :prefix] for name in self.gate_names)
        query = taylor_features(given.query * given.scale)
        earlier = (query @ taylor_features(given.key).mT) * (given.offsets >= 0)
        weights = torch.cat([earlier, query @ taylor_features(key).mT], -1)
        return Mix(
            weights / weights.sum(-1, keepdim=True),
            torch.cat([given.value, value], 2),
            columns=("past",) * prefix,
            column_positions=tuple(range(prefix)),
        )

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """After the prefix: a matrix of features by values for each head, and the sum of features."""
        features = 1 + self.shape.d_key + self.shape.d_key**2
        return self.shape.n_heads * features * (self.shape.d_head + 1)
