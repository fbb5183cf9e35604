"""Two runs against each other: maps on one colour range, their difference, a scatter, and classes by depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.figures.head_map import hover_texts
from app.figures.outlines import outline_traces
from app.figures.style import (
    CLASS_COLOUR,
    DIVERGING,
    RANDOM_COLOUR,
    SEQUENTIAL,
    TEXT_COLOUR,
    axis,
    base_layout,
    escape,
    number_ticks,
)
from app.views.comparison import Comparison, MovedHead, members
from app.views.depth import depth_shares
from app.views.numbers import decimals_of, fixed, interval, signed
from headscope.heads import Head, HeadScores

_GREY = "#8a8f96"
_MARKS = {
    "never": ("circle-open", _GREY, "in neither class"),
    "": ("circle-open", _GREY, "heads"),
    "stayed": ("circle", CLASS_COLOUR, "in both"),
    "left": ("triangle-down", RANDOM_COLOUR, "left: only in A"),
    "entered": ("triangle-up", "#7b3fa0", "entered: only in B"),
}
_RUNS = (("circle", "solid", CLASS_COLOUR), ("diamond", "dash", RANDOM_COLOUR))
_GAP = 0.15


def paired_maps_figure(runs: Mapping[str, HeadScores]) -> go.Figure:
    """The maps of two runs side by side on one colour range; heads of the class are outlined.

    Args:
        runs: heading to score, two of them; their shapes may differ.
    """
    scores = list(runs.values())
    height = int(np.clip(17 * max(one.n_layers for one in scores) + 100, 240, 720))
    figure = go.Figure(layout=go.Layout(**base_layout(height=height, left=44), showlegend=False))
    figure.update_layout(coloraxis=_shared_colours(scores))
    wide = (1 - _GAP) / 2
    for index, (title, one) in enumerate(runs.items()):
        mark, left = "" if index == 0 else "2", index * (wide + _GAP)
        figure.add_trace(
            go.Heatmap(
                z=one.values.astype(np.float32),
                x=np.arange(one.n_heads),
                y=np.arange(one.n_layers),
                text=hover_texts(one),
                hovertemplate="%{text}<extra></extra>",
                coloraxis="coloraxis",
                xaxis=f"x{mark}",
                yaxis=f"y{mark}",
                xgap=1,
                ygap=1,
            )
        )
        for trace in outline_traces(members(one)):
            figure.add_trace(trace.update(xaxis=f"x{mark}", yaxis=f"y{mark}"))
        figure.update_layout(_map_axes(one, mark, [left, left + wide]))
        figure.update_layout({f"yaxis{mark}": {"domain": [1 - _tall(one, scores), 1]}})
        figure.add_annotation(
            text=escape(title), x=left, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
            showarrow=False, font={"size": 12},
        )  # fmt: skip
    return figure


def _tall(scores: HeadScores, all_scores: list[HeadScores]) -> float:
    """Share of the figure's height, so that a layer is about as tall in both maps."""
    return max(scores.n_layers / max(one.n_layers for one in all_scores), 0.2)


def _map_axes(scores: HeadScores, mark: str, domain: list[float]) -> dict[str, Any]:
    layers, heads = scores.n_layers, scores.n_heads
    ticks = {"showgrid": False}
    return {
        f"xaxis{mark}": axis("head", range=[-0.5, heads - 0.5], domain=domain, anchor=f"y{mark}",
                             tickvals=number_ticks(heads), **ticks),
        f"yaxis{mark}": axis("layer", range=[layers - 0.5, -0.5], anchor=f"x{mark}",
                             tickvals=number_ticks(layers), **ticks),
    }  # fmt: skip


def _shared_colours(scores: list[HeadScores]) -> dict[str, Any]:
    """One range for all: Viridis from 0 or below; PuOr centred at 0 where a score really takes both signs."""
    finite = np.concatenate([one.values[np.isfinite(one.values)] for one in scores])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    bar = _bar(scores[0].definition.unit)
    if low < -0.1 * abs(high):
        reach = max(-low, high)
        return {"colorscale": DIVERGING, "cmin": -reach, "cmax": reach, "colorbar": bar}
    return {"colorscale": SEQUENTIAL, "cmin": min(low, 0.0), "cmax": high if high > 0 else 1.0, "colorbar": bar}


def _bar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": escape(title), "side": "right", "font": {"size": 11}},
        "thickness": 11,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "xpad": 6,
    }


def difference_figure(found: Comparison) -> go.Figure:
    """Map of B - A, PuOr centred at 0; outlined where the two 95 % intervals do not overlap."""
    scores, values = found.a, found.difference
    finite = np.abs(values[np.isfinite(values)])
    reach = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    height = int(np.clip(17 * scores.n_layers + 100, 240, 720))
    figure = go.Figure(layout=go.Layout(**base_layout(height=height, left=44), showlegend=False))
    figure.add_trace(
        go.Heatmap(
            z=values.astype(np.float32),
            x=np.arange(scores.n_heads),
            y=np.arange(scores.n_layers),
            text=_difference_texts(found),
            hovertemplate="%{text}<extra></extra>",
            colorscale=DIVERGING,
            zmin=-reach,
            zmax=reach,
            xgap=1,
            ygap=1,
            colorbar=_bar(f"B - A ({scores.definition.unit})"),
        )
    )
    figure.add_traces(outline_traces([row.head for row in found.heads if row.is_apart]))
    figure.update_layout(_map_axes(scores, "", [0, 1]))
    return figure


def _difference_texts(found: Comparison) -> list[list[str]]:
    rows = {row.head: _row_text(row, decimals_of(found.a.values)) for row in found.heads}
    layers, heads = found.difference.shape
    return [
        [rows.get(Head(layer, head), f"L{layer}H{head}  no value in one run") for head in range(heads)]
        for layer in range(layers)
    ]


def _row_text(row: MovedHead, digits: int) -> str:
    return (
        f"{row.head}  {signed(row.difference, digits)}: A {fixed(row.a, digits)} "
        f"{interval(row.a_low, row.a_high, digits)}, B {fixed(row.b, digits)} {interval(row.b_low, row.b_high, digits)}"
    )


def run_scatter_figure(found: Comparison, names: tuple[str, str]) -> go.Figure:
    """A mark per head, A against B, its shape and colour by what happened to it; the diagonal is no change."""
    layout = base_layout(height=430, left=64)
    layout["margin"]["t"] = 46
    figure = go.Figure(
        layout=go.Layout(
            **layout,
            xaxis=axis(f"A: {names[0]} ({found.a.definition.unit})"),
            yaxis=axis(f"B: {names[1]} ({found.b.definition.unit})"),
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        )
    )
    ends = [value for row in found.heads for value in (row.a, row.b)] or [0.0, 1.0]
    line = {"color": TEXT_COLOUR, "width": 1}
    figure.add_shape(type="line", x0=min(ends), y0=min(ends), x1=max(ends), y1=max(ends), line=line, layer="below")
    bar = found.a.definition.threshold
    if bar is not None:
        figure.add_vline(bar, line={**line, "dash": "dot"})
        figure.add_hline(bar, line={**line, "dash": "dot"})
    for change, (symbol, colour, name) in _MARKS.items():
        rows = [row for row in found.heads if row.change == change]
        if rows:
            figure.add_trace(_marks(rows, symbol, colour, f"{name} ({len(rows)})", decimals_of(found.a.values)))
    return figure


def _marks(rows: list[MovedHead], symbol: str, colour: str, name: str, digits: int) -> go.Scatter:
    return go.Scatter(
        x=[row.a for row in rows],
        y=[row.b for row in rows],
        mode="markers",
        marker={"symbol": symbol, "color": colour, "size": 8, "opacity": 0.85},
        customdata=[str(row.head) for row in rows],
        text=[_row_text(row, digits) for row in rows],
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )


def depth_figure(runs: Mapping[str, HeadScores]) -> go.Figure:
    """Share of each layer's heads that are in the class, over the relative depth of the layer."""
    layout = base_layout(height=300, left=64)
    layout["margin"]["t"] = 40
    figure = go.Figure(
        layout=go.Layout(
            **layout,
            xaxis=axis("relative depth: layer / layers", range=[-0.02, 1.02]),
            yaxis=axis("share of the layer's heads", rangemode="tozero", tickformat=".0%"),
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        )
    )
    for (title, scores), (symbol, dash, colour) in zip(runs.items(), _RUNS, strict=False):
        rows = depth_shares(scores)
        figure.add_trace(
            go.Scatter(
                x=[row.depth for row in rows],
                y=[row.share for row in rows],
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": 7},
                text=[f"layer {row.layer}: {row.count} of {row.n} heads" for row in rows],
                hovertemplate="%{text}<extra></extra>",
                name=escape(title),
            )
        )
    return figure
