"""Patterns at length: where a head looks in thousands of tokens, and which heads carry a needle."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from app.frame.choices import open_quietly, run_select
from app.frame.elsewhere import unless_variants
from app.frame.page import Page, Panel
from app.frame.panels import panel_box
from app.pages import pattern_panels as panels
from app.pages.patterns_state import PatternsState, default_head, for_stage, newest_inspection
from app.site import Site, current_site
from app.views.long_pattern import GRID, LONG
from headscope.errors import HeadscopeError
from headscope.heads import Head
from headscope.runs.captures import CAPTURE
from headscope.runs.index import RunSummary
from headscope.runs.reading import Run

_POOLINGS = [
    {"value": "max", "label": "Max"},
    {"value": "mean", "label": "Mean"},
    {"value": "sum", "label": "Sum"},
]


def _is_inspection(run: RunSummary) -> bool:
    return run.kind == "inspect"


def _head_options(run: Run | None) -> list[dict[str, Any]]:
    """All heads; those whose pattern was kept first."""
    if run is None:
        return []
    try:
        record = run.record(LONG)
    except HeadscopeError:
        record = {}
    kept: list[str] = record.get(CAPTURE, {}).get("heads", [])
    model = run.manifest.model
    every = [str(Head(layer, head)) for layer in range(model.n_layers) for head in range(model.n_heads)]
    groups = (("Pattern kept", kept), ("Mass by key only", [label for label in every if label not in set(kept)]))
    return [{"group": title, "items": labels} for title, labels in groups if labels]


def _shape(run: Run | None) -> dict[str, Any]:
    model = run.manifest.model if run is not None else None
    return {"data-layers": str(model.n_layers if model else 0), "data-heads": str(model.n_heads if model else 0)}


def _layout(site: Site, state: PatternsState) -> list[Component]:
    run_id = newest_inspection(site, state.run)
    run = open_quietly(site, run_id)
    head = state.head or default_head(run)
    options = _head_options(run)
    if options and head not in [label for group in options for label in group["items"]]:
        options.append({"group": "Not in this model", "items": [head]})
    controls = html.Div(
        [
            run_select(PAGE, site, run_id, suits=_is_inspection),
            dmc.Select(id=PAGE.id("head"), label="Head", data=options, value=head, searchable=True, allowDeselect=False,
                       w=130, limit=200),
            html.Div([html.Span("Cells of a bin", className="mantine-InputWrapper-label"),
                      dmc.SegmentedControl(id=PAGE.id("pooling"), value=state.pooling, size="xs", data=_POOLINGS)]),
            dmc.Switch(id=PAGE.id("log"), label="Logarithmic", checked=state.log, size="sm"),
            html.Button("Whole text", type="button", id="patterns-whole", className="hs-button",
                        title="Leave the zoom"),
        ],
        className="hs-controls",
    )  # fmt: skip
    right = [panel_box(PAGE, "columns"), panel_box(PAGE, "sinks"), panel_box(PAGE, "carriers")]
    parts: list[Component] = [
        controls,
        dcc.Store(id=PAGE.id("rows"), data=list(state.rows)),
        dcc.Store(id=PAGE.id("keys"), data=list(state.keys)),
        html.Div(
            [
                html.Div([panel_box(PAGE, "map", tall=620), panel_box(PAGE, "needles", tall=420)],
                         className="hs-seven hs-stack"),
                html.Div(right, className="hs-five hs-stack"),
            ],
            className="hs-columns", id="patterns-walk", **_shape(run),
        ),
    ]  # fmt: skip
    return parts


def _register(app: Dash, page: Page) -> None:
    window = [Output(page.id(name), "data", allow_duplicate=True) for name in ("rows", "keys")]
    app.clientside_callback(
        ClientsideFunction("headscope_patterns", "zoomed"),
        *window,
        Input(f"{page.id('map')}-graph", "relayoutData"),
        State(page.id("rows"), "data"),
        State(page.id("keys"), "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("headscope_patterns", "whole"),
        *window,
        Input("patterns-whole", "n_clicks"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output(page.id("head"), "data"),
        Output(page.id("head"), "value"),
        Output(page.id("rows"), "data"),
        Output(page.id("keys"), "data"),
        Output("patterns-walk", "data-layers"),
        Output("patterns-walk", "data-heads"),
        Input(page.id("run"), "value"),
        prevent_initial_call=True,
    )
    def _(run_id: str | None) -> Any:
        run = open_quietly(current_site(), run_id or "")
        shape = _shape(run)
        return _head_options(run), default_head(run), [], [], shape["data-layers"], shape["data-heads"]


_HEAD = ("run", "head")

PAGE = Page(
    name="patterns",
    first="map",
    title="Patterns",
    path="/patterns",
    summary="Where heads look in thousands of tokens, and which of them find the needle.",
    state=PatternsState,
    layout=_layout,
    panels=unless_variants(
        (
            Panel("map", "Pattern", (*_HEAD, "pooling", "log", "rows", "keys"), for_stage(panels.pattern, LONG)),
            Panel("columns", "Mass by key", (*_HEAD, "log"), for_stage(panels.columns, LONG)),
            Panel("sinks", "Strongest keys", _HEAD, for_stage(panels.sinks, LONG), has_figure=False),
            Panel("needles", "Needles by length and depth", _HEAD, for_stage(panels.needles, GRID)),
            Panel(
                "carriers",
                "Which heads carry the needle",
                _HEAD,
                for_stage(panels.carriers, GRID, LONG),
                has_figure=False,
            ),
        )
    ),
    props={"log": "checked", "rows": "data", "keys": "data"},
    register=_register,
    is_wide=True,
)
