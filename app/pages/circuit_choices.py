"""What the controls of the page Circuit offer, and how one changes another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dash import ClientsideFunction, Dash, Input, Output, State, no_update

from app.frame.page import Page
from app.pages import circuit_live
from app.pages.circuit_state import CircuitState, choose, default_method, default_other, quietly, shown_pair
from app.site import Site, current_site
from app.views.circuit import CircuitRun
from app.views.circuit_sizes import sizes_of, step_of, stops_of
from app.views.circuit_words import title
from headscope.errors import HeadscopeError

Option = dict[str, str]
SLIDER, OPENS = "circuit-slider", "circuit-opens"


def method_options(found: CircuitRun | None) -> list[Option]:
    """Methods of the run."""
    return [{"value": name, "label": title(name)} for name in (found.methods if found else ())]


def truth_options(found: CircuitRun | None) -> list[Option]:
    """Truths that the run was compared with."""
    try:
        truths = found.truths if found else {}
    except HeadscopeError:
        return []
    return [{"value": key, "label": f"{truth.name} ({truth.unit}s)"} for key, truth in truths.items()]


def other_options(found: CircuitRun | None, method: str | None) -> list[Option]:
    """Methods that the shown one can be compared with: not itself."""
    return [one for one in method_options(found) if one["value"] != method]


def pair_options(found: CircuitRun | None, number: int = 0) -> tuple[list[Option], str | None]:
    """The pairs that the run keeps, by number from 1, and the one shown: the one asked for, else a typical one."""
    try:
        record, _, number = shown_pair(found, number) if found else ({"pairs": []}, {}, 0)
    except HeadscopeError:
        return [], None
    options = list[Option]()
    for place, pair in enumerate(record["pairs"], 1):
        said = circuit_live.difference_text(pair)
        options.append({"value": str(place), "label": f"{place}: {said}" if said else str(place)})
    return options, str(number) if options else None


@dataclass(frozen=True)
class Slider:
    """What the slider offers: the points written out, the one shown, and the one where the page opens."""

    marks: Any
    value: int
    opens: int

    @property
    def ends(self) -> tuple[int, int]:
        """Lowest and highest value; a slider of a single point still needs room."""
        last = self.marks[-1]["value"]
        return (self.marks[0]["value"] if len(self.marks) > 1 else last - 1), last


def slider_of(site: Site, state: CircuitState) -> Slider:
    """What the slider offers for a state."""
    try:
        chosen = choose(site, state)
    except HeadscopeError:  # the panels say why
        return Slider([{"value": 0, "label": ""}], 0, 0)
    found, method, unit, ranking = chosen.found, chosen.method, state.unit, state.ranking
    shares = sizes_of(found, method, unit, ranking)[0]
    marks = [{"value": stop, "label": f"{100 * shares[stop]:g} %"} for stop in stops_of(found, method, unit, ranking)]
    return Slider(marks, chosen.state.step, step_of(found, method, unit, ranking, -1))


def graph_size(found: CircuitRun | None, state: CircuitState) -> tuple[int, int]:
    """Layers and heads, for the keys."""
    try:
        graph = found.scores(state.method or default_method(found)).graph if found and found.methods else None
    except HeadscopeError:
        graph = None
    return (graph.n_layers, graph.n_heads) if graph else (0, 0)


def register(app: Dash, page: Page) -> None:
    """Clicks and rows choose a head; another run or method brings its own choices."""
    _register_switches(app, page)
    _register_run(app, page)
    _register_slider(app, page)
    _register_other(app, page)

    @app.callback(
        Output(page.id("head"), "value", allow_duplicate=True),
        Input("circuit-nodes-table", "selectedRows"),
        prevent_initial_call=True,
    )
    def _(rows: list[dict[str, Any]] | None) -> Any:
        part = str(rows[0]["part"]) if rows else ""
        return part if "H" in part else no_update


def _register_switches(app: Dash, page: Page) -> None:
    for name in ("graph", "against", "stability"):
        app.clientside_callback(
            ClientsideFunction("headscope_circuit", "clicked"),
            Output(page.id("head"), "value", allow_duplicate=True),
            Input(f"{page.id(name)}-graph", "clickData"),
            prevent_initial_call=True,
        )
    app.clientside_callback(
        ClientsideFunction("headscope_circuit", "toggled"),
        Output(page.id("off"), "value", allow_duplicate=True),
        Input("circuit-toggle", "n_clicks"),
        State(page.id("head"), "value"),
        State(page.id("off"), "value"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("headscope_circuit", "cleared"),
        Output(page.id("off"), "value", allow_duplicate=True),
        Input("circuit-none", "n_clicks"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("headscope_circuit", "label"),
        Output("circuit-toggle", "children"),
        Output("circuit-toggle", "disabled"),
        Output(page.id("head"), "error"),
        Input(page.id("head"), "value"),
        Input(page.id("off"), "value"),
        Input("circuit-walk", "data-layers"),
        Input("circuit-walk", "data-heads"),
    )


def _register_run(app: Dash, page: Page) -> None:
    """Another run brings its own methods, truths and pairs."""

    @app.callback(
        Output(page.id("method"), "data"),
        Output(page.id("method"), "value"),
        Output(page.id("other"), "data"),
        Output(page.id("other"), "value"),
        Output(page.id("truth"), "data"),
        Output(page.id("truth"), "value"),
        Output(page.id("pair"), "data"),
        Output(page.id("pair"), "value"),
        Output("circuit-walk", "data-layers"),
        Output("circuit-walk", "data-heads"),
        Output(page.id("off"), "value"),
        Input(page.id("run"), "value"),
        State(page.id("method"), "value"),
        State(page.id("other"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, method: str | None, other: str | None) -> Any:
        found = quietly(current_site(), run or "")
        methods, truths = method_options(found), truth_options(found)
        known = {one["value"] for one in methods}
        method = method if method in known else (default_method(found) if found else "")
        other = other if other in known and other != method else (default_other(found, method) if found else "")
        layers, heads = graph_size(found, CircuitState(run=run or "", method=method))
        truth = next((one["value"] for one in truths), None)
        return (
            methods,
            method or None,
            other_options(found, method),
            other or None,
            truths,
            truth,
            *pair_options(found),
            str(layers),
            str(heads),
            [],
        )


def _register_slider(app: Dash, page: Page) -> None:
    """Another circuit opens where it keeps enough; the address keeps only a point that somebody chose."""

    @app.callback(
        output=[
            Output(SLIDER, "min"),
            Output(SLIDER, "max"),
            Output(SLIDER, "marks"),
            Output(SLIDER, "disabled"),
            Output(SLIDER, "value"),
            Output(OPENS, "data"),
            Output(page.id("step"), "data"),
        ],
        inputs={"given": {name: Input(page.id(name), "value") for name in ("run", "method", "unit", "ranking")}},
        prevent_initial_call=True,
    )
    def _(given: dict[str, Any]) -> Any:
        slider = slider_of(current_site(), CircuitState.read(given)[0])
        return (*slider.ends, slider.marks, len(slider.marks) < 2, slider.opens, slider.opens, -1)

    app.clientside_callback(
        ClientsideFunction("headscope_circuit", "kept"),
        Output(page.id("step"), "data", allow_duplicate=True),
        Input(SLIDER, "value"),
        State(OPENS, "data"),
        State(page.id("step"), "data"),
        prevent_initial_call=True,
    )


def _register_other(app: Dash, page: Page) -> None:
    """A method is never compared with itself: the control goes on to the next one, as the panels do."""

    @app.callback(
        Output(page.id("other"), "data", allow_duplicate=True),
        Output(page.id("other"), "value", allow_duplicate=True),
        Input(page.id("method"), "value"),
        State(page.id("other"), "value"),
        State(page.id("run"), "value"),
        prevent_initial_call=True,
    )
    def _(method: str | None, other: str | None, run: str | None) -> Any:
        found = quietly(current_site(), run or "")
        options = other_options(found, method)
        known = other in [one["value"] for one in options]
        return options, other if known else (default_other(found, method or "") or None) if found else None
