"""Which settings of a policies run do nearly as well as the full cache, and which of them take least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.views.policies import PolicyRun
from app.views.policy_points import Axis, Measure, Point, curve_key
from circuits.policies.results import Arm, Regime

_KEEPS, _WITHIN, _NATS = 0.95, 0.01, 0.01
_EDGE = 1e-9
"""Means of the same numbers in another order differ in their last digits."""


@dataclass(frozen=True)
class Verdict:
    """The point of a curve that takes least and does as well as the full cache, or nearly.

    Attributes:
        curve: the curve.
        smallest: the point that takes least of those whose mean reaches the bar, or None.
        sure: the same, where the interval of the paired change stays on the bar's good side too (`Point.surely`).
        bar: 95 % of the full cache's accuracy or share of exact answers, or its loss and 1 % of it or 0.01 nats more,
            whichever is more.
        too_few: prompts, where all of them agree on a point that reaches the bar and are too few to be sure; else 0.
        regime: from which token on the curve's policy acts.
    """

    curve: str
    smallest: Point | None
    sure: Point | None
    bar: float
    too_few: int
    regime: Regime


def pareto_front(found: PolicyRun, task: str, length: int, axis: Axis) -> tuple[Point, ...]:
    """The points that save something and that no other point beats: none is as small and better, or smaller and
    as good.

    Random heads are never on it, nor is what does no better than random heads that take as little, nor what gets
    nothing right. Off the bytes axis points are compared with those of their own regime only, since keys and
    operations are counted over the rows on which a policy acts.
    """
    measure = found.measure(task)
    sign, saving = _sign(measure), [one for one in found.points(task, length) if one.shares[axis] < 1 - _EDGE]

    def is_ahead(one: Point) -> bool:
        if found.is_random(one.curve) or (measure != "loss" and not one.value > 0):
            return False
        rivals = [other for other in saving if other is not one and (axis == "bytes" or other.regime == one.regime)]
        return not any(_beats(other, one, axis, sign, ties=found.is_random(other.curve)) for other in rivals)

    return tuple(one for one in saving if is_ahead(one))


def verdicts_of(found: PolicyRun, task: str, length: int, axis: Axis = "bytes") -> tuple[Verdict, ...]:
    """A verdict for each curve that takes less than the full cache anywhere.

    None where the full cache has not been run or gets nothing right.
    """
    full, measure, bar = found.full(task, length), found.measure(task), bar_of(found, task, length)
    if full is None or bar is None:
        return ()
    points = sorted(found.points(task, length), key=lambda point: point.shares[axis])
    made = list[Verdict]()
    for curve in found.curves:
        own = [one for one in points if one.curve == curve]
        if not own or own[0].shares[axis] >= 1 - _EDGE:
            continue
        enough = [one for one in own if _reaches(one.value, bar, measure)]
        sure = [one for one in enough if _reaches(one.surely(measure), bar - full.value, measure)]
        few = max((one.n for one in enough if one.agrees and one not in sure), default=0)
        made.append(Verdict(curve, next(iter(enough), None), next(iter(sure), None), bar, few, own[0].regime))
    return tuple(made)


def bar_of(found: PolicyRun, task: str, length: int) -> float | None:
    """What counts as nearly as good as the full cache; None where that has not been run or gets nothing right."""
    full, measure = found.full(task, length), found.measure(task)
    if full is None or full.value != full.value or (measure != "loss" and not full.value > 0):
        return None
    return full.value + max(_WITHIN * full.value, _NATS) if measure == "loss" else _KEEPS * full.value


def draws_that_reach(found: PolicyRun, task: str, length: int, curves: Sequence[str]) -> tuple[int, int]:
    """How many random draws of these curves reach the bar by themselves with any setting, and of how many."""
    bar, measure = bar_of(found, task, length), found.measure(task)
    reached = dict[tuple[str, int], bool]()
    for outcome, point in found.arms(task, length):
        key = (curve_key(outcome.arm), outcome.arm.draw)
        if key[0] in curves:
            does = bar is not None and _reaches(point.value, bar, measure)
            reached[key] = does or reached.get(key, False)
    return sum(reached.values()), len(reached)


def shown_arm(found: PolicyRun, task: str, length: int) -> Arm | None:
    """The arm whose heads tell most: of the chosen ones that get by with the smallest cache; None without any."""
    told = [
        one.smallest
        for one in verdicts_of(found, task, length)
        if one.smallest is not None and not found.is_random(one.curve)
    ]
    split = [point for point in told if point.arm.share == point.arm.share]
    return min(split, key=lambda point: (point.shares["bytes"], point.shares["keys"])).arm if split else None


def wasteful_curves(found: PolicyRun, task: str, length: int, axis: Axis) -> tuple[str, ...]:
    """Curves of a task that take as much as the full cache everywhere, or more."""
    judged = {one.curve for one in verdicts_of(found, task, length, axis)}
    here = {point.curve for point in found.points(task, length)}
    return tuple(curve for curve in found.curves if curve in here and curve not in judged)


def shown_first(found: PolicyRun, task: str, length: int, axis: Axis, most: int) -> tuple[str, ...]:
    """At most ``most`` curves: all where they fit, else those on the front, then their random controls."""
    here = [c for c in found.curves if any(point.curve == c for point in found.points(task, length))]
    ahead = {point.curve for point in pareto_front(found, task, length, axis)}
    policies = {curve.split("/")[0] for curve in ahead}

    def rank(curve: str) -> int:
        is_control = found.is_random(curve) and curve.split("/")[0] in policies
        return 0 if curve in ahead else 1 if is_control else 2

    kept = set(sorted(here, key=rank)[:most])
    return tuple(curve for curve in here if curve in kept)


def _sign(measure: Measure) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if measure == "loss" else 1


def _beats(other: Point, one: Point, axis: Axis, sign: int, *, ties: bool) -> bool:
    """Whether a point is as small and as good, and better in one of the two; ``ties``: or alike."""
    smaller = one.shares[axis] - other.shares[axis]
    better = sign * (other.value - one.value)
    return smaller >= -_EDGE and better >= -_EDGE and (ties or smaller > _EDGE or better > _EDGE)


def _reaches(value: float, bar: float, measure: Measure) -> bool:
    return _sign(measure) * (value - bar) >= -_EDGE
