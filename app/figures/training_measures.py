"""A task's own measures against steps: a small picture for each head, layer or measure, a line for each variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from app.figures.style import TEXT_COLOUR, axis, base_layout, escape
from app.figures.variant_looks import look
from app.views.training_measures import Beside, Facet, MeasureCurve

MOST_FACETS = 8
_TALL, _TITLE, _AXIS, _MARGIN = 230, 34, 46, 14
_GAP, _SMALL = 0.055, 0.5
_DASHES = ("dash", "dot", "dashdot", "longdash")


def measures_figure(facets: Sequence[Facet], *, order: Sequence[str], same_scale: bool = True) -> go.Figure:
    """At most `MOST_FACETS` pictures in rows; lines are means over seeds, bands reach from least to largest.

    Args:
        facets: the pictures.
        order: every variant of the run, so that one looks the same in all of its figures.
        same_scale: whether all pictures have one vertical scale.
    """
    shown = facets[:MOST_FACETS]
    wide = len(shown) if len(shown) < 4 else 4 if len(shown) in (4, 7, 8) else 3
    rows = -(-len(shown) // wide)
    dashed = list(dict.fromkeys(one.title for facet in shown for one in facet.beside))
    names = {curve.best.variant for facet in shown for curve in facet.curves}
    below = _AXIS + 24 + 19 * math.ceil((len(names) + len(dashed)) / 4)
    height = rows * (_TALL + _TITLE) + (rows - 1) * _AXIS + _MARGIN + below
    figure = go.Figure(layout=go.Layout(**base_layout(height=height, left=50)))
    inner = height - _MARGIN - below
    figure.update_layout(
        showlegend=True, margin={"t": _MARGIN, "b": below},
        legend={"orientation": "h", "x": 0, "y": -_AXIS / inner, "yanchor": "top", "font": {"size": 11}},
    )  # fmt: skip
    named, full = set[str](), _is_full(shown)
    for index, facet in enumerate(shown):
        mark = "" if index == 0 else str(index + 1)
        several = len({curve.place for curve in facet.curves}) > 1
        for curve in facet.curves:
            figure.add_traces(_lines(curve, order, mark, named, told=curve.place if several else ""))
        for one in facet.beside:
            figure.add_trace(_dashed(one, _DASHES[dashed.index(one.title) % len(_DASHES)], mark, named))
        top = 1 - (index // wide) * (_TALL + _TITLE + _AXIS) / inner - _TITLE / inner
        is_full = full if same_scale else _is_full([facet])
        _place(figure, facet, mark, left=index % wide, wide=wide, top=top, tall=_TALL / inner, is_full=is_full)
        if same_scale and index and not is_full:
            figure.layout[f"yaxis{mark}"].update(matches="y")  # pyright: ignore
    return figure


def _is_full(facets: Sequence[Facet]) -> bool:
    """Whether the vertical scale is 0 to 1: that of shares, unless all are small."""
    values = [value for facet in facets for curve in facet.curves for value in curve.high if math.isfinite(value)]
    return all(facet.is_share for facet in facets) and max(values, default=1.0) > _SMALL


def _place(
    figure: go.Figure, facet: Facet, mark: str, *, left: int, wide: int, top: float, tall: float, is_full: bool
) -> None:
    each = (1 - _GAP * (wide - 1)) / wide
    start = left * (each + _GAP)
    ends = {"range": [-0.03, 1.04]} if is_full else {"rangemode": "tozero"}
    figure.update_layout({
        f"xaxis{mark}": {**axis("steps", rangemode="tozero"), "anchor": f"y{mark}", "domain": [start, start + each]},
        f"yaxis{mark}": {**axis("", **ends), "anchor": f"x{mark}", "domain": [top - tall, top], "nticks": 6},
    })  # fmt: skip
    figure.add_annotation(
        text=escape(facet.title), x=start, y=top, yshift=6, xref="paper", yref="paper", xanchor="left",
        yanchor="bottom", showarrow=False, font={"size": 12},
    )  # fmt: skip


def _lines(curve: MeasureCurve, order: Sequence[str], mark: str, named: set[str], *, told: str) -> list[go.Scatter]:
    """The band and the seeds, where there are several, and the mean with the name of its place behind it."""
    variant, own = curve.best.variant, look(curve.best.variant, order)
    axes = {"xaxis": f"x{mark}", "yaxis": f"y{mark}", "legendgroup": variant}
    is_new = variant not in named
    named.add(variant)
    points = [p for p in zip(curve.steps, curve.low, curve.high, strict=True) if math.isfinite(p[1] + p[2])]
    band = go.Scatter(
        x=[p[0] for p in points] + [p[0] for p in reversed(points)],
        y=[p[2] for p in points] + [p[1] for p in reversed(points)],
        mode="lines", line={"width": 0}, fill="toself", fillcolor=own.pale(0.14), showlegend=False, hoverinfo="skip",
        **axes,
    )  # fmt: skip
    seeds = [
        go.Scatter(
            x=list(curve.steps), y=[_none(value) for value in values], mode="lines", showlegend=False,
            line={"color": own.pale(), "width": 1}, hovertemplate=_hover(curve, f"seed {seed}"), **axes,
        )
        for seed, values in zip(curve.seeds, curve.values, strict=True)
    ]  # fmt: skip
    mean = go.Scatter(
        x=list(curve.steps), y=[_none(value) for value in curve.mean], name=escape(variant),
        showlegend=is_new, line={"color": own.colour, "width": 2, "dash": own.dash},
        marker={"symbol": own.symbol, "size": 4, "color": own.colour},
        customdata=[[_none(low), _none(high)] for low, high in zip(curve.low, curve.high, strict=True)],
        hovertemplate=_hover(curve), mode="lines+markers+text" if told else "lines+markers",
        text=[*[""] * (len(curve.steps) - 1), told], textposition="middle right", textfont={"size": 9},
        cliponaxis=False, **axes,
    )  # fmt: skip
    return [band, *seeds, mean] if len(curve.seeds) > 1 else [mean]


def _hover(curve: MeasureCurve, seed: str = "") -> str:
    """What is said of the mean, or of one seed."""
    several = len(curve.seeds) > 1
    seeds = seed or (f"mean of {len(curve.seeds)} seeds" if several else f"seed {curve.seeds[0]}")
    reach = " (%{customdata[0]:.4f} to %{customdata[1]:.4f})" if several and not seed else ""
    where = f" {curve.place}" if curve.place else ""
    return (
        f"{escape(curve.best.variant)}{where}, {escape(curve.measure)}, {seeds}, rate {curve.best.rate:g}<br>"
        f"step %{{x}}: %{{y:.4f}}{reach}<extra></extra>"
    )


def _dashed(one: Beside, dash: str, mark: str, named: set[str]) -> go.Scatter:
    is_new, group = one.title not in named, f"beside {one.title}"
    named.add(one.title)
    return go.Scatter(
        x=list(one.steps), y=[_none(value) for value in one.mean], mode="lines", name=escape(one.title),
        showlegend=is_new, legendgroup=group, xaxis=f"x{mark}", yaxis=f"y{mark}",
        line={"color": TEXT_COLOUR, "width": 1.5, "dash": dash},
        hovertemplate=f"{escape(one.title)}<br>step %{{x}}: %{{y:.4f}}<extra></extra>",
    )  # fmt: skip


def _none(value: float) -> Any:
    return value if math.isfinite(value) else None
