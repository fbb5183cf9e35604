"""The panels about a policies run: bytes against accuracy, the smallest cache, the heads that keep everything."""

from __future__ import annotations

from typing import Any

from dash import html

from app.figures.policies import assignment_figure, pareto_figure
from app.frame.exports import grid
from app.frame.page import Content, empty
from app.pages.policies_state import Chosen, PoliciesState, choose, chosen_arm, judged_run
from app.site import View
from app.views.numbers import fixed, interval, percent
from app.views.policy_heads import assignment_table
from app.views.policy_points import AXES, MEASURES, REGIMES, Axis, decimals_for
from app.views.policy_tables import (
    COUNTED,
    LEAST,
    arm_table,
    bar_text,
    by_regime,
    kind_table,
    left_out_text,
    point_table,
    shown_arms,
    sure_text,
    title_text,
    verdict_table,
)
from app.views.policy_verdicts import Verdict, bar_of, pareto_front, verdicts_of
from app.views.policy_words import assignment_text, regime_text, verdict
from app.views.source import source_line
from app.views.table import Cell, Table
from app.views.tables import incomplete_banner
from circuits.policies.results import Regime

_AXIS_NOTES: dict[Axis, str] = {
    "bytes": COUNTED,
    "keys": "Keys are counted over the rows on which a policy acts.",
    "flops": "Operations of attention, choosing keys included, over the rows on which a policy acts.",
}
_REGIMES: dict[Axis, str] = {
    "bytes": "A policy that acts after the prompt reads it with a full cache: that is its peak.",
    "keys": "Compare only policies that act from the same token on.",
    "flops": "Compare only policies that act from the same token on.",
}
_LEAST: dict[Axis, str] = {"bytes": "Bytes kept", "keys": "Keys attended", "flops": "Operations"}
_NARROW, _WIDE = 106, 300


def source_of(chosen: Chosen) -> str:
    """Where the numbers of a panel come from."""
    n = f"n = {chosen.points[0].n} prompts" if chosen.points else "no prompts"
    return f"{chosen.task}, {chosen.length} tokens: {n} · {source_line(chosen.found.run)}"


def short(view: View, state: PoliciesState) -> Content:
    chosen = choose(view.site, state)
    said = verdict(chosen.found, chosen.task, chosen.length, state.axis) or "The full cache has not been run yet."
    body = [html.P(said, className="hs-finding")]
    if banner := incomplete_banner(chosen.found.run):
        body.insert(0, html.P(banner, className="hs-refused"))
    return Content(body=body, source=source_of(chosen))


def pareto(view: View, state: PoliciesState) -> Content:
    chosen = choose(view.site, state)
    found, task, length = chosen.found, chosen.task, chosen.length
    curves = {curve: [point for point in chosen.points if point.curve == curve] for curve in chosen.curves}
    front = pareto_front(found, task, length, state.axis)
    figure = pareto_figure(
        {curve: points for curve, points in curves.items() if points},
        order=found.curves, measure=found.measure(task), over=state.axis, full=found.full(task, length),
        bar=bar_of(found, task, length), front=front,
    )  # fmt: skip
    here = len({point.curve for point in chosen.points}) - 1
    left = f" Drawn: {len(curves)} of {here} curves; choose them above." if len(curves) < here else ""
    return Content(
        figure,
        table=point_table(found, task, length, state.axis),
        summary=f"{AXES[state.axis].capitalize()} against {MEASURES[found.measure(task)]}. "
        f"{title_text(found, task, length)}. {verdict(found, task, length, state.axis)}",
        caption=f"Bars: 95 % bootstrap over n = {chosen.points[0].n} prompts.{left} "
        f"{regime_text(point for points in curves.values() for point in points)} {_AXIS_NOTES[state.axis]}",
        source=source_of(chosen),
    )


def smallest(view: View, state: PoliciesState) -> Content:
    chosen = choose(view.site, state)
    found, task, length, axis = chosen.found, chosen.task, chosen.length, state.axis
    verdicts, left = verdicts_of(found, task, length, axis), left_out_text(found, task, length, axis)
    if not verdicts:
        return empty(verdict(found, task, length, axis) or left or "The full cache has not been run on this task yet.")
    names = ("Policy", _LEAST[axis], MEASURES[found.measure(task)].capitalize(), "By interval")
    head = html.Thead(html.Tr([html.Th(name, scope="col", className="policies-wrap") for name in names]))
    parts = list[Any]()
    for regime, own in by_regime(verdicts, axis).items():
        parts.append(html.Tbody([*_regime_row(regime, len(names)), *(_verdict_row(chosen, one, axis) for one in own)]))
    return Content(
        body=html.Div(html.Table([head, *parts], className="hs-table"), className="policies-wide"),
        table=verdict_table(found, task, length, axis),
        caption=f"{LEAST[axis]} {bar_text(found, task)}, of the settings that were tried (n = {chosen.points[0].n}). "
        f"{left}By interval: where the 95 % interval of the paired change stays within that bar too; where all prompts "
        f"agree, an exact bound takes its place (with n = {chosen.points[0].n} up to "
        f"{percent(1 - 0.025 ** (1 / chosen.points[0].n))} of others may differ). {_REGIMES[axis]}",
        source=source_of(chosen),
    )


def _verdict_row(chosen: Chosen, one: Verdict, axis: Axis) -> html.Tr:
    point = one.smallest
    cells: list[Any] = [html.Th(chosen.found.title(one.curve), scope="row")]
    if point is None:
        cells += [html.Td("none"), html.Td("")]
    else:
        decimals = decimals_for(point.value)
        ends = html.Span(interval(point.low, point.high, decimals), className="policies-ends")
        where = html.Span(point.setting, className="policies-ends")
        cells += [html.Td([percent(point.shares[axis]), where]), html.Td([fixed(point.value, decimals), ends])]
    cells.append(html.Td(sure_text(one, axis)))
    return html.Tr(cells)


def _regime_row(regime: Regime | None, width: int) -> list[html.Tr]:
    """A heading for policies that act from the same token on; none where all can be compared."""
    if regime is None:
        return []
    return [html.Tr(html.Th(f"Acting {REGIMES[regime]}", colSpan=width, scope="rowgroup"))]


def heads(view: View, state: PoliciesState) -> Content:
    found = judged_run(view.site, state)
    arm = chosen_arm(found, state)
    if arm is None:
        return empty(
            "No policy of this run keeps some heads whole and cuts the others short. Such are duo, razor and lserve."
        )
    assignment = found.assignment(arm)
    told = assignment_text(assignment)
    return Content(
        assignment_figure(assignment),
        table=assignment_table(found.run, assignment),
        summary=f"Key/value heads by layer. {told}",
        caption=told,
        source=source_line(found.run, assignment.scores),
    )


def arms(view: View, state: PoliciesState) -> Content:
    chosen = choose(view.site, state)
    table = arm_table(chosen.found, chosen.task, chosen.length)
    measured = title_text(chosen.found, chosen.task, chosen.length)
    return Content(
        body=_grid("policies-arms-table", shown_arms(chosen.found, chosen.task, chosen.length)),
        table=table,
        caption=f"{len(table.rows)} arms, each random draw by itself. {measured}. Change: from the full cache on the "
        f"same prompts, with its paired 95 % interval. {COUNTED}",
        source=source_of(chosen),
    )


def kinds(view: View, state: PoliciesState) -> Content:
    found = judged_run(view.site, state)
    table = kind_table(found)
    return Content(
        body=html.Dl([_kind(row) for row in table.records()], className="policies-kinds"),
        table=table,
        caption="All are run on the model as it is, without training it.",
        source=source_line(found.run),
    )


def _kind(row: dict[str, Cell]) -> html.Div:
    note = f" Differs from its source: {row['note']}." if row["note"] else ""
    told = f"{_sentence(str(row['summary']))} {_sentence(str(row['family']))}{note} "
    name = html.Dt([html.Strong(row["policy"]), html.Code(row["name"])])
    return html.Div([name, html.Dd([told, _source(row["source"])])])


def _source(source: object) -> html.Span:
    return html.Span(f"{source}.", className="hs-soft")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _grid(grid_id: str, table: Table) -> Any:
    """All rows: a wide first column, narrow numbers whose headings wrap."""
    made: Any = grid(grid_id, table=table, height="420px")
    for column, found in zip(table.columns, made.columnDefs, strict=True):
        found |= {"wrapHeaderText": True, "autoHeaderHeight": True, "minWidth": _NARROW, "filter": False}
        found |= {"headerTooltip": column.meaning or column.title}
    made.columnDefs[0] |= {"minWidth": _WIDE, "pinned": "left", "filter": True}
    made.columnDefs[1] |= {"minWidth": 250}
    return made
