"""A window of its own for each head, which may grow with the text."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.selection import masked_softmax


class SpanSettings(Config):
    """Of spans per head; small by default, for small models.

    Attributes:
        spans: most recent tokens that a head sees, the row included, for each head in turn; repeated if fewer.
        growth: by how much a head's span grows with each token of the text, for each head in turn.
        sinks: first tokens that every head sees.
    """

    spans: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(4, 2), min_length=1)
    growth: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0, 0.5), min_length=1)
    sinks: int = Field(default=1, ge=0)


class HeadSpans(Mixer):
    """Softmax over the first tokens and the last ``w_h = a_h + floor(b_h n)`` of n (MoA: Fu et al. 2024, 2406.14909).

    n counts the tokens up to the row, the paper's N those of the whole text. A head keeps what its window holds.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = SpanSettings

    def __init__(self, shape: MixerShape, settings: SpanSettings) -> None:
        super().__init__(shape, settings)
        self.sinks = settings.sinks
        self.spans = [settings.spans[head % len(settings.spans)] for head in range(shape.n_heads)]
        self.growth = [settings.growth[head % len(settings.growth)] for head in range(shape.n_heads)]

    def mix(self, given: MixerInput) -> Mix:
        """Softmax in every head's window."""
        seen = self._windows(given.rows)[..., None] > given.offsets
        seen = (seen | (given.columns < self.sinks)) & given.visible
        return Mix(masked_softmax(given.scores, seen.expand_as(given.scores)), given.value)

    def start(self, token: MixerInput) -> State:
        """Nothing in any head's cache."""
        heads = range(self.shape.n_heads)
        caches = {f"key_{head}": token.key[:, head, :0] for head in heads}
        caches |= {f"value_{head}": token.value[:, head, :0] for head in heads}
        return caches | {"count": torch.zeros(token.key.shape[0], 1, dtype=torch.long, device=token.key.device)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token to every head's cache, drop what its window leaves behind, and read the rest."""
        count = int(state["count"].max()) + 1
        state, rows = state | {"count": state["count"] + 1}, list[Tensor]()
        for head in range(self.shape.n_heads):
            for name, part in (("key", token.key), ("value", token.value)):
                held = torch.cat([state[f"{name}_{head}"], part[:, head]], 1)
                stop = max(held.shape[1] - self._window(head, count), min(self.sinks, held.shape[1]))
                state[f"{name}_{head}"] = torch.cat([held[:, : self.sinks], held[:, stop:]], 1)
            weights = (token.query[:, head] @ state[f"key_{head}"].mT * token.scale).softmax(-1)
            rows.append(weights @ state[f"value_{head}"])
        return torch.stack(rows, 1), state

    def state_size(self, length: int) -> int:
        """A key and a value of every token in a head's window and of the first ones, and the number of tokens."""
        tokens = self.kept_tokens(length)
        return tokens.keys + tokens.values + 1

    def kept_tokens(self, length: int) -> KeptTokens:
        """All but the number of tokens; heads that share keep what the widest of them sees."""
        shape, heads = self.shape, self.shape.n_heads
        held = torch.tensor([min(length, self.sinks + self._window(head, length)) for head in range(heads)])
        of_keys, of_values = (
            int(held.reshape(groups or heads, -1).amax(1).sum()) for groups in (shape.key_heads, shape.value_heads)
        )
        return KeptTokens(int(held.max()), of_keys * shape.d_key, of_values * shape.d_head)

    def _window(self, head: int, count: int) -> int:
        return self.spans[head] + math.floor(self.growth[head] * count)

    def _windows(self, rows: Int[Tensor, " Q"]) -> Int[Tensor, "H Q"]:
        count = (rows + 1).double()
        return torch.stack(
            [(count * more).floor().long() + span for span, more in zip(self.spans, self.growth, strict=True)]
        )
