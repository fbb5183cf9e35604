"""Nearby tokens, and the few best of those further back, found by their keys."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.selection import top_mask


class RetrievedMemorySettings(Config):
    """Of retrieved memory; windows are short by default, for small models.

    Attributes:
        window: nearest tokens that a row always sees, its own included.
        count: tokens further back that each head finds for each row, those with the largest scores.
        together: ``gate``: a softmax over near tokens and one over found ones, in learned shares; ``softmax``: one.
    """

    window: int = Field(default=8, ge=1)
    count: int = Field(default=4, ge=1)
    together: Literal["gate", "softmax"] = "gate"


class RetrievedMemory(RowMixer):
    """``M = (1 - g) softmax(s over a window) + g softmax(s over the k best further back)``, ``g = sigmoid(gate)``.

    Memorizing Transformers (Wu et al. 2022, arXiv 2203.08913, section 3): there the memory holds keys and values of
    earlier segments, through which no gradient runs; here the earlier tokens of the same text, and gradients do. Rows
    with nothing to find have g = 0. With ``together="softmax"`` both are one softmax.

    Attributes:
        gate: (head), or None.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = RetrievedMemorySettings

    def __init__(self, shape: MixerShape, settings: RetrievedMemorySettings) -> None:
        super().__init__(shape, settings)
        self.window, self.count = settings.window, settings.count
        gated = settings.together == "gate"
        self.gate = nn.Parameter(torch.zeros(shape.n_heads)) if gated else None

    def mix(self, given: MixerInput) -> Mix:
        """Find, then mix."""
        scores, far = given.scores, given.offsets >= self.window
        near, found = given.visible & ~far, self._found(scores, far)
        choice = near | found
        if self.gate is None:
            return Mix(scores.masked_fill(~choice, -torch.inf).softmax(-1), given.value, choice=choice)
        some = far.any(-1, keepdim=True)
        local = scores.masked_fill(~near, -torch.inf).softmax(-1)
        recalled = scores.masked_fill(~found & some, -torch.inf).softmax(-1)
        share = self.gate.sigmoid()[:, None, None] * some
        return Mix((1 - share) * local + share * recalled, given.value, choice=choice)

    def _found(self, scores: Float[Tensor, "B H Q K"], far: Bool[Tensor, "Q K"]) -> Bool[Tensor, "B H Q K"]:
        """The far tokens with the largest scores."""
        return top_mask(scores.masked_fill(~far, -torch.inf), self.count)
