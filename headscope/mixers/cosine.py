"""Cosine attention: a similarity that needs no normaliser, and so a linear recurrence."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class Cosine(Mixer):
    """``M_ij = cos(q_i, k_j) / n_i^sigmoid(m)``, n_i the tokens that row i sees, m learned for each head.

    Cottention (Mongaras et al. 2024, arXiv 2409.18747).

    Attributes:
        length_power: m, 0.5 at the start.
    """

    kind: MatrixKind = "linear"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.length_power = nn.Parameter(torch.full((shape.n_heads,), 0.5))

    def mix(self, given: MixerInput) -> Mix:
        """All cosines, over a power of the row's length."""
        cosines = normalize(given.query, dim=-1) @ normalize(given.key, dim=-1).mT
        seen = given.visible.sum(-1, keepdim=True).to(cosines.dtype)
        return Mix(cosines * given.visible * self._shrink(seen), given.value)

    def start(self, token: MixerInput) -> State:
        """An empty sum, of no tokens."""
        batch, heads, _, width = token.key.shape
        return {
            "memory": token.key.new_zeros(batch, heads, width, token.value.shape[-1]),
            "seen": token.key.new_zeros(batch, 1),
        }

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """``S <- S + k v^T / |k|``; ``z = q S / |q|``, over a power of the tokens so far."""
        memory = state["memory"] + normalize(token.key, dim=-1).mT @ token.value
        seen = state["seen"] + 1
        z = normalize(token.query, dim=-1) @ memory * self._shrink(seen[:, None, None])
        return z, {"memory": memory, "seen": seen}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix for each head, and the number of tokens."""
        return self.shape.pairs * self.shape.d_key * self.shape.d_head + 1

    def _shrink(self, seen: Tensor) -> Tensor:
        """``seen^-sigmoid(m)``, heads on the third axis from the right."""
        return (-self.length_power.sigmoid()[:, None, None] * seen.log()).exp()
