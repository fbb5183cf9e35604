"""Heads of small models as strips: a row for each head, a cell for each kind of cells, with its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from app.figures.shades import shades
from app.figures.style import SEQUENTIAL, TEXT_COLOUR, axis, base_layout, escape
from app.figures.variant_looks import look
from app.views.variant_profiles import FIRST, VIEW_TITLES, VIEWS, ProfileRow, View, cell_names

MOST_ROWS = 64
_ROW_PX, _TOP_PX, _LETTER_PX, _MOST_LEFT = 21, 78, 6, 260
_FOLLOWED = ("match +1", "carry 1", "offset 1", FIRST)
_BAR = {"title": {"text": "mean weight", "side": "right", "font": {"size": 11}}, "thickness": 11, "outlinewidth": 0,
        "nticks": 6, "tickfont": {"size": 11}, "xpad": 6, "lenmode": "pixels", "len": 240, "y": 1, "yanchor": "top",
        "ypad": 0}  # fmt: skip


def strips_figure(rows: Sequence[ProfileRow], *, views: Sequence[View] = VIEWS) -> go.Figure:
    """Heat strips of at most `MOST_ROWS` heads, a block for each view, 0 to 1.

    Args:
        rows: the heads, from the top.
        views: views of M, side by side.
    """
    names, labels = cell_names(rows), [f"{row.label} · {row.head}" for row in rows]
    height = max(_TOP_PX + 190, _ROW_PX * len(rows) + _TOP_PX + 16)
    left = min(_MOST_LEFT, 14 + _LETTER_PX * max(map(len, labels)))
    figure = go.Figure(layout=go.Layout(**base_layout(height=height, left=left, right=66)))
    figure.update_layout(margin={"t": _TOP_PX, "b": height - _TOP_PX - _ROW_PX * len(rows)}, showlegend=False)
    gap = 0.02
    wide = (1 - gap * (len(views) - 1)) / len(views)
    for index, view in enumerate(views):
        mark, start = "" if index == 0 else str(index + 1), index * (wide + gap)
        values = np.array([[row.cells[view].get(name, np.nan) for name in names] for row in rows], dtype=np.float32)
        figure.add_trace(_strip(rows, names, view, values, mark, showscale=index == len(views) - 1))
        figure.add_trace(_numbers(values, mark))
        figure.update_layout({
            f"xaxis{mark}": {**_FLAT, **_cell_labels(names), "domain": [start, start + wide], "anchor": f"y{mark}",
                             "side": "top", "range": [-0.5, len(names) - 0.5]},
            f"yaxis{mark}": {**_FLAT, "anchor": f"x{mark}", "range": [len(rows) - 0.5, -0.5],
                             "tickvals": list(range(len(rows))), "ticktext": [escape(one) for one in labels],
                             "showticklabels": index == 0},
        })  # fmt: skip
        figure.add_annotation(
            text=escape(VIEW_TITLES[view]), x=start, y=1, yshift=58, xref="paper", yref="paper", xanchor="left",
            yanchor="bottom", showarrow=False, font={"size": 11},
        )  # fmt: skip
        for place in _borders(rows):
            figure.add_shape(type="line", x0=0, x1=1, xref=f"x{mark} domain", y0=place, y1=place, yref=f"y{mark}",
                             line={"color": "#ffffff", "width": 2})  # fmt: skip
    return figure


def growth_figure(
    series: Mapping[str, Sequence[ProfileRow]], *, view: View, order: Sequence[str], step: int | None
) -> go.Figure:
    """What heads do while they are trained: match +1, previous tokens and first token against steps, side by side.

    Args:
        series: by the label of the model, a row for each head and step.
        view: view of M.
        order: labels of all models, so that one keeps its colour.
        step: the step that the matrices show, drawn as a line.
    """
    figure = go.Figure(layout=go.Layout(**base_layout(height=370, left=50)))
    known = {name for rows in series.values() for row in rows for name in row.cells[view]}
    shown = [name for name in _FOLLOWED if name in known]
    wide = 1 / len(shown)
    for index, cells in enumerate(shown):
        mark = "" if index == 0 else str(index + 1)
        for label, rows in series.items():
            colour = look(label, order).colour
            for place, head in enumerate(dict.fromkeys(row.head for row in rows)):
                line = [row for row in rows if row.head == head]
                figure.add_trace(_line(line, view, cells, colour, mark, named=index == 0 and place == 0))
        title = {"title": {"text": f"steps · {cells}", "standoff": 8}}
        figure.update_layout({
            f"xaxis{mark}": {**axis("steps", rangemode="tozero"), **title, "anchor": f"y{mark}",
                             "domain": [index * wide, (index + 1) * wide - (0.03 if index + 1 < len(shown) else 0)]},
            f"yaxis{mark}": {**axis(f"mean weight, {view}" if index == 0 else ""), "anchor": f"x{mark}",
                             "range": [-0.03, 1.03], "showticklabels": index == 0},
        })  # fmt: skip
        if step is not None:
            figure.add_shape(type="line", x0=step, x1=step, xref=f"x{mark}", y0=0, y1=1, yref=f"y{mark} domain",
                             line={"color": TEXT_COLOUR, "width": 1.4})  # fmt: skip
    figure.update_layout(
        showlegend=True, margin={"t": 14, "b": 92},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}},
    )  # fmt: skip
    return figure


_FLAT: dict[str, Any] = {"showgrid": False, "zeroline": False, "ticks": "", "tickfont": {"size": 10}}


def _strip(
    rows: Sequence[ProfileRow],
    names: Sequence[str],
    view: View,
    values: Float[np.ndarray, "head cell"],
    mark: str,
    *,
    showscale: bool,
) -> go.Heatmap:
    hover = [[_hover(row, view, name) for name in names] for row in rows]
    return go.Heatmap(
        z=values, x=list(range(len(names))), y=list(range(len(rows))), xaxis=f"x{mark}", yaxis=f"y{mark}",
        zmin=0, zmax=1, colorscale=SEQUENTIAL, showscale=showscale, colorbar=_BAR, xgap=1, ygap=1,
        customdata=hover, hovertemplate="%{customdata}<extra></extra>", hoverongaps=False,
    )  # fmt: skip


def _numbers(values: Float[np.ndarray, "head cell"], mark: str) -> go.Scatter:
    """Each cell in hundredths, black or white, whichever is legible on it."""
    rows, columns = np.nonzero(np.isfinite(values))
    cells = values[rows, columns]
    words = [shade[1] if shade else TEXT_COLOUR for shade in shades(cells.astype(np.float64), 1.0)]
    return go.Scatter(
        x=columns.tolist(), y=rows.tolist(), text=[f"{100 * value:.0f}" for value in cells], mode="text",
        textfont={"size": 9, "color": words}, hoverinfo="skip", xaxis=f"x{mark}", yaxis=f"y{mark}",
    )  # fmt: skip


def _hover(row: ProfileRow, view: View, name: str) -> str:
    value = row.cells[view].get(name)
    if value is None:
        return ""
    uniform = row.numbers.get("first_uniform")
    beside = f"; {uniform:.3f} if rows were uniform" if name == FIRST and uniform is not None else ""
    when = "" if row.step is None else f", step {row.step:,}"
    return f"{escape(row.label)} {row.head}{when}<br>{name}, {view}: {value:.3f}{beside}"


def _cell_labels(names: Sequence[str]) -> dict[str, Any]:
    return {"tickvals": list(range(len(names))), "ticktext": list(names), "tickangle": -60}


def _borders(rows: Sequence[ProfileRow]) -> list[float]:
    """Between the heads of one model and the next."""
    return [place - 0.5 for place in range(1, len(rows)) if rows[place].model != rows[place - 1].model]


def _line(rows: Sequence[ProfileRow], view: View, cells: str, colour: str, mark: str, *, named: bool) -> go.Scatter:
    label, head = rows[0].label, rows[0].head
    return go.Scatter(
        x=[row.step for row in rows], y=[row.cells[view].get(cells) for row in rows], mode="lines",
        xaxis=f"x{mark}", yaxis=f"y{mark}", line={"color": colour, "width": 1.6}, name=escape(label),
        legendgroup=label, showlegend=named,
        hovertemplate=f"{escape(label)} {head}, {cells}<br>step %{{x}}: %{{y:.3f}}<extra></extra>",
    )  # fmt: skip
