"""The policies by name, and how one is built; no torch before that."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from circuits.policies.cache_kinds import CACHE_KINDS
from circuits.policies.kinds import PolicyKind
from circuits.policies.settings import PolicySettings
from circuits.policies.softmax_kinds import SOFTMAX_KINDS
from circuits.policies.sparse_kinds import SPARSE_KINDS
from headscope.errors import UnknownNameError

if TYPE_CHECKING:
    from circuits.policies.head_split import HeadSplit
    from circuits.policies.policy import Policy
    from headscope.models.protocol import HookedModel

POLICIES: dict[str, PolicyKind] = {kind.name: kind for kind in (*CACHE_KINDS, *SPARSE_KINDS, *SOFTMAX_KINDS)}


def policy_kind(name: str) -> PolicyKind:
    """A policy by name.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    if name not in POLICIES:
        raise UnknownNameError.of("policy", name, POLICIES)
    return POLICIES[name]


def build_policy(
    model: HookedModel, name: str, given: PolicySettings | dict[str, Any] | None = None, split: HeadSplit | None = None
) -> Policy:
    """The policy of that name for a model.

    Args:
        model: the model.
        name: see `POLICIES`.
        given: its settings, or what differs from the defaults.
        split: which key/value heads keep everything, for policies that need it.

    Raises:
        UnknownNameError: if there is none of that name.
        ConfigError: for impossible settings, or a missing split.
        UnsupportedError: if the model cannot run under it.
    """
    kind = policy_kind(name)
    chosen = given if isinstance(given, PolicySettings) else kind.settings.parse(given or {})
    policy: Policy = getattr(import_module(kind.module), kind.function).build(model, chosen, split)
    policy.effective = chosen.model_dump(mode="json")
    return policy
