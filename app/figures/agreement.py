"""Rank agreement between scores as a matrix."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.figures.style import DIVERGING, axis, base_layout, escape
from app.views.agreement import ScoreAgreement
from app.views.numbers import fixed


def agreement_figure(agreement: ScoreAgreement) -> go.Figure:
    """Spearman's rank correlation of every pair of scores, PuOr centred at 0, numbers in the cells."""
    places = list(range(len(agreement.names)))
    titles = [escape(title) for title in agreement.titles]
    labels = {"tickvals": places, "ticktext": titles, "showgrid": False}
    layout = base_layout(height=210 + 30 * max(len(places), 3), left=10)
    layout["margin"]["b"] = 10
    return go.Figure(
        go.Heatmap(
            z=agreement.rho.astype(np.float32),
            x=places,
            y=places,
            colorscale=DIVERGING,
            zmin=-1,
            zmax=1,
            text=[[_cell(float(rho)) for rho in row] for row in agreement.rho],
            texttemplate="%{text}",
            textfont={"size": 10},
            hovertext=_hover_texts(agreement, titles),
            hovertemplate="%{hovertext}<extra></extra>",
            xgap=1,
            ygap=1,
            colorbar={
                "title": {"text": "Spearman's rho", "side": "right"},
                "thickness": 11,
                "outlinewidth": 0,
            },
        ),
        layout=go.Layout(
            **layout,
            xaxis=axis("", tickangle=-45, automargin=True, **labels),
            yaxis=axis("", range=[len(places) - 0.5, -0.5], automargin=True, **labels),
        ),
    )


def _cell(rho: float) -> str:
    return "" if np.isnan(rho) else fixed(rho, 2)


def _hover_texts(agreement: ScoreAgreement, titles: list[str]) -> list[list[str]]:
    return [
        [f"{titles[a]} and {titles[b]}: rho = {fixed(float(agreement.rho[a, b]))}" for b in range(len(titles))]
        for a in range(len(titles))
    ]
