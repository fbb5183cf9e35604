"""Longhorn: a state-space model whose decay follows from solving a regression step exactly."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.config import Config
from headscope.mixers.decay import decayed_products
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class LonghornSettings(Config):
    """Of Longhorn.

    Attributes:
        steps: a step size for each channel of the value, as in the paper, which makes a matrix for each channel, or one
            for each head.
    """

    steps: Literal["channel", "head"] = "channel"


class Longhorn(Mixer):
    """``S_t = (1 - e_t k_t^2) * S_{t-1} + e_t k_t v_t^T``, ``e_t = beta_t / (1 + beta_t |k_t|^2)`` (2407.14207).

    Entry (c, d) of S, from channel c of the key to channel d of the value, decays by ``1 - e_td k_tc^2``; the paper
    keeps this diagonal of the exact solution ``I - e_t k_t k_t^T``. ``beta_t = sigmoid(W x_t + b)``,
    ``z_t = S_t^T q_t / sqrt(d)``.
    """

    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("beta",)
    settings_type: ClassVar[type[Config]] = LonghornSettings

    def __init__(self, shape: MixerShape, settings: LonghornSettings) -> None:
        super().__init__(shape, settings)
        self.channels = settings.steps == "channel"
        self.kind: MatrixKind = "per_channel" if self.channels else "recurrent"
        self.streams = self.channels
        self.strength = HeadLinear(shape, shape.d_head if self.channels else 1)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """How much a token's error counts: (B, H, T, D), or (B, H, T) for each head."""
        beta = self.strength(stream).sigmoid()
        return {"beta": beta if self.channels else beta.squeeze(-1)}

    def mix(self, given: MixerInput) -> Mix:
        """Products of queries, keys and the decays between them, for each step size."""
        steps, key = self._steps(given), given.key[:, :, None]
        log_decay = torch.log1p(-steps * key.square())
        query = (given.query * given.scale)[:, :, None].expand_as(log_decay)
        matrix = decayed_products(query, steps * key, log_decay)
        return Mix(matrix if self.channels else matrix.squeeze(2), given.value)

    def start(self, token: MixerInput) -> State:
        """An empty matrix for each head."""
        batch, heads, _, width = token.key.shape
        return {"memory": token.value.new_zeros(batch, heads, width, token.value.shape[-1])}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Decay every entry by its own key channel and step size, write, read."""
        steps, key = self._steps(token).squeeze(-1).mT, token.key.mT
        memory = state["memory"] * (1 - steps * key.square()) + steps * key * token.value
        return token.query * token.scale @ memory, {"memory": memory}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix for each head."""
        return self.shape.n_heads * self.shape.d_key * self.shape.d_head

    def _steps(self, given: MixerInput) -> Float[Tensor, "B H _ T 1"]:
        """Step sizes by channel of the value."""
        beta = given.gates["beta"]
        beta = beta.mT if self.channels else beta[:, :, None]
        return (beta / (1 + beta * given.key.square().sum(-1)[:, :, None]))[..., None]
