"""A cheap estimate of the attention matrix says where to compute it."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import elu, gelu

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.selection import ChoosingMixer, top_mask

_SMALL = 1e-6


class EstimatedAttentionSettings(Config):
    """Of SEA; sizes are small by default, for small models.

    Attributes:
        size: tokens of a column of the estimate.
        columns: columns of the estimate that each row looks at, the newest included.
        hidden: width of the decoder.
    """

    size: int = Field(default=4, ge=1)
    columns: int = Field(default=3, ge=1)
    hidden: int = Field(default=8, ge=1)


class EstimatedAttention(ChoosingMixer):
    """Softmax where a decoded linear attention is largest (SEA: Lee et al. 2023, 2310.01777, section 3).

    Linear attention gives the mass c of each column of ``size`` tokens, a small MLP decodes ``log c`` to the estimate
    ``p = softmax(log c + W_out gelu(W_in log c))``; a row sees the columns with the largest p, its own always, and
    ``log p`` is added to the scores. The paper's decoder also reads values and convolves over rows, and is fitted to a
    finished model; features are elu + 1 instead of random ones.

    Attributes:
        W_in: (head, columns, hidden).
        W_out: (head, hidden, columns).
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = EstimatedAttentionSettings

    def __init__(self, shape: MixerShape, settings: EstimatedAttentionSettings) -> None:
        super().__init__(shape, settings)
        self.size, self.columns = settings.size, settings.columns
        self.total = -(-shape.n_ctx // settings.size)
        heads, hidden = shape.n_heads, settings.hidden
        self.W_in = nn.Parameter(torch.randn(heads, self.total, hidden) * self.total**-0.5)
        self.W_out = nn.Parameter(torch.randn(heads, hidden, self.total) * hidden**-0.5)

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """The best columns, and the estimate's logarithm on their scores."""
        column = self._column(given.columns)
        estimate = self._estimate(given, column)
        own = self._column(given.rows)[:, None] == torch.arange(self.total, device=column.device)
        best = top_mask(estimate.masked_fill(own, torch.inf), self.columns)
        return best[..., column] & given.visible, scores + estimate[..., column]

    def _estimate(self, given: MixerInput, column: Int[Tensor, " K"]) -> Float[Tensor, "B H Q columns"]:
        """log p; columns that have not begun have no mass."""
        places = (column[:, None] == torch.arange(self.total, device=column.device)).to(given.key.dtype)
        weights = ((elu(given.query) + 1) @ (elu(given.key) + 1).mT) * given.visible
        mass = (weights / (weights.sum(-1, keepdim=True) + _SMALL) @ places + _SMALL).log()
        logits = mass + gelu(mass @ self.W_in) @ self.W_out
        seen = (given.visible.to(places.dtype) @ places) > 0
        return logits.masked_fill(~seen, -torch.inf).log_softmax(-1)

    def _column(self, positions: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The column of a token; all beyond the trained length are in the last."""
        return (positions // self.size).clamp_max(self.total - 1)
