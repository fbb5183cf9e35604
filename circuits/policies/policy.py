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
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from circuits.policies.rows import Mixed, Rows
from circuits.policies.tally import Tally
from headscope.attention import Attended, AttentionInput, tap
from headscope.errors import UnsupportedError
from headscope.kernels import causal_logits
from headscope.models.protocol import HookedModel

_ROW_CHUNK = 256


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
            been read in full. `circuits.policies.evaluation.evaluate` follows it; `applied` does as ``from_row`` says.
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
