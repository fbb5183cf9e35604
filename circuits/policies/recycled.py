"""Recycled Attention: a row in so many attends in full; those between attend to what it looked at.

Xu et al. 2024, arXiv 2411.05787, section 3: a full row leaves its top-k keys; the rows after it attend to those and to
the tokens since, until the next full row. The last row that attends in full before the policy acts leaves the first
top-k (the paper's prompt). The cache stays whole: only what is loaded and multiplied shrinks. The keys are chosen per
key/value head, by the attention averaged over its query heads, as the paper does under grouped queries.

::

    stride 4, acting from row 5:   row     4     5 6 7   8     9 10 11   12
                                         full   recycled full  recycled  full
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.policies.eviction_settings import RecycledSettings
from circuits.policies.head_split import HeadSplit
from circuits.policies.kept_set import by_group
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.top_keys import top_mask, whole_cache
from headscope.attention import AttentionInput
from headscope.errors import ConfigError
from headscope.models.protocol import HookedModel


class Recycled(Policy):
    """Full rows every ``stride`` rows; the others attend to ``top`` keys of the last full row and the tokens since.

    Row i is full if ``i + 1 - first`` is a multiple of the stride, ``first`` being the first row that it acts on;
    before any full row everything is 'since'.
    """

    name = "recycled"
    eager = False

    def __init__(self, top: int, stride: int) -> None:
        """See `RecycledSettings`.

        Raises:
            ConfigError: if one of them is below 1.
        """
        if min(top, stride) < 1:
            raise ConfigError(f"top and stride are at least 1, not {top} and {stride}.")
        self.top, self.stride = top, stride

    @classmethod
    def build(cls, model: HookedModel, settings: RecycledSettings, _: HeadSplit | None = None) -> Recycled:  # noqa: ARG003
        """From settings."""
        return cls(settings.top, settings.stride)

    def layer(self, index: int) -> RecycledLayer:  # noqa: ARG002
        """A layer without a full row."""
        return RecycledLayer(self.top, self.stride)


class RecycledLayer:
    """One layer: the keys of the last full row."""

    def __init__(self, top: int, stride: int) -> None:
        """No full row yet."""
        self._top, self._stride = top, stride
        self._chosen: Bool[Tensor, "batch kv_head key"] | None = None
        self._first: int | None = None

    def prepare(self, call: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    def observe(self, rows: Rows) -> None:
        """The last row leaves its top keys."""
        self._chosen = self._top_keys(rows, rows.query.shape[2] - 1)

    def mix(self, rows: Rows) -> Mixed:
        """Full rows see everything, the others what the last full row chose and the tokens since."""
        self._first = rows.first if self._first is None else self._first
        batch, n_kv_heads, size = rows.key.shape[:3]
        visible = torch.ones(batch, n_kv_heads, rows.query.shape[2], size, dtype=torch.bool, device=rows.key.device)
        start = 0
        for row in self._full_rows(rows):
            self._hide(visible[:, :, start:row])
            self._chosen, start = self._top_keys(rows, row), row + 1
        self._hide(visible[:, :, start:])
        group = rows.query.shape[1] // n_kv_heads
        return Mixed.over(rows, visible.repeat_interleave(group, dim=1), kept=whole_cache(rows))

    def _full_rows(self, rows: Rows) -> range:
        """Which rows of the chunk are full."""
        assert self._first is not None
        return range(-(rows.first + 1 - self._first) % self._stride, rows.query.shape[2], self._stride)

    def _hide(self, visible: Bool[Tensor, "batch kv_head row key"]) -> None:
        """Hide from rows what the last full row could see and did not choose."""
        if self._chosen is not None:
            visible[..., : self._chosen.shape[-1]] &= self._chosen[:, :, None]

    @torch.no_grad()
    def _top_keys(self, rows: Rows, row: int) -> Bool[Tensor, "batch kv_head key"]:
        """The keys up to a row that get most of its attention."""
        size = rows.first + row + 1
        weights = by_group(torch.softmax(rows.logits[:, :, row, :size], -1), rows.key.shape[1]).mean(2)
        return top_mask(weights, self._top)
