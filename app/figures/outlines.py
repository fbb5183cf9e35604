"""Outlines around cells of a map, so that a class never shows by colour alone."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from headscope.heads import Head

_INSIDE = 0.45
_STROKES = (("#111111", 3.2), ("#ffffff", 1.3))


def outline_traces(heads: Sequence[Head]) -> list[go.Scatter]:
    """A frame just inside each head's cell, white on dark: seen on every colour of the map."""
    if not heads:
        return []
    x: list[float | None] = []
    y: list[float | None] = []
    for layer, head in heads:
        left, right, top, bottom = head - _INSIDE, head + _INSIDE, layer - _INSIDE, layer + _INSIDE
        x += [left, right, right, left, left, None]
        y += [top, top, bottom, bottom, top, None]
    return [
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": colour, "width": width},
            hoverinfo="skip",
            showlegend=False,
        )
        for colour, width in _STROKES
    ]
