"""Keys chosen by a small predictor of its own: cheap scores decide where the full ones are computed."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.selection import ChoosingMixer, top_mask


class PredictedMaskSettings(Config):
    """Of predicted masks; small by default, for small models.

    Attributes:
        keys: keys that each row attends to.
        rank: width of the predictor's queries and keys.
    """

    keys: int = Field(default=6, ge=1)
    rank: int = Field(default=2, ge=1)


class LowRankMask(ChoosingMixer):
    """Softmax over the keys that a low-rank predictor picks for each row (Sparsifiner: Wei et al. 2023, 2303.13755).

    ``c_ij = (A q_i) . (B k_j) / sqrt r``; a row sees the keys with the largest c, and ``log sigmoid c`` is added to
    their scores, which trains the predictor. The paper's low rank is over the tokens of an image of fixed size, and its
    connectivity is trained by the mask being soft; this one is over the width, so that it can be causal.

    Attributes:
        A: of queries, (head, d_key, rank).
        B: of keys, (head, d_key, rank).
    """

    settings_type: ClassVar[type[Config]] = PredictedMaskSettings

    def __init__(self, shape: MixerShape, settings: PredictedMaskSettings) -> None:
        super().__init__(shape, settings)
        self.keys, self.rank = settings.keys, settings.rank
        size = (shape.n_heads, shape.d_key, settings.rank)
        self.A, self.B = (nn.Parameter(torch.randn(size) * shape.d_key**-0.5) for _ in range(2))

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """The best predicted keys, and the prediction's logarithm on their scores."""
        guess = (given.query @ self.A) @ (given.key @ self.B).mT * self.rank**-0.5
        return top_mask(guess.masked_fill(~given.visible, -torch.inf), self.keys), scores + logsigmoid(guess)


class LightningIndexer(ChoosingMixer):
    """Softmax over the keys that an indexer ranks first, the same for all heads (DSA: 2512.02556, section 2.1).

    ``I_ij = sum_h w_ih relu(q^I_ih . k^I_j)``, with w, q^I and the one k^I read off the stream. ``log sigmoid I`` is
    added to the scores of the chosen keys, which trains the indexer; the paper fits it to the attention instead.

    Attributes:
        W_query: (d_model, index head, rank).
        W_key: (d_model, rank).
        W_weight: (d_model, index head).
    """

    gate_names: ClassVar[tuple[str, ...]] = ("index_query", "index_key", "index_weight")
    row_gates: ClassVar[tuple[str, ...]] = ("index_query", "index_weight")
    settings_type: ClassVar[type[Config]] = PredictedMaskSettings

    def __init__(self, shape: MixerShape, settings: PredictedMaskSettings) -> None:
        super().__init__(shape, settings)
        self.keys, self.rank = settings.keys, settings.rank
        size = shape.d_model**-0.5
        self.W_query = nn.Parameter(torch.randn(shape.d_model, shape.n_heads, settings.rank) * size)
        self.W_key = nn.Parameter(torch.randn(shape.d_model, settings.rank) * size)
        self.W_weight = nn.Parameter(torch.randn(shape.d_model, shape.n_heads) * size)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Queries and weights of the index heads, as many as heads, and the one index key, (B, 1, T, rank)."""
        return {
            "index_query": torch.einsum("btm,mhr->bhtr", stream, self.W_query),
            "index_key": (stream @ self.W_key)[:, None],
            "index_weight": (stream @ self.W_weight).mT,
        }

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """The keys ranked first, and the index's logarithm on their scores."""
        hits = (self.row_gate(given, "index_query") @ given.gates["index_key"].mT).relu()
        index = (self.row_gate(given, "index_weight")[..., None] * hits).sum(1, keepdim=True)
        chosen = top_mask(index.masked_fill(~given.visible, -torch.inf), self.keys)
        return chosen.expand_as(scores), scores + logsigmoid(index)

    def state_size(self, length: int) -> int:
        """Keys and values, and one index key for each token."""
        return length * (self.shape.cached + self.rank)
