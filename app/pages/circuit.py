"""Circuit: what a task's circuit looks like, how much of the effect it keeps, and how far it can be trusted."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from app.frame.choices import newest
from app.frame.page import Page, Panel
from app.frame.panels import panel_box, with_control
from app.pages import circuit_live, circuit_methods, circuit_panels, circuit_trust
from app.pages.circuit_choices import graph_size, register
from app.pages.circuit_controls import controls, pair_choice, switches, truth_choice
from app.pages.circuit_state import CircuitState, choose, guarded, quietly, suits
from app.site import Site
from headscope.errors import HeadscopeError


def _start(site: Site, state: CircuitState) -> CircuitState:
    """The state with a run and methods filled in, where they are left open; the slider's point only if chosen."""
    state = state.model_copy(update={"run": newest(site, state.run, suits)})
    try:
        return choose(site, state).state.model_copy(update={"step": state.step})
    except HeadscopeError:  # the panels say why
        return state


def _layout(site: Site, state: CircuitState) -> list[Component]:
    state = _start(site, state)
    found = quietly(site, state.run)
    graph = graph_size(found, state)
    keys: dict[str, Any] = {
        "aria-label": "Graph of the circuit: arrow keys choose a head, Space ablates it",
        "data-keys": "circuit",
        "data-layers": str(graph[0]),
        "data-heads": str(graph[1]),
    }
    walk = html.Div(panel_box(PAGE, "graph", tall=560), id="circuit-walk", tabIndex="0", role="group", **keys)
    live = with_control(panel_box(PAGE, "live", tall=190), switches(PAGE, state))
    task = with_control(panel_box(PAGE, "task", tall=180), pair_choice(PAGE, state, found))
    boxes = [
        panel_box(PAGE, "short", tall=60),
        html.Div([walk, task], className="hs-seven hs-stack"),
        html.Div([panel_box(PAGE, "curve", tall=380), live], className="hs-five hs-stack"),
        html.Div(panel_box(PAGE, "nodes", tall=400), className="hs-half"),
        html.Div(panel_box(PAGE, "edges", tall=400), className="hs-half"),
        html.Div(panel_box(PAGE, "against", tall=440), className="hs-half"),
        html.Div(with_control(panel_box(PAGE, "roc", tall=440), truth_choice(PAGE, state, found)), className="hs-half"),
        panel_box(PAGE, "board", tall=240),
        html.Div(panel_box(PAGE, "stability", tall=380), className="hs-half"),
        html.Div(panel_box(PAGE, "check", tall=380), className="hs-half"),
    ]
    return [controls(PAGE, site, state, found), html.Div(boxes, className="hs-columns")]


_CIRCUIT = ("run", "method", "unit", "ranking", "step")
_BOTH = (*_CIRCUIT, "other")
_METHODS = ("run", "method", "other", "ranking", "unit")


def _panel(name: str, heading: str, uses: tuple[str, ...], build: Any, **options: Any) -> Panel:
    return Panel(name, heading, uses, guarded(build), **options)


PAGE = Page(
    name="circuit",
    title="Circuit",
    path="/circuit",
    summary="Which heads do a task, what they keep of the effect, and how far that can be trusted.",
    state=CircuitState,
    layout=_layout,
    panels=(
        _panel("short", "In short", _CIRCUIT, circuit_panels.short, has_figure=False),
        _panel("graph", "The circuit", (*_CIRCUIT, "head", "off"), circuit_panels.graph),
        _panel(
            "curve", "The effect kept", _BOTH, circuit_panels.curve,
            help="Everything outside the circuit is ablated; the measure is put on a scale from 0 (all ablated) to 1.",
        ),
        _panel("live", "Without these heads", circuit_live.LIVE, circuit_live.live, has_figure=False, is_live=True),
        _panel("nodes", "Parts", _BOTH, circuit_panels.nodes, has_figure=False),
        _panel("edges", "Edges", _CIRCUIT, circuit_panels.edges, has_figure=False),
        _panel("task", "The task", ("run", "pair"), circuit_live.task, has_figure=False),
        _panel("against", "Method against method", (*_METHODS, "head"), circuit_methods.against),
        _panel("roc", "Methods against a truth", (*_METHODS, "truth"), circuit_methods.roc),
        _panel("board", "Scoreboard of this run", _METHODS, circuit_methods.board, has_figure=False),
        _panel("stability", "Would other prompts give the same circuit?", _METHODS, circuit_trust.stability),
        _panel("check", "Faithful, complete, minimal; backups", _METHODS, circuit_trust.check, has_figure=False),
    ),
    register=register,
    props={"step": "data"},
    prepare=circuit_live.prepare,
    prepare_uses=circuit_live.LIVE,
    is_wide=True,
    first="graph",
)  # fmt: skip
