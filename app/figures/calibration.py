"""What calibration changes, arm beside arm, and where the attention on sinks rests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.figures.style import CLASS_COLOUR, RANDOM_COLOUR, TEXT_COLOUR, axis, base_layout, escape
from app.views.calibration_arms import ARMS, CHANGED, Effect
from app.views.calibration_sinks import PLACES, ClassRow
from app.views.numbers import fixed, interval, p_text, percent, signed
from circuits.calibration.results import SINK_PLACES, ArmKind, SinkPlace
from headscope.statistics import Interval

_LOOKS: dict[ArmKind, tuple[str, str]] = {
    "selected": (CLASS_COLOUR, "circle"),
    "random": ("#8a8a8a", "diamond"),
    "all": (RANDOM_COLOUR, "square"),
    "opposite": ("#6a51a3", "triangle-up"),
}
_FILLS: dict[SinkPlace, str] = {
    "first": "#9aa5ad",
    "punctuation": RANDOM_COLOUR,
    "early": "#6a51a3",
    "later": CLASS_COLOUR,
}
_ROW_PX, _STEP = 84, 0.19


def change_figure(
    effects: Mapping[str, Sequence[Effect]], means: Mapping[ArmKind, Interval] | None = None
) -> go.Figure:
    """Change of accuracy on each data set, the arms below each other, with 95 % intervals; ticks are random draws.

    Args:
        effects: what each arm did, by data set.
        means: mean over the data sets, by arm, for a row of its own.
    """
    rows = [*effects, *(["mean"] if means else [])]
    layout = base_layout(height=128 + _ROW_PX * len(rows), left=20)
    layout["margin"] |= {"t": 40}
    figure = go.Figure(layout=layout)
    figure.add_vline(x=0, line={"color": TEXT_COLOUR, "width": 1.2})
    for place in range(1, len(rows)):
        line = {"color": "rgba(128, 128, 128, 0.3)", "width": 1}
        figure.add_hline(y=place - 0.5, line=line)
    for number, kind in enumerate(CHANGED):
        points = [_point(one, row) for row, own in enumerate(effects.values()) for one in own if one.kind == kind]
        if means and kind in means:
            points.append((means[kind], len(effects), f"mean over data sets<br>{ARMS[kind]} {_change(means[kind])}"))
        if points:
            figure.add_trace(_arm_trace(kind, points, (number - 1.5) * _STEP))
        if kind == "random":
            figure.add_trace(_draws_trace(effects, (number - 1.5) * _STEP))
    names = [_row_name(name, own) for name, own in effects.items()] + (["<b>mean</b>"] if means else [])
    figure.update_layout(
        xaxis=axis("change of accuracy", tickformat="+.2~f", automargin=True),
        yaxis=axis("", range=[len(rows) - 0.5, -0.5], tickvals=list(range(len(rows))), ticktext=names, automargin=True,
                   showgrid=False),
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 11}},
        showlegend=True,
    )  # fmt: skip
    return figure


def _row_name(name: str, effects: Sequence[Effect]) -> str:
    base = next(one for one in effects if one.kind == "baseline")
    return f"{escape(name)}<br>as it is {fixed(base.accuracy.mean, 2)}"


def _point(one: Effect, row: int) -> tuple[Interval, int, str]:
    heads = max(one.heads)
    tested = f"<br>{one.gained} gained, {one.lost} lost, p {p_text(one.p_value)}" if one.gained is not None else ""
    if one.draws:
        tested = f"<br>{len(one.draws)} draws: {signed(min(one.draws))} to {signed(max(one.draws))}"
    return one.change, row, f"{ARMS[one.kind]}, {heads} heads<br>{_change(one.change)}, n = {one.n}{tested}"


def _change(change: Interval) -> str:
    return f"{signed(change.mean)} {interval(change.low, change.high)}"


def _arm_trace(kind: ArmKind, points: Sequence[tuple[Interval, int, str]], shift: float) -> go.Scatter:
    colour, symbol = _LOOKS[kind]
    up, down = [one.high - one.mean for one, *_ in points], [one.mean - one.low for one, *_ in points]
    return go.Scatter(
        x=[one.mean for one, *_ in points],
        y=[row + shift for _, row, _ in points],
        error_x={"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.4, "width": 4},
        mode="markers",
        name=ARMS[kind],
        marker={"color": colour, "symbol": symbol, "size": 9},
        text=[text for *_, text in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _draws_trace(effects: Mapping[str, Sequence[Effect]], shift: float) -> go.Scatter:
    places = [
        (draw, row + shift) for row, own in enumerate(effects.values()) for one in own for draw in one.draws
    ]  # a tick for each
    colour = _LOOKS["random"][0]
    return go.Scatter(
        x=[draw for draw, _ in places], y=[row for _, row in places], mode="markers", name="each random draw",
        marker={"symbol": "line-ns", "size": 12, "line": {"width": 1.6, "color": colour}, "color": colour},
        hovertemplate="a random draw: %{x:+.3f}<extra></extra>",
    )  # fmt: skip


def sink_bars_figure(rows: Sequence[ClassRow]) -> go.Figure:
    """Attention on sinks (left) and sinks per prompt and head (right), stacked by place, a bar per class of heads.

    Args:
        rows: the classes, the first on top.
    """
    layout = base_layout(height=124 + 34 * len(rows), left=20)
    layout["margin"] |= {"t": 40}
    figure = go.Figure(layout=layout)
    names = [escape(row.title) for row in rows]
    for at, place in enumerate(SINK_PLACES):
        shared: dict[str, Any] = {
            "y": names, "orientation": "h", "name": PLACES[place], "legendgroup": place,
            "marker": {"color": _FILLS[place], "line": {"width": 0}},
        }  # fmt: skip
        mass = [float(row.mass[at]) for row in rows]
        counts = [float(row.counts[at]) for row in rows]
        said = [
            f"{PLACES[place]}: {percent(a)} of attention, {fixed(b, 2)} sinks"
            for a, b in zip(mass, counts, strict=True)
        ]
        shared |= {"text": said, "textposition": "none", "hovertemplate": "%{y}<br>%{text}<extra></extra>"}
        figure.add_trace(go.Bar(x=mass, **shared))
        figure.add_trace(go.Bar(x=counts, xaxis="x2", yaxis="y2", showlegend=False, **shared))
    shown: dict[str, Any] = {"autorange": "reversed", "showgrid": False}
    figure.update_layout(
        barmode="stack",
        bargap=0.3,
        xaxis=axis("attention on sinks", domain=[0, 0.56], tickformat=".0%", rangemode="tozero"),
        xaxis2=axis("number of sinks", domain=[0.62, 1], rangemode="tozero", anchor="y2"),
        yaxis=axis("", automargin=True, **shown),
        yaxis2={**axis("", **shown), "anchor": "x2", "showticklabels": False},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"size": 11},
            "traceorder": "normal",
        },
        showlegend=True,
    )
    return figure
