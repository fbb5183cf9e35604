"""Attention with one learned query for all rows: a recurrence with a state of one token's size."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State


class ConstantQuery(Mixer):
    """``M_ij = exp(s_j) / sum_{l <= i} exp(s_l)``, ``s_j = q . k_j / sqrt(d)`` with one learned q for each head.

    Aaren, attention as a recurrent network (Feng et al. 2024, arXiv 2405.13956). A running maximum,
    numerator and denominator are all that it keeps.

    Attributes:
        query: (head, d_key).
        W_K: (head, d_model, d_key).
    """

    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("token_score",)

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.query = nn.Parameter(torch.randn(shape.n_heads, shape.d_key))
        self.W_K = nn.Parameter(torch.randn(shape.n_heads, shape.d_model, shape.d_key) * shape.d_model**-0.5)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """The score of every token, the same for all rows."""
        key = torch.einsum("btm,hme->bhte", stream, self.W_K)
        return {"token_score": torch.einsum("bhte,he->bht", key, self.query) * self.shape.d_key**-0.5}

    def mix(self, given: MixerInput) -> Mix:
        """Masked softmax of the tokens' scores."""
        scores = given.gates["token_score"][:, :, None].expand(-1, -1, given.query.shape[2], -1)
        return Mix(scores.masked_fill(~given.visible, -torch.inf).softmax(-1), given.value)

    def start(self, token: MixerInput) -> State:
        """Nothing summed."""
        value, score = token.value[:, :, 0], token.gates["token_score"][:, :, 0]
        return {
            "largest": torch.full_like(score, -torch.inf),
            "numerator": torch.zeros_like(value),
            "denominator": torch.zeros_like(score),
        }

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Add the token to both sums, which are kept over the exponential of the largest score."""
        score, value = token.gates["token_score"][:, :, 0], token.value[:, :, 0]
        largest = torch.maximum(state["largest"], score)
        kept, weight = (state["largest"] - largest).exp(), (score - largest).exp()
        numerator = state["numerator"] * kept[..., None] + value * weight[..., None]
        denominator = state["denominator"] * kept + weight
        z = (numerator / denominator[..., None])[:, :, None]
        return z, {"largest": largest, "numerator": numerator, "denominator": denominator}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A sum of values and two numbers for each head."""
        return self.shape.n_heads * (self.shape.d_head + 2)
