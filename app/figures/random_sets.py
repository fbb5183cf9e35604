"""Where a change lies among random sets of as many heads: a line of points for each number."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.style import CLASS_COLOUR, RANDOM_COLOUR, TEXT_COLOUR, axis, base_layout, escape
from app.views.lab_effect import Effect

_ROW = 92


def random_sets_figure(effects: Sequence[Effect]) -> go.Figure:
    """One line per number, each on its own scale: the untouched model, the heads asked for, every random set."""
    figure = make_subplots(rows=len(effects), cols=1, vertical_spacing=0.34 / max(len(effects) - 1, 1))
    for row, effect in enumerate(effects, 1):
        for trace in (_random(effect), _one(effect, "untouched"), _one(effect, effect.changed)):
            trace.showlegend = row == 1 and (trace.name != _RANDOM or bool(effect.random))
            figure.add_trace(trace, row=row, col=1)
        figure.update_xaxes(**axis(f"{effect.title} ({effect.unit})", nticks=7), row=row, col=1)
        figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, range=[-1, 1], row=row, col=1)
    layout = base_layout(height=_ROW * len(effects) + 70, left=14)
    layout["margin"]["t"] = 40
    figure.update_layout(
        **layout, legend={"orientation": "h", "x": 0, "y": 0.995, "yanchor": "top", "yref": "container"}
    )
    return figure


_RANDOM = "random sets"


def _random(effect: Effect) -> go.Scatter:
    """Open diamonds, moved up and down so that equal ones stay apart."""
    spread = [((7 * number) % 11 - 5) / 12 for number in range(len(effect.random))]
    return go.Scatter(
        x=list(effect.random),
        y=spread,
        mode="markers",
        name=_RANDOM,
        marker={"symbol": "diamond-open", "size": 8, "color": RANDOM_COLOUR},
        text=[
            f"random set {number}: {value:.4f} {escape(effect.unit)}" for number, value in enumerate(effect.random, 1)
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def _one(effect: Effect, name: str) -> go.Scatter:
    value = effect.clean if name == "untouched" else effect.ablated
    mark = (
        {"symbol": "line-ns", "size": 24, "line": {"width": 2.5, "color": TEXT_COLOUR}}
        if name == "untouched"
        else {"symbol": "circle", "size": 13, "color": CLASS_COLOUR}
    )
    return go.Scatter(
        x=[value],
        y=[0],
        mode="markers",
        name=name,
        marker=mark,
        hovertemplate=f"{name}: %{{x:.4f}} {escape(effect.unit)}<extra></extra>",
    )
