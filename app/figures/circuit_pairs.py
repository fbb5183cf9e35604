"""Two methods' scores of every head against each other, and how often each head is in the circuit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.style import CLASS_COLOUR, RANDOM_COLOUR, TEXT_COLOUR, axis, base_layout
from app.views.circuit_words import title, unit_text
from circuits.circuit_scores import CircuitScores
from headscope.heads import Head

_GREY = "#8a8f96"
_GROUPS = {
    "neither": ("circle-open", _GREY, "in neither"),
    "first": ("circle", CLASS_COLOUR, "only first"),
    "second": ("diamond", RANDOM_COLOUR, "only second"),
    "both": ("star", "#7b3fa0", "in both"),
}
_PLACES = {(False, False): "neither", (True, False): "first", (False, True): "second", (True, True): "both"}


def method_pair_figure(
    first: CircuitScores, second: CircuitScores, *, k: int, absolute: bool = False, chosen: str = ""
) -> go.Figure:
    """A mark per head; its shape and colour say in whose ``k`` best it is.

    Args:
        first: scores across.
        second: scores up.
        k: heads that count as best.
        absolute: best by magnitude instead of signed score.
        chosen: label of the head that is written out.
    """
    layout = base_layout(height=400, left=64)
    layout["margin"]["t"] = 46
    figure = go.Figure(layout=layout)
    best = [set(one.ranked(absolute=absolute)[:k]) for one in (first, second)]
    groups: dict[str, list[Head]] = {name: [] for name in _GROUPS}
    for place in np.ndindex(first.heads.shape):
        head = Head(*place)
        groups[_PLACES[head in best[0], head in best[1]]].append(head)
    for name, heads in groups.items():
        if heads:
            figure.add_trace(_marks(first, second, heads, name, chosen))
    for scores, add in ((first, figure.add_vline), (second, figure.add_hline)):
        if scores.signed:
            add(0, line={"color": TEXT_COLOUR, "width": 1, "dash": "dot"})
    figure.update_layout(
        xaxis=axis(f"{title(first.method)} ({unit_text(first)})", tickformat="~g"),
        yaxis=axis(f"{title(second.method)} ({unit_text(second)})", tickformat="~g"),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
    )
    return figure


def _marks(first: CircuitScores, second: CircuitScores, heads: Sequence[Head], name: str, chosen: str) -> go.Scatter:
    symbol, colour, words = _GROUPS[name]
    labels = [str(head) for head in heads]
    return go.Scatter(
        x=[float(first.heads[head]) for head in heads],
        y=[float(second.heads[head]) for head in heads],
        mode="markers+text",
        text=[label if label == chosen else "" for label in labels],
        textposition="middle left" if _is_right(first, chosen) else "middle right",
        textfont={"color": TEXT_COLOUR, "size": 13},
        marker={
            "symbol": symbol, "color": colour, "size": [15 if label == chosen else 9 for label in labels],
        },
        customdata=labels,
        hovertemplate="%{customdata}: %{x:.4~g}, %{y:.4~g}<extra></extra>",
        name=f"{words} ({len(heads)})",
    )  # fmt: skip


def _is_right(scores: CircuitScores, label: str) -> bool:
    """Whether a head's mark is in the right half, so that its name fits on its left."""
    value = next((scores.heads[place] for place in np.ndindex(scores.heads.shape) if str(Head(*place)) == label), 0.0)
    return bool(value > (np.nanmin(scores.heads) + np.nanmax(scores.heads)) / 2)


def inclusion_figure(labels: Sequence[str], shares: Sequence[float], *, in_circuit: Sequence[bool]) -> go.Figure:
    """How often each of the most included heads is in the circuit when prompts are drawn again.

    Args:
        labels: heads, most often included first.
        shares: 0 to 1.
        in_circuit: whether the head is in the circuit of all prompts.
    """
    layout = base_layout(height=250, left=50)
    layout["margin"]["t"] = 40
    figure = go.Figure(layout=layout)
    for inside, colour, shape, name in ((True, CLASS_COLOUR, "", "in the circuit"), (False, _GREY, "/", "outside")):
        rows = [(label, share) for label, share, own in zip(labels, shares, in_circuit, strict=True) if own == inside]
        if rows:
            figure.add_trace(
                go.Bar(
                    x=[label for label, _ in rows], y=[share for _, share in rows], name=f"{name} ({len(rows)})",
                    customdata=[label for label, _ in rows], marker={"color": colour, "pattern": {"shape": shape}},
                    hovertemplate="%{x}: in %{y:.1%} of the resampled circuits<extra></extra>",
                )
            )  # fmt: skip
    figure.update_layout(
        xaxis=axis("", categoryorder="array", categoryarray=list(labels), showgrid=False, tickangle=-45),
        yaxis=axis("share of resamples", range=[0, 1.03], tickformat=".0%"),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
        bargap=0.25,
    )
    return figure
