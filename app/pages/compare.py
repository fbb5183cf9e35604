"""Compare: one score of two runs, head by head where both have the same heads, by depth where they have not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html
from dash.development.base_component import Component

from app.frame.choices import finished_first, has_scores, open_quietly, run_select, score_options, scores_quietly
from app.frame.elsewhere import unless_variants
from app.frame.head_choice import register_head_choice
from app.frame.page import Page, Panel
from app.frame.panels import panel_box
from app.pages import compare_panels as panels
from app.pages.compare_panels import CompareState, first_score
from app.site import Site
from headscope.heads import HeadScores
from headscope.runs.index import RunSummary


def _start(site: Site, state: CompareState) -> CompareState:
    """The state with runs and a score filled in, where they are left open."""
    a, b = _pair(site, state.a, state.b)
    found = [scores_quietly(open_quietly(site, run)) for run in (a, b)]
    both = {name: one for name, one in found[0].items() if name in found[1]}
    score = state.score or first_score(both or found[0])
    return state.model_copy(update={"a": a, "b": b, "score": score})


def _pair(site: Site, a: str, b: str) -> tuple[str, str]:
    """The newest two runs of one kind and model, the older one first; else of one model; else any two.

    Finished ones first: an unfinished run is taken only where there is no other.
    """
    runs = finished_first(run for run in site.runs() if run.is_readable and has_scores(run))
    known = {run.id: run for run in runs}

    def alike(one: RunSummary, other: RunSummary) -> int:
        whole = one.is_whole and other.is_whole
        return whole * 4 + (one.model == other.model) * 2 + (one.kind == other.kind)

    if a or b:
        given = known.get(a or b)
        others = [run for run in runs if run.id != (a or b)]
        best = max(others, key=lambda run: (run.is_whole, alike(run, given)), default=given) if given else None
        fill = best.id if best else (a or b)
        return a or fill, b or fill
    pairs = [(old, new) for place, new in enumerate(runs) for old in runs[place + 1 :]]
    best_pair = max(pairs, key=lambda pair: (alike(*pair), pair[1].kind == "score"), default=None)
    if best_pair is None:
        return (runs[0].id, runs[0].id) if runs else ("", "")
    return best_pair[0].id, best_pair[1].id


def _options(a: dict[str, HeadScores], b: dict[str, HeadScores]) -> list[dict[str, Any]]:
    """Scores of either run; those that only one holds stay, and the panels say so."""
    return score_options([*a.values(), *(one for name, one in b.items() if name not in a)])


def _layout(site: Site, state: CompareState) -> list[Component]:
    state = _start(site, state)
    found = [scores_quietly(open_quietly(site, run)) for run in (state.a, state.b)]
    controls = html.Div(
        [
            run_select(PAGE, site, state.a, name="a", label="Run A", suits=has_scores),
            run_select(PAGE, site, state.b, name="b", label="Run B", suits=has_scores),
            dmc.Select(
                id=PAGE.id("score"), label="Score", data=_options(*found), value=state.score or None,
                allowDeselect=False, searchable=True, w=190,
            ),
            dmc.NumberInput(
                id=PAGE.id("threshold"), label="Threshold", value="" if state.threshold is None else state.threshold,
                placeholder=_own_bar(found[0], state.score), step=0.05, debounce=300, w=110,
            ),
            dmc.TextInput(id=PAGE.id("head"), label="Head", value=state.head, placeholder="L5H1", debounce=300, w=90),
        ],
        className="hs-controls",
    )  # fmt: skip
    one = found[0].get(state.score)
    shape = (one.n_layers, one.n_heads) if one else (0, 0)
    keys: dict[str, Any] = {
        "aria-label": "Map of differences: arrow keys choose a head",
        "data-keys": "heads",
        "data-layers": str(shape[0]),
        "data-heads": str(shape[1]),
    }
    difference = panel_box(PAGE, "difference", tall=420)
    walk = html.Div(difference, id="compare-walk", tabIndex="0", role="group", **keys)
    left = [panel_box(PAGE, "maps", tall=420), panel_box(PAGE, "movers", tall=300), panel_box(PAGE, "depth", tall=300)]
    boxes = [
        panel_box(PAGE, "short", tall=80),
        html.Div(left, className="hs-seven hs-stack"),
        html.Div([walk, panel_box(PAGE, "scatter", tall=420)], className="hs-five hs-stack"),
    ]
    return [controls, html.Div(boxes, className="hs-columns")]


def _own_bar(scores: dict[str, HeadScores], name: str) -> str:
    bar = scores[name].definition.threshold if name in scores else None
    return "none" if bar is None else f"{bar:g}"


def _register(app: Dash, page: Page) -> None:
    clicked = ("maps", "difference", "scatter")
    register_head_choice(app, page, clicked=clicked, marked="difference", walk="compare-walk")

    @app.callback(
        Output(page.id("score"), "data"),
        Output(page.id("score"), "value"),
        Output("compare-walk", "data-layers"),
        Output("compare-walk", "data-heads"),
        Input(page.id("a"), "value"),
        Input(page.id("b"), "value"),
        State(page.id("score"), "value"),
        prevent_initial_call=True,
    )
    def _(a: str | None, b: str | None, score: str | None) -> Any:
        from app.site import current_site

        found = [scores_quietly(open_quietly(current_site(), run or "")) for run in (a, b)]
        name = score if any(score in scores for scores in found) else first_score(found[0])
        one: Sequence[int] = next((scores[name].values.shape for scores in found if name in scores), (0, 0))
        return _options(*found), name, str(one[0]), str(one[1])

    @app.callback(
        Output(page.id("threshold"), "value"),
        Output(page.id("threshold"), "placeholder"),
        Input(page.id("score"), "value"),
        State(page.id("a"), "value"),
        prevent_initial_call=True,
    )
    def _(score: str | None, a: str | None) -> Any:
        from app.site import current_site

        return "", _own_bar(scores_quietly(open_quietly(current_site(), a or "")), score or "")


_ALL = ("a", "b", "score", "threshold")
PAGE = Page(
    name="compare",
    title="Compare",
    path="/compare",
    summary="One score in two runs: which heads moved, and by more than their intervals.",
    state=CompareState,
    layout=_layout,
    panels=unless_variants(
        (
            Panel("short", "In short", _ALL, panels.guarded_panel(panels.short), has_figure=False),
            Panel("maps", "Both maps", _ALL, panels.guarded_panel(panels.maps)),
            Panel("difference", "Difference B - A", _ALL, panels.guarded_panel(panels.difference)),
            Panel("scatter", "A against B", _ALL, panels.guarded_panel(panels.scatter)),
            Panel("movers", "Largest movers", (*_ALL, "head"), panels.guarded_panel(panels.movers), has_figure=False),
            Panel("depth", "The class by depth", _ALL, panels.guarded_panel(panels.depth)),
        ),
        ("a", "b"),
    ),
    register=_register,
    is_wide=True,
)
