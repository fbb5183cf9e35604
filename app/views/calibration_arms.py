"""The arms of calibration trials pooled over seeds: paired changes, their intervals and p values, and what they say."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from circuits.calibration.results import Answers, ArmKind, TrialResult
from headscope.statistics import Interval, bootstrap_groups, mcnemar_p, permutation_p

ARMS: dict[ArmKind, str] = {
    "baseline": "not calibrated",
    "selected": "chosen heads",
    "random": "random heads",
    "all": "all heads",
    "opposite": "opposite",
}
CHANGED: tuple[ArmKind, ...] = ("selected", "random", "all", "opposite")
Outcome = Literal[
    "helps",
    "helps as random heads do",
    "helps, no control",
    "harms",
    "harms as random heads do",
    "harms, no control",
    "unclear",
    "no heads",
]
_LEVEL = 0.05
ENOUGH_DRAWS = 19
"""The fewest draws among which a one-sided p of 0.05 is possible."""


@dataclass(frozen=True)
class Effect:
    """What the arms of one kind did, over the items of one or several trials.

    Attributes:
        kind: which arms.
        heads: calibrated heads of each trial.
        beta: what weights on their sinks are multiplied by.
        n: items.
        accuracy: share of right answers, with its 95 % bootstrap interval over items; of random heads the mean over
            draws.
        change: mean paired change of accuracy against the model as it is.
        margin_change: the same for the margin.
        gained: items that are right now and were wrong; None for the mean over draws.
        lost: items that were right and are wrong now.
        p_value: McNemar's exact two-sided p; NaN where there is none.
        draws: change of accuracy of each random draw.
    """

    kind: ArmKind
    heads: tuple[int, ...]
    beta: float
    n: int
    accuracy: Interval
    change: Interval
    margin_change: Interval
    gained: int | None
    lost: int | None
    p_value: float
    draws: tuple[float, ...] = ()

    @property
    def net(self) -> float:
        """Change of accuracy as a quotient of counts: equal counts are equal numbers."""
        return ((self.gained or 0) - (self.lost or 0)) / self.n


def arm_effects(trials: Sequence[TrialResult], *, seed: int) -> tuple[Effect, ...]:
    """Every kind of arm, its items of all trials together, the baseline first; kinds without an arm are left out.

    A draw of random heads is the draw of that number in every trial; a trial that chose no heads drew none, and counts
    as it is.

    Args:
        trials: of one data set.
        seed: of bootstrap intervals: those of one trial are the ones it was saved with.
    """
    kinds: list[ArmKind] = [kind for kind in ARMS if any(trial.of(kind) for trial in trials)]
    return tuple(_effect(trials, kind, seed) for kind in kinds)


def p_among_random(selected: Effect, random: Effect | None) -> float:
    """One-sided p of the chosen heads among random ones: ``(1 + draws at least as accurate) / (1 + draws)``."""
    if random is None or not random.draws:
        return float("nan")
    return permutation_p(selected.net, random.draws, 1)


def outcome_of(selected: Effect, random: Effect | None) -> Outcome:
    """What the numbers allow one to say.

    ``helps``: the interval of the change lies above 0, McNemar's p is below 0.05, and no random draw does as well.
    ``harms``: the same below 0. Where a draw does as well, or as badly: as random heads do. Without any draw there is
    no control, and the choice of heads is not judged.
    """
    if not any(selected.heads):
        return "no heads"
    if not selected.p_value < _LEVEL:
        return "unclear"
    draws = random.draws if random is not None else ()
    if selected.change.low > 0:
        if not draws:
            return "helps, no control"
        return "helps as random heads do" if any(draw >= selected.net for draw in draws) else "helps"
    if selected.change.high < 0:
        if not draws:
            return "harms, no control"
        return "harms as random heads do" if any(draw <= selected.net for draw in draws) else "harms"
    return "unclear"


def mean_change(changes: Sequence[Interval]) -> Interval:
    """Mean over data sets, each counted the same; the interval takes them for independent and nearly normal.

    **Definition**: each end is ``sqrt(sum over sets of (end - mean)^2) / number`` away from the mean; of one set it is
    that set's own.
    """
    mean = float(np.mean([one.mean for one in changes]))
    down, up = (
        math.sqrt(sum(apart**2 for apart in aparts)) / len(changes)
        for aparts in ([one.mean - one.low for one in changes], [one.high - one.mean for one in changes])
    )
    return Interval(mean, mean - down, mean + up)


def _effect(trials: Sequence[TrialResult], kind: ArmKind, seed: int) -> Effect:
    before = [trial.of("baseline")[0].answers for trial in trials]
    draws = max(len(trial.of(kind)) for trial in trials)
    # answers[draw][trial]
    answers = [
        [_drawn(trial, kind, draw, base) for trial, base in zip(trials, before, strict=True)] for draw in range(draws)
    ]
    was = _right(before)
    right = np.stack([_right(row) for row in answers])
    margins = np.stack([_margins(row) for row in answers]).mean(0) - _margins(before)
    changes = right.mean(0) - was
    is_drawn = kind == "random"
    groups = [group for one in before for group in one.groups]
    gained, lost = int((right[0] & ~was).sum()), int((was & ~right[0]).sum())

    def interval(samples: Float[np.ndarray, " item"], what: str) -> Interval:
        generator = np.random.default_rng([seed, zlib.crc32(what.encode())])
        return bootstrap_groups(samples, groups, generator=generator)

    arms = [trial.of(kind)[0].arm if trial.of(kind) else None for trial in trials]
    return Effect(
        kind,
        heads=tuple(len(arm.heads) if arm else 0 for arm in arms),
        beta=next(arm.beta for arm in arms if arm),
        n=len(was),
        accuracy=interval(right.mean(0), "accuracy"),
        change=interval(changes, "change"),
        margin_change=interval(margins, "margin"),
        gained=None if is_drawn else gained,
        lost=None if is_drawn else lost,
        p_value=float("nan") if is_drawn or kind == "baseline" else mcnemar_p(gained, lost),
        draws=tuple((int(row.sum()) - int(was.sum())) / len(was) for row in right) if is_drawn else (),
    )


def _drawn(trial: TrialResult, kind: ArmKind, draw: int, baseline: Answers) -> Answers:
    found = trial.of(kind)
    return found[draw].answers if draw < len(found) else baseline


def _right(answers: Sequence[Answers]) -> Bool[np.ndarray, " item"]:
    return np.concatenate([one.correct for one in answers])


def _margins(answers: Sequence[Answers]) -> Float[np.ndarray, " item"]:
    return np.concatenate([one.margins for one in answers])
