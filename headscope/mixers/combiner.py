"""Full attention by blocks: tokens nearby one by one, blocks further away as one."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.block_choice import BlockSettings, block_scores, by_token, earlier_blocks, in_blocks, own_block
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, RowMixer, State
from headscope.mixers.selection import masked_softmax, top_mask


class CombinerSettings(Config):
    """Of Combiner.

    Attributes:
        size: tokens of a block; small by default, for small models.
    """

    size: int = Field(default=4, ge=1)


class Combiner(Mixer):
    """``M_ij = p(j | i)`` in the row's own block, ``p(R | i) p(j | R)`` for a block R before it.

    Combiner (Ren et al. 2021, 2107.05768, section 3):
    p(. | i) is one softmax over ``q_i . k_j`` of the own block and ``q_i . k_R`` of the blocks before it;
    ``p(j | R) = softmax_j (q_R . k_j)``; q_R and k_R are the maxima over the block's queries and keys. Blocks are those
    of Combiner-Fixed. Decoding keeps the own block, and one key and one value of each block before it.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = CombinerSettings

    def __init__(self, shape: MixerShape, settings: CombinerSettings) -> None:
        super().__init__(shape, settings)
        self.size = settings.size

    def mix(self, given: MixerInput) -> Mix:
        """Both steps, multiplied."""
        length = given.key.shape[2]
        queries, keys = in_blocks(given.query, self.size).amax(3), in_blocks(given.key, self.size)
        within = (torch.einsum("bhre,bhrse->bhrs", queries, keys) * given.scale).softmax(-1).flatten(2)
        scores = torch.cat([given.scores, block_scores(given, keys.amax(3), self.size)], -1)
        shape = (*given.query.shape[:3], -1)
        seen = torch.cat([own_block(given, self.size), earlier_blocks(given, self.size)], -1).expand(shape)
        direct, blocks = masked_softmax(scores, seen).split([length, scores.shape[-1] - length], -1)
        inside = torch.cat([within, within.new_zeros(*within.shape[:2], length - within.shape[2])], 2)
        return Mix(direct + by_token(blocks, self.size, length) * inside[:, :, None], given.value)

    def start(self, token: MixerInput) -> State:
        """No tokens and no blocks."""
        parts = {"query": token.query, "key": token.key, "value": token.value}
        state = {name: part[:, :, :0] for name, part in parts.items()}
        return state | {"block_key": token.key[:, :, :0], "block_value": token.value[:, :, :0]}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Read the own block and all earlier ones; a block that is complete becomes one key and one value."""
        key, value = torch.cat([state["key"], token.key], 2), torch.cat([state["value"], token.value], 2)
        query = torch.cat([state["query"], token.query], 2).amax(2, keepdim=True)
        keys = torch.cat([key, state["block_key"]], 2)
        weights = (token.query @ keys.mT * token.scale).softmax(-1)
        z = weights @ torch.cat([value, state["block_value"]], 2)
        block_key, block_value = state["block_key"], state["block_value"]
        if key.shape[2] == self.size:
            inside = (query @ key.mT * token.scale).softmax(-1)
            block_key = torch.cat([block_key, key.amax(2, keepdim=True)], 2)
            block_value = torch.cat([block_value, inside @ value], 2)
            query, key, value = query[:, :, :0], key[:, :, :0], value[:, :, :0]
        return z, {"query": query, "key": key, "value": value, "block_key": block_key, "block_value": block_value}

    def state_size(self, length: int) -> int:
        """Keys, values and one maximum of queries of the unfinished block; a key and a value of each complete one."""
        shape, rest = self.shape, length % self.size
        blocks = self.shape.kept(length // self.size).keys + length // self.size * shape.n_heads * shape.d_head
        return rest * shape.cached + (shape.n_heads * shape.d_key if rest else 0) + blocks

    def kept_tokens(self, length: int) -> KeptTokens:
        """Those of the unfinished block."""
        return self.shape.kept(length % self.size)


class MultiResolution(RowMixer):
    """Blocks that match best token by token, all others by their mean (Vcc: Zeng et al. 2023, 2305.04241, section 3).

    A row sees the tokens of its own block and of the blocks with the largest ``q_i . mean k``; any other earlier block
    R counts as ``|R|`` tokens that all have its mean key and mean value. The paper compresses what the few tokens that
    matter (the question's) look at least; to be causal every row is such a token for itself. Two resolutions.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = BlockSettings

    def __init__(self, shape: MixerShape, settings: BlockSettings) -> None:
        super().__init__(shape, settings)
        self.size, self.blocks = settings.size, settings.blocks

    def mix(self, given: MixerInput) -> Mix:
        """One softmax over tokens seen and blocks seen as one; a block's weight is shared by its tokens."""
        length, earlier = given.key.shape[2], earlier_blocks(given, self.size)
        coarse = block_scores(given, in_blocks(given.key, self.size).mean(3), self.size)
        fine = top_mask(coarse.masked_fill(~earlier, -torch.inf), self.blocks - 1)
        tokens = by_token(fine, self.size, length) | own_block(given, self.size)
        scores = torch.cat([given.scores, coarse + math.log(self.size)], -1)
        weights = masked_softmax(scores, torch.cat([tokens, earlier & ~fine], -1))
        direct, blocks = weights.split([length, coarse.shape[-1]], -1)
        return Mix(direct + by_token(blocks, self.size, length) / self.size, given.value, choice=tokens)
