"""The plan by which the tokens of a policy in the catalogue are really dropped. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuits.policies.catalog import policy_kind
from circuits.policies.drop_plan import DropPlan
from circuits.policies.head_split import HeadSplit, fitting_split
from circuits.policies.search_settings import RazorSettings
from circuits.policies.settings import DuoSettings, FullSettings, PolicySettings, StreamingSettings
from headscope.errors import UnsupportedError


def plan_for(
    name: str,
    given: PolicySettings | dict[str, Any] | None = None,
    split: HeadSplit | None = None,
    *,
    n_layers: int,
    n_kv_heads: int,
) -> DropPlan:
    """What a policy of the catalogue keeps.

    Args:
        name: ``full``, ``streaming``, ``duo`` or ``razor``.
        given: its settings, or what differs from the defaults.
        split: which key/value heads keep everything, for ``duo`` and ``razor``.
        n_layers: layers of the model.
        n_kv_heads: key/value heads per layer.

    Raises:
        UnknownNameError: if there is no policy of that name.
        ConfigError: for impossible settings, or a split that is missing or another model's.
        UnsupportedError: for a policy that chooses its tokens by their attention, which no plan foresees.
    """
    kind = policy_kind(name)
    settings = given if isinstance(given, PolicySettings) else kind.settings.parse(given or {})
    shape = (n_layers, n_kv_heads)
    if isinstance(settings, FullSettings):
        return DropPlan(full=np.ones(shape, dtype=bool), sink=0, recent=1)
    if isinstance(settings, StreamingSettings):
        full, near = np.zeros(shape, dtype=bool), settings.positions == "cache"
        return DropPlan(full=full, sink=settings.sink, recent=settings.recent, in_cache=near)
    if isinstance(settings, DuoSettings):
        return DropPlan(full=fitting_split(name, split, shape).full, sink=settings.sink, recent=settings.recent)
    if isinstance(settings, RazorSettings):
        return DropPlan(
            full=fitting_split(name, split, shape).full,
            sink=settings.sink,
            recent=settings.recent,
            share=settings.recent_share,
            compensated=settings.compensate,
            late=True,
        )
    raise UnsupportedError(f"tokens are really dropped under full, streaming, duo and razor only, not under {name!r}.")
