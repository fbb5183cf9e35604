"""Randomised positions: drawn from a longer range in training, so that long texts bring no unseen ones."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headscope.errors import UnsupportedError
from headscope.models.decoder.position_settings import RandomisedSettings

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class DrawnPositions(nn.Module):
    """A sorted random subset of ``0 ... largest - 1`` for every pass (Ruoss et al. 2023, arXiv 2305.16843, section 3).

    Draw n is a function of the seed and of n alone, whatever the device and whatever else is drawn: the smallest hashes
    of all positions (splitmix64). The count of draws is saved with the weights, so a training that goes on draws what
    it would have drawn.

    Attributes:
        draws: passes in training so far.
    """

    draws: Tensor

    def __init__(self, settings: RandomisedSettings, seed: int, n_ctx: int) -> None:
        super().__init__()
        self.settings, self.seed, self.n_ctx = settings, seed, n_ctx
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def forward(self, size: int) -> Int[Tensor, " T"]:
        """Positions of a text of ``size`` tokens: a new draw in training.

        Raises:
            UnsupportedError: for a text that is longer than the range.
        """
        largest = self.settings.largest
        if size > largest:
            raise UnsupportedError(f"a text of {size} tokens is longer than the {largest} positions to draw from.")
        if self.training:
            self.draws += 1
            return self._draw(size, self.draws)
        device = self.draws.device
        if self.settings.evaluation == "drawn":
            return self._draw(size, torch.zeros_like(self.draws))
        index = torch.arange(size, device=device)
        if self.settings.evaluation == "first":
            return index
        drawn = max(size, self.n_ctx)  # a text is read as the beginning of one of full length
        return (2 * (index + 1) * (largest + 1) + drawn + 1) // (2 * (drawn + 1)) - 1  # the mean of each, rounded

    def _draw(self, size: int, draw: Tensor) -> Int[Tensor, " T"]:
        place = torch.arange(self.settings.largest, device=draw.device)
        keys = _hashed(_hashed(_hashed(place) + draw) + self.seed)
        return keys.topk(size, largest=False).indices.sort().values


def _hashed(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Splitmix64's mixing of 64-bit integers, which wrap."""
    x = x + _signed(_MIX[0])
    for shift, factor in ((30, _MIX[1]), (27, _MIX[2])):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    return x ^ ((x >> 31) & (2**33 - 1))


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x
