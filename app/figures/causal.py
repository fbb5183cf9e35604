"""Ablation curves: a head class against random heads of the same layers."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.figures.style import (
    CLASS_BAND,
    CLASS_COLOUR,
    RANDOM_BAND,
    RANDOM_COLOUR,
    TEXT_COLOUR,
    axis,
    base_layout,
    escape,
)
from app.views.causal import CausalRow, causal_decimals, causal_rows
from app.views.numbers import fixed, interval, p_text
from headscope.checks import CausalCheck

_SPREAD = 0.13


def causal_figure(check: CausalCheck) -> go.Figure:
    """The metric over the number of ablated heads.

    The class is a line with the 95 % interval of its change from the untouched model; every random draw is a point,
    with the mean of the draws and their 2.5th to 97.5th percentile; the untouched model is a dotted line. The steps
    of k are equally far apart.
    """
    rows, places = causal_rows(check), list(range(len(check.points)))
    figure = go.Figure(layout=_layout(check, places))
    figure.add_traces(
        [
            _band(places, [row.random_low for row in rows], [row.random_high for row in rows], RANDOM_BAND),
            _band(places, [row.low for row in rows], [row.high for row in rows], CLASS_BAND),
            _draws(check),
            _random_mean(check, rows, places),
            _class_curve(check, rows, places),
        ]
    )
    figure.add_hline(
        y=check.baseline,
        line={"color": TEXT_COLOUR, "width": 1.4, "dash": "dot"},
        annotation={"text": "untouched model", "font": {"size": 11}, "xanchor": "right"},
        annotation_position="top right" if check.harm < 0 else "bottom right",
    )
    return figure


def _layout(check: CausalCheck, places: list[int]) -> go.Layout:
    layout = base_layout(height=380, left=58)
    layout["margin"]["t"] = 66
    return go.Layout(
        **layout,
        xaxis=axis(
            "heads ablated",
            tickvals=places,
            ticktext=[str(point.k) for point in check.points],
            range=[-0.4, len(places) - 0.6],
            showgrid=False,
        ),
        yaxis=axis(f"{check.metric} ({check.unit})" if check.unit else check.metric),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
    )


def _band(places: list[int], low: list[float], high: list[float], colour: str) -> go.Scatter:
    return go.Scatter(
        x=[*places, *reversed(places)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def _draws(check: CausalCheck) -> go.Scatter:
    """Every draw as a small open diamond, spread sideways evenly so that equal draws stay apart."""
    x: list[float] = []
    y: list[float] = []
    for place, point in enumerate(check.points):
        count = len(point.random_values)
        x += list(place + np.linspace(-_SPREAD, _SPREAD, count)) if count > 1 else [float(place)] * count
        y += list(point.random_values)
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"symbol": "diamond-open", "size": 5, "color": RANDOM_COLOUR, "opacity": 0.75},
        name="each random draw",
        hovertemplate="random draw: %{y:.3f}<extra></extra>",
    )


def _random_mean(check: CausalCheck, rows: list[CausalRow], places: list[int]) -> go.Scatter:
    digits = causal_decimals(check)
    texts = [
        f"{row.k} random: mean {fixed(row.random_mean, digits)}, 95 % of {row.n_draws} draws in "
        f"{interval(row.random_low, row.random_high, digits)}"
        for row in rows
    ]
    return go.Scatter(
        x=places,
        y=[row.random_mean for row in rows],
        mode="lines+markers",
        line={"color": RANDOM_COLOUR, "width": 2, "dash": "dash"},
        marker={"symbol": "diamond", "size": 8},
        name="random heads, mean",
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )


def _class_curve(check: CausalCheck, rows: list[CausalRow], places: list[int]) -> go.Scatter:
    digits = causal_decimals(check)
    texts = [
        f"{row.k} {escape(check.head_class)}: {fixed(row.value, digits)} "
        f"{interval(row.low, row.high, digits)}  p = {p_text(row.p_value)}<br>{escape(_short(row.heads))}"
        for row in rows
    ]
    return go.Scatter(
        x=places,
        y=[row.value for row in rows],
        mode="lines+markers",
        line={"color": CLASS_COLOUR, "width": 2.6},
        marker={"symbol": "circle", "size": 9},
        name=f"strongest {escape(check.head_class)} heads",
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )


def _short(heads: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(heads[:most]) + (f" and {len(heads) - most} more" if len(heads) > most else "")
