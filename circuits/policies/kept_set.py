"""A cache of bounded size, kept up row by row: what H2O, TOVA and D2O have in common.

Row i attends to the kept keys and itself; then its own attention updates a score per kept key, and the lowest scores
are evicted until no more than the budget is left. An evicted key is gone for good. Rows before the policy acts attend
in full and keep everything; the first row that acts finds the cache already cut down to the budget by the scores of
those rows: the compression after the prompt of the papers' code.

Under grouped queries the kept set is one per key/value head, shared by its query heads; a key's attention is summed
over the query heads of the group.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.rows import Mixed, Rows
from headscope.attention import AttentionInput
from headscope.errors import ConfigError


def by_group(per_head: Tensor, n_kv_heads: int) -> Tensor:
    """``[batch, head, ...]`` as ``[batch, kv_head, head of the group, ...]``."""
    return per_head.unflatten(1, (n_kv_heads, -1))


def check_budget(budget: int, recent: int) -> None:
    """Refuse budgets that cannot hold the row itself and the protected tokens.

    Raises:
        ConfigError: if the budget is below 1 or below ``recent``.
    """
    if budget < max(1, recent):
        raise ConfigError(f"a budget of {budget} tokens is too small: it is at least 1 and at least recent ({recent}).")


class KeptSet:
    """One layer under an eviction rule: at most ``budget`` keys per key/value head once a row is done.

    The score of key j after row i is ``S_j = a S_j + sum over the group's query heads of A[i, j]``, with a = 1 where
    scores accumulate over rows (H2O) and a = 0 where the newest row alone counts (TOVA).
    """

    def __init__(self, budget: int, *, recent: int = 0, accumulate: bool = True, whole_layer: bool = False) -> None:
        """An empty cache.

        Args:
            budget: most keys that a key/value head keeps.
            recent: the newest keys, the row itself included, that are never evicted.
            accumulate: whether scores are summed over rows.
            whole_layer: whether all key/value heads share the attention summed over all heads of the layer.
        """
        check_budget(budget, recent)
        self.budget, self.recent = budget, recent
        self._accumulate, self._whole_layer = accumulate, whole_layer
        self._kept: Bool[Tensor, "batch kv_head key"] | None = None
        self._score: Float[Tensor, "batch kv_head key"] | None = None

    def prepare(self, call: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    @torch.no_grad()
    def observe(self, rows: Rows) -> None:
        """Keep all keys, and note the attention of these rows."""
        kept, score = self._grown(rows)
        kept[..., rows.first :] = True
        counted = rows.logits if self._accumulate else rows.logits[:, :, -1:]
        weights = by_group(torch.softmax(counted, -1), kept.shape[1]).sum(3)
        self._note(score, weights)

    def mix(self, rows: Rows) -> Mixed:
        """Each row attends to what the rows before left."""
        with torch.no_grad():
            visible, counts = self._walk(rows)
        group = rows.query.shape[1] // rows.key.shape[1]
        return Mixed.over(rows, visible.repeat_interleave(group, dim=1), kept=counts)

    def _walk(self, rows: Rows) -> tuple[Bool[Tensor, "batch kv_head row key"], Int[Tensor, "batch kv_head row"]]:
        """The keys that each row sees, and how many are kept after it."""
        kept, score = self._grown(rows)
        logits = by_group(rows.logits, kept.shape[1])
        visible = torch.zeros(*kept.shape[:2], *rows.logits.shape[2:], dtype=torch.bool, device=kept.device)
        counts = torch.zeros(visible.shape[:3], dtype=torch.long, device=kept.device)
        self._drop(kept, score, rows.first)
        for row, within in enumerate(in_window(rows)):
            size = rows.first + row + 1
            held, scores = kept[..., :size], score[..., :size]
            held[..., -1] = True
            held &= within[:size]
            visible[:, :, row, :size] = held
            seen = logits[:, :, :, row, :size].masked_fill(~held[:, :, None], -torch.inf)
            self._note(scores, torch.softmax(seen, -1))
            self._drop(held, scores, size)
            counts[:, :, row] = held.sum(-1)
        return visible, counts

    def _grown(self, rows: Rows) -> tuple[Bool[Tensor, "batch kv_head key"], Float[Tensor, "batch kv_head key"]]:
        """The state, with room for the keys up to the last of these rows."""
        batch, n_kv_heads, size = rows.key.shape[:3]
        if self._kept is None or self._score is None:
            self._kept = torch.zeros(batch, n_kv_heads, 0, dtype=torch.bool, device=rows.key.device)
            self._score = torch.zeros(batch, n_kv_heads, 0, dtype=rows.logits.dtype, device=rows.key.device)
        more = (0, size - self._kept.shape[-1])
        self._kept = torch.nn.functional.pad(self._kept, more)
        self._score = torch.nn.functional.pad(self._score, more)
        return self._kept, self._score

    def _note(
        self, score: Float[Tensor, "batch kv_head key"], weights: Float[Tensor, "batch kv_head group key"]
    ) -> None:
        """Update the scores by the attention of a row."""
        received = weights.sum(2)
        if self._whole_layer:
            received = received.sum(1, keepdim=True)
        score.mul_(float(self._accumulate)).add_(received)

    def _drop(
        self, kept: Bool[Tensor, "batch kv_head key"], score: Float[Tensor, "batch kv_head key"], size: int
    ) -> tuple[Int[Tensor, "batch kv_head dropped"], Bool[Tensor, "batch kv_head dropped"]] | None:
        """Evict the lowest scores among the first ``size`` keys, all but the newest; equal ones from the oldest on.

        Returns:
            Positions, and which of them were dropped (key/value heads may drop unequal numbers); None if none was.
        """
        over = kept.sum(-1) - self.budget
        most = int(over.max())
        if most <= 0:
            return None
        ranked = score.masked_fill(~kept, torch.inf)
        ranked[..., max(size - self.recent, 0) :] = torch.inf
        one = most == 1  # the common case, and much the cheaper one
        lowest = ranked.argmin(-1, keepdim=True) if one else ranked.sort(dim=-1, stable=True).indices[..., :most]
        dropped = torch.arange(most, device=kept.device) < over[..., None]
        kept.scatter_(-1, lowest, kept.gather(-1, lowest) & ~dropped)
        return lowest, dropped


def in_window(rows: Rows) -> Bool[Tensor, "row key"]:
    """Keys that the model itself lets each row see: those of the past, inside its sliding window if it has one."""
    return torch.isfinite(rows.logits[0, 0].detach())
