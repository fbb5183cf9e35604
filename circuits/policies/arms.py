"""Which policies with which settings make the curves of an evaluation. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.policies.catalog import PolicyKind, policy_kind
from circuits.policies.results import Arm
from circuits.policies.settings import PolicySettings

RANDOM = "random"
"""The rule of heads drawn at random."""
SPANS, SEARCHED = "moa", "searched"
"""The policy with a window per head, and the rule of windows that were searched for."""


def has_budget(kind: PolicyKind) -> bool:
    """Whether a policy can be given a budget of tokens."""
    return kind.settings.sized is not PolicySettings.sized


def plan_arms(
    policies: Sequence[str],
    *,
    budgets: Sequence[float],
    shares: Sequence[float],
    rules: Sequence[str],
    draws: int,
    window: float,
    options: Mapping[str, Mapping[str, Any]],
) -> list[Arm]:
    """The arms of an evaluation, the full cache first.

    A policy whose heads are all alike has an arm per budget. A policy that keeps some heads whole has an arm per rule
    and share of heads, the others keeping ``window`` of the text, and ``draws`` random assignments of each share.
    Windows per head are the same for all heads, or searched for.

    Args:
        policies: names in the catalogue.
        budgets: shares of the text that each head may keep or look at.
        shares: shares of key/value heads that keep everything.
        rules: ways to choose those heads.
        draws: random assignments per share.
        window: share of the text that the other heads keep.
        options: settings by policy that differ from the defaults.
    """
    arms = [Arm("full", curve="full")]
    for name in policies:
        kind, given = policy_kind(name), dict(options.get(name, {}))
        if name == "full":
            continue
        if kind.needs_split:
            for share in shares:
                arms += [Arm(name, given, f"{name}, heads by {rule}", window, share, rule) for rule in rules]
                arms += [Arm(name, given, f"{name}, random heads", window, share, RANDOM, n) for n in range(draws)]
        elif has_budget(kind):
            arms += [Arm(name, given, name, budget) for budget in budgets]
            if name == SPANS:
                arms += [Arm(name, given, f"{name}, searched spans", budget, rule=SEARCHED) for budget in budgets]
        else:
            arms.append(Arm(name, given, name))
    return arms
