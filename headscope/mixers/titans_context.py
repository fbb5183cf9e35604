"""Titans whose memory is read before attention, and attended to beside the tokens of the segment."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.titans import Titans, unit


class TitansContextSettings(Config):
    """Of Titans with its memory as context.

    Attributes:
        segment: tokens that attend to one another and to one state of the memory; made smaller for small models.
    """

    segment: int = Field(default=8, ge=1)


class TitansContext(Mixer):
    """``z_i = sum_j (p_ij v_j + c_ij h_j)``, ``h_j = M_s^T q_j / sqrt(d)``: `Titans` as context (MAC, 2501.00663, 4.1).

    j runs over the tokens of i's segment up to i, and ``M_s`` is the memory before the segment. ``[p_i, c_i]`` is one
    softmax over ``q_i . k_j / sqrt(d)`` and ``q_i . g_j / sqrt(d)``. Keys g of what was retrieved are read off the
    stream (gate ``context_key``), so that z is linear in the values; the paper projects h_j itself. The memory stores
    the tokens' own keys and values; the paper's stores and is read again by the outputs of attention.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = (*Titans.gate_names, "context_key")
    settings_type: ClassVar[type[Config]] = TitansContextSettings

    def __init__(self, shape: MixerShape, settings: TitansContextSettings) -> None:
        super().__init__(shape, settings)
        self.segment, self.memory = settings.segment, Titans(shape, Config())
        self.context_key = HeadLinear(shape, shape.d_key)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """The memory's gates (B, H, T), and keys of what is retrieved (B, H, T, E)."""
        return {**self.memory.gates(stream), "context_key": self.context_key(stream)}

    def mix(self, given: MixerInput) -> Mix:
        """Weights of tokens, plus weights of retrieved vectors times what those were made of."""
        segment = given.columns // self.segment
        seen = given.visible & (segment[:, None] == segment)
        tokens, context = self._weights(given, given.key, given.gates["context_key"], seen)
        retrieved = self.memory.reads(given, segment * self.segment - 1)
        return Mix(tokens + context @ retrieved, given.value)

    def start(self, token: MixerInput) -> State:
        """An empty memory and no tokens."""
        memory = self.memory.start(token)
        key, value = token.key[:, :, :0], token.value[:, :, :0]
        more = {"key": key, "value": value, "context_key": key, "context": value}
        return {**memory, "before": memory["memory"].clone(), **more}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Retrieve, attend within the segment, then store the token."""
        if state["key"].shape[2] == self.segment:
            cleared = {name: state[name][:, :, :0] for name in ("key", "value", "context_key", "context")}
            state = {**state, **cleared, "before": state["memory"]}
        new = {
            "key": token.key,
            "value": token.value,
            "context_key": token.gates["context_key"],
            "context": unit(token.query) * token.scale @ state["before"],
        }
        joined = {name: torch.cat([state[name], part], 2) for name, part in new.items()}
        seen = torch.ones(1, joined["key"].shape[2], dtype=torch.bool, device=token.key.device)
        tokens, context = self._weights(token, joined["key"], joined["context_key"], seen)
        _, memory = self.memory.step({name: state[name] for name in ("memory", "momentum")}, token)
        z = tokens @ joined["value"] + context @ joined["context"]
        return z, {**memory, "before": state["before"], **joined}

    def state_size(self, length: int) -> int:
        """Three matrices, and for each token of the segment so far its key and value, and for each head two vectors."""
        shape, tokens = self.shape, self.kept_tokens(length)
        context = shape.n_heads * tokens.tokens * (shape.d_key + shape.d_head)
        return 3 * shape.n_heads * shape.d_key * shape.d_head + tokens.keys + tokens.values + context

    def kept_tokens(self, length: int) -> KeptTokens:
        """Those of the segment so far."""
        return self.shape.kept((length - 1) % self.segment + 1)

    def _weights(
        self, given: MixerInput, key: Tensor, context_key: Tensor, seen: Bool[Tensor, "Q K"]
    ) -> tuple[Tensor, Tensor]:
        """One softmax over tokens and what each retrieved, as two matrices."""
        scores = given.query @ torch.cat([key, context_key], 2).mT * given.scale
        weights = scores.masked_fill(~torch.cat([seen, seen], 1), -torch.inf).softmax(-1)
        tokens, context = weights.chunk(2, -1)
        return tokens, context
