"""Routing by pooled blocks: BiFormer's regions and LongHeads' chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.block_choice import BlockSettings, earlier_blocks, in_blocks, open_blocks
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.selection import masked_softmax


class RegionRouting(Mixer):
    """Softmax over the row's region and the earlier ones that match it best (BiFormer: Zhu et al. 2023, 2303.08810).

    Regions match by the dot product of their mean query and mean key (section 3.2). To be causal the mean query of the
    row's own region goes as far as the row, and only regions that ended before it are compared.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = BlockSettings

    def __init__(self, shape: MixerShape, settings: BlockSettings) -> None:
        super().__init__(shape, settings)
        self.size, self.blocks = settings.size, settings.blocks

    def mix(self, given: MixerInput) -> Mix:
        """Route by running means of queries."""
        offset = given.offsets
        ours = (given.rows // self.size)[:, None] == (given.columns // self.size)[None]
        mean = (ours & (offset >= 0)).to(given.query.dtype)
        return self._routed(given, (mean / mean.sum(-1, keepdim=True)) @ given.query)

    def _routed(self, given: MixerInput, region: Float[Tensor, "B H Q E"]) -> Mix:
        match = region @ in_blocks(given.key, self.size).mean(3).mT
        chosen = open_blocks(given, self.size, match, self.blocks - 1)
        return Mix(masked_softmax(given.scores, chosen), given.value, choice=chosen)

    def start(self, token: MixerInput) -> State:
        """No tokens, and no query in the sum of the region."""
        state = {"key": token.key[:, :, :0], "value": token.value[:, :, :0]}
        return state | {"total": torch.zeros_like(token.query)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token, add its query to the region's, and mix its row."""
        within = state["key"].shape[2] % self.size
        total = token.query if within == 0 else state["total"] + token.query
        key, value = torch.cat([state["key"], token.key], 2), torch.cat([state["value"], token.value], 2)
        z = self._routed(replace(token, key=key, value=value), total / (within + 1)).z
        return z, {"key": key, "value": value, "total": total}

    def state_size(self, length: int) -> int:
        """Keys and values, and a sum of queries for each head."""
        return length * self.shape.cached + self.shape.n_heads * self.shape.d_key

    def kept_tokens(self, length: int) -> KeptTokens:
        """Of every token."""
        return self.shape.kept(length)


class ChunkSettings(Config):
    """Of LongHeads; chunks are small by default, for small models.

    Attributes:
        size: tokens of a chunk.
        chunks: chunks that each row attends to; the first and the two newest are always among them.
    """

    size: int = Field(default=4, ge=1)
    chunks: int = Field(default=4, ge=3)


class ChunkRouting(Mixer):
    """Softmax over the first chunk, the two newest, and those that match the query (LongHeads: 2402.10685, section 2).

    A chunk's key c: its queries attend to its keys both ways, the mean of what they read is a query, and c is the mean
    of the keys under that query's attention; chunks match by ``q_i . c``. What the queries read are keys here, values
    in the paper: M may not depend on the values it is applied to.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = ChunkSettings

    def __init__(self, shape: MixerShape, settings: ChunkSettings) -> None:
        super().__init__(shape, settings)
        self.size, self.chunks = settings.size, settings.chunks

    def mix(self, given: MixerInput) -> Mix:
        """Choose chunks by their keys."""
        return self._chosen(given, self._chunk_keys(given.query, given.key, given.scale))

    @torch.no_grad()
    def _chunk_keys(
        self, query: Float[Tensor, "B H T E"], key: Float[Tensor, "B H T E"], scale: float
    ) -> Float[Tensor, "B H R E"]:
        queries, keys = in_blocks(query, self.size), in_blocks(key, self.size)
        read = (queries @ keys.mT * scale).softmax(-1) @ keys
        return ((read.mean(3, keepdim=True) @ keys.mT * scale).softmax(-1) @ keys).squeeze(3)

    def _chosen(self, given: MixerInput, chunk_keys: Float[Tensor, "B H R E"]) -> Mix:
        number = torch.arange(chunk_keys.shape[2], device=given.key.device)
        always = ((number == 0) | (number == (given.rows // self.size)[:, None] - 1)) & earlier_blocks(given, self.size)
        match = (given.query @ chunk_keys.mT).masked_fill(always, torch.inf)
        chosen = open_blocks(given, self.size, match, self.chunks - 1)
        return Mix(masked_softmax(given.scores, chosen), given.value, choice=chosen)

    def start(self, token: MixerInput) -> State:
        """No tokens and no chunks."""
        parts = {"key": token.key, "value": token.value, "waiting": token.query, "chunk": token.key}
        return {name: part[:, :, :0] for name, part in parts.items()}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token, complete its chunk where it is the last of it, and mix its row."""
        key, value = torch.cat([state["key"], token.key], 2), torch.cat([state["value"], token.value], 2)
        waiting, chunk = torch.cat([state["waiting"], token.query], 2), state["chunk"]
        if waiting.shape[2] == self.size:
            chunk = torch.cat([chunk, self._chunk_keys(waiting, key[:, :, -self.size :], token.scale)], 2)
            waiting = waiting[:, :, :0]
        z = self._chosen(replace(token, key=key, value=value), chunk).z
        return z, {"key": key, "value": value, "waiting": waiting, "chunk": chunk}

    def state_size(self, length: int) -> int:
        """Keys and values, the key of each complete chunk, and the queries of the unfinished one."""
        extra = length // self.size + length % self.size
        return length * self.shape.cached + self.shape.n_heads * self.shape.d_key * extra

    def kept_tokens(self, length: int) -> KeptTokens:
        """Of every token."""
        return self.shape.kept(length)
