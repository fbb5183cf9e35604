"""Prompt lab: type a text, tick heads, and see at once what the model loses without them."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from app.frame.page import Page
from app.frame.panels import panel_box, with_control
from app.pages.lab_panels import ANSWER, PANELS
from app.pages.lab_pin import register_pin
from app.pages.lab_question import COMPARE, STOP, question, register_question
from app.pages.lab_state import (
    LabState,
    class_members,
    find_answer,
    is_asking,
    is_known_model,
    opening,
    resolved,
    score_run,
)
from app.site import Site, View

_SHADES = (("clean", "Loss"), ("ablated", "Loss, changed"), ("change", "Change"))


def _layout(site: Site, state: LabState) -> list[Component]:
    state = opening(site, state)
    stranger = "" if is_known_model(site, state.model) else state.model
    model = site.settings.model if stranger or not state.model else state.model
    state = state.model_copy(update={"model": model, "run": score_run(site, state.run, model)})
    members = class_members(site, state.run)
    if state.group in members and not state.heads:
        state = state.model_copy(update={"heads": tuple(members[state.group][: state.k])})
    strip = with_control(panel_box(PAGE, "strip", tall=180), _shade(state))
    following = with_control(panel_box(PAGE, "next", tall=480), _temperature(state))
    panels = [
        html.Div(panel_box(PAGE, "effect", tall=300), className="hs-third"),
        html.Div(following, className="hs-two-thirds"),
        html.Div(panel_box(PAGE, "attribution", tall=560), className="hs-half"),
        html.Div(panel_box(PAGE, "lens", tall=560), className="hs-half"),
        html.Div(panel_box(PAGE, "clean", tall=560), className="hs-half lab-attention"),
        html.Div(panel_box(PAGE, "ablated", tall=560), className="hs-half lab-attention"),
    ]
    return [
        *([_stranger(stranger)] if stranger else []),
        question(PAGE, site, state, members),
        _bar(),
        html.Div([strip, html.Div(panels, className="hs-columns")], id="lab-results", className="hs-stack"),
        *(dcc.Store(id=PAGE.id(name), data=getattr(state, name)) for name in ("pinned", "position", "random", "seed")),
    ]


def _stranger(model: str) -> html.Div:
    """Why the model that a link names is not loaded."""
    return html.Div(
        html.P(
            f"The link names the model {model[:100]!r}, which no run of this folder is of. A link loads no such "
            "model: type its name into the field Model if you want it."
        ),
        className="hs-refused",
        role="alert",
    )


def _bar() -> html.Div:
    """What the model is doing, and the buttons for its answer."""
    return html.Div(
        [
            html.P(className="hs-live"),
            html.Div("Waiting for the model.", id="lab-waiting", className="lab-saved", role="status"),
            html.Div(id="lab-saved", className="lab-saved", role="status"),
            html.Button("Ask again", id="lab-again", type="button", className="hs-button"),
            html.Button("Pin as a run", id="lab-pin", type="button", className="hs-button hs-main"),
        ],
        className="lab-bar",
    )


def _shade(state: LabState) -> html.Div:
    options = [{"value": value, "label": text} for value, text in _SHADES]
    control = dmc.SegmentedControl(id=PAGE.id("shade"), value=state.shade, size="xs", data=options)
    label: dict[str, Any] = {"aria-label": "What colours the tokens"}
    return html.Div(control, className="lab-shade", role="group", **label)


def _temperature(state: LabState) -> html.Div:
    return html.Div(
        [
            html.Label("Temperature", className="mantine-InputWrapper-label", id="lab-temperature-label"),
            dmc.Slider(
                id=PAGE.id("temperature"), min=0.1, max=3, step=0.1, value=state.temperature, w=220, size="sm",
                thumbLabel="Temperature of the table of next tokens", updatemode="drag",
                marks=[{"value": v, "label": str(v)} for v in (0.1, 1, 2, 3)],
            ),
        ],
        className="hs-row lab-temperature",
    )  # fmt: skip


def _prepare(view: View, state: LabState) -> None:
    state = resolved(view.site, state)
    if is_asking(state):
        find_answer(view, state, is_new=True)
        view.site.typed_models.add(state.model)


def _register(app: Dash, page: Page) -> None:
    register_question(app, page)
    register_pin(app, page)
    _register_waiting(app, page)
    _register_buttons(app, page)
    _register_clicks(app, page)


def _register_waiting(app: Dash, page: Page) -> None:
    """Whether the answer in view is still that of the question."""
    app.clientside_callback(  # the position is of a text that is gone
        ClientsideFunction("headscope_lab", "edited"),
        Output(page.id("position"), "data", allow_duplicate=True),
        Input(page.id("text"), "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(  # apart from the next: one with the answer as an input would wait for it
        ClientsideFunction("headscope_lab", "waits"),
        Output("lab-results", "data-waiting"),
        *[Input(page.id(name), page.prop(name)) for name in ANSWER],
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("headscope_lab", "answered"),
        Output("lab-results", "data-waiting", allow_duplicate=True),
        Output("lab-results", "data-refused"),
        Input(page.id("answer"), "data"),
        prevent_initial_call=True,
    )


def _register_buttons(app: Dash, page: Page) -> None:
    app.clientside_callback(
        ClientsideFunction("headscope_lab", "again"),
        Output(page.id("seed"), "data", allow_duplicate=True),
        Input("lab-again", "n_clicks"),
        State(page.id("seed"), "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("headscope_lab", "compare"),
        Output(page.id("random"), "data", allow_duplicate=True),
        Input("lab-compare", "n_clicks"),
        State(page.id("random"), "data"),
        prevent_initial_call=True,
    )

    @app.callback(Output("lab-compare", "children"), Input(page.id("random"), "data"))
    def _(random: int | None) -> str:
        return STOP if random else COMPARE


def _register_clicks(app: Dash, page: Page) -> None:
    """A click on a head of the attribution chooses it, and the chosen one is marked there."""
    graph = f"{page.id('attribution')}-graph"
    app.clientside_callback(
        ClientsideFunction("headscope", "clickedHead"),
        Output(page.id("head"), "value", allow_duplicate=True),
        Input(graph, "clickData"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("headscope", "markHead"),
        Output("lab-results", "data-chosen"),
        Input(page.id("head"), "value"),
        Input(graph, "figure"),
        State(graph, "id"),
    )


PAGE = Page(
    name="lab",
    title="Prompt lab",
    path="/lab",
    summary="A text of yours, heads you switch off or calibrate, a cache you cut, and what the model then predicts.",
    state=LabState,
    layout=_layout,
    panels=PANELS,
    props={"pinned": "data", "position": "data", "random": "data", "seed": "data", "captures": "checked"},
    register=_register,
    prepare=_prepare,
    prepare_uses=ANSWER,
    is_wide=True,
)
