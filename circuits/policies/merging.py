"""D2O: evict like H2O, but merge what is evicted into the most similar kept key where it is similar enough.

Wan et al. 2024, arXiv 2406.13035. Token level (section 3.3): an evicted key e looks for the kept key c of largest
cosine u; it is merged if ``u >= tau``, where tau begins as the mean of u over the first evicted keys and then moves,
``tau = tau + memory (mean u - tau)``. Merging averages keys and values alike:

    w_e = exp(u_e) / (e + sum of exp(u) over all merged into c),   k_c = k_c + sum over e of w_e (k_e - k_c)

with Euler's number for the kept key itself (its cosine with itself is 1). Layer level (section 3.2): see
`circuits.policies.layer_budgets`.

Cosines are of post-rotary keys, as they lie in the cache. Kept set, scores and thresholds are one per key/value head,
with attention summed over the query heads of its group. The paper sets the budgets of layers from the prompt itself;
here they come from a text read beforehand, because a layer cannot know the attention of those after it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.eviction_settings import MergingSettings
from circuits.policies.head_split import HeadSplit
from circuits.policies.kept_set import KeptSet, by_group, check_budget, in_window
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from headscope.errors import ConfigError
from headscope.models.protocol import HookedModel

_TINY = 1e-12


class Merging(Policy):
    """Each key/value head keeps heavy hitters and recent keys, and merges into them what it evicts."""

    name = "d2o"
    eager = False

    def __init__(
        self,
        heavy: int,
        recent: int,
        *,
        memory: float = 0.5,
        threshold: float | None = None,
        layer_budgets: tuple[int, ...] | None = None,
    ) -> None:
        """Keep ``heavy + recent`` keys; see `MergingSettings`.

        Raises:
            ConfigError: if there is room for none.
        """
        check_budget(heavy + recent, recent)
        self.heavy, self.recent, self.memory, self.threshold = heavy, recent, memory, threshold
        self.layer_budgets = layer_budgets
        for budget in layer_budgets or ():
            check_budget(budget, 1)

    @classmethod
    def build(cls, model: HookedModel, settings: MergingSettings, _: HeadSplit | None = None) -> Merging:
        """From settings.

        Raises:
            ConfigError: if the budgets of layers are not one per layer, or too small.
        """
        budgets = settings.layer_budgets
        if budgets is not None and len(budgets) != model.shape.n_layers:
            raise ConfigError(
                f"layer_budgets has {len(budgets)} numbers; {model.name!r} has {model.shape.n_layers} layers."
            )
        return cls(
            settings.heavy,
            settings.recent,
            memory=settings.memory,
            threshold=settings.threshold,
            layer_budgets=budgets,
        )

    def layer(self, index: int) -> MergingSet:
        """An empty cache of that layer's size."""
        whole = self.heavy + self.recent
        budget = whole if self.layer_budgets is None else self.layer_budgets[index]
        recent = max(1, round(budget * self.recent / whole))
        return MergingSet(budget, recent, memory=self.memory, threshold=self.threshold)


class MergingSet(KeptSet):
    """One layer: H2O's kept set with keys and values of its own."""

    def __init__(self, budget: int, recent: int, *, memory: float, threshold: float | None) -> None:
        """An empty cache; see `Merging`."""
        super().__init__(budget, recent=recent)
        self._memory, self._threshold = memory, threshold
        self._tau: Float[Tensor, "batch kv_head"] | None = None
        self._key: Float[Tensor, "batch kv_head key d_head"] | None = None
        self._shift: Float[Tensor, "batch kv_head key d_value"] | None = None

    def mix(self, rows: Rows) -> Mixed:
        """Rows attend to merged keys; the change of the values goes into ``delta``."""
        kept, score = self._grown(rows)
        self._take_keys(rows)
        with torch.no_grad():
            dropped = self._drop(kept, score, rows.first)
        evicted = self._merge(rows, dropped)
        weights, deltas, attended, counts = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
        for row, within in enumerate(in_window(rows)):
            size = rows.first + row + 1
            held, scores = kept[..., :size], score[..., :size]
            held[..., -1] = True
            held &= within[:size]
            attended.append(held.sum(-1))
            seen = torch.softmax(self._logits(rows, row, size).masked_fill(~held[:, :, None], -torch.inf), -1)
            weights.append(torch.nn.functional.pad(seen, (0, kept.shape[-1] - size)))
            deltas.append(seen @ self._shift[:, :, :size])  # pyright: ignore[reportOptionalSubscript]
            with torch.no_grad():
                self._note(scores, seen)
                dropped = self._drop(held, scores, size)
            evicted += self._merge(rows, dropped)
            counts.append(held.sum(-1))
        group = rows.query.shape[1] // rows.key.shape[1]
        return Mixed(
            torch.stack(weights, 3).flatten(1, 2),
            torch.stack(attended, -1).repeat_interleave(group, dim=1),
            torch.stack(counts, -1),
            overhead=self._overhead(rows, evicted),
            delta=torch.stack(deltas, 3).flatten(1, 2),
        )

    def _take_keys(self, rows: Rows) -> None:
        """Add the keys that are new."""
        batch, n_kv_heads = rows.key.shape[:2]
        if self._key is None or self._shift is None:
            self._key = rows.logits.new_zeros(batch, n_kv_heads, 0, rows.key.shape[-1])
            self._shift = rows.logits.new_zeros(batch, n_kv_heads, 0, rows.value.shape[-1])
        new = rows.key[:, :, self._key.shape[2] :].to(self._key.dtype)
        self._key = torch.cat([self._key, new], 2)
        self._shift = torch.nn.functional.pad(self._shift, (0, 0, 0, new.shape[2]))

    def _logits(self, rows: Rows, row: int, size: int) -> Float[Tensor, "batch kv_head group key"]:
        """Logits of one row over the merged keys."""
        assert self._key is not None
        query = by_group(rows.query[:, :, row], rows.key.shape[1]).to(self._key.dtype)
        return rows.capped((query @ self._key[:, :, :size].mT) * rows.scale)

    def _merge(
        self,
        rows: Rows,
        dropped: tuple[Int[Tensor, "batch kv_head dropped"], Bool[Tensor, "batch kv_head dropped"]] | None,
    ) -> int:
        """Merge evicted keys and values into kept ones; how much is not differentiated, what is.

        Returns:
            How many were evicted.
        """
        if dropped is None:
            return 0
        assert self._key is not None
        assert self._shift is not None
        from_where, real = dropped
        with torch.no_grad():
            cosine, into = self._nearest(from_where)
            share = self._shares(cosine, into, real & (cosine >= self._moved(cosine, real)[..., None]))
        evicted, kept = _rows_at(self._key, from_where), _rows_at(self._key, into)
        self._key = _added(self._key, into, share[..., None] * (evicted - kept))
        evicted, kept = (_rows_at(rows.value, at) + _rows_at(self._shift, at) for at in (from_where, into))
        self._shift = _added(self._shift, into, share[..., None] * (evicted - kept))
        return from_where.shape[-1]

    def _nearest(
        self, from_where: Int[Tensor, "batch kv_head dropped"]
    ) -> tuple[Float[Tensor, "batch kv_head dropped"], Int[Tensor, "batch kv_head dropped"]]:
        """The largest cosine of each evicted key with a kept one, and which one that is."""
        assert self._key is not None
        assert self._kept is not None
        evicted = _rows_at(self._key, from_where)
        norms = self._key.norm(dim=-1).clamp_min(_TINY)
        cosine = (evicted @ self._key.mT) / norms[:, :, None] / evicted.norm(dim=-1, keepdim=True).clamp_min(_TINY)
        found = cosine.masked_fill(~self._kept[:, :, None], -torch.inf).max(-1)
        return found.values, found.indices

    def _moved(
        self, cosine: Float[Tensor, "batch kv_head dropped"], real: Bool[Tensor, "batch kv_head dropped"]
    ) -> Float[Tensor, "batch kv_head"]:
        """The threshold after these evictions."""
        if self._threshold is not None:
            return torch.full_like(cosine[..., 0], self._threshold)
        count = real.sum(-1)
        mean = cosine.masked_fill(~real, 0).sum(-1) / count.clamp_min(1)
        if self._tau is None:
            self._tau = torch.full_like(mean, torch.nan)
        moved = torch.where(self._tau.isnan(), mean, self._tau.lerp(mean, self._memory))  # exact at both ends
        self._tau = torch.where(count > 0, moved, self._tau)
        return self._tau

    def _shares(
        self,
        cosine: Float[Tensor, "batch kv_head dropped"],
        into: Int[Tensor, "batch kv_head dropped"],
        merged: Bool[Tensor, "batch kv_head dropped"],
    ) -> Float[Tensor, "batch kv_head dropped"]:
        """w_e, 0 for what is not merged."""
        assert self._score is not None
        weight = cosine.exp() * merged
        total = torch.full_like(self._score, math.e).scatter_add_(-1, into, weight)
        return weight / total.gather(-1, into)

    def _overhead(self, rows: Rows, evicted: int) -> float:
        """Finding the nearest kept key: a dot product of each evicted key with each kept one, per key/value head."""
        per_head = self.budget * rows.key.shape[-1] * rows.key.shape[1] / rows.query.shape[1]
        return evicted * per_head / rows.query.shape[2]


def _rows_at(x: Float[Tensor, "batch kv_head key d"], where: Int[Tensor, "batch kv_head n"]) -> Tensor:
    """The vectors of some keys."""
    return x.gather(2, where[..., None].expand(*where.shape, x.shape[-1]))


def _added(x: Float[Tensor, "batch kv_head key d"], where: Int[Tensor, "batch kv_head n"], change: Tensor) -> Tensor:
    """``x`` with a change added to some keys; in place where no graph can hold on to it."""
    index = where[..., None].expand_as(change)
    return x.scatter_add(2, index, change) if torch.is_grad_enabled() else x.scatter_add_(2, index, change)
