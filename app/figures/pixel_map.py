"""Very large maps as one PNG: a pixel per head."""

from __future__ import annotations

import base64
import io

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb

from app.figures.style import escape
from headscope.heads import HeadScores


def pixel_map_traces(scores: HeadScores, colours: dict[str, object]) -> list[go.Image | go.Scatter]:
    """The map as an image, and an invisible trace that carries its colour bar.

    Args:
        scores: the score.
        colours: ``colorscale``, ``zmin`` and ``zmax`` of the map.
    """
    scale, low, high = str(colours["colorscale"]), float(str(colours["zmin"])), float(str(colours["zmax"]))
    buffer = io.BytesIO()
    Image.fromarray(pixels(scores.values, scale=scale, low=low, high=high), "RGBA").save(buffer, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    bar = {
        "title": {"text": escape(scores.definition.unit), "side": "right"},
        "thickness": 11,
        "outlinewidth": 0,
    }
    return [
        go.Image(source=source, hovertemplate="L%{y}H%{x}<extra></extra>"),
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            hoverinfo="skip",
            marker={
                "color": [low],
                "cmin": low,
                "cmax": high,
                "colorscale": scale,
                "showscale": True,
                "colorbar": bar,
            },
        ),
    ]


def pixels(
    values: Float[np.ndarray, "layer head"], *, scale: str, low: float, high: float
) -> UInt8[np.ndarray, "layer head 4"]:
    """Colours of ``values`` between ``low`` and ``high``; transparent where NaN."""
    shades = sample_colorscale(scale, [step / 255 for step in range(256)])
    table = np.array([[round(part) for part in unlabel_rgb(shade)] for shade in shades], dtype=np.uint8)
    missing = ~np.isfinite(values)
    place = np.clip((np.where(missing, low, values) - low) / max(high - low, 1e-12), 0, 1)
    opaque = np.where(missing, 0, 255).astype(np.uint8)
    return np.concatenate([table[np.rint(place * 255).astype(np.int64)], opaque[..., None]], axis=-1)
