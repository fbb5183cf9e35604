"""xLSTM's matrix memory: exponential input gates, and a normaliser that is at least 1."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from headscope.config import Config
from headscope.mixers.decay import log_decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class MLSTM(Mixer):
    """``z_t = C_t^T q_t / max(|n_t . q_t|, 1)``, ``C_t = f_t C_{t-1} + i_t k_t v_t^T``, ``n_t`` the same sum of k.

    ``i_t = exp(W x_t + b)``, ``f_t = sigmoid(W x_t + b)``, one of each for each head (2405.04517, section 2.3). Both
    sums are kept times ``exp(-m_t)``, with ``m_t`` the largest logarithm of a weight so far, which changes no result.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("log_input", "log_decay")

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.input, self.forget = HeadLinear(shape), HeadLinear(shape, bias=3.0)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithms of the input gate, which has no bound, and of the forget gate: (B, H, T) each."""
        return {"log_input": self.input.scalar(stream), "log_decay": logsigmoid(self.forget.scalar(stream))}

    def mix(self, given: MixerInput) -> Mix:
        """Scores times gates, over the absolute value of their sum."""
        log_weight = log_decay_between(given.gates["log_decay"]) + given.gates["log_input"][..., None, :]
        largest = log_weight.amax(-1, keepdim=True)
        weight = (given.query @ given.key.mT) * given.scale * (log_weight - largest).exp()
        return Mix(weight / _at_least_one(weight.sum(-1, keepdim=True), largest), given.value)

    def start(self, token: MixerInput) -> State:
        """Empty sums, and no largest weight."""
        batch, heads, _, width = token.key.shape
        return {
            "memory": token.value.new_zeros(batch, heads, width, token.value.shape[-1]),
            "total": token.value.new_zeros(batch, heads, width),
            "largest": token.value.new_full((batch, heads), -torch.inf),
        }

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Both sums after the token, then their quotient."""
        log_input, log_decay = token.gates["log_input"].squeeze(-1), token.gates["log_decay"].squeeze(-1)
        largest = torch.maximum(state["largest"] + log_decay, log_input)
        kept, new = (state["largest"] + log_decay - largest).exp(), (log_input - largest).exp()
        memory = state["memory"] * kept[..., None, None] + token.key.mT @ token.value * new[..., None, None]
        total = state["total"] * kept[..., None] + token.key.squeeze(2) * new[..., None]
        query = token.query * token.scale
        z = query @ memory / _at_least_one(query @ total[..., None], largest[..., None, None])
        return z, {"memory": memory, "total": total, "largest": largest}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix, the sum of keys and the largest weight of each head."""
        return self.shape.n_heads * (self.shape.d_key * (self.shape.d_head + 1) + 1)


def _at_least_one(total: Tensor, largest: Tensor) -> Tensor:
    """``max(|total|, 1)`` of a sum that is kept times ``exp(-largest)``."""
    return torch.maximum(total.abs(), (-largest).exp())
