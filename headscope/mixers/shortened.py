"""Causal softmax attention on a shortened text: fixed blocks (Hourglass), or segments that the text chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import RowKind


class HourglassSettings(Config):
    """Of attention between blocks.

    Attributes:
        stride: tokens of a block.
    """

    stride: int = Field(default=2, ge=1)


class Hourglass(Mixer):
    """``M = U softmax(P q (P k)^T / sqrt(d)) P``: block c is the mean of tokens ``c s - s + 1 .. c s``, s the stride.

    Hourglass (Nawrot et al. 2021, 2110.13711, section 2): blocks are shifted back by ``s - 1`` tokens, so that what is
    handed to the tokens ``c s .. c s + s - 1`` has seen none of their future. Tokens before the text count as zeros.
    """

    row_kind: RowKind = "substochastic"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = HourglassSettings

    def __init__(self, shape: MixerShape, settings: HourglassSettings) -> None:
        super().__init__(shape, settings)
        self.stride = settings.stride

    def mix(self, given: MixerInput) -> Mix:
        """Attention of each token's block to the blocks up to it."""
        columns, stride = given.columns, self.stride
        first = columns[::stride]
        back = first[:, None] - columns
        means = ((back >= 0) & (back < stride)).to(given.value.dtype) / stride
        scores = (means @ given.query) @ (means @ given.key).mT * given.scale
        weights = scores.masked_fill(first[:, None] < first, -torch.inf).softmax(-1) @ means
        return Mix(weights[:, :, columns // stride], given.value)

    def start(self, token: MixerInput) -> State:
        """No blocks; zeros before the text."""
        parts = {"query": token.query, "key": token.key, "value": token.value}
        state = {f"last_{name}": pad(part[:, :, :0], (0, 0, self.stride - 1, 0)) for name, part in parts.items()}
        blocks = {"key": token.key[:, :, :0], "value": token.value[:, :, :0]}
        return state | blocks | {"z": torch.zeros_like(token.value), "count": token.value.new_zeros(len(token.value))}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """At the first token of a block pool, append and attend; hand the same z to the others."""
        parts = {"query": token.query, "key": token.key, "value": token.value}
        recent = {name: torch.cat([state[f"last_{name}"], part], 2) for name, part in parts.items()}
        after: State = {f"last_{name}": part[:, :, 1:] for name, part in recent.items()}
        key, value, z = state["key"], state["value"], state["z"]
        if int(state["count"][0]) % self.stride == 0:
            pooled = {name: part.mean(2, keepdim=True) for name, part in recent.items()}
            key, value = torch.cat([key, pooled["key"]], 2), torch.cat([value, pooled["value"]], 2)
            z = (pooled["query"] @ key.mT * token.scale).softmax(-1) @ value
        return z, after | {"key": key, "value": value, "z": z, "count": state["count"] + 1}

    def state_size(self, length: int) -> int:
        """Each block's key and value, the tokens of the next one, the current z, and how many tokens came."""
        shape, blocks, waiting = self.shape, -(-length // self.stride), self.stride - 1
        return (blocks + waiting) * shape.cached + shape.n_heads * (waiting * shape.d_key + shape.d_head) + 1

    def kept_tokens(self, length: int) -> KeptTokens:
        """Those of the next block's tokens."""
        return self.shape.kept(min(length, self.stride - 1))


class TokenPooling(Mixer):
    """Softmax between the means of segments whose ends the text chooses; tokens read the last finished segment.

    Dynamic token pooling (Nawrot et al. 2022, 2211.09761, sections 3.1 and 3.3): a token ends its segment where
    ``p_t = sigmoid(w . x_t + b)`` is above 1/2. The paper trains w by a relaxed Bernoulli sample; here ``log p`` of a
    segment's end is added to its score, which has a gradient of its own.

    Attributes:
        weight: w.
        bias: b.
    """

    row_kind: RowKind = "substochastic"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("boundary",)

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.weight = nn.Parameter(torch.randn(shape.d_model) * shape.d_model**-0.5)
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """``w . x_t + b``, one for all heads: (B, 1, T)."""
        return {"boundary": (stream @ self.weight + self.bias)[:, None]}

    def mix(self, given: MixerInput) -> Mix:
        """Rows of every possible end, then those of the last end up to each token."""
        boundary, columns = given.gates["boundary"], given.columns
        ends = boundary > 0
        segment = ends.cumsum(-1) - ends.int()
        earlier = columns[:, None] >= columns
        means = ((segment[..., None] == segment[..., None, :]) & earlier).to(given.value.dtype)
        means = means / means.sum(-1, keepdim=True)
        scores = (means @ given.query) @ (means @ given.key).mT * given.scale + logsigmoid(boundary)[:, :, None]
        seen = ends[:, :, None] & earlier
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)  # a row that sees no end is not read
        rows = scores.softmax(-1) @ means
        last = torch.where(ends, columns, -1).cummax(-1).values
        chosen = rows.gather(2, last.clamp_min(0)[..., None].expand(rows.shape)) * (last >= 0)[..., None]
        return Mix(chosen[:, :, given.first_row :], given.value)

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        parts = {"query": token.query, "key": token.key, "value": token.value, **token.gates}
        return {name: part[:, :, :0] for name, part in parts.items()}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Keep the token as it is, as texts of a batch end their segments at different tokens; mix the last row."""
        parts = {"query": token.query, "key": token.key, "value": token.value, **token.gates}
        after: State = {name: torch.cat([state[name], part], 2) for name, part in parts.items()}
        given = replace(token, query=after["query"], key=after["key"], value=after["value"])
        return self.mix(replace(given, gates={"boundary": after["boundary"]})).z[:, :, -1:], after

    def state_size(self, length: int) -> int:
        """Query, key and value of every token, and its one boundary."""
        return length * (self.shape.cached + self.shape.n_heads * self.shape.d_key + 1)

    def kept_tokens(self, length: int) -> KeptTokens:
        """Of every token."""
        return self.shape.kept(length)
