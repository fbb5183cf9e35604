"""What the short heads of every layer do with the tokens of a call, a block of rows at a time, as tensors.

The steps of a call are the same in all layers: they are made once, and let go with the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.drop_plan import DropPlan, Move, Slots
from headscope.errors import UnsupportedError

_ROWS, _DENSE_ROWS = 1024, 256


@dataclass(frozen=True)
class Step:
    """One block of tokens; the keys of its rows are the slots in use before it, then its own.

    Attributes:
        start: the block's first row in the call.
        stop: the row behind its last.
        move: what happens to the slots.
        visible: keys that each row attends to; None for a block of one, which attends to all slots after the move.
        gone: keys that were dropped between the block's begin and each row; None likewise, and where none counts.
        taken: which tokens of the block are kept; None likewise.
        slots: where they go; None likewise.
        dropped: how many tokens are gone at each row.
        nearer: by how much the first tokens are nearer to each row inside the cache than in the text.
    """

    start: int
    stop: int
    move: Move
    visible: Bool[Tensor, "row key"] | None
    gone: Bool[Tensor, "row key"] | None
    taken: Int[Tensor, " kept"] | None
    slots: Int[Tensor, " kept"] | None
    dropped: Float[Tensor, " row"]
    nearer: Int[Tensor, " row"]


class Steps:
    """The steps of one call after another."""

    def __init__(self, plan: DropPlan) -> None:
        """Before the first call."""
        self.plan = plan
        self._slots = Slots(plan)
        self._call = (0, 0)
        self._steps: list[Step] = []
        self._layers = int((~plan.full).any(1).sum())
        self._waiting = 0

    def of(self, first: int, count: int, device: torch.device) -> list[Step]:
        """The steps of the call whose ``count`` tokens begin at position ``first``.

        Raises:
            UnsupportedError: for a call out of order.
        """
        if not self._waiting:
            self._begin(first, count, device)
        elif self._call != (first, count):
            raise UnsupportedError("the layers of this model call their attention out of turn: tokens are not dropped.")
        self._waiting -= 1
        steps = self._steps
        if not self._waiting:
            self._steps = []
        return steps

    def _begin(self, first: int, count: int, device: torch.device) -> None:
        if first != self._slots.seen:
            raise UnsupportedError(
                f"a cache that drops tokens sees a text once and in order: position {first} was given after "
                f"{self._slots.seen}. Start a new cache for another text."
            )
        rows = _DENSE_ROWS if self.plan.dense else _ROWS
        self._steps = [self._step(start, min(start + rows, count), device) for start in range(0, count, rows)]
        self._call, self._waiting = (first, count), self._layers

    def _step(self, start: int, stop: int, device: torch.device) -> Step:
        plan, move = self.plan, self._slots.take(stop - start)
        sizes = range(move.first + 1, move.first + stop - start + 1)
        if not plan.dense and len(sizes) == 1:
            blank = torch.empty(0, device=device)
            return Step(start, stop, move, None, None, None, None, blank, blank.long())
        dropped = torch.tensor([float(size - plan.kept(size)) for size in sizes], device=device)
        nearer = torch.tensor([max(size - plan.sink - plan.recent, 0) for size in sizes], device=device)
        if len(sizes) == 1:
            return Step(start, stop, move, None, None, None, None, dropped, nearer)
        held = torch.tensor([*move.before, *(size - 1 for size in sizes)], device=device)
        oldest = torch.tensor([plan.oldest(size) for size in sizes], device=device)[:, None]
        past = held[None] < torch.tensor(list(sizes), device=device)[:, None]
        stays = (held < plan.sink)[None] | (held[None] >= oldest)
        taken, slots = (torch.tensor(part, device=device) for part in (move.taken, move.slots))
        gone = past & ~stays if plan.compensated else None
        return Step(start, stop, move, past & stays, gone, taken, slots, dropped, nearer)
