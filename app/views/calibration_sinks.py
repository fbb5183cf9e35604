"""Where the sinks of a calibrate run sit: by kind of place, by class of heads, by head, and on which tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from app.views.calibration import CalibrationRun
from app.views.tokens import visible
from circuits.calibration.results import SINK_PLACES, SinkPlace, SinkToken, count_tokens

PLACES: dict[SinkPlace, str] = {
    "first": "first token",
    "punctuation": "punctuation",
    "early": "tokens 1 to 3",
    "later": "later words",
}
ALL_HEADS, CHOSEN = "all", "chosen by ACT"


@dataclass(frozen=True)
class ClassRow:
    """Sinks of one class of heads, means over its heads, then over data sets.

    Attributes:
        head_class: its name.
        n_heads: how many heads, in each data set.
        mass: share of a row's attention on sinks, by `SINK_PLACES`.
        counts: sinks per text and head.
    """

    head_class: str
    n_heads: tuple[int, ...]
    mass: Float[np.ndarray, " place"]
    counts: Float[np.ndarray, " place"]

    @property
    def title(self) -> str:
        """Its name for people, with its size: ``induction (15 heads)``."""
        low, high = min(self.n_heads), max(self.n_heads)
        size = str(low) if low == high else f"{low} to {high}"
        name = "all heads" if self.head_class == ALL_HEADS else self.head_class.replace("_", "-")
        return f"{name} ({size})" if self.head_class == ALL_HEADS else f"{name} ({size} heads)"


def class_rows(found: CalibrationRun, name: str = "") -> tuple[ClassRow, ...]:
    """Every class of heads, all heads first.

    Args:
        found: the run.
        name: a data set; empty for the mean over all.
    """
    rows = defaultdict[str, list[tuple[int, np.ndarray, np.ndarray]]](list)
    for one in _chosen(found, name):
        for part in found.sinks[one].classes:
            rows[part.head_class].append((part.n_heads, part.mass, part.counts))
    made = [
        ClassRow(
            head_class,
            tuple(own[0] for own in parts),
            np.mean([own[1] for own in parts], axis=0),
            np.mean([own[2] for own in parts], axis=0),
        )
        for head_class, parts in rows.items()
    ]
    first = (ALL_HEADS, CHOSEN)
    return tuple(sorted(made, key=lambda row: first.index(row.head_class) if row.head_class in first else len(first)))


def mass_maps(found: CalibrationRun, name: str = "") -> Float[np.ndarray, "layer head place"]:
    """Share of a row's attention on sinks of each place, of a data set or the mean over all."""
    return np.mean([found.sinks[one].found.mass for one in _chosen(found, name)], axis=0)


def count_maps(found: CalibrationRun, name: str = "") -> Float[np.ndarray, "layer head place"]:
    """Sinks per text of each place, of a data set or the mean over all."""
    return np.mean([found.sinks[one].found.counts for one in _chosen(found, name)], axis=0)


def n_texts(found: CalibrationRun, name: str = "") -> int:
    """Prompts that were looked at."""
    return sum(found.sinks[one].found.n_texts for one in _chosen(found, name))


def sink_tokens(found: CalibrationRun, name: str = "") -> tuple[SinkToken, ...]:
    """Tokens that are sinks, those of most heads and texts first, made visible."""
    counted = count_tokens(token for one in _chosen(found, name) for token in found.sinks[one].tokens)
    return tuple(replace(one, token=visible(one.token)) for one in counted)


def share_by_place(mass: Float[np.ndarray, " place"]) -> Sequence[tuple[SinkPlace, float]]:
    """Each place with its part of the mass on sinks; zeros where there is none."""
    total = float(mass.sum())
    return [(place, float(part) / total if total else 0.0) for place, part in zip(SINK_PLACES, mass, strict=True)]


def _chosen(found: CalibrationRun, name: str) -> tuple[str, ...]:
    return (name,) if name else tuple(found.sinks)
