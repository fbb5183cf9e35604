"""A policies run as its pages read it: bytes against accuracy, curve by curve, and which heads kept everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from app.views.policy_heads import Assignment, read_assignment
from app.views.policy_outcomes import stage_outcomes
from app.views.policy_points import FULL, Measure, Point, curve_key, curve_title, make_point, point_groups
from circuits.policies.arms import RANDOM
from circuits.policies.results import Arm, Outcome
from headscope.errors import UnsupportedError
from headscope.runs.reading import Run

KIND = "policies"


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


def _full(outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if outcome.arm.policy == FULL), None)
