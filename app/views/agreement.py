"""Rank agreement: do two scores put the heads in the same order?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headscope.heads import HeadScores
from headscope.statistics import rank_agreement, rank_agreement_interval

_RESAMPLES = 200  # of 190 pairs: a report must not take long


@dataclass(frozen=True)
class PairAgreement:
    """Two scores, Spearman's rank correlation between them, and its 95 % bootstrap interval over heads."""

    first: str
    second: str
    rho: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreAgreement:
    """Spearman's rank correlation of every pair of scores, over all heads that have both.

    Attributes:
        names: the scores' identifiers, in the order of rows and columns.
        titles: their titles.
        rho: correlation of the values as they are, in [-1, 1]: negative where one score falls as the
            other rises, also when a low value is what makes a class; NaN where a score is constant.
        low: lower ends of the 95 % bootstrap intervals over heads: how much each correlation hangs on single heads.
        high: upper ends.
        n_heads: heads of the model.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    rho: Float[np.ndarray, "score score"]
    low: Float[np.ndarray, "score score"]
    high: Float[np.ndarray, "score score"]
    n_heads: int

    def pairs(self) -> list[PairAgreement]:
        """Every pair once, the strongest correlation of either sign first, NaN left out."""
        found = [
            PairAgreement(
                self.titles[a],
                self.titles[b],
                *(float(part[a, b]) for part in (self.rho, self.low, self.high)),
            )
            for a in range(len(self.names))
            for b in range(a + 1, len(self.names))
            if not np.isnan(self.rho[a, b])
        ]
        return sorted(found, key=lambda pair: -abs(pair.rho))


def score_agreement(scores: Sequence[HeadScores]) -> ScoreAgreement:
    """Rank agreement of every pair of ``scores``, all of one model."""
    ends = np.full((3, len(scores), len(scores)), np.nan)
    for a, first in enumerate(scores):
        ends[:, a, a] = rank_agreement(first.values, first.values)
        for b in range(a):
            found = rank_agreement_interval(
                first.values, scores[b].values, generator=np.random.default_rng(0), resamples=_RESAMPLES
            )
            ends[:, a, b] = ends[:, b, a] = found
    return ScoreAgreement(
        names=tuple(one.name for one in scores),
        titles=tuple(one.definition.title for one in scores),
        rho=ends[0],
        low=ends[1],
        high=ends[2],
        n_heads=scores[0].values.size if scores else 0,
    )
