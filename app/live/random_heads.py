"""Random sets of heads to compare a request's own with: as many, of the same layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from app.live.policy_choice import keeps_heads
from app.live.policy_runs import groups_of, members_of
from app.live.requests import LabRequest
from circuits.validation import random_like
from headscope.heads import Head
from headscope.models.protocol import HookedModel

_TRIES = 20


def draw_for(model: HookedModel, request: LabRequest) -> tuple[list[list[Head]], list[str]]:
    """The random sets of a request, and what a reader must know of them.

    Where the request's heads keep their key/value heads whole, the sets are of as many other key/value heads.
    """
    heads, wanted, shape = request.parsed_heads, request.random_sets, model.shape
    if not heads or not wanted:
        return [], []
    whole = keeps_heads(request.policy)
    units = groups_of(shape, heads) if whole else heads
    n_units = shape.n_kv_heads if whole else shape.n_heads
    sets = draw_sets(model, units, sets=wanted, seed=request.seed, n_units=n_units)
    notes, called = list[str](), "key/value heads" if whole else "heads"
    if len(sets) < wanted:
        notes.append(f"There are only {len(sets)} different random sets of as many {called}, not {wanted}.")
    own = Counter(head.layer for head in units)
    moved = {layer for drawn in sets for layer in Counter(head.layer for head in drawn) - own}
    if moved:
        notes.append(
            f"A layer has too few other {called}: random sets also take {called} of the nearest layers "
            f"({', '.join(str(layer) for layer in sorted(moved))})."
        )
    return [members_of(shape, drawn) for drawn in sets] if whole else sets, notes


def draw_sets(
    model: HookedModel, heads: Sequence[Head], *, sets: int, seed: int, n_units: int | None = None
) -> list[list[Head]]:
    """Up to ``sets`` different sets of as many random heads per layer as ``heads``, none of which is in it.

    Args:
        model: the model.
        heads: the heads.
        sets: how many sets.
        seed: of the draws.
        n_units: heads per layer; by default the query heads.
    """
    generator, shape = np.random.default_rng(seed), model.shape
    found: dict[frozenset[Head], list[Head]] = {}
    for _ in range(_TRIES * sets):
        drawn = random_like(
            heads, members=heads, n_layers=shape.n_layers, n_heads=n_units or shape.n_heads, generator=generator
        )
        if len(drawn) == len(heads):
            found.setdefault(frozenset(drawn), sorted(drawn))
        if len(found) == sets:
            break
    return list(found.values())
