"""Trainings of several variants: accuracy or loss against steps, recall against state, accuracy against length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from app.figures.style import TEXT_COLOUR, axis, base_layout, escape
from app.figures.variant_looks import Look, look
from app.views.numbers import fixed, interval
from app.views.training import Trained
from app.views.training_curves import MeanCurve
from app.views.training_tables import best_text, lengths_of
from app.views.variant_comparison import CompareRun
from headscope.statistics import Interval
from headscope.training.sweep import VariantResult

Measure = Literal["accuracy", "loss"]
MEASURES: dict[Measure, str] = {"accuracy": "held-out accuracy", "loss": "held-out loss, nats per answer"}


def curves_figure(
    curves: Sequence[MeanCurve], *, order: Sequence[str], measure: Measure = "accuracy", solved: float | None = None
) -> go.Figure:
    """Every evaluation of every training: a thin line for each seed, a thick one for their mean, a band around it.

    Args:
        curves: one for each variant drawn.
        order: every variant of the run, so that one looks the same in all of its figures.
        measure: what is drawn.
        solved: accuracy that ends a training, drawn as a line.
    """
    figure = go.Figure(layout=_roomy(len(curves) + 1))
    for curve in curves:
        own = look(curve.best.variant, order)
        figure.add_traces([_band(curve, own, measure), *(_seed(one, own, measure) for one in curve.trained)])
        figure.add_trace(_mean(curve, own, measure))
    if solved is not None and measure == "accuracy" and solved <= 1:
        last = max((curve.steps[-1] for curve in curves if curve.steps), default=1)
        figure.add_trace(_level(last, solved, f"ends a training: {solved:g}"))
    ends = {"range": [-0.03, 1.04]} if measure == "accuracy" else {"rangemode": "tozero"}
    figure.update_layout(
        xaxis=axis("steps", rangemode="tozero"),
        yaxis=axis(MEASURES[measure], automargin=True, **ends),
        legend=_LEGEND, showlegend=True,
    )  # fmt: skip
    return figure


def recall_figure(best: Sequence[VariantResult], *, order: Sequence[str]) -> go.Figure:
    """Accuracy against the size of the state, a mark for each variant and width, with intervals over seeds."""
    names = list(dict.fromkeys(one.variant for one in best))
    figure = go.Figure(layout=_roomy(len(names)))
    for name in names:
        own, points = look(name, order), sorted((b for b in best if b.variant == name), key=lambda b: b.state_size)
        figure.add_trace(
            go.Scatter(
                x=[one.state_size for one in points],
                y=[one.accuracy.mean for one in points],
                error_y=_bars([one.accuracy for one in points]),
                mode="lines+markers" if len(points) > 1 else "markers",
                name=escape(name),
                line={"color": own.colour, "dash": own.dash, "width": 1.4},
                marker={"symbol": own.symbol, "size": 10, "color": own.colour},
                text=[_result_text(one) for one in points],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure.update_layout(
        xaxis=axis("state after a text, numbers (log)", **_log_axis([one.state_size for one in best])),
        yaxis=axis("accuracy on fresh examples", range=[-0.03, 1.06], automargin=True),
        legend=_LEGEND, showlegend=True,
    )  # fmt: skip
    return figure


def length_figure(found: CompareRun) -> go.Figure:
    """Accuracy against the length of the text, a line for each model, with intervals over examples."""
    order, seen = list(found.variants), set[str]()
    figure = go.Figure(layout=_roomy(len(order) + 1))
    for model in found.models:
        own, points = look(model.variant, order), lengths_of(found, model.name)
        label = found.label(model)
        figure.add_trace(
            go.Scatter(
                x=[length for length, _ in points],
                y=[_none(score.accuracy.mean) for _, score in points],
                error_y=_bars([score.accuracy for _, score in points]),
                mode="lines+markers",
                name=escape(model.variant),
                legendgroup=model.variant,
                showlegend=model.variant not in seen,
                line={"color": own.colour, "dash": own.dash, "width": 1.2},
                marker={"symbol": own.symbol, "size": 7, "color": own.colour},
                text=[_length_text(label, length, score.accuracy, model.n) for length, score in points],
                hovertemplate="%{text}<extra></extra>",
            )
        )
        seen.add(model.variant)
    lengths = sorted({length for one in found.models for length, _ in lengths_of(found, one.name)})
    if found.length is not None:
        figure.add_vline(x=found.length, line={"color": TEXT_COLOUR, "width": 1.2, "dash": "dot"})
    figure.update_layout(
        xaxis=axis("length of the text, tokens", tickvals=lengths),
        yaxis=axis("accuracy on fresh examples", range=[-0.03, 1.06], automargin=True),
        legend=_LEGEND, showlegend=True,
    )  # fmt: skip
    return figure


_LEGEND: dict[str, Any] = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}}


def _roomy(names: int) -> dict[str, Any]:
    below = 66 + 19 * math.ceil(names / 4)
    layout = base_layout(height=300 + below, left=56)
    layout["margin"] |= {"t": 14, "b": below}
    return layout


def _band(curve: MeanCurve, own: Look, measure: Measure) -> go.Scatter:
    """The interval of the mean over seeds; nothing with one seed."""
    points = [
        (step, low, high)
        for step, low, high in zip(curve.steps, *curve.ends[measure], strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    return go.Scatter(
        x=[step for step, _, _ in points] + [step for step, _, _ in reversed(points)],
        y=[high for _, _, high in points] + [low for _, low, _ in reversed(points)],
        mode="lines", line={"width": 0}, fill="toself", fillcolor=own.pale(0.14), legendgroup=curve.best.variant,
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip


def _seed(one: Trained, own: Look, measure: Measure) -> go.Scatter:
    cell = one.cell
    return go.Scatter(
        x=[point.step for point in one.curve], y=[_none(getattr(point, measure)) for point in one.curve],
        mode="lines", legendgroup=cell.variant, showlegend=False,
        line={"color": own.pale(), "width": 1, "dash": own.dash},
        hovertemplate=f"{escape(cell.variant)}, seed {cell.seed}, rate {cell.rate:g}<br>step %{{x}}: %{{y:.3f}}"
        "<extra></extra>",
    )  # fmt: skip


def _mean(curve: MeanCurve, own: Look, measure: Measure) -> go.Scatter:
    best, values = curve.best, getattr(curve, measure)
    seeds = f"{len(curve.trained)} {'seed' if len(curve.trained) == 1 else 'seeds'}"
    return go.Scatter(
        x=list(curve.steps), y=[_none(value) for value in values], mode="lines+markers", name=escape(best.variant),
        legendgroup=best.variant, line={"color": own.colour, "width": 2.2, "dash": own.dash},
        marker={"symbol": own.symbol, "size": 5, "color": own.colour},
        hovertemplate=f"{escape(best.variant)}, mean of {seeds}, rate {best.rate:g}<br>step %{{x}}: %{{y:.3f}}"
        "<extra></extra>",
    )  # fmt: skip


def _level(last: int, value: float, name: str) -> go.Scatter:
    return go.Scatter(
        x=[0, last], y=[value, value], mode="lines", name=escape(name), hoverinfo="skip",
        line={"color": TEXT_COLOUR, "width": 1.2, "dash": "dot"},
    )  # fmt: skip


def _bars(values: Sequence[Interval]) -> dict[str, Any]:
    """Bars from the low to the high end; none where there is no interval."""
    up = [_none(value.high - value.mean) for value in values]
    down = [_none(value.mean - value.low) for value in values]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 3}


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _log_axis(sizes: Sequence[int]) -> dict[str, Any]:
    """A logarithmic axis with a label at each power of two that is near."""
    real = [size for size in sizes if size > 0] or [1]
    low, high = math.floor(math.log2(min(real))), math.ceil(math.log2(max(real)))
    step = max(1, math.ceil((high - low) / 8))
    ticks = [2**power for power in range(low, high + 1, step)]
    ends = [math.log10(2 ** (low - 0.3)), math.log10(2 ** (high + 0.3))]
    return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}


def _result_text(one: VariantResult) -> str:
    rates = ", ".join(f"{rate:g}: {fixed(value)}" for rate, value in one.rates.items())
    each = ", ".join(map(fixed, one.accuracies))
    return (
        f"{escape(one.variant)}, width {one.width}, rate {one.rate:g}<br>accuracy {best_text(one)}<br>"
        f"n = {len(one.accuracies)} seeds: {each}<br>state {one.state_size:,}, parameters {one.parameters:,}<br>"
        f"held-out accuracy by rate: {rates}"
    )


def _length_text(label: str, length: int, value: Interval, n: int) -> str:
    return f"{escape(label)}<br>{length} tokens: {fixed(value.mean)} {interval(value.low, value.high)}, n = {n}"
