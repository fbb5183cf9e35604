"""The settings of sparse attention on a pretrained model: the cache stays whole, rows look at some keys. No torch.

A budget is the number of keys that a row may attend to. Where a paper leaves the first layers dense, so do the
defaults (``dense_layers``); a comparison at equal budgets sets them all to 0.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from circuits.policies.settings import PolicySettings


class TopKeysSettings(PolicySettings):
    """Of exact top keys.

    Attributes:
        keys: keys that each row attends to.
    """

    keys: int = Field(default=256, ge=1)

    def sized(self, budget: int) -> PolicySettings:
        """As many keys."""
        return self.model_copy(update={"keys": max(1, budget)})


class PagesSettings(PolicySettings):
    """Of Quest.

    Attributes:
        page: tokens of a page.
        pages: pages that each row attends to, the newest included.
        dense_layers: first layers that attend in full.
    """

    page: int = Field(default=16, ge=1)
    pages: int = Field(default=16, ge=1)
    dense_layers: int = Field(default=2, ge=0)

    def sized(self, budget: int) -> PolicySettings:
        """As many pages as the budget holds; where it holds fewer than four, pages shrink."""
        page = max(1, min(self.page, budget // 4))
        return self.model_copy(update={"page": page, "pages": max(1, budget // page)})


class SplitPagesSettings(PolicySettings):
    """Of LServe's decoding.

    Attributes:
        sink: first tokens that streaming heads keep.
        recent: most recent tokens that they keep, the row itself included.
        page: logical pages of a physical page.
        logical: tokens of a logical page, which has its own bound.
        pages: physical pages that each row of the chosen heads attends to, the newest included; a budget leaves it.
    """

    sink: int = Field(default=64, ge=0)
    recent: int = Field(default=256, ge=1)
    page: int = Field(default=4, ge=1)
    logical: int = Field(default=16, ge=1)
    pages: int = Field(default=4, ge=1)

    def sized(self, budget: int) -> PolicySettings:
        """Streaming heads keep ``budget`` tokens, at most a quarter of them first ones; the pages that chosen heads
        look at are a setting of their own."""
        sink = min(self.sink, budget // 4)
        return self.model_copy(update={"sink": sink, "recent": max(1, budget - sink)})


class ChunksSettings(PolicySettings):
    """Of LongHeads.

    Attributes:
        size: tokens of a chunk.
        chunks: chunks that each row attends to; the first and the two newest are always among them.
        positions: ``cache``: chosen chunks stand next to each other (the paper); ``text``: where they stand in the
            text.
    """

    size: int = Field(default=64, ge=1)
    chunks: int = Field(default=8, ge=3)
    positions: Literal["cache", "text"] = "cache"

    def sized(self, budget: int) -> PolicySettings:
        """As many chunks as the budget holds; where it holds fewer than four, chunks shrink."""
        size = max(1, min(self.size, budget // 4))
        return self.model_copy(update={"size": size, "chunks": max(3, budget // size)})


class TreeSettings(PolicySettings):
    """Of HiP.

    Attributes:
        keys: keys that each row attends to.
        dense_layers: first layers that attend in full.
    """

    keys: int = Field(default=256, ge=1)
    dense_layers: int = Field(default=3, ge=0)

    def sized(self, budget: int) -> PolicySettings:
        """As many keys."""
        return self.model_copy(update={"keys": max(1, budget)})


class HashingSettings(PolicySettings):
    """Of HyperAttention, row by row.

    Attributes:
        bits: hyperplanes of the hash: ``2 ** bits`` buckets.
        block: newest keys of the row's bucket that it attends to.
        recent: most recent keys that it attends to besides, the row itself included.
        samples: keys expected to be sampled from all others.
        seed: of the hyperplanes and the samples.
    """

    bits: int = Field(default=4, ge=1, le=16)
    block: int = Field(default=96, ge=0)
    recent: int = Field(default=64, ge=1)
    samples: int = Field(default=96, ge=0)
    seed: int = Field(default=0, ge=0)

    def sized(self, budget: int) -> PolicySettings:
        """A third of the budget each, recent keys first."""
        part = budget // 3
        return self.model_copy(update={"block": part, "samples": part, "recent": max(1, budget - 2 * part)})
