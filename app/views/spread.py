"""How a score is spread over the heads of a model, as one row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from app.views.heads import HeadRow, top_heads
from app.views.numbers import decimals_of
from headscope.heads import HeadScores, ScoreDefinition


@dataclass(frozen=True)
class SpreadRow:
    """One score over all heads.

    Attributes:
        definition: what the score means.
        lowest: smallest value of any head.
        median: median over heads.
        highest: largest value of any head.
        strongest: the head at the end that the definition calls strong; None where no head has a value.
        decimals: decimals for the score's values.
    """

    definition: ScoreDefinition
    lowest: float
    median: float
    highest: float
    strongest: HeadRow | None
    decimals: int


def spread_rows(scores: Iterable[HeadScores]) -> list[SpreadRow]:
    """A row per score, in the order of the scores."""
    return [_row(one) for one in scores]


def _row(scores: HeadScores) -> SpreadRow:
    finite = scores.values[np.isfinite(scores.values)].astype(np.float64)
    best = top_heads(scores, 1)
    nothing = float("nan")
    return SpreadRow(
        definition=scores.definition,
        lowest=float(finite.min()) if finite.size else nothing,
        median=float(np.median(finite)) if finite.size else nothing,
        highest=float(finite.max()) if finite.size else nothing,
        strongest=best[0] if best else None,
        decimals=decimals_of(scores.values),
    )
