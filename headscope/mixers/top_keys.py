"""The keys with the largest scores: found exactly, or by halving the text."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.selection import ChoosingMixer, earlier_first, top_mask


class TopKeysSettings(Config):
    """Of top keys, exact or searched for.

    Attributes:
        keys: keys that each row attends to; small by default, for small models.
    """

    keys: int = Field(default=6, ge=1)


class TopKeys(ChoosingMixer):
    """``M = softmax(s)`` over the k largest scores of each row (Zhao et al. 2019, 1912.11637, section 2.1).

    The exact form of what IceFormer (2405.02842) and Unlimiformer (2305.01625) find with an approximate index. The
    choice passes no gradient; chosen scores do.
    """

    settings_type: ClassVar[type[Config]] = TopKeysSettings

    def __init__(self, shape: MixerShape, settings: TopKeysSettings) -> None:
        super().__init__(shape, settings)
        self.keys = settings.keys

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """The k largest."""
        return top_mask(scores.masked_fill(~given.visible, -torch.inf), self.keys), scores


class TreeSearch(ChoosingMixer):
    """Softmax over k keys found by halving the text (HiP: Lee et al. 2024, 2406.09827, section 3).

    The n visible keys are cut into k nodes of equal length. In each round every node is halved, each half is judged by
    the score of its middle key, and the best k halves go on, until nodes are single keys: ``log2(n / k)`` rounds of
    2 k scores. A row with at most k visible keys sees them all.
    """

    settings_type: ClassVar[type[Config]] = TopKeysSettings

    def __init__(self, shape: MixerShape, settings: TopKeysSettings) -> None:
        super().__init__(shape, settings)
        self.keys = settings.keys

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """The keys that the search ends with."""
        worth, last = earlier_first(scores), scores.shape[-1] - 1
        start, end = self._nodes(given, worth)
        for _ in range((last // self.keys).bit_length()):
            middle = (start + end + 1) // 2
            starts, ends = torch.cat([start, middle], -1), torch.cat([middle, end], -1)
            halves = worth.gather(-1, ((starts + ends) // 2).clamp_max(last)).masked_fill(ends <= starts, -torch.inf)
            best = halves.argsort(dim=-1, descending=True, stable=True)[..., : self.keys]
            start, end = starts.gather(-1, best), ends.gather(-1, best)
        found = torch.zeros_like(worth, dtype=torch.int32)
        return found.scatter_add(-1, start.clamp_max(last), (end > start).int()) > 0, scores

    def _nodes(self, given: MixerInput, scores: Tensor) -> tuple[Tensor, Tensor]:
        """First key of each row's nodes, and the key after their last."""
        count = given.visible.sum(-1, keepdim=True)
        cuts = torch.arange(self.keys + 1, device=scores.device) * count // self.keys
        shape = (*scores.shape[:3], self.keys)
        return cuts[:, :-1].expand(shape), cuts[:, 1:].expand(shape)
