"""Softmax within chunks, on queries and keys made from a moving average of the text."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from headscope.config import Config
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.modes import convolve
from headscope.mixers.state_space import CEMA, CEMASettings


class MegalodonSettings(Config):
    """Of chunk attention over a moving average.

    Attributes:
        chunk: tokens of a chunk; rows see their own chunk up to themselves.
        order: complex states of the moving average, for each channel.
    """

    chunk: int = Field(default=8, ge=1)
    order: int = Field(default=4, ge=1)


class Megalodon(Mixer):
    """``M = softmax(q_i . k_j)`` within chunks, ``q = g_q * s + b_q``, ``k = g_k * s + b_k``, ``s = unit(CEMA(W x))``.

    Megalodon's normalised attention (Ma et al. 2024, 2404.08801, sections 3.1 and 3.3): queries and keys share one
    normalised representation s, whose moving average carries what lies before the chunk; values do not pass through it.

    Attributes:
        gain: (query or key, head, d_key).
        offset: (query or key, head, d_key).
    """

    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("shared",)
    settings_type: ClassVar[type[Config]] = MegalodonSettings

    def __init__(self, shape: MixerShape, settings: MegalodonSettings) -> None:
        super().__init__(shape, settings)
        self.chunk = settings.chunk
        self.shared = HeadLinear(shape, shape.d_key)
        self.average = CEMA(replace(shape, d_head=shape.d_key), CEMASettings(order=settings.order))
        self.gain = nn.Parameter(torch.full((2, shape.n_heads, shape.d_key), 2.0))
        self.offset = nn.Parameter(torch.randn(2, shape.n_heads, shape.d_key) * 0.1)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """What the moving average runs over: (B, H, T, E)."""
        return {"shared": self.shared(stream)}

    def mix(self, given: MixerInput) -> Mix:
        """Softmax of the visible tokens of each row's chunk."""
        columns, size = given.columns, given.key.shape[2]
        query, key = self._query_key(convolve(self.average.kernel(size), given.gates["shared"]))
        same = given.rows[:, None] // self.chunk == columns // self.chunk
        scores = query[:, :, given.first_row :] @ key.mT
        return Mix(scores.masked_fill(~(same & given.visible), -torch.inf).softmax(-1), given.value)

    def start(self, token: MixerInput) -> State:
        """An empty average and an empty chunk."""
        shared = token.gates["shared"]
        chunk = {"key": shared[:, :, :0], "value": token.value[:, :, :0]}
        return chunk | self.average.modes().start(shared[:, :, 0])

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Move the average, start a new chunk where one is full, attend."""
        shared = token.gates["shared"]
        averaged, after = self.average.modes().step(state, shared[:, :, 0])
        query, key = self._query_key((averaged + self.average.own() * shared[:, :, 0])[:, :, None])
        full = state["key"].shape[2] == self.chunk
        keys = key if full else torch.cat([state["key"], key], 2)
        values = token.value if full else torch.cat([state["value"], token.value], 2)
        return (query @ keys.mT).softmax(-1) @ values, after | {"key": keys, "value": values}

    def state_size(self, length: int) -> int:
        """Keys and values of the chunk so far, and the modes of the average."""
        kept = self.kept_tokens(length)
        return self.shape.n_heads * self.shape.d_key * (kept.tokens + 2 * self.average.order) + kept.values

    def kept_tokens(self, length: int) -> KeptTokens:
        """The values of the chunk so far."""
        return replace(self.shape.kept((length - 1) % self.chunk + 1 if length else 0), keys=0)

    def _query_key(self, averaged: Float[Tensor, "B H T E"]) -> tuple[Tensor, Tensor]:
        unit = normalize(averaged, dim=-1)
        return unit * self.gain[0, :, None] + self.offset[0, :, None], unit * self.gain[1, :, None] + self.offset[
            1, :, None
        ]
