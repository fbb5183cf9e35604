"""What circuits of growing size keep of the effect, and ROC curves of all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.style import CLASS_BAND, CLASS_COLOUR, RANDOM_COLOUR, TEXT_COLOUR, axis, base_layout, escape
from app.views.circuit import Curve
from app.views.circuit_words import title
from circuits.evaluation import Agreement

_TICKS = (0.001, 0.01, 0.1, 1.0)
_DASHES = ("dot", "dash", "dashdot", "longdash")  # as many as do not divide the colours: no two methods look alike
_OTHERS = ("#6a51a3", "#3a8f5c", "#b04a6e", "#5b7f95", "#8c6d1f")


def faithfulness_figure(shown: Curve, *, step: int, other: Curve | None = None) -> go.Figure:
    """The share of the effect that circuits keep, by size.

    Args:
        shown: the curve, with its interval, worst prompt and random circuits.
        step: the point of the slider, which is marked.
        other: the same of a second method.
    """
    curve, ends = shown.curve, shown.ends
    layout = base_layout(height=330, left=56)
    layout["margin"]["t"] = 48
    figure = go.Figure(layout=layout)
    shares, value = curve.shares, curve.faithfulness
    words = [f"{kept} of {curve.n_parts} {curve.unit}s" for kept in curve.kept]
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    figure.add_trace(go.Scatter(x=shares, y=ends[0], **band))
    figure.add_trace(go.Scatter(x=shares, y=ends[1], fill="tonexty", fillcolor=CLASS_BAND, **band))
    if (random := curve.random_faithfulness) is not None:
        x = np.concatenate([np.append(shares, np.nan)] * len(random))
        y = np.concatenate([np.append(row, np.nan) for row in random])
        figure.add_trace(_line(x, y, f"random ({len(random)})", RANDOM_COLOUR, 1, "dot"))
    figure.add_trace(_line(shares, np.maximum(curve.worst, -3), "worst prompt", TEXT_COLOUR, 1.2, "dash"))
    if other is not None:
        beside = other.curve
        figure.add_trace(_line(beside.shares, beside.faithfulness, title(beside.method), "#6a51a3", 1.8, "dashdot"))
    figure.add_trace(_line(shares, value, title(curve.method), CLASS_COLOUR, 2.4, "solid", words))
    figure.add_trace(
        go.Scatter(
            x=[shares[step]], y=[value[step]], mode="markers", name="slider", showlegend=False,
            marker={"size": 14, "symbol": "diamond", "color": CLASS_COLOUR, "line": {"width": 2, "color": "#ffffff"}},
            hovertemplate=f"slider: {words[step]}, %{{y:.3f}}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_hline(y=1, line={"color": TEXT_COLOUR, "width": 1, "dash": "dot"})
    figure.add_vline(x=float(shares[step]), line={"color": TEXT_COLOUR, "width": 1, "dash": "dash"})
    low, high = _range(shown, other)
    figure.update_layout(
        xaxis=axis(
            f"share of the {curve.n_parts:,} {curve.unit}s kept", type="log", tickvals=list(_TICKS),
            ticktext=["0.1 %", "1 %", "10 %", "100 %"], range=[-3.08, 0.08],
        ),
        yaxis=axis("effect kept", range=[low, high]),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
    )  # fmt: skip
    return figure


def _range(shown: Curve, other: Curve | None) -> tuple[float, float]:
    """Room for the curve and its worst prompt; a far outlier does not flatten the rest."""
    parts = [shown.curve.faithfulness, shown.ends.ravel(), np.clip(shown.curve.worst, -1, 2)]
    parts += [] if other is None else [other.curve.faithfulness]
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    return min(float(values.min(initial=0)), 0) - 0.08, max(float(values.max(initial=1)), 1) + 0.08


def _line(
    x: np.ndarray, y: np.ndarray, name: str, colour: str, width: float, dash: str, words: Sequence[str] | None = None
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name=escape(name),
        line={"color": colour, "width": width, "dash": dash},
        text=words,
        hovertemplate=("%{text}: " if words else "%{x:.1%}: ") + "%{y:.3f}<extra>" + escape(name) + "</extra>",
    )


def roc_figure(rows: Sequence[Agreement], *, chosen: str, other: str) -> go.Figure:
    """A ROC curve per method against one truth; the chosen method and the second are drawn strong.

    Args:
        rows: an agreement per method.
        chosen: the method of the page.
        other: the method that it is compared with.
    """
    lines = -(-(len(rows) + 1) // 2)
    layout = base_layout(height=350 + 19 * lines, left=56)
    layout["margin"] |= {"t": 14, "b": 58 + 19 * lines}
    figure = go.Figure(layout=layout)
    figure.add_trace(_line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "chance", TEXT_COLOUR, 1, "dot"))
    rest = [row.method for row in rows if row.method not in (chosen, other)]
    styles: Mapping[str, tuple[str, float, str]] = {
        name: (_OTHERS[place % len(_OTHERS)], 1.4, _DASHES[place % len(_DASHES)]) for place, name in enumerate(rest)
    }
    styles = {**styles, other: (RANDOM_COLOUR, 2.2, "dash"), chosen: (CLASS_COLOUR, 3, "solid")}
    for row in rows:
        name = f"{title(row.method)}, AUC {row.roc_auc:.3f}"
        figure.add_trace(_line(row.roc.false_positive_rate, row.roc.true_positive_rate, name, *styles[row.method]))
    figure.update_layout(
        xaxis=axis("false positive rate", range=[-0.02, 1.02]),
        yaxis=axis("true positive rate", range=[-0.02, 1.04]),
        legend={"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom", "font": {"size": 11}},
    )  # fmt: skip
    return figure
