"""Which tokens a key/value head keeps when tokens are really dropped, and in which slots it keeps them. No torch.

A *full* head keeps every token. A *short* head keeps the first ``sink`` tokens and the most recent ones; its slots are
not in order: a new token takes the slot of the one that is dropped, which softmax does not notice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from headscope.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class DropPlan:
    """What every key/value head keeps.

    Attributes:
        full: True for key/value heads that keep everything.
        sink: first tokens that the others keep.
        recent: most recent tokens that they keep, the row itself included; at least 1.
        share: the recent tokens are never fewer than this share of the text (RazorAttention), 0 to 1.
        compensated: whether dropped tokens leave one token behind, the mean of their keys and values, that weighs as
            much as they are many (RazorAttention).
        in_cache: whether distances to the first tokens are those inside the cache (StreamingLLM), not of the text.
        late: whether the first call, the prompt, attends in full, before anything is dropped (RazorAttention).

    Raises:
        ConfigError: for windows that cannot be.
    """

    full: Bool[np.ndarray, "layer kv_head"]
    sink: int
    recent: int
    share: float = 0.0
    compensated: bool = False
    in_cache: bool = False
    late: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible windows."""
        if self.sink < 0 or self.recent < 1 or not 0 <= self.share <= 1:
            raise ConfigError(
                f"short heads keep no fewer than 0 first tokens, 1 recent token and a share of 0 to 1 of the text, not "
                f"{self.sink}, {self.recent} and {self.share:g}."
            )

    def oldest(self, size: int) -> int:
        """First recent position that a short head keeps of ``size`` tokens."""
        return max(self.sink, size - max(self.recent, int(self.share * size)))

    def kept(self, size: int) -> int:
        """Tokens that a short head keeps of ``size`` tokens."""
        return min(size, self.sink + size - self.oldest(size))

    def entries(self, size: int) -> Int[np.ndarray, "layer kv_head"]:
        """Cache entries of every key/value head after ``size`` tokens, the compensation token included."""
        kept = self.kept(size)
        short = kept + int(self.compensated and kept < size)
        return np.where(self.full, size, short)

    @property
    def dense(self) -> bool:
        """Whether the logits of short heads are more than products of queries and stored keys."""
        return self.compensated or self.in_cache


@dataclass(frozen=True)
class Move:
    """What happens to the slots of a short head while a block of tokens comes in.

    Attributes:
        first: position of the block's first token.
        before: positions that the slots hold before it, slot by slot.
        taken: which tokens of the block are kept, counted from its first.
        slots: the slot that each of them goes to.
        freed: slots that lose their token; the first ones of ``slots``.
        used: slots in use after it.
    """

    first: int
    before: tuple[int, ...]
    taken: tuple[int, ...]
    slots: tuple[int, ...]
    freed: int
    used: int


class Slots:
    """Which position each slot of the short heads holds: the same in all of them, so kept once for all layers."""

    def __init__(self, plan: DropPlan) -> None:
        """Empty slots."""
        self.plan = plan
        self._held: list[int] = []
        self._by_age: deque[int] = deque()
        self.seen = 0

    def take(self, count: int) -> Move:
        """Let ``count`` tokens in, all at once, and drop what is then too old."""
        first, after, before = self.seen, self.seen + count, tuple(self._held) if count > 1 else ()
        oldest, sink = self.plan.oldest(after), self.plan.sink
        kept = [*range(first, min(sink, after)), *range(max(first, oldest), after)]
        freed = list[int]()
        while self._by_age and self._held[self._by_age[0]] < oldest:
            freed.append(self._by_age.popleft())
        added = len(kept) - len(freed)
        slots = [*freed, *range(len(self._held), len(self._held) + added)]
        self._held += [0] * added
        for slot, position in zip(slots, kept, strict=True):
            self._held[slot] = position
            if position >= sink:
                self._by_age.append(slot)
        self.seen = after
        taken = tuple(position - first for position in kept)
        return Move(first, before, taken, tuple(slots), len(freed), len(self._held))
