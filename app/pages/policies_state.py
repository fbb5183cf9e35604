"""The state of the page Calibrate and policies, and what it means for one policies run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from app.frame.page import Content, cannot, empty
from app.frame.state import PageState
from app.site import Site, View
from app.views.policies import KIND, PolicyRun
from app.views.policy_points import Axis, Point
from app.views.policy_verdicts import shown_arm, shown_first
from circuits.policies.results import Arm
from headscope.errors import HeadscopeError, UnknownNameError, UnsupportedError
from headscope.runs.index import RunSummary

MAKE_ONE = "headscope policies smollm2"
"""The command that makes a run for this page."""
MOST_CURVES = 9
_TYPICAL_SHARE = 0.25


class PoliciesState(PageState):
    """What the page shows.

    Attributes:
        run: id of the policies run.
        task: task; empty means the first of the run.
        length: prompt length; None means the longest of the task.
        axis: what the horizontal axis of the curves is.
        curves: curves that are drawn; empty means all, or the best where there are too many.
        rule: how the heads on the map were chosen, ``random 2`` for the second draw; empty means that of the verdict.
        share: share of key/value heads on the map that keep everything; None means that of the verdict,
            or the one nearest to a quarter.
        calibration: id of the calibrate run.
        set: data set of the calibrate run that is shown; empty means all, or the first.
    """

    run: str = Field(default="", max_length=100)
    task: str = Field(default="", max_length=60)
    length: int | None = Field(default=None, ge=1, le=10_000_000)
    axis: Axis = "bytes"
    curves: tuple[str, ...] = Field(default=(), max_length=60)
    rule: str = Field(default="", max_length=60)
    share: float | None = Field(default=None, ge=0, le=1)
    calibration: str = Field(default="", max_length=100)
    set: str = Field(default="", max_length=100)


@dataclass(frozen=True)
class Chosen:
    """A state on its run.

    Attributes:
        found: the run.
        task: the task shown.
        length: the prompt length shown.
        points: every point of that task, the full cache first.
        curves: the curves drawn.
    """

    found: PolicyRun
    task: str
    length: int
    points: tuple[Point, ...]
    curves: tuple[str, ...]


class NotYetError(HeadscopeError):
    """Nothing of it is in."""


def suits(run: RunSummary) -> bool:
    """Whether the page can show a run's policies."""
    return run.kind == KIND


def policy_run(site: Site, run_id: str) -> PolicyRun:
    """The run, read once.

    Raises:
        UnsupportedError: if it is of another kind.
        HeadscopeError: if it cannot be opened.
    """
    run = site.run(run_id)
    if run.manifest.kind != KIND:
        raise UnsupportedError(
            f"the run {run.manifest.id} is of kind {run.manifest.kind}, not {KIND}. One is made by: {MAKE_ONE}"
        )
    return site.remember((KIND, str(run.path), len(run.manifest.stages)), lambda: PolicyRun(run))


def quietly(site: Site, run_id: str) -> PolicyRun | None:
    """The run for the controls, or None: the panels say why."""
    try:
        found = policy_run(site, run_id) if run_id else None
        return found if found is not None and found.tasks else None
    except HeadscopeError:
        return None


def judged_run(site: Site, state: PoliciesState) -> PolicyRun:
    """The run of the state, with at least one task in it.

    Raises:
        NotYetError: if no task is in yet.
        HeadscopeError: if it cannot be opened or is of another kind.
    """
    found = policy_run(site, state.run)
    if not found.tasks:
        raise NotYetError(
            "No policy of this run has been judged yet: it is unfinished or goes on. Where it was stopped, go on with "
            f"it: headscope policies --resume {found.run.manifest.id}"
        )
    return found


def choose(site: Site, state: PoliciesState) -> Chosen:
    """What the state means.

    Raises:
        NotYetError: if no task is in yet.
        HeadscopeError: if the run has no such task, length or curve.
    """
    found = judged_run(site, state)
    task = state.task or found.tasks[0]
    if task not in found.tasks:
        raise UnknownNameError.of("task of this run", task, found.tasks)
    length = state.length or found.lengths(task)[-1]
    if length not in found.lengths(task):
        lengths = ", ".join(map(str, found.lengths(task)))
        raise UnknownNameError(f"{task} was not run on {length} tokens; lengths of this run: {lengths}.")
    for curve in state.curves:
        if curve not in found.curves:
            raise UnknownNameError.of("curve of this run", curve, found.curves)
    curves = state.curves or shown_first(found, task, length, state.axis, MOST_CURVES)
    return Chosen(found, task, length, found.points(task, length), curves)


def rule_key(arm: Arm) -> str:
    """What the address calls the way an arm's heads were chosen: ``retrieval``, ``random 2``."""
    return arm.rule if arm.draw < 0 else f"{arm.rule} {arm.draw + 1}"


def chosen_arm(found: PolicyRun, state: PoliciesState) -> Arm | None:
    """The arm whose heads the map shows; None where no policy of the run treats heads apart.

    Raises:
        UnknownNameError: if the run has no such rule or share.
    """
    arms = found.assignments
    if not arms:
        return None
    rules = list(dict.fromkeys(map(rule_key, arms)))
    shown = None if state.rule else _of_verdict(found, state)
    if shown is not None and (state.share is None or abs(shown.share - state.share) < 1e-9):
        return shown
    rule = state.rule or rules[0]
    if rule not in rules:
        raise UnknownNameError.of("rule of this run", rule, rules)
    own = [arm for arm in arms if rule_key(arm) == rule]
    if state.share is None:
        return min(own, key=lambda arm: abs(arm.share - _TYPICAL_SHARE))
    found_arm = next((arm for arm in own if abs(arm.share - (state.share or 0)) < 1e-9), None)
    if found_arm is None:
        shares = ", ".join(f"{arm.share:g}" for arm in own)
        raise UnknownNameError(f"no heads were chosen at a share of {state.share:g}; shares of this run: {shares}.")
    return found_arm


def _of_verdict(found: PolicyRun, state: PoliciesState) -> Arm | None:
    """The arm that the verdict on the state's task names, or the first task's where the state has none."""
    task = state.task if state.task in found.tasks else found.tasks[0]
    lengths = found.lengths(task)
    return shown_arm(found, task, state.length if state.length in lengths else lengths[-1])


def guarded(build: Callable[[View, PoliciesState], Content]) -> Callable[[View, PoliciesState], Content]:
    """A panel that says in its own words what it cannot show."""

    def whole(view: View, state: PoliciesState) -> Content:
        if not state.run:
            return empty(f"Choose a run of kind policies. One is made by: {MAKE_ONE}")
        try:
            return build(view, state)
        except NotYetError as error:
            return empty(str(error))
        except UnsupportedError as error:
            return cannot(f"{str(error)[:1].upper()}{str(error)[1:]}")

    return whole
