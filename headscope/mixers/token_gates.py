"""Learned gates say which tokens are keys, and which are queries at all."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape
from headscope.mixers.kinds import RowKind
from headscope.mixers.selection import RowGatedMixer, masked_softmax


class TokenGateSettings(Config):
    """Of gated tokens.

    Attributes:
        queries: whether queries are gated too.
        grace: most recent tokens, the row itself included, that are seen whatever their gate says.
        window: a second attention over so many most recent tokens, without gates, is added; 0 for none.
    """

    queries: bool = False
    grace: int = Field(default=1, ge=0)
    window: int = Field(default=0, ge=0)


class TokenGates(RowGatedMixer):
    """``M_ij = r_i softmax_j (s_ij + log sigmoid a_j)`` over tokens with ``a_j > 0`` and those in grace.

    a is a number of each head and token read off the stream; a token that its gate drops is gone for all later rows.
    With ``queries`` a second such number b gives ``r_i = sigmoid(b_i)`` where ``b_i > 0`` and 0 elsewhere. The
    logarithm and r train the gates. A row that sees nothing is 0.

    - Attention-Gate (Zeng et al. 2024, 2410.12876, section 3): keys only, one token of grace.
    - Dropping of queries and keys (Sparse Flash: Pagliardini et al. 2023, 2306.01160, section 3.1): no grace.
    - CoLT5 (Ainslie et al. 2023, 2303.09752, section 3): with ``window``, the local attention of all tokens.

    Attributes:
        W_key: (d_model, head), and its bias: most tokens are kept at first.
        W_query: the same for queries, or None.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("key_gate", "query_gate")
    row_gates: ClassVar[tuple[str, ...]] = ("query_gate",)
    settings_type: ClassVar[type[Config]] = TokenGateSettings

    def __init__(self, shape: MixerShape, settings: TokenGateSettings) -> None:
        super().__init__(shape, settings)
        self.grace, self.window = settings.grace, settings.window
        partial: RowKind = "substochastic" if settings.queries or not settings.grace else "stochastic"
        self.row_kind = "positive" if self.window else partial
        self.W_key, self.b_key = self._gate()
        self.W_query, self.b_query = self._gate() if settings.queries else (None, None)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """a, and b where queries are gated, else 0."""
        key = (stream @ self.W_key + self.b_key).mT
        if self.W_query is None or self.b_query is None:
            return {"key_gate": key, "query_gate": torch.zeros_like(key)}
        return {"key_gate": key, "query_gate": (stream @ self.W_query + self.b_query).mT}

    def mix(self, given: MixerInput) -> Mix:
        """Softmax over kept tokens, times the row's gate, plus the window's."""
        scores, keep = given.scores, given.gates["key_gate"][:, :, None]
        seen = given.visible & ((keep > 0) | (given.offsets.abs() < self.grace))
        matrix = masked_softmax(scores + logsigmoid(keep), seen)
        if self.W_query is not None:
            read = self.row_gate(given, "query_gate")[..., None]
            seen = seen & (read > 0)
            matrix = matrix * (read.sigmoid() * (read > 0))
        if self.window:
            near = given.visible & (given.offsets.abs() < self.window)
            matrix = matrix + masked_softmax(scores, near.expand_as(scores))
        return Mix(matrix, given.value, None if self.window else 1 - matrix.sum(-1), seen)

    def _gate(self) -> tuple[nn.Parameter, nn.Parameter]:
        shape = self.shape
        weights = torch.randn(shape.d_model, shape.n_heads) * shape.d_model**-0.5
        return nn.Parameter(weights), nn.Parameter(torch.ones(shape.n_heads))
