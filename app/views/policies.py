"""A policies run as its pages read it: bytes against accuracy, curve by curve, and which heads kept everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.views.policy_heads import Assignment, read_assignment
from app.views.policy_points import (
    FULL,
    Axis,
    Measure,
    Point,
    curve_key,
    curve_title,
    make_point,
    point_groups,
)
from circuits.policies.arms import RANDOM
from circuits.policies.results import Arm, Outcome, Regime
from headscope.errors import RunError, UnsupportedError
from headscope.runs.reading import Run

KIND, HEADS = "policies", "heads"
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


class PolicyRun:
    """A run of kind ``policies``, whole or unfinished; outcomes are read when they are first asked for."""

    def __init__(self, run: Run) -> None:
        """Read nothing yet.

        Raises:
            UnsupportedError: if the run is of another kind.
        """
        if run.manifest.kind != KIND:
            raise UnsupportedError(
                f"the run {run.manifest.id} is of kind {run.manifest.kind}, not {KIND}: no policy was run in it."
            )
        self.run = run
        self._points: dict[tuple[str, int], tuple[Point, ...]] = {}

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return self.run.manifest.config

    @cached_property
    def _stages(self) -> dict[tuple[str, int], list[Outcome]]:
        return stage_outcomes(self.run)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with any outcome, in the order of the run."""
        return tuple(dict.fromkeys(task for task, _ in self._stages))

    def lengths(self, task: str) -> tuple[int, ...]:
        """Prompt lengths that were asked for, of a task; prompts of ``repeated`` may be a token shorter."""
        return tuple(length for name, length in self._stages if name == task)

    def outcomes(self, task: str, length: int) -> list[Outcome]:
        """Every arm on a task, in the order of the run."""
        return self._stages.get((task, length), [])

    def full(self, task: str, length: int) -> Point | None:
        """The full cache on a task, or None where it has not been run yet."""
        return next((point for point in self.points(task, length) if point.arm.policy == FULL), None)

    @cached_property
    def curves(self) -> tuple[str, ...]:
        """Every curve of the run but the full cache, in its order."""
        arms = [outcome.arm for outcomes in self._stages.values() for outcome in outcomes]
        return tuple(dict.fromkeys(curve_key(arm) for arm in arms if arm.policy != FULL))

    @cached_property
    def policies(self) -> tuple[str, ...]:
        """Every policy of the run, in its order."""
        return tuple(dict.fromkeys(outcome.arm.policy for outcomes in self._stages.values() for outcome in outcomes))

    @cached_property
    def _arms(self) -> dict[str, Arm]:
        arms = [outcome.arm for outcomes in self._stages.values() for outcome in outcomes]
        return {curve_key(arm): arm for arm in reversed(arms)}

    def title(self, curve: str) -> str:
        """A curve's name for people: ``DuoAttention, heads by retrieval score``."""
        return curve_title(self._arms[curve]) if curve in self._arms else curve

    def is_random(self, curve: str) -> bool:
        """Whether the heads of a curve are drawn at random."""
        return curve in self._arms and self._arms[curve].rule == RANDOM

    def measure(self, task: str) -> Measure:
        """What a task is judged by."""
        found = [outcomes for (name, _), outcomes in self._stages.items() if name == task]
        return found[0][0].measure

    def points(self, task: str, length: int) -> tuple[Point, ...]:
        """Every point of a task, the full cache first, in the order of the run."""
        key = (task, length)
        if key not in self._points:
            own = self.outcomes(task, length)
            self._points[key] = tuple(make_point(group, _full(own)) for group in point_groups(own))
        return self._points[key]

    def arms(self, task: str, length: int) -> list[tuple[Outcome, Point]]:
        """Every arm of a task and its own point: each random assignment by itself."""
        own = self.outcomes(task, length)
        return [(outcome, make_point([outcome], _full(own))) for outcome in own]

    def front(self, task: str, length: int, axis: Axis) -> tuple[Point, ...]:
        """The points that save something and that no other point beats: none is as small and better, or smaller and
        as good.

        Random heads are never on it, nor is what does no better than random heads that take as little, nor what gets
        nothing right. Off the bytes axis points are compared with those of their own regime only, since keys and
        operations are counted over the rows on which a policy acts.
        """
        measure = self.measure(task)
        sign, saving = _sign(measure), [one for one in self.points(task, length) if one.shares[axis] < 1 - _EDGE]

        def is_ahead(one: Point) -> bool:
            if self.is_random(one.curve) or (measure != "loss" and not one.value > 0):
                return False
            rivals = [other for other in saving if other is not one and (axis == "bytes" or other.regime == one.regime)]
            return not any(_beats(other, one, axis, sign, ties=self.is_random(other.curve)) for other in rivals)

        return tuple(one for one in saving if is_ahead(one))

    def verdicts(self, task: str, length: int, axis: Axis = "bytes") -> tuple[Verdict, ...]:
        """A verdict for each curve that takes less than the full cache anywhere.

        None where the full cache has not been run or gets nothing right.
        """
        full, measure, bar = self.full(task, length), self.measure(task), self.bar(task, length)
        if full is None or bar is None:
            return ()
        points = sorted(self.points(task, length), key=lambda point: point.shares[axis])
        found = list[Verdict]()
        for curve in self.curves:
            own = [one for one in points if one.curve == curve]
            if not own or own[0].shares[axis] >= 1 - _EDGE:
                continue
            enough = [one for one in own if _reaches(one.value, bar, measure)]
            sure = [one for one in enough if _reaches(one.surely(measure), bar - full.value, measure)]
            few = max((one.n for one in enough if one.agrees and one not in sure), default=0)
            found.append(Verdict(curve, next(iter(enough), None), next(iter(sure), None), bar, few, own[0].regime))
        return tuple(found)

    def bar(self, task: str, length: int) -> float | None:
        """What counts as nearly as good as the full cache; None where that has not been run or gets nothing right."""
        full, measure = self.full(task, length), self.measure(task)
        if full is None or full.value != full.value or (measure != "loss" and not full.value > 0):
            return None
        return full.value + max(_WITHIN * full.value, _NATS) if measure == "loss" else _KEEPS * full.value

    def draws_that_reach(self, task: str, length: int, curves: Sequence[str]) -> tuple[int, int]:
        """How many random draws of these curves reach the bar by themselves with any setting, and of how many."""
        bar, measure = self.bar(task, length), self.measure(task)
        reached = dict[tuple[str, int], bool]()
        for outcome, point in self.arms(task, length):
            key = (curve_key(outcome.arm), outcome.arm.draw)
            if key[0] in curves:
                does = bar is not None and _reaches(point.value, bar, measure)
                reached[key] = does or reached.get(key, False)
        return sum(reached.values()), len(reached)

    def shown_arm(self, task: str, length: int) -> Arm | None:
        """The arm whose heads tell most: of the chosen ones that get by with the smallest cache; None without any."""
        told = [
            one.smallest
            for one in self.verdicts(task, length)
            if one.smallest is not None and not self.is_random(one.curve)
        ]
        split = [point for point in told if point.arm.share == point.arm.share]
        return min(split, key=lambda point: (point.shares["bytes"], point.shares["keys"])).arm if split else None

    def wasteful(self, task: str, length: int, axis: Axis) -> tuple[str, ...]:
        """Curves of a task that take as much as the full cache everywhere, or more."""
        judged = {one.curve for one in self.verdicts(task, length, axis)}
        here = {point.curve for point in self.points(task, length)}
        return tuple(curve for curve in self.curves if curve in here and curve not in judged)

    def shown_first(self, task: str, length: int, axis: Axis, most: int) -> tuple[str, ...]:
        """At most ``most`` curves: all where they fit, else those on the front, then their random controls."""
        here = [c for c in self.curves if any(point.curve == c for point in self.points(task, length))]
        ahead = {point.curve for point in self.front(task, length, axis)}
        policies = {curve.split("/")[0] for curve in ahead}

        def rank(curve: str) -> int:
            is_control = self.is_random(curve) and curve.split("/")[0] in policies
            return 0 if curve in ahead else 1 if is_control else 2

        kept = set(sorted(here, key=rank)[:most])
        return tuple(curve for curve in here if curve in kept)

    @cached_property
    def assignments(self) -> tuple[Arm, ...]:
        """Arms that tell heads apart, each rule, share and draw once: those whose heads can be shown."""
        found = dict[tuple[str, float, int], Arm]()
        for outcomes in self._stages.values():
            for arm in (outcome.arm for outcome in outcomes if outcome.arm.share == outcome.arm.share):
                found.setdefault((arm.rule, arm.share, arm.draw), arm)
        return tuple(found.values())

    def assignment(self, arm: Arm) -> Assignment:
        """Which heads an arm keeps whole, over the score that they were chosen by.

        Raises:
            UnsupportedError: if the run does not say.
        """
        for (task, length), outcomes in self._stages.items():
            same = [outcome.arm for outcome in outcomes if outcome.arm.policy == arm.policy]
            if arm in same:
                return read_assignment(self.run, f"{task}.{length}.{arm.policy}", same.index(arm), arm)
        raise UnsupportedError(f"the run {self.run.manifest.id} has no arm {arm.label!r}.")


def stage_outcomes(run: Run) -> dict[tuple[str, int], list[Outcome]]:
    """Everything that a policies run has measured, by task and the length that was asked for.

    Raises:
        RunError: if a record does not hold what it should.
    """
    found = dict[tuple[str, int], list[Outcome]]()
    for stage in run.records:
        if stage.startswith(f"{HEADS}."):
            continue
        try:
            task, length, _ = stage.split(".")
            for number, record in enumerate(run.record(stage)["outcomes"]):
                outcome = Outcome.from_record(record, run.tensor(stage, f"values{number}"))
                found.setdefault((task, int(length)), []).append(outcome)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise RunError(f"the run {run.manifest.id} cannot be read: the record {stage!r} ({reason}).") from None
    return found


def load_outcomes(run: Run) -> list[Outcome]:
    """The same in one list, in the order of the run's stages."""
    return [outcome for outcomes in stage_outcomes(run).values() for outcome in outcomes]


def _full(outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if outcome.arm.policy == FULL), None)


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
