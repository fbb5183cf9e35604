"""A cache for transformers in which tokens are really dropped, per key/value head.

Each layer holds two groups of key/value heads: *full* heads keep every token in a buffer that grows, *short* heads keep
what a `DropPlan` says in a few slots. Nothing else is stored, so the memory in use is the bytes counted, plus room for
growth (at most 1/16 of a buffer). What a layer's attention is handed by `update` are placeholders of the right shape,
full of NaN: only the attender of `circuits.policies.dropping.dropping` knows where the keys are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from circuits.policies.drop_plan import DropPlan
from circuits.policies.drop_steps import Steps
from circuits.policies.dropping_heads import FullHeads, ShortHeads
from headscope.errors import UnsupportedError
from headscope.models.rotary import Rotary


class DroppingLayer(CacheLayerMixin):
    """One layer's cache."""

    is_sliding = False
    is_croppable = False

    def __init__(self, plan: DropPlan, layer: int, capacity: int | None, rotary: Rotary | None) -> None:
        """An empty layer."""
        super().__init__()
        self._made = (plan, layer, capacity, rotary)
        self.is_full = torch.from_numpy(np.ascontiguousarray(plan.full[layer]))
        self.all_full, self.all_short = bool(plan.full[layer].all()), not plan.full[layer].any()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        plan, _, capacity, rotary = self._made
        self.full, self.short = FullHeads(capacity), ShortHeads(plan, capacity, rotary)
        self.seen = self.entry_bytes = 0
        self.new: tuple[Tensor, Tensor] | None = None  # of the call whose attention is yet to come
        self._nothing: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: buffers are made as they are needed."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take the new tokens; give placeholders as long as the text."""
        if self.new is not None:
            raise UnsupportedError("run the model inside the block of the cache that drops tokens, with this cache.")
        if self._nothing is None:
            self._nothing = key_states.new_full((1, 1, 1, 1), torch.nan)
        self.new = (key_states, value_states)
        self.seen += key_states.shape[2]
        self.entry_bytes = sum(part[:, 0, 0].numel() * part.element_size() for part in self.new)
        shapes = [(*part.shape[:2], self.seen, part.shape[3]) for part in self.new]
        return self._nothing.expand(shapes[0]), self._nothing.expand(shapes[1])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of the text with the call, and 0: places in it are positions."""
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.seen

    def get_max_length(self) -> int:
        """There is none."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:  # noqa: ARG002
        """Beams are not kept apart.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("a cache that drops tokens cannot follow beams: decode greedily, or by sampling.")


class DroppingCache(Cache):
    """What `circuits.policies.dropping.dropping` gives, to pass as ``past_key_values``.

    Attributes:
        plan: what each head keeps.
        steps: what the short heads of all layers do.
    """

    def __init__(self, plan: DropPlan, *, capacity: int | None = None, rotary: Rotary | None = None) -> None:
        """An empty cache.

        Args:
            plan: what each head keeps.
            capacity: tokens to make room for at once; None grows by 1/16, which copies one layer's buffer at a time.
            rotary: the model's rotation, for plans with distances inside the cache.
        """
        layers = [DroppingLayer(plan, layer, capacity, rotary) for layer in range(len(plan.full))]
        super().__init__(layers=list(layers))
        self.plan, self.rows, self.steps = plan, layers, Steps(plan)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that is allocated."""
        for layer in self.rows:
            yield from (*layer.full.tensors(), *layer.short.tensors())

    @property
    def bytes(self) -> int:
        """Bytes that are allocated, room for growth included."""
        return sum(part.untyped_storage().nbytes() for part in self.tensors())

    @property
    def counted(self) -> int:
        """Bytes of the entries that the plan keeps, of the whole batch; one entry for a compensation token."""
        entries = self.plan.entries(self.get_seq_length()).sum(1)
        return sum(int(count) * layer.entry_bytes for count, layer in zip(entries, self.rows, strict=True))

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.steps = Steps(self.plan)
