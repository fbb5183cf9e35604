"""The tables of a policies run as text: what the terminal prints and the report lays out."""

from __future__ import annotations

from app.views.numbers import MISSING, interval, percent, signed
from app.views.policies import PolicyRun
from app.views.policy_points import AXES, MEASURES, REGIMES, Axis, curve_title, decimals_for
from app.views.policy_tables import (
    COUNTED,
    by_regime,
    draws_text,
    least_text,
    left_out_text,
    sure_text,
    title_text,
    value_texts,
)
from app.views.policy_verdicts import Verdict, pareto_front, verdicts_of
from app.views.tables import TextTable


def policy_tables(found: PolicyRun) -> list[TextTable]:
    """Every table of a policies run for the terminal, of the stages that are in."""
    made = list[TextTable]()
    for task in found.tasks:
        for length in found.lengths(task):
            made.append(points_text(found, task, length))
            made += [verdict_text(found, task, length, axis) for axis in AXES if axis != "flops"]
    return [table for table in made if table.rows]


def points_text(found: PolicyRun, task: str, length: int) -> TextTable:
    """The points of a task, in the order of the run."""
    front = pareto_front(found, task, length, "bytes")
    measure = MEASURES[found.measure(task)]
    columns = ("policy", "setting", "bytes", "keys", "operations", measure, "95 % interval", "change",
               "95 % interval of it", "draws", "front")  # fmt: skip
    rows = tuple(
        (
            curve_title(point.arm),
            point.setting,
            *(percent(point.shares[axis]) for axis in AXES),
            *value_texts(point)[::-1],
            signed(point.change, decimals_for(point.value)),
            interval(point.change_low, point.change_high, decimals_for(point.value))
            if point.change == point.change
            else MISSING,
            draws_text(point),
            "yes" if point in front else "",
        )
        for point in found.points(task, length)
    )
    note = f"{COUNTED} Front: saves bytes, does better than random heads as small, and no other is better with as few."
    return TextTable(title_text(found, task, length), columns, rows, frozenset(columns[2:-2]), note)


def verdict_text(found: PolicyRun, task: str, length: int, axis: Axis) -> TextTable:
    """The verdicts of a task."""
    measure = MEASURES[found.measure(task)]
    columns = ("policy", "least", "setting", measure, "95 % interval", "by interval", "acts")
    groups = by_regime(verdicts_of(found, task, length, axis), axis)
    rows = tuple(_verdict_text(found, one, axis) for own in groups.values() for one in own)
    return TextTable(
        least_text(found, task, length, axis),
        columns, rows, frozenset({"least", measure, "95 % interval", "by interval"}),
        f"{left_out_text(found, task, length, axis)}By interval: where the 95 % interval of the paired change from the "
        "full cache stays within the bar too. Only the settings of this run were tried.",
    )  # fmt: skip


def _verdict_text(found: PolicyRun, one: Verdict, axis: Axis) -> tuple[str, ...]:
    point = one.smallest
    sure, acts = sure_text(one, axis), REGIMES[one.regime]
    if point is None:
        return (found.title(one.curve), "none", "", "", "", sure, acts)
    ends, value = value_texts(point)
    return (found.title(one.curve), percent(point.shares[axis]), point.setting, value, ends, sure, acts)
