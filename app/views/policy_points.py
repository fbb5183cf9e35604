"""One setting of a policy on a task: what it takes, how well it does, and what it is called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from circuits.policies.arms import RANDOM, SEARCHED
from circuits.policies.catalog import POLICIES
from circuits.policies.results import Arm, Outcome, Regime
from headscope.statistics import bootstrap_scalar

FULL = "full"
Axis = Literal["bytes", "keys", "flops"]
"""What an answer takes: bytes kept, keys attended, or operations of attention."""
Measure = Literal["accuracy", "exact", "loss"]
MEASURES: Mapping[Measure, str] = {"accuracy": "accuracy", "exact": "share of exact answers", "loss": "loss"}
AXES: Mapping[Axis, str] = {
    "bytes": "share of the cache's bytes kept",
    "keys": "share of the keys attended",
    "flops": "share of attention's operations",
}
RULES = {
    "duo-gate": "heads by trained gates",
    "razor": "heads by echo and induction",
    "retrieval": "heads by retrieval score",
    "induction": "heads by induction score",
    RANDOM: "random heads",
    SEARCHED: "searched",
}
REGIMES: Mapping[Regime, str] = {"always": "from the first token on", "after the prompt": "after the prompt"}

_NO_WIDTH = 1e-12


@dataclass(frozen=True)
class Point:
    """One setting of a policy on a task; random assignments of as many heads are one point.

    Attributes:
        arm: what was run; of random assignments the first.
        value: mean of the measure over prompts; of random assignments the mean over them of each prompt.
        low: lower end of its 95 % bootstrap interval over prompts.
        high: upper end.
        change: mean change from the full cache on the same prompts.
        change_low: lower end of its paired 95 % interval.
        change_high: upper end.
        n: prompts.
        draws: random assignments in it; 0 where heads are not drawn.
        lowest: lowest mean of a draw.
        highest: highest mean of a draw.
        kv_bytes: bytes of keys and values in the cache at the end of the text.
        shares: by `AXES`: bytes kept, keys attended and operations, of those of the full cache.
        regime: from which token on the policy acts.
    """

    arm: Arm
    value: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float
    n: int
    draws: int
    lowest: float
    highest: float
    kv_bytes: float
    shares: Mapping[Axis, float]
    regime: Regime

    def surely(self, measure: Measure) -> float:
        """The worse end of the change's interval; where all prompts agree, that of what those not seen may do.

        **Definition**: of outcomes from 0 to 1 that change alike on all of ``n`` prompts, one of Clopper and Pearson's
        exact 95 % bounds (1934) on the share that does not: ``1 - 0.025^(1 / n)``. A loss has no such bound: NaN.
        """
        end = self.change_high if measure == "loss" else self.change_low
        if self.change_high - self.change_low > _NO_WIDTH:
            return end
        return float("nan") if measure == "loss" else self.change - (1 - 0.025 ** (1 / self.n))

    @property
    def agrees(self) -> bool:
        """Whether all prompts change alike, so that a bootstrap interval has no width."""
        return not self.change_high - self.change_low > _NO_WIDTH

    @property
    def curve(self) -> str:
        """The curve that it belongs to, as `curve_key` calls it."""
        return curve_key(self.arm)

    @property
    def setting(self) -> str:
        """Where on its curve it stands, in words."""
        return setting_text(self.arm)


def policy_title(name: str) -> str:
    """A policy's name for people; its own where this version does not know it."""
    return POLICIES[name].title if name in POLICIES else name


def curve_key(arm: Arm) -> str:
    """A curve's name in addresses: ``streaming``, ``duo/retrieval``."""
    return f"{arm.policy}/{arm.rule}" if arm.rule else arm.policy


def curve_title(arm: Arm) -> str:
    """A curve's name for people."""
    return policy_title(arm.policy) + (f", {RULES.get(arm.rule, f'heads by {arm.rule}')}" if arm.rule else "")


def setting_text(arm: Arm) -> str:
    """Where on its curve an arm stands: ``25 % of heads full, others 12.5 %`` (of the text)."""
    rest = arm.budget == arm.budget
    if arm.share == arm.share:
        return f"{100 * arm.share:g} % of heads full" + (f", others {100 * arm.budget:g} %" if rest else "")
    if rest:
        return f"{100 * arm.budget:g} % of the text"
    return "everything" if arm.policy == FULL else "its own settings"


def decimals_for(value: float) -> int:
    """Decimals that tell a loss near 0 from 0: 3 from 0.1 on, and up to 6 below."""
    size = abs(value)
    return 3 if size >= 0.1 or not size > 0 else min(6, 2 + math.ceil(-math.log10(size)))


def point_groups(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Outcomes that are one point: random draws of the same share together."""
    found = dict[tuple[Any, ...], list[Outcome]]()
    for place, outcome in enumerate(outcomes):
        arm = outcome.arm
        key = (curve_key(arm), arm.share, arm.budget) if arm.rule == RANDOM else (place,)
        found.setdefault(tuple(map(str, key)), []).append(outcome)
    return list(found.values())


def make_point(group: Sequence[Outcome], full: Outcome | None) -> Point:
    """The point of one outcome, or of the random draws of one share; its change is from the full cache's outcome."""
    first, values = group[0], np.mean([outcome.values for outcome in group], axis=0)
    means = [float(outcome.values.mean()) for outcome in group]
    mean = bootstrap_scalar(values, generator=np.random.default_rng(0))
    apart = values - full.values if full is not None else np.full_like(values, np.nan)
    change = bootstrap_scalar(apart, generator=np.random.default_rng(0))
    is_drawn = first.arm.rule == RANDOM

    def average(name: str) -> float:
        return float(np.mean([getattr(outcome, name) for outcome in group]))

    return Point(
        first.arm,
        *mean,
        *change,
        n=first.n,
        draws=len(group) if is_drawn else 0,
        lowest=min(means) if is_drawn else float("nan"),
        highest=max(means) if is_drawn else float("nan"),
        kv_bytes=average("kv_bytes"),
        shares={"bytes": average("share_kept"), "keys": average("attended"), "flops": average("share_flops")},
        regime=first.regime,
    )
