"""Which policies a live request offers, and what each asks for besides its name. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from circuits.policies.arms import has_budget
from circuits.policies.catalog import POLICIES, policy_kind
from circuits.policies.kinds import PolicyKind
from headscope.errors import ConfigError

FAMILIES: Mapping[str, str] = {
    "cache": "Drop keys from the cache",
    "sparse": "Keep all keys, look at some",
    "softmax": "Change the softmax",
}
"""What the families of policies are called in a list."""

_NONE, _BY_HEAD = "full", "act"
OFFERED: Mapping[str, PolicyKind] = {name: kind for name, kind in POLICIES.items() if name not in (_NONE, _BY_HEAD)}


def chosen_policy(name: str) -> str:
    """The name, or empty for the full cache.

    Raises:
        UnknownNameError: if there is no such policy.
        ConfigError: for calibration, which is chosen in place of an ablation.
    """
    if not name or policy_kind(name).name == _NONE:
        return ""
    if name == _BY_HEAD:
        raise ConfigError(
            "attention calibration is for the heads of the request: leave the policy empty and choose the ablation "
            "'act'."
        )
    return name


def is_sized(name: str) -> bool:
    """Whether the policy can be told how many tokens a head may keep or look at."""
    return name in OFFERED and has_budget(OFFERED[name])


def keeps_heads(name: str) -> bool:
    """Whether the heads of the request are those that keep everything."""
    return name in OFFERED and OFFERED[name].needs_split
