"""Recurrences whose state is one matrix for each head, from keys to values."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from headscope.mixers.interface import Mixer, MixerInput, State
from headscope.mixers.kinds import MatrixKind, RowKind


class MatrixMemory(Mixer):
    """``S_t = carry_t(S_{t-1}) + written_t``, ``z_t = S_t^T q_t``, where a token decides how it carries S over."""

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False

    @abstractmethod
    def asked(self, given: MixerInput) -> Float[Tensor, "B H T E"]:
        """What the state is read with."""

    @abstractmethod
    def carried(self, memory: Float[Tensor, "B H E D"], token: MixerInput) -> Float[Tensor, "B H E D"]:
        """What one token leaves of the state: linear in it."""

    @abstractmethod
    def written(self, token: MixerInput) -> Float[Tensor, "B H E D"]:
        """What one token adds to the state."""

    def start(self, token: MixerInput) -> State:
        """An empty matrix for each head."""
        batch, heads, _, width = token.key.shape
        return {"memory": token.value.new_zeros(batch, heads, width, token.value.shape[-1])}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Carry the state over, write to it, read it."""
        memory = self.carried(state["memory"], token) + self.written(token)
        return self.asked(token) @ memory, {"memory": memory}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix for each head."""
        return self.shape.n_heads * self.shape.d_key * self.shape.d_head


def row_factor(log_decay: Float[Tensor, "B H 1 *E"]) -> Float[Tensor, "B H _ 1"]:
    """One token's decay as a factor of the rows of its state."""
    return (log_decay[..., None] if log_decay.ndim == 3 else log_decay.mT).exp()
