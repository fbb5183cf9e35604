"""Mixing matrices side by side: rows look at columns, one range of colours for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.figures.style import SEQUENTIAL, base_layout, escape
from app.views.mixing import Board, Tile

_GAP_PX, _TOP_PX, _BELOW_PX = 54, 40, 34
_FEW, _IN_ROW, _MOST_IN_ROW, _LETTERS = 16, 4, 6, 20
"""Up to so many tiles stand four in a row, more of them six, with titles of so many letters."""
_TEXTED = 60_000
"""Cells up to which each says its tokens; above, hover tells positions."""


def mixing_figure(board: Board, *, top: float = 1.0, wide: int = 930) -> go.Figure:
    """A square for each tile, at most four in a row or, where there are many, six; a model's heads together.

    Args:
        board: the tiles.
        top: top of the colours of all of them.
        wide: pixels that the figure is likely to have.
    """
    columns = _columns(board)
    rows = math.ceil(len(board.tiles) / columns)
    side = min(430, (wide - 40) / columns - 34)
    height = int(rows * (side + _GAP_PX) + _TOP_PX + _BELOW_PX)
    figure = go.Figure(layout=go.Layout(**base_layout(height=height, left=38, right=66)))
    figure.update_layout(margin={"t": _TOP_PX, "b": _BELOW_PX}, showlegend=False)
    inner = height - _TOP_PX - _BELOW_PX
    texted = sum(tile.weights.size for tile in board.tiles) <= _TEXTED
    for index, tile in enumerate(board.tiles):
        figure.add_trace(_heatmap(board, tile, index, top, texted))
        _place(figure, board, index, columns, tall=side / inner, step=(side + _GAP_PX) / inner)
    return figure


def _columns(board: Board) -> int:
    """Tiles in a row: a model's heads where they fit, else as many as fit."""
    heads = len(board.heads)
    if len(board.tiles) > _FEW:
        most = _MOST_IN_ROW - _MOST_IN_ROW % heads if heads < _MOST_IN_ROW else _MOST_IN_ROW
        return max(_IN_ROW, most)
    several = heads if 1 < heads <= _IN_ROW else _IN_ROW
    if heads == 2 and len(board.tiles) > 2:
        several = _IN_ROW
    return max(1, min(several, len(board.tiles)))


def _heatmap(board: Board, tile: Tile, index: int, top: float, texted: bool) -> go.Heatmap:
    mark = "" if index == 0 else str(index + 1)
    size, width = len(tile.weights), tile.width
    places = (np.arange(size) * width + (width - 1) / 2).astype(np.float32)
    shown = tile.weights.copy()
    shown[_unseen(shown)] = np.nan
    said = escape(tile.title)
    at = "d" if width == 1 else ".1f"  # without a format hover says the label of a tick, which is a token
    hover: dict[str, Any] = {
        "hovertemplate": f"{said}<br>row %{{y:{at}}} → column %{{x:{at}}}: %{{z:.3f}}<extra></extra>"
    }
    if texted and board.tokens and width == 1:
        hover = {
            "text": _pair_texts(board.tokens, np.isnan(shown)),
            "hovertemplate": f"{said}<br>%{{text}}: %{{z:.3f}}<extra></extra>",
        }
    bar = {"title": {"text": "weight", "side": "right", "font": {"size": 11}}, "thickness": 11, "outlinewidth": 0,
           "nticks": 6, "tickfont": {"size": 11}, "xpad": 6, "lenmode": "pixels", "len": 240, "y": 1, "yanchor": "top",
           "ypad": 0}  # fmt: skip
    return go.Heatmap(
        z=np.round(shown, 4), x=places, y=places, xaxis=f"x{mark}", yaxis=f"y{mark}", zmin=0.0, zmax=top,
        colorscale=SEQUENTIAL, showscale=index == 0, colorbar=bar, hoverongaps=False, **hover,
    )  # fmt: skip


def _unseen(weights: np.ndarray) -> np.ndarray:
    """Cells above the diagonal of a matrix that reads left to right: blank, not zero."""
    above = np.triu(np.ones(weights.shape, dtype=bool), 1)
    return above if not np.any(weights[above] > 0) else np.zeros_like(above)


def _pair_texts(tokens: Sequence[str], blank: np.ndarray) -> list[list[str]]:
    """What each cell is called: the place and token of its row, and of its column; nothing where it is blank."""
    named = [f"{place} ({escape(token)})" for place, token in enumerate(tokens)]
    return [
        ["" if empty else f"row {row} → column {column}" for column, empty in zip(named, blanks, strict=True)]
        for row, blanks in zip(named, blank, strict=True)
    ]


def _place(figure: go.Figure, board: Board, index: int, columns: int, *, tall: float, step: float) -> None:
    row, column = divmod(index, columns)
    gap = 0.03 if columns > 1 else 0.0
    wide = (1 - gap * (columns - 1)) / columns
    left, upper = column * (wide + gap), 1 - row * step
    mark = "" if index == 0 else str(index + 1)
    tile = board.tiles[index]
    size = len(tile.weights) * tile.width
    shared = {"showgrid": False, "zeroline": False, "ticks": "", "tickfont": {"size": 9}, "constrain": "domain"}
    labels = _labels(board, size, columns)
    rows_end = index + columns >= len(board.tiles)
    figure.update_layout(
        {
            f"xaxis{mark}": {
                **shared, **labels, "domain": [left, min(1, left + wide)], "anchor": f"y{mark}",
                "range": [-0.5, size - 0.5], "tickangle": 0, "showticklabels": rows_end or tile.width > 1,
                "constraintoward": "left",
            },
            f"yaxis{mark}": {
                **shared, **labels, "domain": [max(0.0, upper - tall), upper], "anchor": f"x{mark}",
                "range": [size - 0.5, -0.5], "scaleanchor": f"x{mark}", "showticklabels": column == 0,
                "constraintoward": "top",
            },
        }
    )  # fmt: skip
    figure.add_annotation(
        text=f"{escape(_short(tile.model.label, columns))}<br>{escape(tile.place)}",
        align="left", x=left, y=upper, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
        showarrow=False, font={"size": 11 if columns <= _IN_ROW else 9},
    )  # fmt: skip


def _short(label: str, columns: int) -> str:
    """A label that fits above its tile; hover has the whole of it."""
    return label if columns <= _IN_ROW or len(label) <= _LETTERS else f"{label[: _LETTERS - 1]}…"


def _labels(board: Board, size: int, columns: int) -> dict[str, Any]:
    """Tokens where there is room for their numbers, else every so many of them; positions where there are none."""
    most = 34 // columns + 2
    step = max(1, math.ceil(size / most))
    places = list(range(0, size, step))
    names = [escape(board.tokens[place])[:6] if place < len(board.tokens) else str(place) for place in places]
    return {"tickvals": places, "ticktext": names}
