"""Overlap of the head classes as a matrix."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from app.figures.style import SEQUENTIAL, axis, base_layout, escape
from app.views.numbers import fixed
from app.views.overlap import ClassOverlap


def overlap_figure(overlap: ClassOverlap) -> go.Figure:
    """Jaccard index of every pair of classes as colour, the number of shared heads in the cells.

    The diagonal, the sizes of the classes, is left without colour: its index of 1 would drown the rest.
    """
    places = list(range(len(overlap.names)))
    names = [escape(name) for name in overlap.names]
    apart = np.where(np.eye(len(places), dtype=np.bool_), np.nan, overlap.jaccard)
    labels = {"tickvals": places, "ticktext": names, "showgrid": False}
    layout = base_layout(height=110 + 38 * max(len(places), 3), left=10)
    layout["margin"]["b"] = 10
    return go.Figure(
        [_colours(overlap, apart, names), _plain_numbers(overlap, apart)],
        layout=go.Layout(
            **layout,
            xaxis=axis("", tickangle=-30, automargin=True, **labels),
            yaxis=axis("", range=[len(places) - 0.5, -0.5], automargin=True, **labels),
            showlegend=False,
        ),
    )


def _colours(overlap: ClassOverlap, apart: Float[np.ndarray, "class class"], names: list[str]) -> go.Heatmap:
    counts = overlap.counts.tolist()
    return go.Heatmap(
        z=apart.astype(np.float32),
        x=list(range(len(names))),
        y=list(range(len(names))),
        colorscale=SEQUENTIAL,
        zmin=0,
        zmax=max((float(index) for index in apart.ravel() if index > 0), default=1.0),
        text=[
            ["" if np.isnan(index) else str(count) for index, count in zip(*row, strict=True)]
            for row in zip(apart, counts, strict=True)
        ],
        texttemplate="%{text}",
        textfont={"size": 13},
        hovertext=_hover_texts(overlap, names),
        hovertemplate="%{hovertext}<extra></extra>",
        xgap=2,
        ygap=2,
        colorbar={"title": {"text": "Jaccard index", "side": "right"}, "thickness": 11, "outlinewidth": 0},
    )


def _plain_numbers(overlap: ClassOverlap, apart: Float[np.ndarray, "class class"]) -> go.Scatter:
    """Numbers of the cells without colour, in the colour of the page's text."""
    rows, columns = np.nonzero(np.isnan(apart))
    return go.Scatter(
        x=columns.tolist(),
        y=rows.tolist(),
        text=[str(count) for count in overlap.counts[rows, columns]],
        mode="text",
        textfont={"size": 13},
        hoverinfo="skip",
    )


def _hover_texts(overlap: ClassOverlap, names: list[str]) -> list[list[str]]:
    return [
        [
            f"{names[a]} and {names[b]}: {overlap.counts[a, b]} heads in both, "
            f"Jaccard index {fixed(float(overlap.jaccard[a, b]))}"
            for b in range(len(names))
        ]
        for a in range(len(names))
    ]
