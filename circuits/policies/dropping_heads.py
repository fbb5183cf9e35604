"""The heads of one layer's cache that drops tokens: those that keep everything, and those that keep a few slots."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.policies.drop_plan import DropPlan
from circuits.policies.drop_steps import Step
from circuits.policies.dropping_attention import Dropped, Nearer, attend_all, attend_causally, attend_densely
from headscope.models.rotary import Rotary

_GROWTH = 16


class Buffer:
    """Keys and values of a group of heads: room for some entries, the first ``used`` of them in use."""

    def __init__(self, room: int | None, limit: int | None = None) -> None:
        """Nothing is allocated yet.

        Args:
            room: entries to make room for at once; None grows as needed.
            limit: entries that there will never be more of.
        """
        self._room, self._limit = room or 0, limit
        self.used = 0
        self._key = self._value = torch.empty(0)

    @property
    def key(self) -> Float[Tensor, "batch kv_head key d_head"]:
        """Keys in use, a view."""
        return self._key[:, :, : self.used]

    @property
    def value(self) -> Float[Tensor, "batch kv_head key d_value"]:
        """Their values, a view."""
        return self._value[:, :, : self.used]

    def use(self, count: int, like_key: Tensor, like_value: Tensor) -> None:
        """Have ``count`` entries in use; those added are blank."""
        room = 0 if self._key.ndim == 1 else self._key.shape[2]
        if count > room:
            room = max(count + count // _GROWTH if self._room < count else self._room, count)
            room = room if self._limit is None else min(room, self._limit)
            self._key = self._grown(self._key, like_key, room)
            self._value = self._grown(self._value, like_value, room)
        self.used = count

    def _grown(self, old: Tensor, like: Tensor, room: int) -> Tensor:
        new = like.new_empty((*like.shape[:2], room, like.shape[3]))
        if self.used:
            new[:, :, : self.used] = old[:, :, : self.used]
        return new

    def tensors(self) -> tuple[Tensor, Tensor]:
        """What is allocated."""
        return self._key, self._value


class FullHeads:
    """Heads that keep everything."""

    def __init__(self, capacity: int | None) -> None:
        """Make room for ``capacity`` tokens at once, or grow."""
        self.buffer = Buffer(capacity)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Float[Tensor, "batch head row d"]:
        """Store the call's tokens and attend to all that there are, causally."""
        before = self.buffer.used
        self.buffer.use(before + key.shape[2], key, value)
        self.buffer.key[:, :, before:] = key
        self.buffer.value[:, :, before:] = value
        return attend_causally(query, self.buffer.key, self.buffer.value, scale)

    def tensors(self) -> tuple[Tensor, ...]:
        """What is allocated."""
        return self.buffer.tensors()


class ShortHeads:
    """Heads that keep first and recent tokens."""

    def __init__(self, plan: DropPlan, capacity: int | None, rotary: Rotary | None) -> None:
        """Make room for what is kept of ``capacity`` tokens at once, or grow."""
        self.plan, self._rotary = plan, rotary
        limit = None if plan.share else plan.sink + plan.recent
        self.buffer = Buffer(None if capacity is None else plan.kept(capacity), limit)
        self._gone: tuple[Tensor, Tensor] | None = None  # sums of what was dropped, in float32

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, steps: list[Step], *, late: bool
    ) -> Float[Tensor, "batch head row d"]:
        """Attend and drop, step by step; ``late`` attends to the whole call before anything is dropped."""
        if self.plan.compensated and self._gone is None:
            blank = (key[:, :, :1], value[:, :, :1])
            self._gone = (torch.zeros_like(blank[0], dtype=torch.float32), torch.zeros_like(blank[1]).float())
        parts = list[Tensor]()
        for step in steps:
            rows = slice(step.start, step.stop)
            one = self._one if step.visible is None else self._block
            parts += one(None if late else query[:, :, rows], key[:, :, rows], value[:, :, rows], scale, step)
        if late:
            return attend_causally(query, key, value, scale)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _one(self, query: Tensor | None, key: Tensor, value: Tensor, scale: float, step: Step) -> list[Tensor]:
        """One token takes its slot; its row attends to all slots."""
        slot = step.move.slots[0]
        if self._gone is not None and step.move.freed:
            for total, held in zip(self._gone, (self.buffer.key, self.buffer.value), strict=True):
                total += held[:, :, slot : slot + 1]
        self.buffer.use(step.move.used, key, value)
        self.buffer.key[:, :, slot : slot + 1] = key
        self.buffer.value[:, :, slot : slot + 1] = value
        if query is None:
            return []
        if not self.plan.dense:
            return [attend_all(query, self.buffer.key, self.buffer.value, scale)]
        gone = None if self._gone is None else Dropped(*self._gone, step.dropped)
        near = self._nearer(step)
        return [attend_densely(query, self.buffer.key, self.buffer.value, scale, dropped=gone, nearer=near)]

    def _block(self, query: Tensor | None, key: Tensor, value: Tensor, scale: float, step: Step) -> list[Tensor]:
        """The rows of a block attend to the slots and to each other; then its last tokens take slots."""
        assert step.visible is not None
        assert step.taken is not None
        assert step.slots is not None
        keys, values = key, value
        if self.buffer.used:
            keys, values = torch.cat([self.buffer.key, key], 2), torch.cat([self.buffer.value, value], 2)
        gone = self._sums(keys, values, step)
        parts = list[Tensor]()
        if query is not None and not self.plan.dense:
            parts = [attend_all(query, keys, values, scale, mask=step.visible)]
        elif query is not None:
            near = self._nearer(step)
            parts = [attend_densely(query, keys, values, scale, mask=step.visible, dropped=gone, nearer=near)]
        if gone is not None:  # cloned: a view would keep the sums of all rows
            self._gone = (gone.key[:, :, -1:].clone(), gone.value[:, :, -1:].clone())
        self.buffer.use(step.move.used, key, value)
        self.buffer.key.index_copy_(2, step.slots, key.index_select(2, step.taken))
        self.buffer.value.index_copy_(2, step.slots, value.index_select(2, step.taken))
        return parts

    def _sums(self, keys: Tensor, values: Tensor, step: Step) -> Dropped | None:
        """Sums of what is gone at each row of a block."""
        if self._gone is None or step.gone is None:
            return None
        key, value = (
            old + step.gone.float() @ new.float() for old, new in zip(self._gone, (keys, values), strict=True)
        )
        return Dropped(key, value, step.dropped)

    def _nearer(self, step: Step) -> Nearer | None:
        return Nearer(self.plan.sink, step.nearer, self._rotary) if self.plan.in_cache and self._rotary else None

    def tensors(self) -> tuple[Tensor, ...]:
        """What is allocated."""
        return (*self.buffer.tensors(), *(self._gone or ()))
