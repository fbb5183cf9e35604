"""Many methods in one picture: figures against numbers of pairs or method by method, and faithfulness of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.figures.style import TEXT_COLOUR, axis, base_layout, escape
from app.views.circuit import Curve
from app.views.circuit_words import title
from circuits.evaluation import Agreement
from circuits.evaluation.trials import ScoreboardRow
from circuits.methods import METHODS

MOST_SIDE_BY_SIDE = 8
"""Methods up to which two figures fit beside each other; with more each needs the width of the page."""
_COLOURS = ("#2f7ec2", "#c9771b", "#6a51a3", "#3a8f5c", "#b04a6e", "#5b7f95", "#8c6d1f")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star", "cross", "hexagon", "bowtie")


def sweep_figure(rows: Sequence[ScoreboardRow], *, name: str) -> go.Figure:
    """A figure over the number of pairs, a line per method, with intervals where there are.

    Args:
        rows: one figure of several methods at several numbers of pairs.
        name: what the figure is.
    """
    layout = _roomy(len({row.method for row in rows}))
    figure = go.Figure(layout=layout)
    sizes = sorted({row.examples for row in rows})
    for method in dict.fromkeys(row.method for row in rows):
        own = sorted((row for row in rows if row.method == method), key=lambda row: row.examples)
        figure.add_trace(
            go.Scatter(
                x=[row.examples for row in own],
                y=[row.value for row in own],
                error_y=_bars(own),
                mode="lines+markers",
                name=escape(title(method)),
                line=_line(method),
                marker={"symbol": _symbol(method), "size": 8},
                hovertemplate="%{x} pairs: %{y:.3f}<extra>" + escape(title(method)) + "</extra>",
            )
        )
    figure.update_layout(
        xaxis=axis("pairs that the method sees", type="log", tickvals=sizes, ticktext=list(map(str, sizes))),
        yaxis=axis(name, automargin=True),
        legend=_legend(),
        showlegend=True,
    )
    return figure


def method_figure(rows: Sequence[ScoreboardRow], *, name: str) -> go.Figure:
    """A figure of every method, best on top, with its interval and its worst seed.

    Args:
        rows: one figure of several methods at one number of pairs.
        name: what the figure is.
    """
    own = sorted(rows, key=lambda row: (row.value == row.value, row.value))
    layout = base_layout(height=90 + 26 * len(own), left=190)
    layout["margin"] |= {"t": 34}
    figure = go.Figure(layout=layout)
    names = [escape(title(row.method)) for row in own]
    figure.add_trace(
        go.Scatter(
            x=[row.value for row in own],
            y=names,
            error_x=_bars(own),
            mode="markers",
            name="mean over seeds",
            marker={"size": 10, "color": _COLOURS[0]},
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[row.worst for row in own],
            y=names,
            mode="markers",
            name="worst seed",
            marker={"size": 9, "symbol": "line-ns", "line": {"width": 2, "color": _COLOURS[1]}},
            hovertemplate="%{y}, worst seed: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis=axis(name),
        yaxis=axis("", automargin=True),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
    )
    return figure


def curves_figure(curves: Sequence[Curve]) -> go.Figure:
    """Faithfulness of circuits of growing size, a line per method.

    Args:
        curves: of the same unit and ranking.
    """
    layout = _roomy(len(curves))
    figure = go.Figure(layout=layout)
    for one in curves:
        curve, name = one.curve, escape(title(one.curve.method))
        figure.add_trace(
            go.Scatter(
                x=curve.shares,
                y=curve.faithfulness,
                mode="lines+markers",
                name=name,
                line=_line(curve.method),
                marker={"symbol": _symbol(curve.method), "size": 6},
                text=[f"{kept} of {curve.n_parts} {curve.unit}s" for kept in curve.kept],
                hovertemplate="%{text}: %{y:.3f}<extra>" + name + "</extra>",
            )
        )
    figure.add_hline(y=1, line={"color": TEXT_COLOUR, "width": 1, "dash": "dot"})
    values = np.concatenate([one.curve.faithfulness for one in curves] or [np.zeros(1)])
    finite = values[np.isfinite(values)]
    low, high = float(finite.min(initial=0)), float(finite.max(initial=1))
    unit = curves[0].curve.unit if curves else "part"
    figure.update_layout(
        xaxis=axis(
            f"share of the {unit}s kept",
            type="log",
            tickvals=[0.001, 0.01, 0.1, 1.0],
            ticktext=["0.1 %", "1 %", "10 %", "100 %"],
            range=[-3.08, 0.08],
        ),
        yaxis=axis("effect kept", range=[low - 0.05, high + 0.08]),
        legend=_legend(),
        showlegend=True,
    )
    return figure


def roc_curves_figure(rows: Sequence[Agreement]) -> go.Figure:
    """A ROC curve per method against one truth, with the areas in the legend."""
    layout = _roomy(len(rows))
    figure = go.Figure(layout=layout)
    for one in rows:
        name = escape(f"{title(one.method)}, AUC {one.roc_auc:.3f}")
        figure.add_trace(
            go.Scatter(
                x=one.roc.false_positive_rate,
                y=one.roc.true_positive_rate,
                mode="lines",
                name=name,
                line=_line(one.method),
                hovertemplate="false positive rate %{x:.3f}, true positive rate %{y:.3f}<extra>" + name + "</extra>",
            )
        )
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"color": TEXT_COLOUR, "width": 1, "dash": "dot"})
    figure.update_layout(
        xaxis=axis("false positive rate", range=[-0.02, 1.02]),
        yaxis=axis("true positive rate", range=[-0.02, 1.04]),
        legend=_legend(),
        showlegend=True,
    )
    return figure


def _place(method: str) -> int:
    """The method's number in the registry, so that it looks the same in every figure; others share the last."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def _symbol(method: str) -> str:
    return _SYMBOLS[_place(method) % len(_SYMBOLS)]


def _line(method: str) -> dict[str, object]:
    """Colour and dash of a line; no two of the first 35 methods share both, and the random baseline is grey dots."""
    if method == "random":
        return {"color": TEXT_COLOUR, "width": 1.2, "dash": "dot"}
    number = _place(method)
    return {"color": _COLOURS[number % len(_COLOURS)], "width": 1.8, "dash": _DASHES[number % len(_DASHES)]}


def _roomy(names: int) -> dict[str, Any]:
    """A layout with room for the legend below: a name a line, three where the figure takes the whole page."""
    below = 75 + 20 * (names if names <= MOST_SIDE_BY_SIDE else math.ceil(names / 3))
    layout = base_layout(height=(310 if names <= MOST_SIDE_BY_SIDE else 380) + below, left=56)
    layout["margin"] |= {"t": 14, "b": below}
    return layout


def _legend() -> dict[str, object]:
    """Below the plot, where the names of many methods have room."""
    return {"orientation": "h", "x": 0, "y": -0.19, "yanchor": "top", "font": {"size": 11}}


def _bars(rows: Sequence[ScoreboardRow]) -> dict[str, object]:
    """Error bars to the ends of the intervals; none where there are too few seeds."""
    up, down = ([_reach(row.high, row.value) for row in rows], [_reach(row.value, row.low) for row in rows])
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 4}


def _reach(high: float, low: float) -> float | None:
    reach = high - low
    return float(reach) if np.isfinite(reach) else None
