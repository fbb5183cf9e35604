"""Bytes against accuracy, a line per policy, and which key/value heads keep everything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.figures.head_map import colours_of
from app.figures.outlines import outline_traces
from app.figures.style import GRID_COLOUR, TEXT_COLOUR, axis, base_layout, escape, number_ticks
from app.views.numbers import fixed, interval, percent, signed
from app.views.policy_heads import Assignment
from app.views.policy_points import AXES, MEASURES, Axis, Measure, Point, curve_title, decimals_for, policy_title
from circuits.policies.arms import RANDOM
from headscope.heads import Head

_COLOURS = ("#2f7ec2", "#c9771b", "#6a51a3", "#3a8f5c", "#b04a6e", "#8c6d1f", "#1f8a8a", "#a8443a")
_DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star", "pentagon", "hexagon", "bowtie")
_RANDOM_SYMBOLS = ("cross", "x", "hash", "asterisk")
_RANDOM_BAND = "rgba(138, 138, 138, 0.22)"
_FRONT_RING = 15


def pareto_figure(
    curves: Mapping[str, Sequence[Point]],
    *,
    order: Sequence[str],
    measure: Measure,
    over: Axis = "bytes",
    full: Point | None = None,
    bar: float | None = None,
    front: Sequence[Point] = (),
) -> go.Figure:
    """What every setting keeps against how well it does, a line per curve, with 95 % intervals over prompts.

    Colour is the policy; dash and mark are how its heads were chosen, dots and crosses for random heads.

    Args:
        curves: points by curve, those to be drawn.
        order: every curve of the run, so that one looks the same in all of its figures.
        measure: what the task is judged by.
        over: what the horizontal axis is.
        full: the full cache, drawn as a line.
        bar: what counts as nearly as good, drawn as a second line.
        front: points to put a ring around: those that no other beats.
    """
    figure = go.Figure(layout=_roomy(len(curves) + 4))
    drawn_heads = [points for points in curves.values() if points and points[0].draws]
    known = [*order, *(curve for curve in curves if curve not in order)]
    for points in drawn_heads:
        figure.add_trace(_band(points, over, _look(points[0].curve, known)["line"]["color"]))
    for curve, points in curves.items():
        figure.add_trace(_curve(points, over, measure, _look(curve, known)))
    if full is not None:
        figure.add_trace(_level(full.value, f"full cache, {fixed(full.value, decimals_for(full.value))}", "dash", 1.8))
    if bar is not None:
        name = "1 % or 0.01 nats above it" if measure == "loss" else "95 % of it"
        figure.add_trace(_level(bar, name, "dot", 1.2))
    drawn = [point for point in front if point.curve in curves]
    if drawn:
        figure.add_trace(_ring(drawn, over))
    unit = "loss, nats per token" if measure == "loss" else MEASURES[measure]
    shown = [point for points in curves.values() for point in points]
    figure.update_layout(
        xaxis=axis(AXES[over], tickformat=".0%", range=[0, max([1.0, *(p.shares[over] for p in shown)]) + 0.03]),
        yaxis=axis(unit, automargin=True, **({"range": [-0.04, 1.05]} if measure != "loss" else {})),
        legend={"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top", "font": {"size": 11}},
        showlegend=True,
    )
    return figure


def hover_text(point: Point, measure: Measure) -> str:
    """What the mouse says of a point, escaped for plotly."""
    decimals = decimals_for(point.value)
    drawn = f"<br>{point.draws} draws: {fixed(point.lowest)} to {fixed(point.highest)}" if point.draws else ""
    change = ""
    if point.change == point.change:
        change = (
            f"<br>change {signed(point.change, decimals)} {interval(point.change_low, point.change_high, decimals)}"
        )
    shares = point.shares
    value = f"{fixed(point.value, decimals)} {interval(point.low, point.high, decimals)}"
    return (
        f"{escape(curve_title(point.arm))}<br>{escape(point.setting)}<br>{MEASURES[measure]} {value}, n = {point.n}"
        f"{change}{drawn}<br>bytes {percent(shares['bytes'])}, "
        f"keys {percent(shares['keys'])}, operations {percent(shares['flops'])}"
    )


def _look(curve: str, known: Sequence[str]) -> dict[str, Any]:
    """Colour by policy, dash and mark by rule; where colours come round again, with the next dashes and marks."""
    policy, _, rule = curve.partition("/")
    policies = list(dict.fromkeys(one.partition("/")[0] for one in known))
    rules = list(dict.fromkeys(rest for one in known if (rest := one.partition("/")[2]) != RANDOM))
    turn, place = divmod(policies.index(policy), len(_COLOURS))
    if rule == RANDOM:
        dash, symbol = "dot", _RANDOM_SYMBOLS[turn % len(_RANDOM_SYMBOLS)]
    else:
        number = rules.index(rule) + turn * len(rules)
        dash, symbol = _DASHES[number % len(_DASHES)], _SYMBOLS[number % len(_SYMBOLS)]
    return {"line": {"color": _COLOURS[place], "dash": dash}, "symbol": symbol}


def _curve(points: Sequence[Point], over: Axis, measure: Measure, look: dict[str, Any]) -> go.Scatter:
    """Filled marks act from the first token on, hollow ones after the prompt."""
    own = sorted(points, key=lambda point: point.shares[over])
    colour, symbol = look["line"]["color"], look["symbol"]
    bars = {"array": [_reach(p.high, p.value) for p in own], "arrayminus": [_reach(p.value, p.low) for p in own]}
    return go.Scatter(
        x=[point.shares[over] for point in own],
        y=[point.value for point in own],
        error_y={"type": "data", "symmetric": False, "thickness": 1, "width": 3, **bars},
        mode="lines+markers",
        name=escape(curve_title(own[0].arm)) if own else "",
        line=look["line"] | {"width": 1.8},
        marker={
            "symbol": [symbol if point.regime == "always" else f"{symbol}-open" for point in own],
            "size": 8,
            "color": colour,
            "line": {"width": 1.6, "color": colour},
        },
        text=[hover_text(point, measure) for point in own],
        hovertemplate="%{text}<extra></extra>",
    )


def _band(points: Sequence[Point], over: Axis, colour: str) -> go.Scatter:
    """The range over random assignments of a policy, as an area behind everything, edged in the policy's colour."""
    own = sorted(points, key=lambda point: point.shares[over])
    x = [point.shares[over] for point in own]
    edge = [point.highest for point in own] + [point.lowest for point in own][::-1]
    return go.Scatter(
        x=x + x[::-1],
        y=edge,
        mode="lines",
        fill="toself",
        fillcolor=_RANDOM_BAND,
        line={"width": 0.8, "color": colour, "dash": "dot"},
        name=escape(f"{policy_title(own[0].arm.policy)}, range over {max(point.draws for point in own)} random draws"),
        hoverinfo="skip",
    )


def _level(value: float, name: str, dash: str, width: float) -> go.Scatter:
    return go.Scatter(
        x=[0, 1.03], y=[value, value], mode="lines", name=escape(name), hoverinfo="skip",
        line={"color": TEXT_COLOUR, "width": width, "dash": dash},
    )  # fmt: skip


def _ring(points: Sequence[Point], over: Axis) -> go.Scatter:
    return go.Scatter(
        x=[point.shares[over] for point in points], y=[point.value for point in points], mode="markers",
        name="saves, and no other is better and as small", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": _FRONT_RING, "color": TEXT_COLOUR, "line": {"width": 1.4}},
    )  # fmt: skip


def _roomy(names: int) -> dict[str, Any]:
    """A layout with room for the legend below, whether one name or three stand beside each other."""
    below = 70 + 19 * math.ceil(names / 2)
    layout = base_layout(height=340 + below, left=56)
    layout["margin"] |= {"t": 14, "b": below}
    return layout


def _reach(high: float, low: float) -> float | None:
    reach = high - low
    return float(reach) if np.isfinite(reach) else None


def assignment_figure(found: Assignment) -> go.Figure:
    """The layer x key/value head map: heads with a full cache are framed, colour is the score they were chosen by."""
    layers, heads = found.full.shape
    scores = found.scores
    values = found.full.astype(np.float32) if scores is None else scores.values.astype(np.float32)
    layout = base_layout(height=int(np.clip(18 * layers + 80, 200, 620)), left=44)
    figure = go.Figure(layout=layout)
    colours = _two() if scores is None else colours_of(scores)
    figure.add_trace(
        go.Heatmap(
            z=values, x=np.arange(heads), y=np.arange(layers), text=_head_texts(found),
            hovertemplate="%{text}<extra></extra>", xgap=1, ygap=1, showscale=scores is not None,
            colorbar=_colour_bar(found), **colours,
        )
    )  # fmt: skip
    figure.add_traces(outline_traces([Head(int(layer), int(head)) for layer, head in np.argwhere(found.full)]))
    figure.update_layout(
        xaxis=axis("key/value head", range=[-0.5, heads - 0.5], tickvals=number_ticks(heads), showgrid=False),
        yaxis=axis("layer", range=[layers - 0.5, -0.5], tickvals=number_ticks(layers), showgrid=False),
        showlegend=False,
    )
    return figure


def _two() -> dict[str, object]:
    return {"colorscale": [[0, GRID_COLOUR], [1, _COLOURS[0]]], "zmin": 0, "zmax": 1}


def _colour_bar(found: Assignment) -> dict[str, object]:
    title = "" if found.scores is None else found.scores.definition.unit
    return {
        "title": {"text": escape(title), "side": "right", "font": {"size": 11}},
        "thickness": 11, "outlinewidth": 0, "nticks": 7, "tickfont": {"size": 11}, "xpad": 6,
    }  # fmt: skip


def _head_texts(found: Assignment) -> list[list[str]]:
    layers, heads = found.full.shape
    return [[_head_text(found, layer, head) for head in range(heads)] for layer in range(layers)]


def _head_text(found: Assignment, layer: int, head: int) -> str:
    what = "full cache" if found.full[layer, head] else "cut short"
    scores = found.scores
    told = "" if scores is None else f", {escape(scores.definition.title)} {fixed(float(scores.values[layer, head]))}"
    return f"L{layer}KV{head}: {what}{told}"
