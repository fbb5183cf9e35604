"""Nearby tokens, and one or a few summaries of every earlier block."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State


class BlockSummariesSettings(Config):
    """Of block summaries; blocks and windows are short by default, for small models.

    Attributes:
        block: tokens of a block.
        near: tokens seen by themselves: the nearest ones (``window``), or those of the row's own ``block``.
        window: how many the nearest ones are, the row's own included.
        summary: a block's ``mean``, or what ``latents`` read from it.
        latents: learned queries that read each block, in each head.
    """

    block: int = Field(default=4, ge=1)
    near: Literal["window", "block"] = "window"
    window: int = Field(default=4, ge=1)
    summary: Literal["mean", "latents"] = "mean"
    latents: int = Field(default=1, ge=1)


class BlockSummaries(Mixer):
    """One softmax over nearby tokens and over the summaries of blocks: ``M = P_near + P_summary R``.

    A summary has key ``sum_j R_bj k_j`` and value ``sum_j R_bj v_j`` over the tokens of its block: means
    (``R_bj = 1 / size``; LongT5's transient global tokens: Guo et al. 2021, arXiv 2112.07916, section 3.1.2) or what
    learned latent queries read, ``R_bj = softmax_j(l . k_j)`` (FIT: Chen and Li 2023, 2305.12689). So its score is the
    average of the scores of its tokens under R, and M has columns of tokens only. A row sees the summaries of the
    blocks before its own; of all blocks where it looks ahead.

    Attributes:
        latent: (head, latents, d_key), or None.
    """

    settings_type: ClassVar[type[Config]] = BlockSummariesSettings

    def __init__(self, shape: MixerShape, settings: BlockSummariesSettings) -> None:
        super().__init__(shape, settings)
        self.block, self.by_block = settings.block, settings.near == "block"
        self.window = 1 if self.by_block else settings.window
        read, width = settings.summary == "latents", shape.d_key
        self.latents = settings.latents if read else 1
        self.latent = nn.Parameter(torch.randn(shape.n_heads, self.latents, width)) if read else None

    def mix(self, given: MixerInput) -> Mix:
        """The joint softmax; the summaries' share is handed on to their tokens."""
        scores, length = given.scores, given.key.shape[2]
        blocks = torch.arange(-(-length // self.block), device=given.query.device)
        reading = self._reading(given.key, given.scale, blocks)
        own = given.rows // self.block
        seen = blocks < own[:, None] if given.causal else torch.ones_like(own[:, None] + blocks, dtype=torch.bool)
        by_summary = (scores @ reading.mT).masked_fill(~seen.repeat_interleave(self.latents, 1), -torch.inf)
        by_token = scores.masked_fill(~self._near(given), -torch.inf)
        weights = torch.cat([by_token, by_summary], -1).softmax(-1)
        return Mix(weights[..., :length] + weights[..., length:] @ reading, given.value)

    def start(self, token: MixerInput) -> State:
        """No tokens and no summaries."""
        parts = {"key": token.key, "value": token.value, "block_key": token.key, "block_value": token.value}
        return {name: part[:, :, :0] for name, part in parts.items()}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Mix over nearby tokens and summaries; at the end of a block, summarise it and drop what is out of reach."""
        state = dict(state, key=torch.cat([state["key"], token.key], 2))
        state["value"] = torch.cat([state["value"], token.value], 2)
        done = state["block_key"].shape[2] // self.latents
        inside = state["key"].shape[2] - min(self.window - 1, done * self.block)
        reach = inside if self.by_block else self.window
        key = torch.cat([state["key"][:, :, -reach:], state["block_key"]], 2)
        value = torch.cat([state["value"][:, :, -reach:], state["block_value"]], 2)
        z = (token.query @ key.mT * token.scale).softmax(-1) @ value
        if inside == self.block:
            key, value = state["key"][:, :, -inside:], state["value"][:, :, -inside:]
            reading = self._reading(key, token.scale, torch.zeros(1, dtype=torch.long, device=key.device))
            state["block_key"] = torch.cat([state["block_key"], reading @ key], 2)
            state["block_value"] = torch.cat([state["block_value"], reading @ value], 2)
            kept = min(self.window - 1, (done + 1) * self.block)
            for name in ("key", "value"):
                state[name] = state[name][:, :, state[name].shape[2] - kept :]
        return z, state

    def state_size(self, length: int) -> int:
        """Summaries of finished blocks, the tokens of the current one, and the window before it."""
        shape, tokens, summaries = self.shape, self.kept_tokens(length), length // self.block * self.latents
        apart = shape.n_heads * (shape.d_key + shape.d_head)  # heads have latents of their own
        return tokens.keys + tokens.values + summaries * (shape.cached if self.latent is None else apart)

    def kept_tokens(self, length: int) -> KeptTokens:
        """Those of the current block and of the window before it."""
        return self.shape.kept(min(self.window - 1, length // self.block * self.block) + length % self.block)

    def _near(self, given: MixerInput) -> Bool[Tensor, "Q K"]:
        if self.by_block:
            same = given.rows[:, None] // self.block == given.columns // self.block
            return same & given.visible
        return (given.offsets.abs() < self.window) & given.visible

    def _reading(self, key: Tensor, scale: float, blocks: Tensor) -> Float[Tensor, "B H R K"]:
        """What each summary takes of each token, summaries of a block next to each other."""
        members = torch.arange(key.shape[2], device=key.device) // self.block == blocks[:, None]
        if self.latent is None:
            share = members.to(key.dtype) / members.sum(-1, keepdim=True)
            return share.expand(*key.shape[:2], -1, -1)
        scores = (self.latent @ key.mT * scale)[:, :, None].masked_fill(~members[:, None], -torch.inf)
        return scores.softmax(-1).flatten(2, 3)
