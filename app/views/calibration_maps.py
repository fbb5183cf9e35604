"""Layer x head maps of a calibrate run as plain data: which heads were chosen, how much attention sinks hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from app.views.calibration import CalibrationRun
from app.views.calibration_heads import times_chosen
from app.views.calibration_sinks import PLACES, count_maps, mass_maps
from app.views.numbers import fixed, percent
from circuits.calibration.results import SINK_PLACES


@dataclass(frozen=True)
class HeadMap:
    """One of several maps.

    Attributes:
        title: above it.
        values: a number per head, not negative.
        texts: what the mouse says, by layer and head.
        top: end of the colours.
    """

    title: str
    values: Float[np.ndarray, "layer head"]
    texts: Sequence[Sequence[str]]
    top: float


def chosen_maps(found: CalibrationRun) -> tuple[HeadMap, ...]:
    """A map per data set: share of the seeds with which each head was chosen."""
    return tuple(_chosen_map(found, name) for name in found.sets)


def sink_maps(found: CalibrationRun, name: str = "") -> tuple[HeadMap, ...]:
    """A map per kind of place: share of a row's attention on sinks there; each map has its own range."""
    mass, counts = mass_maps(found, name), count_maps(found, name)
    made = list[HeadMap]()
    for at, place in enumerate(SINK_PLACES):
        values, number = mass[..., at], counts[..., at]
        title = f"{PLACES[place]}, up to {percent(float(values.max()))}"

        def text(layer: int, head: int, values: np.ndarray = values, number: np.ndarray = number) -> str:
            a, b = float(values[layer, head]), float(number[layer, head])
            return f"L{layer}H{head}: {percent(a)} of attention on {fixed(b, 2)} sinks"

        made.append(HeadMap(title, values, _texts(values, text), float(values.max())))
    return tuple(made)


def _chosen_map(found: CalibrationRun, name: str) -> HeadMap:
    counts, seeds = times_chosen(found, name), len(found.seeds(name))

    def text(layer: int, head: int) -> str:
        return f"L{layer}H{head}: chosen with {counts[layer, head]:.0f} of {seeds} seeds"

    return HeadMap(name, counts / seeds, _texts(counts, text), 1.0)


def _texts(values: Float[np.ndarray, "layer head"], text: Callable[[int, int], str]) -> list[list[str]]:
    layers, heads = values.shape
    return [[text(layer, head) for head in range(heads)] for layer in range(layers)]
