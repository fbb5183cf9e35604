"""Landmark attention: a block is entered through its landmark."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer


class LandmarkSettings(Config):
    """Of landmark attention.

    Attributes:
        block: tokens of a block; few by default, for small models.
    """

    block: int = Field(default=4, ge=1)


class Landmark(RowMixer):
    """``M_ij = p(j | own tokens and landmarks)``, or ``p(landmark of b) p(j | b)`` for j in an earlier block b.

    The grouped softmax of Mohtashami and Jaggi (2023, arXiv 2305.16300, section 3.1): one softmax over the tokens of
    the row's own block and the landmarks of earlier ones, and one in each earlier block. The paper adds a landmark
    token after each block, whose own value is never read; here the last token of a block is its landmark, and is one
    of the tokens of its block too.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = LandmarkSettings

    def __init__(self, shape: MixerShape, settings: LandmarkSettings) -> None:
        super().__init__(shape, settings)
        self.block = settings.block

    def mix(self, given: MixerInput) -> Mix:
        """The softmax over own tokens and landmarks; a landmark's share goes to the tokens of its block."""
        scores, size = given.scores, self.block
        row_block, column_block = given.rows[:, None] // size, given.columns // size
        own = (row_block == column_block) & given.visible
        earlier = column_block < row_block
        landmark = (given.columns % size == size - 1) & earlier
        outer = scores.masked_fill(~(own | landmark), -torch.inf).softmax(-1)
        entered = (outer * landmark)[..., size - 1 :: size]
        share = pad(entered, (0, -(-scores.shape[-1] // size) - entered.shape[-1])).repeat_interleave(size, -1)
        inside = self._inside(scores) * earlier
        return Mix(outer * own + share[..., : scores.shape[-1]] * inside, given.value)

    def _inside(self, scores: Float[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q K"]:
        """A softmax in each block."""
        length = scores.shape[-1]
        blocks = pad(scores, (0, -length % self.block), value=-torch.inf).unflatten(-1, (-1, self.block))
        return blocks.softmax(-1).flatten(-2)[..., :length]
