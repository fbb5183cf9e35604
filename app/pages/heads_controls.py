"""The controls of the page Heads, and how one changes another."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, State, html, no_update

from app.frame.choices import has_scores, open_quietly, run_select, score_options, scores_quietly
from app.frame.head_choice import register_head_choice
from app.frame.page import Page
from app.pages.heads_state import HeadsState, first_class, head_kept, second_score
from app.site import Site, current_site
from headscope.heads import HeadScores


def controls(page: Page, site: Site, state: HeadsState, scores: dict[str, HeadScores]) -> html.Div:
    """Run, score, threshold, second score, maps and head; ``state`` has its run, score and head filled in."""
    one, options = scores.get(state.score), score_options(scores.values())
    low, high, step = _bar_range(one)
    return html.Div(
        [
            run_select(page, site, state.run, suits=has_scores),
            dmc.Select(
                id=page.id("score"), label="Score", data=options, value=state.score or None, allowDeselect=False,
                searchable=True, w=190,
            ),
            html.Div(
                [
                    html.Label("Threshold", className="mantine-InputWrapper-label", id=page.id("bar-label")),
                    dmc.Slider(
                        id=page.id("bar"), disabled=one is None or one.definition.threshold is None,
                        min=low, max=high, step=step, value=_bar(state, one), w=210, size="sm",
                        labelAlwaysOn=False, updatemode="drag", thumbLabel="Threshold of the class",
                    ),
                ]
            ),
            dmc.Select(
                id=page.id("against"), label="Against", data=options, allowDeselect=False, searchable=True, w=190,
                value=state.against or (second_score(scores, state.score) if scores else None),
            ),
            dmc.SegmentedControl(
                id=page.id("maps"), value=state.maps, size="xs",
                data=[{"value": "one", "label": "One map"}, {"value": "all", "label": "All scores"}],
            ),
            dmc.TextInput(id=page.id("head"), label="Head", value=state.head, placeholder="L5H1", debounce=300, w=90),
        ],
        className="hs-controls",
    )  # fmt: skip


def _bar_range(one: HeadScores | None) -> tuple[float, float, float]:
    """Ends and step of the threshold's slider: the values there are, on round numbers."""
    finite = one.values[np.isfinite(one.values)] if one is not None else np.zeros(1)
    bar = one.definition.threshold if one is not None else None
    ends = np.array([*finite, *([] if bar is None else [bar]), 0.0])
    low, high = float(ends.min()), float(ends.max())
    step = 10.0 ** np.floor(np.log10(max(high - low, 1e-6) / 50))
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step), float(step)


def _bar(state: HeadsState, one: HeadScores | None) -> float:
    if state.bar is not None:
        return state.bar
    return 0.0 if one is None or one.definition.threshold is None else one.definition.threshold


def register(app: Dash, page: Page) -> None:
    """Clicks choose a head; another run brings its own scores, and another score its own threshold."""
    register_head_choice(app, page, clicked=("map", "pair"), marked="map", walk="heads-walk")
    app.clientside_callback(
        ClientsideFunction("headscope", "sayThreshold"),
        Output(page.id("bar-label"), "children"),
        Input(page.id("bar"), "value"),
        Input(page.id("bar"), "disabled"),
    )
    _register_run(app, page)
    _register_threshold(app, page)

    @app.callback(
        Output(page.id("head"), "value", allow_duplicate=True),
        Input("heads-table", "selectedRows"),
        prevent_initial_call=True,
    )
    def _(rows: list[dict[str, Any]] | None) -> Any:
        return rows[0]["label"] if rows else no_update


def _register_run(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("score"), "data"),
        Output(page.id("score"), "value"),
        Output(page.id("against"), "data"),
        Output(page.id("against"), "value"),
        Output("heads-walk", "data-layers"),
        Output("heads-walk", "data-heads"),
        Output(page.id("head"), "value", allow_duplicate=True),
        Input(page.id("run"), "value"),
        State(page.id("score"), "value"),
        State(page.id("against"), "value"),
        State(page.id("head"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, score: str | None, against: str | None, head: str | None) -> Any:
        scores = scores_quietly(open_quietly(current_site(), run or ""))
        if not scores:
            return [], None, [], None, "0", "0", no_update
        options, one = score_options(scores.values()), next(iter(scores.values()))
        first = score if score in scores else first_class(scores)
        second = against if against in scores else second_score(scores, str(first))
        kept = head_kept(scores[str(first)], head)
        return options, first, options, second, str(one.n_layers), str(one.n_heads), kept


def _register_threshold(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("bar"), "min"),
        Output(page.id("bar"), "max"),
        Output(page.id("bar"), "step"),
        Output(page.id("bar"), "value"),
        Output(page.id("bar"), "disabled"),
        Input(page.id("score"), "value"),
        Input(page.id("run"), "value"),
        State("heads-for", "data"),
        prevent_initial_call=True,
    )
    def _(score: str | None, run: str | None, _before: str) -> Any:
        one = scores_quietly(open_quietly(current_site(), run or "")).get(score or "")
        if one is None:
            return no_update, no_update, no_update, no_update, True
        return *_bar_range(one), _bar(HeadsState(), one), one.definition.threshold is None
