"""DeltaFormer: softmax over values from which each token first took what its own row would have read."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.config import Config
from headscope.mixers.delta import delta_matrix
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class DeltaFormer(Mixer):
    """``u_t = v_t - b_t sum_{j<t} softmax_{j<t}(s_tj) u_j``, ``z_t = sum_{j<=t} softmax_{j<=t}(s_tj) u_j``.

    (DeltaFormer, 2505.19488.) ``b_t = sigmoid(W x_t + b)``. M is ``softmax(s) (I + diag(b) softmax_{j<i}(s))^-1``.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("beta",)

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.strength = HeadLinear(shape)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """How much each token takes out: (B, H, T)."""
        return {"beta": self.strength.scalar(stream).sigmoid()}

    def mix(self, given: MixerInput) -> Mix:
        """Two softmaxes of the same scores, with and without the diagonal, and a triangular solve."""
        scores = given.scores
        before = (given.offsets > 0) | (given.columns == 0)  # row 0 has nothing before it: tril(-1) clears its one cell
        earlier = scores.masked_fill(~before, -torch.inf).softmax(-1).tril(-1)
        reads = scores.masked_fill(~given.visible, -torch.inf).softmax(-1)
        return Mix(delta_matrix(reads, earlier * given.gates["beta"][..., None]), given.value)

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        return {"key": token.key[:, :, :0], "written": token.value[:, :, :0]}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Take out, append, read."""
        key = torch.cat([state["key"], token.key], 2)
        scores = token.query @ key.mT * token.scale
        scores = scores if token.bias is None else scores + token.bias
        held = scores[..., :-1].softmax(-1) @ state["written"]
        written = torch.cat([state["written"], token.value - token.gates["beta"][..., None] * held], 2)
        return scores.softmax(-1) @ written, {"key": key, "written": written}

    def state_size(self, length: int) -> int:
        """The keys, and what each head wrote at every token."""
        keys = (self.shape.key_heads or self.shape.n_heads) * self.shape.d_key
        return length * (keys + self.shape.n_heads * self.shape.d_head)

    def kept_tokens(self, length: int) -> KeptTokens:
        """The keys."""
        return replace(self.shape.kept(length), values=0)
