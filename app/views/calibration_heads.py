"""Which heads a calibrate run chose: how often each, and how far data sets and seeds agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb

import numpy as np
from jaxtyping import Float

from app.views.calibration import CalibrationRun
from circuits.calibration.results import Selection
from headscope.statistics import jaccard


@dataclass(frozen=True)
class HeadAgreement:
    """How far the heads chosen on two data sets, or with two seeds of one, are the same.

    Attributes:
        first: a data set.
        second: another, or the same: then seeds of it are compared.
        n_pairs: pairs of trials; those that both chose no head say nothing and are left out.
        jaccard: shared heads over heads in either, mean over the pairs.
        expected: the same for random heads of the same numbers, mean over the pairs.
    """

    first: str
    second: str
    n_pairs: int
    jaccard: float
    expected: float


def times_chosen(found: CalibrationRun, name: str) -> Float[np.ndarray, "layer head"]:
    """In how many trials of a data set each head was chosen."""
    model = found.run.manifest.model
    counts = np.zeros((model.n_layers, model.n_heads))
    for trial in found.trials(name):
        for head in trial.selection.heads:
            counts[head] += 1
    return counts


def head_agreements(found: CalibrationRun) -> tuple[HeadAgreement, ...]:
    """Every two data sets, and every data set with itself where it has several seeds."""
    chosen = {name: [trial.selection for trial in found.trials(name)] for name in found.sets}
    within = [_agreement(name, name, list(combinations(own, 2))) for name, own in chosen.items() if len(own) > 1]
    between = [_agreement(a, b, list(product(chosen[a], chosen[b]))) for a, b in combinations(chosen, 2)]
    return (*within, *between)


def pooled_agreement(found: Sequence[HeadAgreement], *, within: bool) -> HeadAgreement | None:
    """Mean over pairs of trials of all sets: of seeds of one set, or of two sets."""
    own = [one for one in found if (one.first == one.second) == within and one.n_pairs]
    pairs = sum(one.n_pairs for one in own)
    if not pairs:
        return None
    mean = [sum(getattr(one, name) * one.n_pairs for one in own) / pairs for name in ("jaccard", "expected")]
    return HeadAgreement("", "", pairs, *mean)


def expected_jaccard(first: int, second: int, total: int) -> float:
    """Mean Jaccard index of two random sets of heads.

    **Definition**: the mean of ``k / (first + second - k)`` where k, the heads in both, is hypergeometric.

    **Range**: 0 to 1; NaN if both sets are empty.

    Args:
        first: heads of one set.
        second: heads of the other.
        total: heads that both are drawn from.
    """
    if not first + second:
        return float("nan")
    ways = {k: comb(first, k) * comb(total - first, second - k) for k in range(min(first, second) + 1)}
    return sum(way / comb(total, second) * k / (first + second - k) for k, way in ways.items())


def _agreement(first: str, second: str, pairs: Sequence[tuple[Selection, Selection]]) -> HeadAgreement:
    kept = [(a, b) for a, b in pairs if a.heads or b.heads]
    same = [jaccard({*a.heads}, {*b.heads}) for a, b in kept]
    by_chance = [expected_jaccard(len(a.heads), len(b.heads), len({*a.candidates} | {*b.candidates})) for a, b in kept]
    nothing = float("nan")
    return HeadAgreement(
        first,
        second,
        len(kept),
        float(np.mean(same)) if kept else nothing,
        float(np.mean(by_chance)) if kept else nothing,
    )
