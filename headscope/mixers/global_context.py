"""Attention of a learned context: one row for each head, whatever token asks."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, NoSettings, State


class GlobalContext(Mixer):
    """``M_ij = softmax_j(tanh((p_h . c) (w_h . x_j)))``: LAMA (Mehta et al. 2019, 1912.00835).

    The score of token j in head h is ``c^T A_h x_j`` with ``A_h = p_h w_h^T`` of rank one and a learned context c that
    all heads share. Rows differ only in which tokens they see.

    Attributes:
        context: c, (d_model,).
        left: p, (head, d_model).
        right: w, (head, d_model).
    """

    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("importance",)

    def __init__(self, shape: MixerShape, settings: NoSettings) -> None:
        super().__init__(shape, settings)
        self.context = nn.Parameter(torch.randn(shape.d_model))
        self.left = nn.Parameter(torch.randn(shape.n_heads, shape.d_model) * shape.d_model**-0.5)
        self.right = nn.Parameter(torch.randn(shape.n_heads, shape.d_model) * shape.d_model**-0.5)

    def gates(self, stream: Tensor) -> dict[str, Tensor]:
        """The score of every token in every head."""
        right = torch.einsum("btm,hm->bht", stream, self.right)
        return {"importance": torch.tanh((self.left @ self.context)[:, None] * right)}

    def mix(self, given: MixerInput) -> Mix:
        """Softmax over the tokens that each row sees."""
        scores = given.gates["importance"][:, :, None].expand(-1, -1, given.query.shape[2], -1)
        return Mix(scores.masked_fill(~given.visible, -torch.inf).softmax(-1), given.value)

    def start(self, token: MixerInput) -> State:
        """Empty sums."""
        total = token.value.new_zeros(*token.value.shape[:2], 1, 1)
        return {"memory": torch.zeros_like(token.value), "total": total}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Sums of exponentials, which lie between 1/e and e, and of values times them."""
        weight = token.gates["importance"].exp()[..., None]
        memory, total = state["memory"] + weight * token.value, state["total"] + weight
        return memory / total, {"memory": memory, "total": total}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A mean and its divisor for each head."""
        return self.shape.n_heads * (self.shape.d_head + 1)
