"""A row in so many attends in full; those between attend to what it looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.selection import earlier_first, masked_softmax, top_mask


class RecycledSettings(Config):
    """Of recycled attention; small by default, for small models.

    Attributes:
        keys: keys of a full row that the rows after it attend to.
        stride: every so many rows one is full.
    """

    keys: int = Field(default=4, ge=1)
    stride: int = Field(default=4, ge=1)


class Recycled(Mixer):
    """Softmax over the top keys of the last full row and the tokens since (Xu et al. 2024, 2411.05787, section 3).

    Row i is full, and sees everything, if ``i + 1`` is a multiple of the stride; rows before the first full one see
    everything too. Decoding keeps the places of the keys chosen last.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = RecycledSettings

    def __init__(self, shape: MixerShape, settings: RecycledSettings) -> None:
        super().__init__(shape, settings)
        self.keys, self.stride = settings.keys, settings.stride

    def mix(self, given: MixerInput) -> Mix:
        """Every row under the choice of the last full row before it."""
        scores, rows, columns = given.scores, given.rows, given.columns
        full = (rows + 1) // self.stride * self.stride - 1  # -1 before the first full row
        chosen = top_mask(scores.masked_fill(~given.visible, -torch.inf), self.keys)[:, :, full.clamp_min(0)]
        seen = (chosen | (columns > full[:, None]) | (full == rows)[:, None]) & given.visible
        return Mix(masked_softmax(scores, seen), given.value, choice=seen)

    def start(self, token: MixerInput) -> State:
        """No tokens, nothing chosen."""
        chosen = torch.zeros(*token.key.shape[:2], 0, dtype=torch.long, device=token.key.device)
        return {"key": token.key[:, :, :0], "value": token.value[:, :, :0], "chosen": chosen}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """A full row, which chooses, or a row under the last choice."""
        key, value = torch.cat([state["key"], token.key], 2), torch.cat([state["value"], token.value], 2)
        scores, chosen = replace(token, key=key, value=value).scores, state["chosen"]
        count = key.shape[2]
        full = count // self.stride * self.stride  # tokens up to the last full row
        seen = torch.ones_like(scores, dtype=torch.bool)
        if full == count:
            chosen = earlier_first(scores.squeeze(2)).argsort(dim=-1, descending=True, stable=True)[..., : self.keys]
        elif full:
            seen[..., :full] = False
            seen = seen.scatter(-1, chosen[:, :, None], torch.ones_like(chosen[:, :, None], dtype=torch.bool))
        return masked_softmax(scores, seen) @ value, {"key": key, "value": value, "chosen": chosen}

    def state_size(self, length: int) -> int:
        """Keys and values, and the places of the chosen keys."""
        full = length // self.stride * self.stride
        return length * self.shape.cached + self.shape.n_heads * min(self.keys, full)

    def kept_tokens(self, length: int) -> KeptTokens:
        """Of every token."""
        return self.shape.kept(length)
