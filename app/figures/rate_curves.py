"""Learning curves of one variant at every rate: thin lines for seeds, thick ones for their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.style import axis, base_layout
from app.figures.training import MEASURES, Measure
from app.figures.variant_looks import Look, look
from app.views.rate_curves import RateCurve


def rates_figure(curves: Sequence[RateCurve], *, measure: Measure = "accuracy") -> go.Figure:
    """A line for each rate; the best one is drawn thickest."""
    below = 66 + 19 * math.ceil(len(curves) / 4)
    layout = base_layout(height=260 + below, left=56)
    layout["margin"] |= {"t": 14, "b": below}
    figure = go.Figure(layout=layout)
    order = [f"{curve.rate:g}" for curve in curves]
    for curve in curves:
        figure.add_traces(_lines(curve, look(f"{curve.rate:g}", order), measure))
    ends = {"range": [-0.03, 1.04]} if measure == "accuracy" else {"rangemode": "tozero"}
    figure.update_layout(
        xaxis=axis("steps", rangemode="tozero"), yaxis=axis(MEASURES[measure], automargin=True, **ends),
        showlegend=True, legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}},
    )  # fmt: skip
    return figure


def _lines(curve: RateCurve, own: Look, measure: Measure) -> list[go.Scatter]:
    name, group = f"{curve.rate:g}{' (best)' if curve.is_best else ''}", f"{curve.rate:g}"
    seeds = [
        go.Scatter(
            x=[point.step for point in one.curve], y=[_none(getattr(point, measure)) for point in one.curve],
            mode="lines", legendgroup=group, showlegend=False, line={"color": own.pale(), "width": 1},
            hovertemplate=f"rate {group}, seed {one.cell.seed}<br>step %{{x}}: %{{y:.3f}}<extra></extra>",
        )
        for one in curve.trained
    ]  # fmt: skip
    many = f"mean of {len(curve.trained)} seeds" if len(curve.trained) > 1 else "1 seed"
    mean = go.Scatter(
        x=list(curve.steps), y=[_none(value) for value in getattr(curve, measure)], mode="lines+markers", name=name,
        legendgroup=group, line={"color": own.colour, "width": 3 if curve.is_best else 1.8, "dash": own.dash},
        marker={"symbol": own.symbol, "size": 5, "color": own.colour},
        hovertemplate=f"rate {name}, {many}<br>step %{{x}}: %{{y:.3f}}<extra></extra>",
    )  # fmt: skip
    return [*seeds, mean]


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None
