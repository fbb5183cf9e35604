"""A figure as the report holds it: its JSON, its height, and its text for those who do not see it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup


@dataclass(frozen=True)
class FigureBlock:
    """One figure of the report.

    Attributes:
        anchor: its id in the page.
        label: what it shows and its main number, read out in place of the picture.
        caption: text below it.
        height: pixels kept free for it.
        json: the figure; safe inside a script element.
    """

    anchor: str
    label: str
    caption: str
    height: int
    json: Markup


def figure_block(figure: go.Figure, *, anchor: str, label: str, caption: str = "") -> FigureBlock:
    """Turn a plotly figure into a block; ``<`` is written as an escape so that no text ends the script."""
    text = str(figure.to_json()).replace("<", "\\u003c")
    layout: Any = figure.layout
    return FigureBlock(anchor, label, caption, int(layout.height), Markup(text))


def anchor(*names: str) -> str:
    """An id for the page made of names: lower case letters, digits and hyphens only."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x" for name in names)
