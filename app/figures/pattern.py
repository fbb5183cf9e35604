"""A head's pattern as a heatmap: rows are queries, columns keys, both by position; tokens are labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from app.figures.style import SEQUENTIAL, TEXT_COLOUR, axis, base_layout, escape
from app.views.tokens import named

LARGEST = 1024
"""Rows or keys of one figure; more are pooled before."""

_DECADES = 4
_MOST_TICKS, _MOST_BINS = 48, 20
_LONGEST_TICK = 14


def pattern_figure(
    values: Float[np.ndarray, "row key"],
    labels: Sequence[str],
    *,
    rows: range | None = None,
    keys: range | None = None,
    log: bool = False,
    zmax: float | None = None,
    title: str = "share of attention",
    height: int = 560,
    aside: float = 1.02,
) -> go.Figure:
    """Draw a pattern, a part of it, or bins of it; what a row cannot see is left blank.

    Args:
        values: the cells, at most 1024 x 1024.
        labels: label of every token of the text (`app.views.tokens.token_labels`).
        rows: first query of each row: a step above 1 says that a row is a bin; all queries by default.
        keys: the same of the columns.
        log: colour by the logarithm, over four decades below ``zmax``; hover shows the value itself.
        zmax: top of the colours; the largest value by default.
        title: what a value is, beside the colour bar.
        height: pixels.
        aside: where the colour bar begins, in widths of the plot.

    Raises:
        ValueError: if there are too many cells or ``rows`` and ``keys`` do not fit them.
    """
    rows, keys = rows or range(values.shape[0]), keys or range(values.shape[1])
    if max(values.shape) > LARGEST or values.shape != (len(rows), len(keys)):
        raise ValueError(f"cannot draw {values.shape} cells as {len(rows)} x {len(keys)}, at most {LARGEST} a side")
    shown = np.where(_is_hidden(rows, keys), np.nan, values).astype(np.float32)
    top = float(zmax or (np.nanmax(shown) if np.isfinite(shown).any() else 1.0) or 1.0)
    x, y = _middle(keys), _middle(rows)
    figure = go.Figure(layout=_layout(labels, rows, keys, height))
    figure.add_trace(
        go.Heatmap(
            z=shown,
            x=x,
            y=y,
            zmin=0.0,
            zmax=top,
            colorscale=_log_scale() if log else SEQUENTIAL,
            showscale=not log,
            colorbar=_colour_bar(title, aside),
            hovertemplate="query %{y} → key %{x}: %{z:.3~g}<extra></extra>",
            hoverongaps=False,
        )
    )
    figure.add_trace(_bearer(x, y, top, _colour_bar(title, aside), log=log))
    return figure


def _middle(places: range) -> Float[np.ndarray, " bin"]:
    return (np.asarray(places) + (places.step - 1) / 2).astype(np.float32)


def _is_hidden(rows: range, keys: range) -> np.ndarray:
    last_query = np.asarray(rows)[:, None] + rows.step - 1
    return np.asarray(keys)[None] > last_query


def _log_scale() -> list[tuple[float, Any]]:
    """Viridis along the logarithm: z keeps its own unit."""
    from plotly.colors import sample_colorscale

    places = np.linspace(0, 1, 41)
    shades = sample_colorscale(SEQUENTIAL, places.tolist())
    where = np.concatenate([[0.0], 10.0 ** (_DECADES * (places[1:-1] - 1)), [1.0]])
    return [(float(a), shade) for a, shade in zip(where, shades, strict=True)]


def _colour_bar(title: str, aside: float) -> dict[str, Any]:
    return {
        "title": {"text": escape(title), "side": "right", "font": {"size": 11}},
        "thickness": 11,
        "outlinewidth": 0,
        "nticks": 6,
        "tickfont": {"size": 11},
        "xpad": 6,
        "x": aside,
    }


def _bearer(x: np.ndarray, y: np.ndarray, top: float, bar: dict[str, Any], *, log: bool) -> go.Scatter:
    """An invisible trace that bears the axes with the few labels, and the colour bar of a logarithmic scale."""
    marker: dict[str, Any] = {"opacity": 0, "size": 1}
    if log:
        bar |= _powers(top)
        marker |= {"color": [0.0, 0.0], "cmin": -_DECADES, "cmax": 0, "colorscale": SEQUENTIAL, "colorbar": bar}
        marker["showscale"] = True
    ends = {"x": [float(x[0]), float(x[-1])], "y": [float(y[0]), float(y[-1])]}
    return go.Scatter(**ends, xaxis="x2", yaxis="y2", mode="markers", marker=marker, hoverinfo="skip", showlegend=False)


def _powers(top: float) -> dict[str, Any]:
    """Ticks at the powers of ten within four decades below ``top``, as logarithms of their share of it."""
    last = np.log10(top)
    whole = range(int(np.ceil(last - _DECADES - 1e-9)), int(np.floor(last + 1e-9)) + 1)
    return {"tickvals": [float(power - last) for power in whole], "ticktext": [f"{10.0**power:g}" for power in whole]}


def _layout(labels: Sequence[str], rows: range, keys: range, height: int) -> go.Layout:
    """Two pairs of axes in one place: the hover text takes every label from one, the other draws a few.

    plotly shows a tick's text for a hovered position; with every position a tick, a text per cell need not be sent.
    """
    layout = base_layout(height=height, left=96)
    layout["margin"] |= {"b": 96, "t": 12}
    x, y = _span(keys), _span(rows)[::-1]
    return go.Layout(
        **layout,
        showlegend=False,
        xaxis={"range": x, "showticklabels": False, "showgrid": False, "zeroline": False, "constrain": "domain",
               **_every(labels, keys)},
        yaxis={"range": y, "showticklabels": False, "showgrid": False, "zeroline": False, "scaleanchor": "x",
               "constrain": "domain", "constraintoward": "top", **_every(labels, rows)},
        xaxis2=axis("key", range=x, matches="x", overlaying="x", side="bottom", showgrid=False, tickangle=-90,
                    tickfont={"size": 11, "color": TEXT_COLOUR}, **_few(labels, keys)),
        yaxis2=axis("query", range=y, matches="y", overlaying="y", side="left", showgrid=False,
                    tickfont={"size": 11, "color": TEXT_COLOUR}, **_few(labels, rows)),
    )  # fmt: skip


def _span(places: range) -> list[float]:
    return [places[0] - 0.5, places[-1] + places.step - 0.5]


def _every(labels: Sequence[str], places: range) -> dict[str, Any]:
    texts = [escape(named(place, labels[place])) for place in places]
    if places.step > 1:
        ends = [min(place + places.step, len(labels)) - 1 for place in places]
        texts = [f"{text} to {end}" for text, end in zip(texts, ends, strict=True)]
    return {"tickmode": "array", "tickvals": _middle(places), "ticktext": texts, "ticks": ""}


def _few(labels: Sequence[str], places: range) -> dict[str, Any]:
    """Tokens where all fit, else positions and tokens in even steps; of bins the first position."""
    most = _MOST_BINS if places.step > 1 else _MOST_TICKS
    every = 1
    while len(places) > most * every:
        every *= 2
    kept = places[::every]
    texts = [_short(labels[place]) if every == 1 else f"{place} {_short(labels[place], 8)}" for place in kept]
    if places.step > 1:
        texts = [f"{place:,}" for place in kept]
    return {"tickmode": "array", "tickvals": np.asarray(kept, dtype=np.float32), "ticktext": texts}


def _short(label: str, longest: int = _LONGEST_TICK) -> str:
    return escape(label if len(label) <= longest else label[: longest - 1] + "…")
