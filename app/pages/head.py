"""Head: one head at length: its patterns, its scores, its weights, and what the model loses without it."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from app.frame.choices import has_scores, run_select, score_options
from app.frame.elsewhere import unless_variants
from app.frame.head_choice import register_head_choice
from app.frame.page import Page, Panel
from app.frame.panels import panel_box
from app.pages import head_panels as panels
from app.pages.head_pattern import entropies, offsets, own_pattern, prepare_own, stored_pattern
from app.pages.head_state import HeadRuns, HeadState, find_runs, for_head
from app.site import Site, current_site
from headscope.errors import HeadscopeError
from headscope.heads import Head
from headscope.runs.index import RunSummary

_VIEWS = [
    {"value": "map", "label": "Map"},
    {"value": "lines", "label": "Lines"},
    {"value": "tokens", "label": "Tokens"},
]
_WHICH = ("run", "scores", "head")
_TEXT = ("run", "head", "prompt")
_HOW = ("view", "log", "hide_first", "token")


def _is_of_use(run: RunSummary) -> bool:
    return run.kind == "inspect" or has_scores(run)


def _is_scored(run: RunSummary) -> bool:
    return run.kind == "score"


def _runs_quietly(site: Site, state: HeadState) -> HeadRuns | None:
    """The runs, or None where there are none: the panels say why."""
    try:
        return find_runs(site, state)
    except HeadscopeError:
        return None


def _prompt_options(runs: HeadRuns | None) -> list[dict[str, str]]:
    return [{"value": one.stage, "label": one.title} for one in runs.prompts] if runs is not None else []


def _colour_options(runs: HeadRuns | None) -> list[dict[str, Any]]:
    if runs is None:
        return []
    here = [{"value": panels.FIRST_MASS, "label": "Mass on the first token"}] if runs.prompts else []
    return [*score_options(runs.scores.values()), *([{"group": "On this text", "items": here}] if here else [])]


def _layout(site: Site, state: HeadState) -> list[Component]:
    runs = _runs_quietly(site, state)
    if runs is not None:
        named = runs.any if state.run == "" else None
        state = state.model_copy(
            update={
                "run": named.manifest.id if named else state.run,
                "head": state.head or runs.default_head(),
                "colour": state.colour or panels.default_colour(runs),
            }
        )
    prompts, shape = _prompt_options(runs), runs.shape if runs is not None else (0, 0, 0)
    scored = runs.scored.manifest.id if runs is not None and runs.scored is not None else ""
    keys: dict[str, Any] = {
        "aria-label": "Map of heads: arrow keys choose a head",
        "data-keys": "heads",
        "data-layers": str(shape[0]),
        "data-heads": str(shape[1]),
    }
    walk = html.Div(panel_box(PAGE, "map", tall=330), id="head-walk", tabIndex="0", role="group", **keys)
    left = [walk, *(panel_box(PAGE, name, tall=300) for name in ("profile", "ablation", "circuits"))]
    right = [
        panel_box(PAGE, "pattern", tall=560),
        html.Div([_own_field(state), panel_box(PAGE, "own", tall=90)], className="hs-stack", id="head-own-text"),
        html.Div([panel_box(PAGE, "offsets"), panel_box(PAGE, "entropy")], className="hs-pair"),
        panel_box(PAGE, "similar"),
        panel_box(PAGE, "writes"),
    ]
    return [
        _controls(site, state, scored, prompts, _colour_options(runs)),
        dcc.Store(id=PAGE.id("token"), data=state.token),
        html.Div(
            [
                html.Div(left, className="hs-five hs-stack"),
                html.Div(right, className="hs-seven hs-stack"),
            ],
            className="hs-columns",
        ),
    ]


def _controls(
    site: Site, state: HeadState, scored: str, prompts: list[dict[str, str]], colours: list[dict[str, Any]]
) -> html.Div:
    back: dict[str, Any] = {"aria-label": "Previous head"}
    on: dict[str, Any] = {"aria-label": "Next head"}
    step = html.Div(
        [
            html.Button("←", type="button", id="head-back", className="hs-button", title="Previous head: [", **back),
            dmc.TextInput(id=PAGE.id("head"), label="Head", value=state.head, placeholder="L5H1", debounce=300, w=86),
            html.Button("→", type="button", id="head-on", className="hs-button", title="Next head: ]", **on),
        ],
        className="hs-step",
    )  # fmt: skip
    return html.Div(
        [
            run_select(PAGE, site, state.run, suits=_is_of_use),
            run_select(PAGE, site, state.scores or scored, name="scores", label="Scores from", suits=_is_scored),
            step,
            dmc.Select(id=PAGE.id("colour"), label="Map shows", data=colours, value=state.colour or None, w=190,
                       searchable=True, allowDeselect=False),
            dmc.Select(id=PAGE.id("prompt"), label="Text", data=prompts, allowDeselect=False, w=200,
                       value=state.prompt or (prompts[0]["value"] if prompts else None), placeholder="None kept"),
            html.Div([html.Span("Pattern as", className="mantine-InputWrapper-label", id="head-view-label"),
                      dmc.SegmentedControl(id=PAGE.id("view"), value=state.view, size="xs", data=_VIEWS)]),
            dmc.Switch(id=PAGE.id("log"), label="Logarithmic", checked=state.log, size="sm"),
            dmc.Switch(id=PAGE.id("hide_first"), label="Hide first token", checked=state.hide_first, size="sm"),
        ],
        className="hs-controls",
    )  # fmt: skip


def _own_field(state: HeadState) -> html.Div:
    field = dmc.Textarea(
        id=PAGE.id("text"), label="A text of your own", value=state.text, debounce=600, autosize=True, minRows=1,
        maxRows=6, placeholder="Up to 512 tokens. The model reads it; nothing is saved.",
    )  # fmt: skip
    return html.Div([field, html.P(className="hs-live", role="status")], className="hs-own")


def _register(app: Dash, page: Page) -> None:
    _register_clicks(app, page)

    @app.callback(
        Output(page.id("prompt"), "data"),
        Output(page.id("prompt"), "value"),
        Output(page.id("colour"), "data"),
        Output(page.id("colour"), "value"),
        Output(page.id("scores"), "value"),
        Output(page.id("head"), "value"),
        Output("head-walk", "data-layers"),
        Output("head-walk", "data-heads"),
        Input(page.id("run"), "value"),
        State(page.id("prompt"), "value"),
        State(page.id("head"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, prompt: str | None, head: str | None) -> Any:
        runs = _runs_quietly(current_site(), HeadState.read({"run": run})[0])
        if runs is None:
            return [], None, [], None, no_update, no_update, "0", "0"
        prompts = _prompt_options(runs)
        values = [one["value"] for one in prompts]
        scored = runs.scored.manifest.id if runs.scored is not None else None
        kept = prompt if prompt in values else next(iter(values), None)
        first, shape = panels.default_colour(runs), map(str, runs.shape[:2])
        return prompts, kept, _colour_options(runs), first, scored, _head_kept(runs, head), *shape


def _head_kept(runs: HeadRuns, head: str | None) -> str:
    """The head, where the model of the new run has it, else that model's default."""
    state, refused = HeadState.read({"head": head})
    if refused or not state.head:
        return runs.default_head()
    found = Head.parse(state.head)
    return state.head if found.layer < runs.shape[0] and found.head < runs.shape[1] else runs.default_head()


def _register_clicks(app: Dash, page: Page) -> None:
    register_head_choice(app, page, clicked=("map", "ablation"), marked="map", walk="head-walk")
    app.clientside_callback(
        ClientsideFunction("headscope_patterns", "step"),
        Output(page.id("head"), "value", allow_duplicate=True),
        Input("head-back", "n_clicks"),
        Input("head-on", "n_clicks"),
        State(page.id("head"), "value"),
        State("head-walk", "data-layers"),
        State("head-walk", "data-heads"),
        prevent_initial_call=True,
    )
    for name in ("pattern", "own"):
        app.clientside_callback(
            ClientsideFunction("headscope_patterns", "clickedRow"),
            Output(page.id("token"), "data", allow_duplicate=True),
            Input(f"{page.id(name)}-graph", "clickData"),
            prevent_initial_call=True,
        )
        app.clientside_callback(
            ClientsideFunction("headscope_patterns", "draw"),
            Output(page.id(name), "data-drawn"),
            Input(f"{page.id(name)}-body", "children"),
        )


PAGE = Page(
    name="head",
    first="pattern",
    title="Head",
    path="/head",
    summary="One head: what it attends to, how it scores, what its weights say, and what the model loses without it.",
    state=HeadState,
    layout=_layout,
    panels=unless_variants((
        Panel("pattern", "Pattern", (*_TEXT, *_HOW), for_head(stored_pattern)),
        Panel("map", "All heads", ("run", "scores", "colour", "prompt"), for_head(panels.head_map, inspected=False)),
        Panel(
            "profile", "Scores of this head", _WHICH, for_head(panels.score_rows, inspected=False), has_figure=False
        ),
        Panel("ablation", "Without this head", ("run", "head"), for_head(panels.ablation)),
        Panel("offsets", "Mass by distance", (*_TEXT, "log"), for_head(offsets)),
        Panel("entropy", "Entropy of each row", _TEXT, for_head(entropies)),
        Panel("similar", "Most similar heads", (*_TEXT, "scores"), for_head(panels.similar), has_figure=False),
        Panel("circuits", "OV and QK circuits", ("run", "head"), for_head(panels.circuits)),
        Panel("writes", "What it reads and writes", ("run", "head"), for_head(panels.writes), has_figure=False),
        Panel(
            "own", "On a text of your own", ("run", "head", "text", *_HOW), for_head(own_pattern, inspected=False),
            is_live=True,
        ),
    )),
    props={"log": "checked", "hide_first": "checked", "token": "data"},
    register=_register,
    prepare=prepare_own,
    prepare_uses=("run", "text"),
    is_wide=True,
)  # fmt: skip
