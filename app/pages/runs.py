"""Runs: every run of the folder, what one of them holds, how it differs from a baseline, and deletion with undo."""

from __future__ import annotations

from collections.abc import Sequence

import dash_mantine_components as dmc
from dash import Dash, dcc, html
from dash.development.base_component import Component
from pydantic import Field

from app.frame.choices import run_label
from app.frame.exports import grid
from app.frame.page import Content, Page, Panel, empty
from app.frame.panels import panel_box, with_control
from app.frame.state import PageState
from app.pages.run_actions import register_run_actions, trash_line
from app.pages.run_details import details
from app.pages.run_list import count_text, current_runs
from app.site import Site, View
from app.views.run_table import folder_stamp, matching_runs, run_table
from app.views.setting_differences import difference_sentence, difference_table, setting_differences
from headscope.runs.index import RunSummary

_POLL_MS = 4000
_LONGEST_SHOWN = 30
_ONE_ROW = {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True}
_NO_RUNS = (
    "There are no runs in this folder yet. Start one on the page Jobs, or with headscope score MODEL in a terminal."
)


class RunsState(PageState):
    """What the page shows.

    Attributes:
        q: words that a run must hold to be listed.
        run: id of the selected run.
        pin: id of the run that others are compared with.
    """

    q: str = Field(default="", max_length=200)
    run: str = Field(default="", max_length=100)
    pin: str = Field(default="", max_length=100)


def _list(view: View, state: RunsState) -> Content:
    runs = current_runs(view.site)
    if not runs:
        return empty(_NO_RUNS)
    shown = matching_runs(runs, state.q)
    return Content(table=run_table(shown), caption=count_text(shown, len(runs)))


def _diff(view: View, state: RunsState) -> Content:
    if not state.pin:
        return empty("Pin a run as the baseline to see what differs between its settings and the selected run's.")
    if not state.run:
        return empty("Select a second run in the list.")
    if state.run == state.pin:
        return empty("The selected run is the baseline itself. Select another one in the list.")
    first, second = view.site.run(state.pin), view.site.run(state.run)
    found = setting_differences(first, second)
    head = html.Tr([html.Th(text, scope="col") for text in ("setting", "baseline", "selected")])
    rows = [
        html.Tr(
            [html.Th(each.name, scope="row"), *(html.Td(_cut(text), title=text) for text in (each.first, each.second))]
        )
        for each in found
    ]
    body = html.Table([html.Thead(head), html.Tbody(rows)], className="hs-table") if rows else None
    return Content(
        body=[html.P(difference_sentence(found), className="hs-finding"), *([body] if body else [])],
        table=difference_table(first, second, found),
        source=f"Baseline {first.manifest.id} · selected {second.manifest.id}. Times and file sizes are left out.",
    )


def _cut(text: str) -> str:
    """A hash or a long list by its beginning; the numbers have all of it."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _layout(site: Site, state: RunsState) -> list[Component]:
    runs = current_runs(site)
    table = html.Div(
        grid(
            "runs-grid",
            height=f"{min(max(len(runs), 4), 12) * 34 + 60}px",
            options={"rowSelection": _ONE_ROW, "rowHeight": 34, "tooltipShowDelay": 300},
            getRowId="params.data.id",
        ),
        className="hs-runs-grid",
    )
    listed = with_control(panel_box(PAGE, "list", tall=60), table)
    return [
        _controls(runs, state),
        html.Div(
            [
                html.Div([listed, html.Div(trash_line(site.root), id="runs-trash")], className="hs-stack"),
                html.Div(panel_box(PAGE, "details", tall=120), className="hs-seven"),
                html.Div(panel_box(PAGE, "diff", tall=120), className="hs-five"),
            ],
            className="hs-columns",
        ),
        dcc.Store(id=PAGE.id("run"), data=state.run),
        dcc.Store(id="runs-stamp", data=folder_stamp(site.root)),
        dcc.Store(id="runs-restore"),
        dcc.Interval(id="runs-clock", interval=_POLL_MS),
    ]


def _controls(runs: Sequence[RunSummary], state: RunsState) -> html.Div:
    baselines = [{"value": run.id, "label": run_label(run)} for run in runs if run.is_readable]
    if state.pin and state.pin not in {option["value"] for option in baselines}:
        baselines.append({"value": state.pin, "label": state.pin})
    return html.Div(
        [
            dmc.TextInput(
                id=PAGE.id("q"), label="Filter", value=state.q, debounce=300, className="hs-grow",
                placeholder="model, kind, status, date, seed=0, part of the id",
            ),
            dmc.Select(
                id=PAGE.id("pin"), label="Baseline (pinned run)", data=baselines, value=state.pin or None,
                clearable=True, searchable=True, placeholder="None", className="hs-grow",
            ),
            html.Button("Refresh", id="runs-refresh", type="button", className="hs-button"),
        ],
        className="hs-controls",
    )  # fmt: skip


def _register(app: Dash, page: Page) -> None:
    register_run_actions(app, page)


PAGE = Page(
    name="runs",
    title="Runs",
    path="/",
    summary="Every run of the folder: what was measured, with which settings, and whether it is whole.",
    state=RunsState,
    layout=_layout,
    panels=(
        Panel("list", "All runs", ("q",), _list, has_figure=False),
        Panel("details", "Selected run", ("run",), details, has_figure=False),
        Panel("diff", "Differences from the baseline", ("run", "pin"), _diff, has_figure=False),
    ),
    props={"run": "data"},
    register=_register,
    is_wide=True,
)
