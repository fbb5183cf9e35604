"""Softmax with somewhere else to look: a null column, or learned keys and values that every row sees."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind


class SinkSettings(Config):
    """Of softmax with a null column.

    Attributes:
        logit: score of the null column; what it starts from where it is learned.
        learned: each head learns its own.
    """

    logit: float = Field(default=0.0, allow_inf_nan=False)
    learned: bool = False


class Sink(RowMixer):
    """``M_ij = exp(s_ij) / (exp(b) + sum_l exp(s_il))``: a row may give mass to a column that holds nothing.

    b = 0 is the off-by-one softmax (Miller 2023, evanmiller.org/attention-is-off-by-one.html; Kaul et al. 2024,
    arXiv 2410.17174); a b for each head, learned, is the sink of gpt-oss (arXiv 2508.10925).

    Attributes:
        logit: b of each head.
    """

    row_kind: RowKind = "substochastic"
    settings_type: ClassVar[type[Config]] = SinkSettings

    logit: Tensor

    def __init__(self, shape: MixerShape, settings: SinkSettings) -> None:
        super().__init__(shape, settings)
        start = torch.full((shape.n_heads,), settings.logit)
        if settings.learned:
            self.logit = nn.Parameter(start)
        else:
            self.register_buffer("logit", start)

    def mix(self, given: MixerInput) -> Mix:
        """Softmax over one more column, which is then left out."""
        scores = given.scores.masked_fill(~given.visible, -torch.inf)
        null = self.logit.to(scores.dtype)[:, None, None].expand_as(scores[..., :1])
        weights = torch.cat([scores, null], -1).softmax(-1)
        return Mix(weights[..., :-1], given.value, null_mass=weights[..., -1])


class MemoryKeyValuesSettings(Config):
    """Of softmax with learned keys and values.

    Attributes:
        memories: how many.
    """

    memories: int = Field(default=4, ge=1)


class MemoryKeyValues(RowMixer):
    """Softmax over the tokens and over learned keys ``m_n`` with values ``u_n``, which every row sees.

    ``z_i = (sum_j exp(s_ij) v_j + sum_n exp(q_i . m_n / sqrt(d)) u_n) / (both sums of weights)`` (persistent memory,
    Sukhbaatar et al. 2019, arXiv 1907.01470). Positions neither turn nor bias the memories.

    Attributes:
        memory_key: m of each head.
        memory_value: u of each head.
    """

    settings_type: ClassVar[type[Config]] = MemoryKeyValuesSettings

    def __init__(self, shape: MixerShape, settings: MemoryKeyValuesSettings) -> None:
        super().__init__(shape, settings)
        self.memories = settings.memories
        self.memory_key = nn.Parameter(torch.randn(shape.n_heads, self.memories, shape.d_key))
        self.memory_value = nn.Parameter(torch.randn(shape.n_heads, self.memories, shape.d_head))

    def mix(self, given: MixerInput) -> Mix:
        """Softmax over the tokens, then the memories."""
        scores = given.scores.masked_fill(~given.visible, -torch.inf)
        remembered = given.query @ self.memory_key.mT * given.scale
        return Mix(
            torch.cat([scores, remembered], -1).softmax(-1),
            torch.cat([given.value, self._values(given.value)], 2),
            columns=("memory",) * self.memories,
            column_positions=(-1,) * self.memories,
        )

    def _values(self, value: Float[Tensor, "B H K D"]) -> Float[Tensor, "B H N D"]:
        return self.memory_value.expand(value.shape[0], -1, -1, -1)
