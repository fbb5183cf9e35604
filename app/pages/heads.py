"""Heads: every head of a run by one score, as a map and as a table, with classes, a second score and ablations."""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from app.frame.choices import newest_scores, open_quietly, scores_quietly
from app.frame.elsewhere import unless_variants
from app.frame.page import Page, Panel
from app.frame.panels import panel_box
from app.frame.words import attributes
from app.pages.heads_classes import causal, classes
from app.pages.heads_controls import controls, register
from app.pages.heads_panels import one_head, score_map, score_pair, score_rows
from app.pages.heads_state import HeadsState, first_class, strongest
from app.site import Site


def _layout(site: Site, state: HeadsState) -> list[Component]:
    state = state.model_copy(update={"run": newest_scores(site, state.run)})
    scores = scores_quietly(open_quietly(site, state.run))
    if not state.score and scores:
        state = state.model_copy(update={"score": first_class(scores)})
    one = scores.get(state.score)
    if not state.head and one is not None:
        state = state.model_copy(update={"head": strongest(one)})
    shape = (one.n_layers, one.n_heads) if one else (0, 0)
    keys = {"data_keys": "heads", "data_layers": str(shape[0]), "data_heads": str(shape[1])}
    walk = html.Div(
        panel_box(PAGE, "map", tall=620), id="heads-walk", tabIndex="0", role="group",
        **attributes(aria_label="Map of heads: arrow keys choose a head, Enter opens it", **keys),
    )  # fmt: skip
    panels = [
        html.Div([walk, panel_box(PAGE, "chosen")], className="hs-five hs-stack"),
        html.Div([panel_box(PAGE, name) for name in ("classes", "causal", "rows")], className="hs-seven hs-stack"),
        panel_box(PAGE, "pair", tall=420),
    ]
    return [
        controls(PAGE, site, state, scores),
        html.Div(panels, className="hs-columns"),
        dcc.Store(id="heads-for", data=state.run),
    ]


PAGE = Page(
    name="heads",
    first="chosen",
    title="Heads",
    path="/heads",
    summary="Every head of a run by one score, and what the model loses without the strongest.",
    state=HeadsState,
    layout=_layout,
    panels=unless_variants(
        (
            Panel("map", "Map", ("run", "score", "bar", "maps"), score_map),
            Panel("classes", "Classes", ("run", "score", "bar"), classes, has_figure=False),
            Panel("chosen", "Chosen head", ("run", "score", "head"), one_head, has_figure=False),
            Panel("causal", "What ablating the class does", ("run", "score"), causal),
            Panel("rows", "All heads by this score", ("run", "score"), score_rows, has_figure=False),
            Panel("pair", "Score against score", ("run", "score", "bar", "against"), score_pair),
        )
    ),
    register=register,
    is_wide=True,
)
