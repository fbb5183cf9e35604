"""Prompt lab: type a text, tick heads, and see at once what the model loses without them."""

from __future__ import annotations

from typing import Any, cast

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from app.frame.page import Page
from app.frame.panels import TAB, panel_box
from app.frame.words import link, notice_box
from app.lab_run import save_lab
from app.pages.lab_panels import ANSWER, PANELS
from app.pages.lab_question import COMPARE, STOP, class_choices, question, register_policy
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
from app.site import Site, View, current_site
from headscope.errors import HeadscopeError

_SHADES = (("clean", "Loss"), ("ablated", "Loss, changed"), ("change", "Change"))


def _layout(site: Site, state: LabState) -> list[Component]:
    state = opening(site, state)
    stranger = "" if is_known_model(site, state.model) else state.model
    model = site.settings.model if stranger or not state.model else state.model
    state = state.model_copy(update={"model": model, "run": score_run(site, state.run, model)})
    members = class_members(site, state.run)
    if state.group in members and not state.heads:
        state = state.model_copy(update={"heads": tuple(members[state.group][: state.k])})
    strip = _with_control(panel_box(PAGE, "strip", tall=180), _shade(state))
    following = _with_control(panel_box(PAGE, "next", tall=480), _temperature(state))
    panels = [
        html.Div(panel_box(PAGE, "effect", tall=300), className="hs-third"),
        html.Div(following, className="hs-two-thirds"),
        html.Div(panel_box(PAGE, "attribution", tall=560), className="hs-half"),
        html.Div(panel_box(PAGE, "lens", tall=560), className="hs-half"),
        html.Div(panel_box(PAGE, "clean", tall=560), className="hs-half lab-attention"),
        html.Div(panel_box(PAGE, "ablated", tall=560), className="hs-half lab-attention"),
    ]
    warning = html.Div(
        html.P(
            f"The link names the model {stranger[:100]!r}, which no run of this folder is of. A link loads no such "
            "model: type its name into the field Model if you want it."
        ),
        className="hs-refused",
        role="alert",
    )
    return [
        *([warning] if stranger else []),
        question(PAGE, site, state, members),
        html.Div(
            [
                html.P(className="hs-live"),
                html.Div("Waiting for the model.", id="lab-waiting", className="lab-saved", role="status"),
                html.Div(id="lab-saved", className="lab-saved", role="status"),
                html.Button("Ask again", id="lab-again", type="button", className="hs-button"),
                html.Button("Pin as a run", id="lab-pin", type="button", className="hs-button hs-main"),
            ],
            className="lab-bar",
        ),
        html.Div([strip, html.Div(panels, className="hs-columns")], id="lab-results", className="hs-stack"),
        *(dcc.Store(id=PAGE.id(name), data=getattr(state, name)) for name in ("pinned", "position", "random", "seed")),
    ]


def _with_control(box: html.Section, control: Component) -> html.Section:
    """The box of a panel with a control of its own below its heading."""
    cast("list[Any]", box.children).insert(1, control)
    return box


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
    _register_choice(app, page)
    _register_pin(app, page)
    register_policy(app, page)
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
    app.clientside_callback(
        ClientsideFunction("headscope", "clickedHead"),
        Output(page.id("head"), "value", allow_duplicate=True),
        Input(f"{page.id('attribution')}-graph", "clickData"),
        prevent_initial_call=True,
    )

    graph = f"{page.id('attribution')}-graph"
    app.clientside_callback(
        ClientsideFunction("headscope", "markHead"),
        Output("lab-results", "data-chosen"),
        Input(page.id("head"), "value"),
        Input(graph, "figure"),
        State(graph, "id"),
    )

    @app.callback(Output("lab-compare", "children"), Input(page.id("random"), "data"))
    def _(random: int | None) -> str:
        return STOP if random else COMPARE


def _register_choice(app: Dash, page: Page) -> None:
    """A class ticks its strongest heads; ticking others by hand leaves the class; a model brings its own score run."""

    @app.callback(
        Output(page.id("run"), "value"),
        Output(page.id("group"), "data"),
        Input(page.id("run"), "value"),
        Input(page.id("model"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, model: str | None) -> Any:
        site = current_site()
        chosen = score_run(site, run or "", model or site.settings.model)
        return (no_update if chosen == (run or "") else chosen or None), class_choices(class_members(site, chosen))

    @app.callback(
        Output(page.id("heads"), "value"),
        Output(page.id("group"), "value"),
        Input(page.id("group"), "value"),
        Input(page.id("k"), "value"),
        Input(page.id("run"), "value"),
        Input(page.id("heads"), "value"),
        prevent_initial_call=True,
    )
    def _(group: str | None, k: int | None, run: str | None, heads: list[str] | None) -> Any:
        if not group:
            return no_update, no_update
        wanted = class_members(current_site(), run or "").get(group, [])[: k or 1]
        if ctx.triggered_id == page.id("heads"):
            return no_update, no_update if heads == wanted else None
        return (wanted, no_update) if wanted else (no_update, None)


def _register_pin(app: Dash, page: Page) -> None:
    """What is said of the answer in view, and kept: never of a question that is being typed."""

    @app.callback(
        Output("lab-saved", "children"),
        Output("lab-pin", "disabled"),
        inputs={"answer": Input(page.id("answer"), "data"), "tab": State(TAB, "data")},
    )
    def _(answer: dict[str, Any] | None, tab: str | None) -> Any:
        state = _answered(answer)
        if state is None:
            return "", True
        try:
            found = find_answer(View(current_site(), tab or ""), state)
        except HeadscopeError:
            return "", True
        if found.pinned is None:
            return html.Strong("Live, not saved."), False
        run = found.pinned.run.manifest.id
        return ["Saved as ", link(run, "/", run=run)], True

    @app.callback(
        Output(page.id("pinned"), "data"),
        Output("lab-saved", "children", allow_duplicate=True),
        inputs={
            "clicks": Input("lab-pin", "n_clicks"),
            "answer": State(page.id("answer"), "data"),
            "tab": State(TAB, "data"),
        },
        prevent_initial_call=True,
    )
    def _(clicks: int | None, answer: dict[str, Any] | None, tab: str | None) -> Any:
        state, site = _answered(answer), current_site()
        if not clicks or state is None:
            return no_update, no_update
        try:
            found = find_answer(View(site, tab or ""), state)
            if found.pinned is not None:
                return no_update, no_update
            return save_lab(found.request, found.result, root=site.root).name, no_update
        except HeadscopeError as error:
            return no_update, notice_box("failed", str(error))


def _answered(answer: dict[str, Any] | None) -> LabState | None:
    """The question that was answered; None if there was none, or it could not be."""
    if not answer or answer.get("error"):
        return None
    state = resolved(current_site(), LabState.read(answer["values"])[0])
    return state if is_asking(state) else None


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
