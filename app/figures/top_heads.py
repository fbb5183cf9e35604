"""The strongest heads of a score with their intervals, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.style import CLASS_COLOUR, TEXT_COLOUR, axis, base_layout, escape
from app.views.heads import HeadRow
from app.views.numbers import decimals_of, fixed, interval
from headscope.heads import ScoreDefinition


def top_heads_figure(rows: Sequence[HeadRow], definition: ScoreDefinition) -> go.Figure:
    """A point and its 95 % interval per head, strongest on top; filled where the head is in the class.

    Args:
        rows: heads, strongest first.
        definition: the score they are of; its threshold is drawn as a dotted line.
    """
    places = list(range(len(rows)))
    figure = go.Figure(
        go.Scatter(
            x=[row.value for row in rows],
            y=places,
            mode="markers",
            error_x=_bars(rows),
            marker={
                "color": CLASS_COLOUR,
                "size": 9,
                "symbol": ["circle" if row.is_member else "circle-open" for row in rows],
                "line": {"width": 1.6, "color": CLASS_COLOUR},
            },
            text=_texts(rows, definition),
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        ),
        layout=go.Layout(
            **base_layout(height=100 + 28 * max(len(rows), 3), left=64),
            xaxis=axis(f"{definition.title} ({definition.unit})", range=_reach(rows, definition)),
            yaxis=axis(
                "",
                tickvals=places,
                ticktext=[escape(row.label) for row in rows],
                range=[len(rows) - 0.4, -0.6],
                showgrid=False,
            ),
        ),
    )
    if definition.threshold is not None:
        _draw_threshold(figure, definition.threshold)
    return figure


def _draw_threshold(figure: go.Figure, threshold: float) -> None:
    figure.add_vline(
        x=threshold,
        line={"color": TEXT_COLOUR, "width": 1.4, "dash": "dot"},
        annotation={"text": "threshold", "font": {"size": 11}, "yanchor": "bottom"},
    )


def _reach(rows: Sequence[HeadRow], definition: ScoreDefinition) -> list[float]:
    """From the lowest to the highest number drawn, with room at both ends for points and labels."""
    drawn = [number for row in rows for number in (row.value, row.low, row.high) if not np.isnan(number)]
    drawn += [] if definition.threshold is None else [definition.threshold]
    low, high = min(drawn, default=0.0), max(drawn, default=1.0)
    margin = 0.07 * (high - low) or 0.5
    return [low - margin, high + margin]


def _bars(rows: Sequence[HeadRow]) -> dict[str, object]:
    value, low, high = (np.array([getattr(row, end) for row in rows]) for end in ("value", "low", "high"))
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(high - value),
        "arrayminus": np.nan_to_num(value - low),
        "thickness": 1.8,
        "width": 4,
        "color": CLASS_COLOUR,
    }


def _texts(rows: Sequence[HeadRow], definition: ScoreDefinition) -> list[str]:
    decimals = decimals_of(np.array([row.value for row in rows]))
    name = escape(definition.name.replace("_", " "))
    return [
        f"{row.label}  {name} {fixed(row.value, decimals)} {interval(row.low, row.high, decimals)}  n={row.n}"
        for row in rows
    ]
