"""Which policies with which settings make the curves of an evaluation. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.policies.catalog import policy_kind
from circuits.policies.kinds import PolicyKind
from circuits.policies.results import Arm
from circuits.policies.settings import PolicySettings
from headscope.errors import ConfigError

RANDOM = "random"
"""The rule of heads drawn at random."""
SPANS, SEARCHED = "moa", "searched"
"""The policy with a window per head, and the rule of windows that were searched for."""

_ROOMY = 2**30  # a budget that no setting has to shrink for


def has_budget(kind: PolicyKind) -> bool:
    """Whether a policy can be given a budget of tokens."""
    return kind.settings.sized is not PolicySettings.sized


def refuse_overwritten(name: str, given: Mapping[str, Any]) -> None:
    """Refuse settings that a policy with a budget would not follow, because the budget decides them.

    Those that a small budget merely lowers (sinks, the size of a page) are not refused.

    Raises:
        ConfigError: naming the first of them, and what to set in its place.
    """
    kind = policy_kind(name)
    asked = kind.settings.parse(dict(given))
    sized = asked.sized(_ROOMY)
    for key in given:
        others = {other: value for other, value in given.items() if other != key}
        without = kind.settings.parse(others).sized(_ROOMY)
        if getattr(asked, key) != getattr(sized, key) == getattr(without, key):
            instead = "the setting window (--set window=...)" if kind.needs_split else "budgets (--budgets)"
            raise ConfigError(
                f"{name}: the option {key}={given[key]} would have no effect: in an evaluation it follows from the "
                f"share of the text that heads keep. Leave it out, and give {instead} instead."
            )


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

    Raises:
        ConfigError: for an option that the budget decides.
    """
    arms = [Arm("full", curve="full")]
    for name in policies:
        kind, given = policy_kind(name), dict(options.get(name, {}))
        if name == "full":
            continue
        refuse_overwritten(name, given)
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
