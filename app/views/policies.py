"""A policies run as its pages read it: bytes against accuracy, curve by curve, and which heads kept everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from app.views.policy_heads import Assignment, read_assignment
from circuits.policies.arms import RANDOM, SEARCHED
from circuits.policies.catalog import POLICIES
from circuits.policies.results import Arm, Outcome, Regime
from headscope.errors import RunError, UnsupportedError
from headscope.runs.reading import Run
from headscope.statistics import bootstrap_scalar

KIND, HEADS = "policies", "heads"
FULL = "full"
Axis = Literal["bytes", "keys", "flops"]
Measure = Literal["accuracy", "exact", "loss"]
MEASURES: Mapping[Measure, str] = {"accuracy": "accuracy", "exact": "share of exact answers", "loss": "loss"}
"""What an answer takes: bytes kept, keys attended, or operations of attention."""
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
_KEEPS, _WITHIN = 0.95, 0.01
_EDGE = 1e-9
"""Means of the same numbers in another order differ in their last digits."""


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

    @property
    def curve(self) -> str:
        """The curve that it belongs to, as `curve_key` calls it."""
        return curve_key(self.arm)

    @property
    def setting(self) -> str:
        """Where on its curve it stands, in words."""
        return setting_text(self.arm)


@dataclass(frozen=True)
class Verdict:
    """The point of a curve that takes least and does as well as the full cache, or nearly.

    Attributes:
        curve: the curve.
        smallest: the point that takes least of those whose mean reaches the bar, or None.
        sure: the same, where the interval of the paired change stays on the bar's good side too.
        bar: 95 % of the full cache's accuracy or share of exact answers, or 101 % of its loss.
    """

    curve: str
    smallest: Point | None
    sure: Point | None
    bar: float


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
            self._points[key] = tuple(_point(group, _full(own)) for group in _groups(own))
        return self._points[key]

    def arms(self, task: str, length: int) -> list[tuple[Outcome, Point]]:
        """Every arm of a task and its own point: each random assignment by itself."""
        own = self.outcomes(task, length)
        return [(outcome, _point([outcome], _full(own))) for outcome in own]

    def front(self, task: str, length: int, axis: Axis) -> tuple[Point, ...]:
        """The points that no other point beats: none is as small and better, or smaller and as good."""
        points, sign = self.points(task, length), _sign(self.measure(task))
        return tuple(
            one for one in points if not any(_beats(other, one, axis, sign) for other in points if other is not one)
        )

    def verdicts(self, task: str, length: int, axis: Axis = "bytes") -> tuple[Verdict, ...]:
        """A verdict for each curve that takes less than the full cache anywhere.

        None where the full cache has not been run or gets nothing right.
        """
        full, measure = self.full(task, length), self.measure(task)
        if full is None or not full.value > 0:
            return ()
        bar = _KEEPS * full.value if measure != "loss" else (1 + _WITHIN) * full.value
        points = sorted(self.points(task, length), key=lambda point: point.shares[axis])
        found = list[Verdict]()
        for curve in self.curves:
            own = [one for one in points if one.curve == curve]
            if not own or own[0].shares[axis] >= 1 - _EDGE:
                continue
            enough = [one for one in own if _reaches(one.value, bar, measure)]
            sure = [one for one in enough if _reaches(_worse_end(one, measure), bar - full.value, measure)]
            found.append(Verdict(curve, next(iter(enough), None), next(iter(sure), None), bar))
        return tuple(found)

    def bar(self, task: str, length: int) -> float | None:
        """What counts as nearly as good as the full cache; None where there are no verdicts."""
        return next((one.bar for axis in AXES for one in self.verdicts(task, length, axis)), None)

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


def _full(outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if outcome.arm.policy == FULL), None)


def _groups(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Outcomes that are one point: random draws of the same share together."""
    found = dict[tuple[Any, ...], list[Outcome]]()
    for place, outcome in enumerate(outcomes):
        arm = outcome.arm
        key = (curve_key(arm), arm.share, arm.budget) if arm.rule == RANDOM else (place,)
        found.setdefault(tuple(map(str, key)), []).append(outcome)
    return list(found.values())


def _point(group: Sequence[Outcome], full: Outcome | None) -> Point:
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


def _sign(measure: Measure) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if measure == "loss" else 1


def _beats(other: Point, one: Point, axis: Axis, sign: int) -> bool:
    smaller = one.shares[axis] - other.shares[axis]
    better = sign * (other.value - one.value)
    return smaller >= -_EDGE and better >= -_EDGE and (smaller > _EDGE or better > _EDGE)


def _reaches(value: float, bar: float, measure: Measure) -> bool:
    return _sign(measure) * (value - bar) >= -_EDGE


def _worse_end(point: Point, measure: Measure) -> float:
    return point.change_high if measure == "loss" else point.change_low
