"""What a policy takes: cache entries, keys attended, multiply-adds; counted row by row, never estimated."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.models.protocol import HookedModel


@dataclass
class Tally:
    """Counts over the rows that a policy has acted on, of the sequence that is running (a mean over its batch).

    Attributes:
        n_heads: query heads per layer.
        n_kv_heads: key/value heads per layer.
        d_head: width of a key; values are taken to be as wide.
        bytes_per_number: of the model's dtype.
        kept: entries that each key/value head's cache holds now, per layer.
        attended: keys attended so far, per layer, summed over query heads and rows.
        overhead: multiply-adds for choosing keys so far, per layer.
        rows: rows counted, per layer.
        seen: keys that full attention would have attended, per layer, summed over query heads and rows: those in the
            model's own window, where it slides one.
        whole: entries that each key/value head of the model's own cache holds now, per layer.
    """

    n_heads: int
    n_kv_heads: int
    d_head: int
    bytes_per_number: int
    kept: dict[int, Float[Tensor, " kv_head"]] = field(default_factory=dict[int, Tensor])
    attended: dict[int, float] = field(default_factory=dict[int, float])
    overhead: dict[int, float] = field(default_factory=dict[int, float])
    rows: dict[int, int] = field(default_factory=dict[int, int])
    seen: dict[int, float] = field(default_factory=dict[int, float])
    whole: dict[int, int] = field(default_factory=dict[int, int])

    @classmethod
    def of(cls, model: HookedModel) -> Tally:
        """An empty tally of a model."""
        shape = model.shape
        return cls(shape.n_heads, shape.n_kv_heads, shape.d_head, model.plain.dtype.itemsize)

    def begin(self, layer: int) -> None:
        """Forget a layer: a sequence begins."""
        for table in (self.kept, self.attended, self.overhead, self.rows, self.seen, self.whole):
            table.pop(layer, None)

    def add(
        self,
        layer: int,
        first: int,
        attended: Int[Tensor, "batch head row"],
        kept: Int[Tensor, "batch kv_head row"],
        overhead: float,
        *,
        window: int | None = None,
    ) -> None:
        """Count rows ``first ...`` of a layer, in which the model slides a window of its own, or does not."""
        entries = kept.detach().float().mean(0)
        n_rows = entries.shape[-1]
        self.kept[layer] = entries[:, -1]
        self.attended[layer] = self.attended.get(layer, 0.0) + float(attended.float().mean(0).sum())
        self.overhead[layer] = self.overhead.get(layer, 0.0) + overhead * self.n_heads * n_rows
        self.rows[layer] = self.rows.get(layer, 0) + n_rows
        shown = torch.arange(first + 1, first + n_rows + 1).clamp_max(first + n_rows if window is None else window)
        self.seen[layer] = self.seen.get(layer, 0.0) + self.n_heads * float(shown.sum())
        self.whole[layer] = int(shown[-1])

    @property
    def kv_bytes(self) -> float:
        """Bytes of keys and values in the cache now: ``sum over layers and kv heads of entries * 2 d_head * bytes``."""
        return self._bytes(self.kept)

    @property
    def full_kv_bytes(self) -> float:
        """Bytes of the model's own cache now: a layer with a sliding window holds no more than the window."""
        return float(sum(self.whole.values()) * self.n_kv_heads * 2 * self.d_head * self.bytes_per_number)

    @property
    def share_attended(self) -> float:
        """Keys attended over keys that full attention attends, over the rows counted; 0 to 1 and a little above where
        a policy adds columns."""
        return sum(self.attended.values()) / max(sum(self.seen.values()), 1.0)

    @property
    def flops(self) -> float:
        """Floating-point operations of attention: 4 d_head per attended key and query head, 2 per multiply-add of
        choosing keys; softmax, projections and MLPs not counted."""
        return 4 * self.d_head * sum(self.attended.values()) + 2 * sum(self.overhead.values())

    @property
    def full_flops(self) -> float:
        """The same of full attention over the same rows."""
        return 4 * self.d_head * sum(self.seen.values())

    def table(self, n_layers: int) -> Float[Tensor, "layer kv_head"]:
        """Entries kept now, per layer and key/value head; NaN for layers that were not run."""
        blank = torch.full((self.n_kv_heads,), torch.nan)
        return torch.stack([self.kept.get(layer, blank).cpu() for layer in range(n_layers)])

    def _bytes(self, entries: dict[int, Tensor]) -> float:
        return sum(float(part.sum()) for part in entries.values()) * 2 * self.d_head * self.bytes_per_number
