"""What a policy is: a rule for what each row may attend to and what the cache keeps, for every row of every layer.

A policy sees the rows of a layer in order, a chunk at a time, with their causal logits, and answers how they mix the
values (`Mixed`). What it carries from row to row (accumulated attention, evicted keys) lives in a `LayerMemory`, made
new for each layer when a sequence begins; so prefill in one pass, prefill in pieces and decoding token by token see the
same rows and give the same z. The model's own cache stays whole: a key that a policy has dropped is never looked at
again, and what a cache under the policy would hold is counted (`Tally`). For caches that really drop tokens see
`circuits.policies.dropping_cache`.

Everything is computed densely, in float32, a chunk of rows at a time: O(chunk * T) memory. That is what makes every
policy exact and readable; it says nothing about speed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from circuits.policies.tally import Tally
from headscope.attention import Attended, AttentionInput, tap
from headscope.errors import UnsupportedError
from headscope.kernels import causal_logits, expand_kv
from headscope.models.protocol import HookedModel

_ROW_CHUNK = 256


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


@runtime_checkable
class LayerMemory(Protocol):
    """One layer of one sequence under a policy."""

    def prepare(self, call: AttentionInput) -> None:
        """Look at a whole call before its rows are mixed, in order."""
        ...

    def observe(self, rows: Rows) -> None:
        """Rows before the policy acts: they attend in full, and it may take note of them."""
        ...

    def mix(self, rows: Rows) -> Mixed:
        """How these rows mix values; called with consecutive rows, each once."""
        ...


class Policy(ABC):
    """A rule for all layers.

    Attributes:
        name: what the catalogue calls it.
        eager: whether it acts while the prompt is read; False for those that their authors apply once the prompt has
            been read in full. `applied` follows it unless told otherwise.
        effective: the settings that `circuits.policies.catalog.build_policy` made it from, all of them; empty if it was
            made by hand.
    """

    name: ClassVar[str]
    eager: ClassVar[bool] = True
    effective: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def layer(self, index: int) -> LayerMemory:
        """A fresh memory of one layer, for a sequence that begins."""


class RowPolicy(Policy):
    """A policy whose rows depend on nothing but their own query and the keys before: it has no memory."""

    def layer(self, index: int) -> LayerMemory:  # noqa: ARG002
        """The policy itself."""
        return self

    def prepare(self, call: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    def observe(self, rows: Rows) -> None:
        """Nothing: there is no memory."""

    @abstractmethod
    def mix(self, rows: Rows) -> Mixed:
        """How these rows mix values."""


@dataclass
class Applied:
    """An open policy: what it has counted so far.

    Attributes:
        policy: the policy.
        from_row: first position that it acts on.
        tally: what the rows of the current sequence took.
    """

    policy: Policy
    from_row: int
    tally: Tally
    _memories: dict[int, LayerMemory] = field(default_factory=dict[int, LayerMemory])
    _next: dict[int, int] = field(default_factory=dict[int, int])

    def attend(self, call: AttentionInput, want_pattern: bool) -> Attended:
        """The attender: every row of the call, a chunk at a time."""
        memory = self._memory(call)
        memory.prepare(call)
        parts, patterns = list[Tensor](), list[Tensor]()
        for start in range(0, call.query.shape[2], _ROW_CHUNK):
            for rows, acts in _split_at(_chunk(call, start), self.from_row):
                if acts:
                    mixed = memory.mix(rows)
                    self.tally.add(
                        rows.layer, rows.first, mixed.attended, mixed.kept, mixed.overhead, window=rows.window
                    )
                else:
                    memory.observe(rows)
                    mixed = Mixed.over(rows, rows.causal[None, None])
                parts.append(mixed.z(rows.value).to(call.query.dtype))
                if want_pattern:
                    hidden = call.key.shape[2] - mixed.weights.shape[-1]
                    patterns.append(torch.nn.functional.pad(mixed.weights, (0, hidden)))
        return Attended(torch.cat(parts, 2), torch.cat(patterns, 2) if want_pattern else None)

    def _memory(self, call: AttentionInput) -> LayerMemory:
        """The layer's memory: new where a sequence begins."""
        if call.first_row == 0:
            self._memories[call.layer] = self.policy.layer(call.layer)
            self.tally.begin(call.layer)
        elif self._next.get(call.layer) != call.first_row:
            raise UnsupportedError(
                f"a policy has to see a sequence from its first token on, in order: layer {call.layer} is asked for "
                f"position {call.first_row} after {self._next.get(call.layer, 0)}. Read the prompt inside the block."
            )
        self._next[call.layer] = call.key.shape[2]
        return self._memories[call.layer]


def _chunk(call: AttentionInput, start: int) -> Rows:
    """Rows ``start ...`` of a call, at most a chunk of them."""
    query, first = call.query[:, :, start : start + _ROW_CHUNK], call.first_row + start
    last = first + query.shape[2]
    key, value = call.key[:, :, :last], call.value[:, :, :last]
    logits = causal_logits(query, key, call.scale, first_row=first, window=call.window, softcap=call.softcap)
    return Rows(call.layer, first, query, key, value, logits, call.scale, call.softcap, call.window)


def _split_at(rows: Rows, from_row: int) -> list[tuple[Rows, bool]]:
    """The part before ``from_row`` and the part from it on, each with whether the policy acts."""
    size = rows.query.shape[2]
    cut = min(max(from_row - rows.first, 0), size)
    parts = [(0, cut, False), (cut, size, True)]
    return [(rows.slice(start, stop), acts) for start, stop, acts in parts if stop > start]


@contextmanager
def applied(model: HookedModel, policy: Policy, *, from_row: int = 0) -> Generator[Applied, None, None]:
    """Run ``model.plain`` under a policy inside the block; ablations open around or inside it act on its z.

    Args:
        model: the model.
        policy: the policy.
        from_row: first position that it acts on: rows before it attend in full (the prompt is read untouched).

    Raises:
        UnsupportedError: if the model's attention does not go through the seam, or another policy is open.
    """
    if not model.seam.supports("edit"):
        raise UnsupportedError(
            f"{model.name!r} cannot run under a policy: its attention does not go through the attention registry "
            f"({model.seam['edit'].value})."
        )
    opened = Applied(policy, from_row, Tally.of(model))
    with tap(model.plain, attender=opened.attend):
        yield opened
