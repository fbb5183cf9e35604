"""Run a model with a cache that really drops tokens: the same z as the simulated policy, in the memory that it counts.

Prompts may be read in one call or in chunks: a chunk's short heads are cut right after it, so that reading takes the
memory of the full heads and O(chunk) besides. Nothing can be read through the seam inside the block, because the keys
are gone; ablations that need no values act as everywhere.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor

from circuits.policies.drop_plan import DropPlan
from circuits.policies.dropping_cache import DroppingCache, DroppingLayer
from headscope.attention import Attended, AttentionInput, tap
from headscope.errors import ConfigError, UnsupportedError
from headscope.models.protocol import HookedModel
from headscope.models.rotary import rotary_of


@contextmanager
def dropping(
    model: HookedModel, plan: DropPlan, *, capacity: int | None = None
) -> Generator[DroppingCache, None, None]:
    """A cache for one batch of texts of one length, and the attention that reads it, inside the block.

    Args:
        model: the model.
        plan: what each key/value head keeps; see `circuits.policies.plans.plan_for`.
        capacity: tokens to make room for at once; None grows as needed.

    Raises:
        ConfigError: for a plan of another model.
        UnsupportedError: if the model's attention does not go through the seam, or another policy is open.
    """
    shape = (model.shape.n_layers, model.shape.n_kv_heads)
    if plan.full.shape != shape:
        raise ConfigError(
            f"the plan is for {plan.full.shape[0]} layers x {plan.full.shape[1]} key/value heads, and {model.name!r} "
            f"has {shape[0]} x {shape[1]}."
        )
    if not model.seam.supports("edit"):
        raise UnsupportedError(f"{model.name!r} cannot drop tokens: its attention does not go through the registry.")
    cache = DroppingCache(plan, capacity=capacity, rotary=rotary_of(model) if plan.in_cache else None)
    with tap(model.plain, attender=_Attender(cache)):
        yield cache


class _Attender:
    """Attention that finds the keys in the cache."""

    def __init__(self, cache: DroppingCache) -> None:
        self._cache = cache
        self._heads: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def __call__(self, call: AttentionInput, want_pattern: bool) -> Attended:
        if want_pattern:
            raise UnsupportedError("tokens are really dropped here, so there is no pattern: read the policy `applied`.")
        if call.window is not None or call.softcap is not None:
            raise UnsupportedError("tokens are not dropped from models that slide a window or cap their logits.")
        if call.query.requires_grad:
            raise UnsupportedError("a cache that drops tokens keeps no gradients: run it under torch.no_grad().")
        layer = self._cache.rows[call.layer]
        if layer.new is None or layer.seen != call.key.shape[2]:
            raise UnsupportedError("pass the cache that this block gives as past_key_values, with use_cache=True.")
        (key, value), layer.new = layer.new, None
        return Attended(self._attend(call, layer, key, value))

    def _attend(self, call: AttentionInput, layer: DroppingLayer, key: Tensor, value: Tensor) -> Tensor:
        """Both groups of heads, side by side."""
        if layer.all_full:
            return layer.full.attend(call.query, key, value, call.scale)
        if layer.all_short:
            return self._short(call, layer, call.query, key, value)
        full, short, full_queries, short_queries = self._indices(call, layer)
        z = value.new_empty((*call.query.shape[:3], value.shape[3]))
        asked, kept = call.query.index_select(1, full_queries), (key.index_select(1, full), value.index_select(1, full))
        z.index_copy_(1, full_queries, layer.full.attend(asked, *kept, call.scale))
        asked = call.query.index_select(1, short_queries)
        kept = (key.index_select(1, short), value.index_select(1, short))
        return z.index_copy_(1, short_queries, self._short(call, layer, asked, *kept))

    def _short(self, call: AttentionInput, layer: DroppingLayer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        steps = self._cache.steps.of(call.first_row, call.query.shape[2], query.device)
        late = self._cache.plan.late and call.first_row == 0
        return layer.short.attend(query, key, value, call.scale, steps, late=late)

    def _indices(self, call: AttentionInput, layer: DroppingLayer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Full and short key/value heads, and the query heads of each, on the call's device."""
        if call.layer not in self._heads:
            per_query = layer.is_full.repeat_interleave(call.query.shape[1] // len(layer.is_full))
            found = (layer.is_full.nonzero(), (~layer.is_full).nonzero(), per_query.nonzero(), (~per_query).nonzero())
            full, short, full_queries, short_queries = (part.flatten().to(call.query.device) for part in found)
            self._heads[call.layer] = (full, short, full_queries, short_queries)
        return self._heads[call.layer]
