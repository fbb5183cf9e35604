"""Memory slots that are read by every segment and rewritten after it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State


class SegmentMemorySettings(Config):
    """Of memory slots; segments are short by default, for small models.

    Attributes:
        segment: tokens of a segment.
        slots: memory slots of each head.
        past: segments before its own that a row also sees, 0 or 1.
        query: slots are written by ``learned`` queries, or by queries made from their own keys (``memory``).
        apart: in writing, a slot reads the segment and itself, not the other slots.
        gate: slots keep a learned share of what they held.
    """

    segment: int = Field(default=8, ge=1)
    slots: int = Field(default=2, ge=1)
    past: int = Field(default=0, ge=0, le=1)
    query: Literal["learned", "memory"] = "learned"
    apart: bool = False
    gate: bool = False


class SegmentMemory(Mixer):
    """Softmax over the row's segment and over memory slots, which attend to each finished segment.

    Slots have keys and values (Km, Vm). After a segment with keys and values (K, V) both become
    ``A [Km; K]`` and ``A [Vm; V]``, ``A = softmax(q [Km; K]^T / sqrt d)``; with ``gate`` g times what they held and
    (1 - g) times that. So ``Vm = C [V_all; V_0]``, rows of C summing to 1, and a row's share of a slot goes through C
    to the tokens; what is left on the learned first values ``V_0`` are the extra columns. All of it happens within a
    layer, in keys and values of its heads. Sources: Recurrent Memory Transformer (2207.06881), TransformerFAM
    (2404.09173), Memformer (2010.06891), Block-Recurrent Transformer (2203.07852).

    Attributes:
        first_key: Km before the first segment: (head, slots, d_key).
        first_value: Vm before it: (head, slots, d_head).
        write_query: learned queries: (head, slots, d_key), or None.
        W_write: makes queries from Km: (head, d_key, d_key), or None.
        gate: logit of g: (head, slots), or None.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = SegmentMemorySettings

    def __init__(self, shape: MixerShape, settings: SegmentMemorySettings) -> None:
        super().__init__(shape, settings)
        self.segment, self.slots, self.kept = settings.segment, settings.slots, settings.past * settings.segment
        self.apart, heads, width = settings.apart, shape.n_heads, shape.d_key
        self.first_key = nn.Parameter(torch.randn(heads, self.slots, width))
        self.first_value = nn.Parameter(torch.randn(heads, self.slots, shape.d_head))
        learned = settings.query == "learned"
        self.write_query = nn.Parameter(torch.randn(heads, self.slots, width)) if learned else None
        self.W_write = None if learned else nn.Parameter(torch.randn(heads, width, width) * width**-0.5)
        self.gate = nn.Parameter(torch.zeros(heads, self.slots)) if settings.gate else None

    def mix(self, given: MixerInput) -> Mix:
        """Segment by segment: rows, then the slots that the next segment reads."""
        batch, heads, length, _ = given.key.shape
        scores, slots = given.scores.masked_fill(~given.visible, -torch.inf), self.slots
        memory = self.first_key.expand(batch, -1, -1, -1)
        eye = torch.eye(length + slots, dtype=memory.dtype, device=memory.device)
        content = eye[length:].expand(batch, heads, -1, -1)
        found: list[Tensor] = []
        for begin in range(0, length, self.segment):
            end, seen = min(begin + self.segment, length), max(begin - self.kept, 0)
            by_slot = given.query[:, :, begin:end] @ memory.mT * given.scale
            weights = torch.cat([by_slot, scores[:, :, begin:end, seen:end]], -1).softmax(-1)
            own = pad(weights[..., slots:], (seen, length + slots - end))
            found.append(own + weights[..., :slots] @ content)
            if end < length:
                key = given.key[:, :, begin:end]
                writing = self._writing(memory, key, given.scale)
                content = self._written(writing, content, eye[begin:end].expand(batch, heads, -1, -1))
                memory = self._written(writing, memory, key)
        value = torch.cat([given.value, self.first_value.expand(batch, -1, -1, -1)], 2)
        return Mix(torch.cat(found, 2), value, columns=("memory",) * slots, column_positions=(-1,) * slots)

    def start(self, token: MixerInput) -> State:
        """The learned slots, no tokens."""
        batch = token.key.shape[0]
        state = {"key": token.key[:, :, :0], "value": token.value[:, :, :0]}
        state["slot_key"] = self.first_key.expand(batch, -1, -1, -1)
        state["slot_value"] = self.first_value.expand(batch, -1, -1, -1)
        return state

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Mix over slots and tokens; at the end of a segment rewrite the slots and drop what is out of reach."""
        key, value = torch.cat([state["key"], token.key], 2), torch.cat([state["value"], token.value], 2)
        memory, content = state["slot_key"], state["slot_value"]
        scores = token.query @ torch.cat([memory, key], 2).mT * token.scale
        z = scores.softmax(-1) @ torch.cat([content, value], 2)
        if key.shape[2] % self.segment == 0:
            last = key[:, :, -self.segment :]
            writing = self._writing(memory, last, token.scale)
            content = self._written(writing, content, value[:, :, -self.segment :])
            memory = self._written(writing, memory, last)
            cut = key.shape[2] - min(self.kept, key.shape[2])
            key, value = key[:, :, cut:], value[:, :, cut:]
        return z, {"key": key, "value": value, "slot_key": memory, "slot_value": content}

    def state_size(self, length: int) -> int:
        """Keys and values of the slots, of the current segment, and of the one before where rows see it."""
        tokens = self.kept_tokens(length)
        return self.shape.n_heads * self.slots * (self.shape.d_key + self.shape.d_head) + tokens.keys + tokens.values

    def kept_tokens(self, length: int) -> KeptTokens:
        """Those of both segments."""
        return self.shape.kept(length % self.segment + min(self.kept, length // self.segment * self.segment))

    def _writing(self, memory: Tensor, key: Tensor, scale: float) -> Float[Tensor, "B H slots slots_and_segment"]:
        """A: what each slot takes of the slots and of the tokens of a segment."""
        query = self.write_query if self.W_write is None else memory @ self.W_write
        assert query is not None
        scores = query @ torch.cat([memory, key], 2).mT * scale
        if self.apart:
            other = ~torch.eye(self.slots, scores.shape[-1], dtype=torch.bool, device=scores.device)
            other[:, self.slots :] = False
            scores = scores.masked_fill(other, -torch.inf)
        return scores.softmax(-1)

    def _written(self, writing: Tensor, held: Tensor, new: Tensor) -> Tensor:
        """What slots hold after a segment."""
        read = writing @ torch.cat([held, new], 2)
        if self.gate is None:
            return read
        share = self.gate.sigmoid()[..., None]
        return share * held + (1 - share) * read
