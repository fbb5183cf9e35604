"""Maps of a calibrate run: several layer x head maps side by side, and one head's attention before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import sample_colorscale

from app.figures.style import GRID_COLOUR, SEQUENTIAL, TEXT_COLOUR, axis, base_layout, escape, number_ticks
from app.views.calibration_maps import HeadMap
from app.views.numbers import fixed
from app.views.tokens import named, token_label
from circuits.calibration.results import BeforeAfter

_COLUMNS, _FEWEST, _GAP = 4, 3, 0.045
_TOP_PX, _BETWEEN_PX, _BELOW_PX = 44, 62, 34
_MOST_TICKS = 32
_LONGEST_TICK = 10
_LEFT, _RIGHT = (0.0, 0.455), (0.545, 1.0)


def head_maps_figure(maps: Sequence[HeadMap]) -> go.Figure:
    """Maps side by side, four in a row, layer 0 on top; colours go from 0 to each map's own end, as its title says."""
    layers = maps[0].values.shape[0]
    columns, rows = max(min(_COLUMNS, len(maps)), _FEWEST), -(-len(maps) // _COLUMNS)
    tall = int(np.clip(8 * layers, 120, 300))
    height = _TOP_PX + rows * tall + (rows - 1) * _BETWEEN_PX + _BELOW_PX
    layout = base_layout(height=height, left=40)
    layout["margin"] |= {"t": _TOP_PX, "b": _BELOW_PX}
    figure = go.Figure(layout=layout)
    inner = height - _TOP_PX - _BELOW_PX
    wide = (1 - _GAP * (columns - 1)) / columns
    for number, one in enumerate(maps):
        row, column = divmod(number, _COLUMNS)
        left, top = column * (wide + _GAP), 1 - row * (tall + _BETWEEN_PX) / inner
        _add_map(figure, one, number, (left, left + wide), (max(top - tall / inner, 0), top), is_first=column == 0)
    return figure


def _add_map(
    figure: go.Figure, one: HeadMap, number: int, x: tuple[float, float], y: tuple[float, float], *, is_first: bool
) -> None:
    mark = str(number + 1) if number else ""
    layers, heads = one.values.shape
    figure.add_trace(
        go.Heatmap(
            z=one.values.astype(np.float32), x=np.arange(heads), y=np.arange(layers), text=one.texts,
            hovertemplate="%{text}<extra></extra>", showscale=False, colorscale=SEQUENTIAL, zmin=0,
            zmax=one.top or 1.0, xaxis=f"x{mark}", yaxis=f"y{mark}",
        )
    )  # fmt: skip
    small: dict[str, Any] = {"showgrid": False, "tickfont": {"size": 10}}
    figure.update_layout(
        {
            f"xaxis{mark}": axis("head", domain=x, anchor=f"y{mark}", tickvals=number_ticks(heads, 9),
                                 range=[-0.5, heads - 0.5], **small),
            f"yaxis{mark}": axis("layer" if is_first else "", domain=y, anchor=f"x{mark}", range=[layers - 0.5, -0.5],
                                 tickvals=number_ticks(layers, 8), showticklabels=is_first, **small),
        }
    )  # fmt: skip
    figure.add_annotation(
        text=escape(one.title), x=x[0], y=y[1], xref="paper", yref="paper", xanchor="left", yanchor="bottom",
        showarrow=False, font={"size": 12},
    )  # fmt: skip


def before_after_figure(shown: BeforeAfter, *, height: int = 560) -> go.Figure:
    """A head's pattern before and after calibration, one range of colours; ▾ marks the keys that are weakened.

    Colours follow the square root and end at the largest weight on a key after the first: the first token would drown
    the rest.
    """
    layout = base_layout(height=height, left=20)
    layout["margin"] |= {"t": 52, "b": 90, "r": 20}
    figure = go.Figure(layout=layout)
    top = colour_top(shown)
    sinks = np.flatnonzero(shown.sinks.any(0))
    for mark, name, pattern, domain in (("", "before", shown.before, _LEFT), ("2", "after", shown.after, _RIGHT)):
        figure.add_trace(_pattern(shown, pattern, top, mark))
        figure.update_layout(_axes(shown, mark, domain))
        figure.add_annotation(
            text=name, x=sum(domain) / 2, y=1, yshift=16, xref="paper", yref="paper", yanchor="bottom", showarrow=False,
            font={"size": 13},
        )  # fmt: skip
        for key in sinks:
            figure.add_annotation(
                x=int(key), y=1.0, xref=f"x{mark}", yref="paper", yanchor="bottom", showarrow=False, text="▾",
                name="sink", font={"size": 13, "color": TEXT_COLOUR}, captureevents=True,
                hovertext=escape(f"sink {named(int(key), token_label(shown.tokens[key]))}"),
            )  # fmt: skip
    return figure


def colour_top(shown: BeforeAfter) -> float:
    """End of the colours: the largest weight of either pattern on a key after the first, from row 2 on."""
    both = np.stack([shown.before, shown.after])[:, 2:, 1:]
    return float(both.max()) if both.size and both.max() > 0 else 1.0


def _pattern(shown: BeforeAfter, values: Float[np.ndarray, "row key"], top: float, mark: str) -> go.Heatmap:
    size = len(shown.tokens)
    hidden = np.triu(np.ones((size, size), dtype=bool), 1)
    return go.Heatmap(
        z=np.where(hidden, np.nan, values).astype(np.float32),
        x=np.arange(size), y=np.arange(size), zmin=0.0, zmax=top, colorscale=_root_scale(), showscale=mark == "",
        hovertemplate="query %{y} → key %{x}: %{z:.3~g}<extra></extra>", hoverongaps=False, xaxis=f"x{mark}",
        yaxis=f"y{mark}",
        colorbar={"title": {"text": f"share of attention, up to {fixed(top)}", "side": "right", "font": {"size": 11}},
                  "thickness": 11, "outlinewidth": 0, "nticks": 6, "tickfont": {"size": 11}, "x": 1.005, "xpad": 4},
    )  # fmt: skip


def _root_scale() -> list[tuple[float, Any]]:
    """Viridis along the square root: small weights are seen, z keeps its own unit."""
    places = np.linspace(0, 1, 33)
    shades = sample_colorscale(SEQUENTIAL, places.tolist())
    return [(float(place) ** 2, shade) for place, shade in zip(places, shades, strict=True)]


def _axes(shown: BeforeAfter, mark: str, domain: tuple[float, float]) -> dict[str, Any]:
    size = len(shown.tokens)
    every = -(-size // _MOST_TICKS)
    places = list(range(0, size, every))
    texts = [f"{place} {_short(token_label(shown.tokens[place]))}" for place in places]
    shared: dict[str, Any] = {
        "tickvals": places, "ticktext": texts, "tickfont": {"size": 10}, "gridcolor": GRID_COLOUR, "showgrid": False
    }  # fmt: skip
    return {
        f"xaxis{mark}": axis("key", domain=domain, anchor=f"y{mark}", range=[-0.5, size - 0.5], tickangle=-90,
                             **shared),
        f"yaxis{mark}": axis("query" if not mark else "", anchor=f"x{mark}", range=[size - 0.5, -0.5], automargin=True,
                             **{**shared, "showticklabels": not mark}),
    }  # fmt: skip


def _short(label: str) -> str:
    return escape(label if len(label) <= _LONGEST_TICK else label[: _LONGEST_TICK - 1] + "…")
