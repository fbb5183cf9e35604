"""Are sinks needed? The mass on the first token, on later sinks or on the first token of dormant rows, taken away.

Later sinks: ACT, Yu et al. 2024, arXiv 2406.15765, section 3 (column means above alpha / n). Dormant rows: Guo et al.
2024, arXiv 2410.13835 (more than 0.89 on the first token).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.softmax_settings import SinkRemovalSettings
from circuits.policies.softmaxes import chosen_heads
from circuits.policies.top_keys import whole_cache
from headscope.attention import AttentionInput
from headscope.models.protocol import HookedModel


class SinkRemoval(Policy):
    """Takes the mass of sinks from chosen query heads: removes it, or gives it to the other keys.

    ``first``: position 0. ``dormant``: position 0 where a row gives it more than ``dormant_mass``. ``later``: for row
    i, n = i + 1, the positions t >= 1 whose mean over the rows that saw them, ``sum_{r <= i} M_rt / (n - t)``, is above
    ``alpha / n``, where at least ``least_share n`` rows saw them: ACT's definition over the rows so far, from the
    model's own M. A row that sees nothing but sinks stays as it is.
    """

    name = "sink-removal"

    def __init__(self, heads: Bool[Tensor, "layer head"], settings: SinkRemovalSettings) -> None:
        """Which heads, and what is done to them."""
        self.heads, self.settings = heads, settings

    @classmethod
    def build(cls, model: HookedModel, settings: SinkRemovalSettings, _: HeadSplit | None = None) -> SinkRemoval:
        """From settings.

        Raises:
            HeadIndexError: for a head that the model does not have.
        """
        return cls(chosen_heads(model, settings.heads), settings)

    def layer(self, index: int) -> SinkMemory:
        """A memory that has seen no row."""
        return SinkMemory(self.heads[index], self.settings)


class SinkMemory:
    """The mass that each column of a layer has received so far."""

    def __init__(self, heads: Bool[Tensor, " head"], settings: SinkRemovalSettings) -> None:
        """Of a sequence that begins."""
        self._heads, self._settings = heads, settings
        self._received: Float[Tensor, "batch head key"] | None = None

    def prepare(self, call: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    def observe(self, rows: Rows) -> None:
        """Add up the columns."""
        if self._settings.which == "later":
            self._sums(torch.softmax(rows.logits.detach(), -1))

    def mix(self, rows: Rows) -> Mixed:
        """Softmax with the sinks' mass taken away."""
        weights = torch.softmax(rows.logits, -1)
        shown = torch.isfinite(rows.logits)
        sinks = self.sinks(rows, weights.detach()) & self._heads.to(weights.device)[:, None, None] & shown
        sinks &= (shown & ~sinks).any(-1, keepdim=True)
        attended = (shown & ~sinks).sum(-1)
        return Mixed(self._without(rows.logits, weights, sinks, shown), attended, whole_cache(rows))

    def sinks(self, rows: Rows, weights: Float[Tensor, "batch head row key"]) -> Bool[Tensor, "batch head row key"]:
        """Which keys are sinks to each row."""
        settings, key = self._settings, torch.arange(weights.shape[-1], device=weights.device)
        if settings.which == "first":
            return (key == 0).expand(weights.shape)
        if settings.which == "dormant":
            return (key == 0) & (weights[..., :1] > settings.dormant_mass)
        total = (rows.positions + 1)[:, None]
        seen_by = (total - key).clamp_min(1)
        mean = self._sums(weights) / seen_by
        return (mean > settings.alpha / total) & (key >= 1) & (seen_by >= settings.least_share * total)

    def _sums(self, weights: Float[Tensor, "batch head row key"]) -> Float[Tensor, "batch head row key"]:
        """What each column has received up to each row, that row included; remembers the last."""
        sums = weights.cumsum(2)
        if self._received is not None:
            before = torch.nn.functional.pad(self._received, (0, weights.shape[-1] - self._received.shape[-1]))
            sums = sums + before[:, :, None]
        self._received = sums[:, :, -1]
        return sums

    def _without(
        self,
        logits: Float[Tensor, "batch head row key"],
        weights: Float[Tensor, "batch head row key"],
        sinks: Bool[Tensor, "batch head row key"],
        shown: Bool[Tensor, "batch head row key"],
    ) -> Float[Tensor, "batch head row key"]:
        """The weights once the sinks' mass is removed, shared in proportion or shared equally."""
        if self._settings.how == "renormalise":
            return torch.softmax(logits.masked_fill(sinks, -torch.inf), -1)
        left = weights.masked_fill(sinks, 0.0)
        if self._settings.how == "remove":
            return left
        others = shown & ~sinks
        mass = (weights * sinks).sum(-1, keepdim=True)
        return left + others * (mass / others.sum(-1, keepdim=True))
