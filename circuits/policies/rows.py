"""Rows of a layer as a policy sees them, and how it answers that they mix the values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headscope.kernels import expand_kv


@dataclass(frozen=True)
class Rows:
    """A chunk of consecutive rows of one layer, and all keys up to its last row.

    Attributes:
        layer: index of the layer.
        first: position of the first row; row r is at position ``first + r``.
        query: post-rotary queries.
        key: post-rotary keys of positions ``0 ... first + row - 1``.
        value: their values.
        logits: causal logits in float32, as the model computes them (scale, cap, window); minus infinity where hidden.
        scale: what dot products are multiplied by.
        softcap: cap on the logits, or None.
        window: sliding window of the model's own in this layer, or None.
    """

    layer: int
    first: int
    query: Float[Tensor, "batch head row d_head"]
    key: Float[Tensor, "batch kv_head key d_head"]
    value: Float[Tensor, "batch kv_head key d_value"]
    logits: Float[Tensor, "batch head row key"]
    scale: float
    softcap: float | None = None
    window: int | None = None

    @property
    def positions(self) -> Int[Tensor, " row"]:
        """Position of each row."""
        return torch.arange(self.first, self.first + self.query.shape[2], device=self.query.device)

    @property
    def causal(self) -> Bool[Tensor, "row key"]:
        """Which keys lie at or before each row."""
        return torch.arange(self.key.shape[2], device=self.query.device)[None] <= self.positions[:, None]

    @property
    def first_shown(self) -> Int[Tensor, " row"]:
        """First position that the model's own window shows to each row: what its cache begins with."""
        if self.window is None:
            return torch.zeros_like(self.positions)
        return (self.positions + 1 - self.window).clamp_min(0)

    def capped(self, logits: Tensor) -> Tensor:
        """Other logits, capped as the model caps its own: ``softcap * tanh(logits / softcap)``."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slice(self, start: int, stop: int) -> Rows:
        """Rows ``start ... stop - 1`` of the chunk, with the keys that they can see."""
        last = self.first + stop
        return Rows(
            self.layer,
            self.first + start,
            self.query[:, :, start:stop],
            self.key[:, :, :last],
            self.value[:, :, :last],
            self.logits[:, :, start:stop, :last],
            self.scale,
            self.softcap,
            self.window,
        )


@dataclass(frozen=True)
class Extra:
    """Columns that are no tokens: a compensation token, merged or null columns.

    Attributes:
        weights: M on each column.
        value: what each holds, per key/value head and row.
    """

    weights: Float[Tensor, "batch head row extra"]
    value: Float[Tensor, "batch kv_head row extra d_value"]


@dataclass(frozen=True)
class Mixed:
    """How rows mix values: ``z_i = sum_j weights_ij v_j + sum_e extra.weights_ie extra.value_ie``.

    Attributes:
        weights: M over the tokens.
        attended: keys (and extra columns) that each row's softmax runs over: what is loaded and multiplied.
        kept: entries of each key/value head's cache once the row is done, extra columns included.
        extra: columns besides the tokens, or None.
        overhead: multiply-adds that choosing the keys took, per query head and row, besides attention itself.
        delta: added to z besides (value corrections of merged keys), or None.
    """

    weights: Float[Tensor, "batch head row key"]
    attended: Int[Tensor, "batch head row"]
    kept: Int[Tensor, "batch kv_head row"]
    extra: Extra | None = None
    overhead: float = 0.0
    delta: Float[Tensor, "batch head row d_value"] | None = None

    @classmethod
    def over(
        cls,
        rows: Rows,
        visible: Bool[Tensor, "#batch #head row key"],
        *,
        logits: Float[Tensor, "batch head row key"] | None = None,
        kept: Int[Tensor, "batch kv_head row"] | None = None,
        overhead: float = 0.0,
    ) -> Mixed:
        """Softmax over the visible keys (those after the row are hidden anyway).

        Args:
            rows: the rows.
            visible: keys that each row may attend to.
            logits: other logits than the model's.
            kept: entries in the cache; by default the keys that a query head of the group sees.
            overhead: see `Mixed`.
        """
        logits = rows.logits if logits is None else logits
        seen = (visible & rows.causal).expand(logits.shape) & torch.isfinite(rows.logits)
        weights = torch.softmax(logits.masked_fill(~seen, -torch.inf), -1)
        held = held_by_group(seen, rows.key.shape[1]) if kept is None else kept
        return cls(weights, seen.sum(-1), held, overhead=overhead)

    def z(self, value: Float[Tensor, "batch kv_head key d_value"]) -> Float[Tensor, "batch head row d_value"]:
        """Head outputs, in float32."""
        n_heads = self.weights.shape[1]
        z = self.weights @ expand_kv(value, n_heads).float()
        if self.extra is not None:
            held = self.extra.value.float().repeat_interleave(n_heads // self.extra.value.shape[1], dim=1)
            z = z + torch.einsum("bhre,bhrev->bhrv", self.extra.weights, held)
        return z if self.delta is None else z + self.delta


def held_by_group(seen: Bool[Tensor, "batch head row key"], n_kv_heads: int) -> Int[Tensor, "batch kv_head row"]:
    """How many keys any query head of each group sees."""
    batch, n_heads, *rest = seen.shape
    return seen.view(batch, n_kv_heads, n_heads // n_kv_heads, *rest).any(2).sum(-1)
