"""Latte: attention through a few latent states."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.mixers.interface import Mix, Mixer, MixerInput, State
from headscope.mixers.kinds import MatrixKind


class Latte(Mixer):
    """``M_ij = sum_l softmax_l(q_i) softmax_j(k_j)_l``: a state for the row, then a token for the state.

    Dolga et al. 2024 (2402.17512). The channels of queries and keys are the latent states; the second
    softmax runs over the tokens that the row sees. M is summed from one matrix for each state.
    """

    kind: MatrixKind = "linear"
    takes_scores: ClassVar[bool] = False

    def mix(self, given: MixerInput) -> Mix:
        """Sum over the latent states."""
        key = given.key.mT[..., None, :].expand(*given.key.mT.shape[:3], given.query.shape[2], -1)
        tokens = key.masked_fill(~given.visible, -torch.inf).softmax(-1)
        return Mix(torch.einsum("bhql,bhlqk->bhqk", given.query.softmax(-1), tokens), given.value)

    def start(self, token: MixerInput) -> State:
        """Empty sums."""
        batch, heads, _, width = token.key.shape
        return {
            "memory": token.key.new_zeros(batch, heads, width, token.value.shape[-1]),
            "total": token.key.new_zeros(batch, heads, width),
            "largest": token.key.new_full((batch, heads, width), -torch.inf),
        }

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Sums of ``exp(k_l - largest_l)`` and of it times values, for each state l."""
        key = token.key.squeeze(2)
        largest = torch.maximum(state["largest"], key)
        keep, write = (state["largest"] - largest).exp(), (key - largest).exp()
        memory = keep[..., None] * state["memory"] + write[..., None] * token.value
        total = keep * state["total"] + write
        z = token.query.softmax(-1) @ (memory / total[..., None])
        return z, {"memory": memory, "total": total, "largest": largest}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """For each latent state of each head a mean value, a sum and a largest key."""
        return self.shape.d_key * (self.shape.pairs * self.shape.d_head + 2 * self.shape.keyed)
