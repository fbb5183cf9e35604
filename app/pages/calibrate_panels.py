"""The panels about a calibrate run: did it help, where sinks sit, which heads were chosen, one before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html
from dash.development.base_component import Component

from app.figures.calibration import change_figure, sink_bars_figure
from app.figures.calibration_maps import before_after_figure, colour_top, head_maps_figure
from app.frame.choices import run_select
from app.frame.exports import grid
from app.frame.page import Content, Page, Panel, cannot, empty
from app.frame.panels import panel_box
from app.pages.policies_state import PoliciesState
from app.site import Site, View, current_site
from app.views import calibration_tables as tables
from app.views.calibration import KIND, CalibrationRun
from app.views.calibration_maps import chosen_maps, sink_maps
from app.views.calibration_sinks import class_rows
from app.views.calibration_words import (
    ALIKE,
    LAST_TOKENS,
    agreement_text,
    before_after_text,
    means_over_sets,
    overall,
    seeds_text,
    set_verdict,
    settings_text,
    sinks_text,
    tokens_note,
)
from app.views.numbers import fixed
from app.views.source import source_line
from app.views.tables import incomplete_banner
from headscope.errors import HeadscopeError, UnsupportedError
from headscope.runs.index import RunSummary

MAKE_ONE = "headscope calibrate smollm2 --sets sentiment,topic"
"""The command that makes a run for these panels."""
_NARROW = 92


def suits(run: RunSummary) -> bool:
    """Whether the panels can show a run."""
    return run.kind == KIND


def calibration_run(site: Site, run_id: str) -> CalibrationRun:
    """The run, read once as long as no stage is added.

    Raises:
        HeadscopeError: if there is no such run, or it is of another kind.
    """
    run = site.run(run_id)
    return site.remember((KIND, str(run.path), len(run.manifest.stages)), lambda: CalibrationRun(run))


def set_options(site: Site, run_id: str) -> list[dict[str, str]]:
    """The data sets to choose from; none where the run cannot be read."""
    try:
        names = calibration_run(site, run_id).planned_sets if run_id else ()
    except HeadscopeError:  # the panels say why
        return []
    return [{"value": name, "label": name} for name in names]


def controls(page: Page, site: Site, state: PoliciesState) -> html.Div:
    """The run and the data set that the panels show."""
    options = set_options(site, state.calibration)
    if state.set and state.set not in [one["value"] for one in options]:
        options.append({"value": state.set, "label": state.set[:60]})
    return html.Div(
        [
            run_select(page, site, state.calibration, name="calibration", label="Calibration run", suits=suits),
            dmc.Select(
                id=page.id("set"), label="Data set", data=options, value=state.set or None, clearable=True,
                placeholder="all data sets", w=190,
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def register(app: Dash, page: Page) -> None:
    """Another run brings its own data sets."""

    @app.callback(
        Output(page.id("set"), "data"),
        Output(page.id("set"), "value"),
        Input(page.id("calibration"), "value"),
        State(page.id("set"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, chosen: str | None) -> Any:
        options = set_options(current_site(), run or "")
        return options, chosen if chosen in [one["value"] for one in options] else None


def boxes(page: Page) -> list[Component]:
    """The panels' boxes, for the columns of a page that has them."""
    return [
        panel_box(page, "act-short", tall=60),
        html.Div(panel_box(page, "act-change", tall=480), className="hs-seven"),
        html.Div(panel_box(page, "act-sinks", tall=360), className="hs-five"),
        panel_box(page, "act-pattern", tall=560),
        panel_box(page, "act-places", tall=360),
        panel_box(page, "act-chosen", tall=360),
        panel_box(page, "act-arms", tall=420),
    ]


def short(found: CalibrationRun, name: str) -> Content:
    if not found.sets:
        return empty(found.missing())
    items = [html.Li(set_verdict(found, one)) for one in found.sets if name in ("", one)]
    body: list[Any] = [html.P(overall(found), className="hs-finding"), html.Ul(items)]
    if banner := incomplete_banner(found.run):
        body.insert(0, html.P(banner, className="hs-refused"))
    return Content(body=body, caption=f"{settings_text(found)} {seeds_text(found)}", source=source_line(found.run))


def change(found: CalibrationRun, name: str) -> Content:
    if not found.sets:
        return empty(found.missing())
    shown = [one for one in found.sets if name in ("", one)]
    means = None if name else means_over_sets(found)
    return Content(
        change_figure({one: found.effects(one) for one in shown}, means),
        table=tables.effect_table(found, name),
        summary=f"Change of accuracy on each data set, arm by arm. {overall(found)}",
        caption=f"Bars: 95 % bootstrap over items; ticks: single random draws. Right of the line is better. {ALIKE}",
        source=source_line(found.run),
    )


def arms(found: CalibrationRun, name: str) -> Content:
    if not found.sets:
        return empty(found.missing())
    table = tables.effect_table(found, name)
    made: Any = grid("policies-act-arms-table", table=table, height="420px")
    for column, one in zip(table.columns, made.columnDefs, strict=True):
        one |= {"wrapHeaderText": True, "autoHeaderHeight": True, "minWidth": _NARROW, "filter": False}
        one |= {"headerTooltip": column.meaning or column.title}
    for place, wide in ((0, 1.4), (2, 2)):
        made.columnDefs[place] |= {"minWidth": round(wide * _NARROW)}
    return Content(body=made, table=table, caption=f"{seeds_text(found)} {ALIKE}", source=source_line(found.run))


def sinks(found: CalibrationRun, name: str) -> Content:
    if not found.sinks:
        return empty(found.missing())
    return Content(
        sink_bars_figure(class_rows(found, name)),
        table=tables.class_table(found, name),
        summary=f"Attention on sinks by kind of place and class of heads. {sinks_text(found, name)}",
        caption=f"{sinks_text(found, name)} A head that looks at the token itself has sinks among the last tokens, "
        f"which few rows see.{tokens_note(found)}",
        source=source_line(found.run),
    )


def places(found: CalibrationRun, name: str) -> Content:
    if not found.sinks:
        return empty(found.missing())
    return Content(
        head_maps_figure(sink_maps(found, name)),
        table=tables.sink_head_table(found, name),
        summary="Share of each head's attention on sinks of each kind of place, by layer and head.",
        caption="Share of attention on sinks of each kind of place; the colours of each map end at its own largest.",
        source=source_line(found.run),
    )


def pattern(found: CalibrationRun, name: str) -> Content:
    if not found.sinks:
        return empty(found.missing())
    name = found.known_set(name)
    shown = found.sinks[name].shown
    told = before_after_text(found, name)
    return Content(
        before_after_figure(shown),
        table=tables.pattern_table(found, shown),
        summary=f"Attention before and after calibration. {told}",
        caption=f"{told} The head is the first that was chosen there; where none was, the one with most on its later "
        f"sinks. Colours follow the square root and end at {fixed(colour_top(shown))}, the largest weight off the "
        f"first token. {LAST_TOKENS}",
        source=source_line(found.run),
    )


def chosen(found: CalibrationRun, name: str) -> Content:
    if not found.sets:
        return empty(found.missing())
    maps = [one for one in chosen_maps(found) if name in ("", one.title)]
    if not maps:
        return empty(found.missing())
    return Content(
        head_maps_figure(maps),
        table=tables.chosen_table(found),
        summary=f"Which heads were chosen on each data set. {agreement_text(found)}",
        caption=f"Colour: share of the seeds with which a head was chosen, 0 to 1. {agreement_text(found)}",
        source=source_line(found.run),
    )


def _guarded(build: Callable[[CalibrationRun, str], Content]) -> Callable[[View, PoliciesState], Content]:
    """A panel that says in its own words what it cannot show."""

    def whole(view: View, state: PoliciesState) -> Content:
        if not state.calibration:
            return empty(f"Choose a run of kind calibrate. One is made by: {MAKE_ONE}")
        try:
            found = calibration_run(view.site, state.calibration)
            return build(found, found.known_set(state.set) if state.set else "")
        except UnsupportedError as error:
            return cannot(f"{str(error)[:1].upper()}{str(error)[1:]}")

    return whole


def _panel(name: str, heading: str, build: Callable[[CalibrationRun, str], Content], **options: Any) -> Panel:
    return Panel(f"act-{name}", heading, ("calibration", "set"), _guarded(build), **options)


PANELS = (
    _panel("short", "Calibration in short", short, has_figure=False, has_table=False),
    _panel(
        "change", "Did it help?", change,
        help="ACT weakens attention sinks. Each arm is compared with the model as it is, item by item, on items that "
        "no head was chosen on.",
    ),
    _panel("arms", "Results of every arm", arms, has_figure=False),
    _panel(
        "sinks", "Where sinks sit", sinks,
        help="A sink is a token whose mean attention, from the rows that can see it, exceeds the bound.",
    ),
    _panel("places", "Sinks by head", places),
    _panel("pattern", "Before and after", pattern),
    _panel("chosen", "Which heads were chosen", chosen),
)  # fmt: skip
