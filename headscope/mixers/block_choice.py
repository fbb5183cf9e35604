"""Blocks of the text chosen for each row: its own block, and the earlier ones that match it best."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.selection import ChoosingMixer, top_mask


def in_blocks(x: Float[Tensor, "B H T E"], size: int) -> Float[Tensor, "B H R size E"]:
    """The complete blocks of a text."""
    batch, heads, length, width = x.shape
    count = length // size
    return x[:, :, : count * size].reshape(batch, heads, count, size, width)


def earlier_blocks(given: MixerInput, size: int) -> Bool[Tensor, "Q R"]:
    """Which complete blocks lie before each row's own."""
    return torch.arange(given.key.shape[2] // size, device=given.key.device) < (given.rows // size)[:, None]


def own_block(given: MixerInput, size: int) -> Bool[Tensor, "Q K"]:
    """Which tokens of its own block each row sees."""
    return (given.columns // size == (given.rows // size)[:, None]) & given.visible


def block_scores(given: MixerInput, keys: Float[Tensor, "B H R E"], size: int) -> Float[Tensor, "B H Q R"]:
    """Scores of blocks seen as one, by a key for each; the bias of positions is the mean over the block."""
    scores = given.query @ keys.mT * given.scale
    if given.bias is None:
        return scores
    count = given.key.shape[2] // size
    return scores + given.bias[..., : count * size].unflatten(-1, (count, size)).mean(-1)


def by_token(blocks: Tensor, size: int, length: int) -> Tensor:
    """What holds of a block, for each of its tokens; False or 0 for the tokens after the last complete block."""
    tokens = blocks.repeat_interleave(size, -1)
    return pad(tokens, (0, length - tokens.shape[-1]))


def open_blocks(given: MixerInput, size: int, match: Float[Tensor, "B H Q R"], count: int) -> Bool[Tensor, "B H Q K"]:
    """Tokens of each row's own block, and of the ``count`` earlier ones that match best."""
    best = top_mask(match.masked_fill(~earlier_blocks(given, size), -torch.inf), count)
    return by_token(best, size, given.key.shape[2]) | own_block(given, size)


class BlockSettings(Config):
    """Of chosen blocks; blocks are small by default, for small models.

    Attributes:
        size: tokens of a block.
        blocks: blocks that each row attends to, its own included.
    """

    size: int = Field(default=4, ge=1)
    blocks: int = Field(default=3, ge=1)


class MixtureOfBlocks(ChoosingMixer):
    """Softmax over the row's block and the earlier ones with the largest ``q_i . mean k`` (MoBA: 2502.13189, 2.2)."""

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = BlockSettings

    def __init__(self, shape: MixerShape, settings: BlockSettings) -> None:
        super().__init__(shape, settings)
        self.size, self.blocks = settings.size, settings.blocks

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """Blocks by their mean key."""
        match = given.query @ in_blocks(given.key, self.size).mean(3).mT
        return open_blocks(given, self.size, match, self.blocks - 1), scores


class BlockGate(ChoosingMixer):
    """Softmax over blocks that a learned gate opens (SeerAttention: Gao et al. 2024, 2410.13276, section 3).

    ``g_ir = (W_q q_i) . (W_k [mean, max, min of the keys of block r]) / sqrt d``. A row sees its own block and the
    earlier ones with the largest g; ``log sigmoid g`` is added to the scores of a chosen block, so that the gate is
    trained with the model instead of being fitted to a finished one. The query is the row's own: pooled over its
    block it would know later tokens.

    Attributes:
        W_q: (head, d_key, d_key).
        W_k: (head, 3 d_key, d_key).
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = BlockSettings

    def __init__(self, shape: MixerShape, settings: BlockSettings) -> None:
        super().__init__(shape, settings)
        self.size, self.blocks = settings.size, settings.blocks
        width = shape.d_key
        self.W_q = nn.Parameter(torch.randn(shape.n_heads, width, width) * width**-0.5)
        self.W_k = nn.Parameter(torch.randn(shape.n_heads, 3 * width, width) * (3 * width) ** -0.5)

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """Blocks by their gate, and the gate's logarithm on their scores."""
        keys = in_blocks(given.key, self.size)
        pooled = torch.cat([keys.mean(3), keys.amax(3), keys.amin(3)], -1)
        gate = (given.query @ self.W_q) @ (pooled @ self.W_k).mT * self.shape.d_key**-0.5
        open_gate = logsigmoid(gate).masked_fill(~earlier_blocks(given, self.size), 0)
        return (
            open_blocks(given, self.size, gate, self.blocks - 1),
            scores + by_token(open_gate, self.size, given.key.shape[2]),
        )
