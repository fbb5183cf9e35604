"""Softmax over chunks of tokens, each compressed into one key and one value by a recurrence."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from headscope.config import Config
from headscope.mixers.decay import log_decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import RowKind


class AttambaSettings(Config):
    """Of attention to compressed chunks.

    Attributes:
        chunk: tokens that share a key and a value.
    """

    chunk: int = Field(default=4, ge=1)


class Attamba(Mixer):
    """``z_i = sum_c softmax_c(q_i . K_c / sqrt(d)) V_c`` over finished chunks c and the state of row i's own chunk.

    Within a chunk ``K_t = a_t K_{t-1} + (1 - a_t) k_t`` and V alike, from zero, with ``a_t = sigmoid(w . x_t + b)`` of
    each head (after Attamba, Akhauri et al. 2024, 2411.17685). M is written on tokens: what a chunk gets, times what
    each of its tokens left in it.
    """

    row_kind: RowKind = "substochastic"
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("log_decay",)
    settings_type: ClassVar[type[Config]] = AttambaSettings

    def __init__(self, shape: MixerShape, settings: AttambaSettings) -> None:
        super().__init__(shape, settings)
        self.chunk = settings.chunk
        self.forget = HeadLinear(shape)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of what a chunk keeps at each token: (B, H, T)."""
        return {"log_decay": logsigmoid(self.forget.scalar(stream))}

    def mix(self, given: MixerInput) -> Mix:
        """Softmax over states, times what tokens left in them."""
        log_decay, columns = given.gates["log_decay"], given.columns
        same = columns[:, None] // self.chunk == columns // self.chunk
        left = log_decay_between(log_decay).exp() * same * -torch.expm1(log_decay)[:, :, None]
        states = replace(given, key=left @ given.key)
        ends = (columns % self.chunk == self.chunk - 1) & given.visible
        scores = states.scores.masked_fill(~(ends | (given.offsets == 0)), -torch.inf)
        return Mix(scores.softmax(-1) @ left, given.value)

    def start(self, token: MixerInput) -> State:
        """No chunks."""
        return {
            "key": token.key[:, :, :0],
            "value": token.value[:, :, :0],
            "count": token.key.new_zeros(len(token.key)),
        }

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Write to the last chunk, or open one, and attend to all."""
        keep, place = token.gates["log_decay"].exp()[..., None], int(state["count"][0]) % self.chunk
        chunks: State = {}
        for name, new in (("key", token.key), ("value", token.value)):
            done, open_one = state[name].split([state[name].shape[2] - int(place > 0), int(place > 0)], 2)
            last = (1 - keep) * new + (keep * open_one if place else 0)
            chunks[name] = torch.cat([done, last], 2)
        weights = replace(token, **chunks).scores.softmax(-1)
        return weights @ chunks["value"], chunks | {"count": state["count"] + 1}

    def state_size(self, length: int) -> int:
        """A key and a value for each chunk and head, and how many tokens came."""
        return -(-length // self.chunk) * self.shape.n_heads * (self.shape.d_key + self.shape.d_head) + 1
