"""Intervals, p values and agreement: what turns a number per head into a claim.

Every interval is a percentile bootstrap (Efron and Tibshirani 1993, chapter 13): draw as many examples as
there are, with replacement, take the mean, repeat; the interval holds the middle ``level`` of those means. It
needs no shape of the distribution, and it is too narrow when there are few examples: with normal data and 10
examples a 95 % interval holds the true mean in about 90 of 100 cases, with 40 in about 94.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_COUNTS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """A mean, or another statistic, with the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


class CellIntervals(NamedTuple):
    """An `Interval` for every cell."""

    mean: Float[np.ndarray, " ..."]
    low: Float[np.ndarray, " ..."]
    high: Float[np.ndarray, " ..."]


def count_examples(samples: Float[np.ndarray, "n ..."]) -> Int[np.ndarray, " ..."]:
    """How many examples count in each cell: those that are not NaN."""
    return (~np.isnan(samples)).sum(axis=0)


def bootstrap_mean(
    samples: Float[np.ndarray, "n ..."],
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> CellIntervals:
    """Mean over examples with a percentile bootstrap interval, for every cell at once.

    All cells are resampled together, so that what correlates stays so. A NaN says that the example does not
    count for that cell: each mean is over the examples that count. A resample without any of them is left
    out; a cell with fewer than two has no interval (NaN), with none no mean either.

    **Source**: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.

    Args:
        samples: one value per example and cell.
        generator: source of the resamples.
        resamples: how many.
        level: share of the resampled means inside the interval.
    """
    cells = samples.shape[1:]
    if not len(samples):
        samples = np.full((1, *cells), np.nan)
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    counts = ~np.isnan(flat)
    # distances from the first example that counts: exact for constants, no digits lost to a large offset
    origin = np.take_along_axis(flat, counts.argmax(0)[None], axis=0)[0]
    apart = np.where(counts, flat - origin, 0.0)
    means = np.empty((resamples, flat.shape[1]))
    for rows, draw in _draws(len(flat), resamples, generator):
        means[rows] = _divide(draw @ apart, draw @ counts)
    low, high = _ends(means, level)
    for end in (low, high):
        end[counts.sum(0) < 2] = np.nan
    mean = _divide(apart.sum(0), counts.sum(0))
    return CellIntervals(*((origin + part).reshape(cells) for part in (mean, low, high)))


def bootstrap_scalar(
    samples: Float[np.ndarray, " n"] | Sequence[float],
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """`bootstrap_mean` of one list of numbers, as plain floats."""
    column = np.asarray(samples, dtype=np.float64)[:, None]
    ends = bootstrap_mean(column, generator=generator, resamples=resamples, level=level)
    return Interval(*(float(part[0]) for part in ends))


def bootstrap_ratio(
    parts: Float[np.ndarray, " ..."],
    wholes: Float[np.ndarray, " ..."],
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """``sum(parts) / sum(wholes)`` with a percentile bootstrap interval, both drawn together by example.

    Such as right answers over answers, where examples ask different numbers of them. Examples whose whole is 0 do not
    count; with fewer than two that do there is no interval (NaN), with none no ratio either. Where all wholes are the
    same it is `bootstrap_scalar` of the shares.

    **Source**: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 2.4.

    Raises:
        ValueError: if there is not one whole for each part.
    """
    if parts.shape != wholes.shape or parts.ndim != 1:
        raise ValueError(f"{parts.shape} parts need as many wholes, not {wholes.shape}.")
    counted = wholes != 0
    some, all_ = parts[counted].astype(np.float64), wholes[counted].astype(np.float64)
    if not len(some):
        return Interval(math.nan, math.nan, math.nan)
    ratio = float(some.sum() / all_.sum())
    if len(some) < 2:
        return Interval(ratio, math.nan, math.nan)
    drawn = np.empty((resamples, 1))
    for rows, draw in _draws(len(some), resamples, generator):
        drawn[rows, 0] = _divide(draw @ some, draw @ all_)
    low, high = _ends(drawn, level)
    return Interval(ratio, float(low[0]), float(high[0]))


def bootstrap_groups(
    samples: Float[np.ndarray, " n"] | Sequence[float],
    groups: Sequence[Hashable],
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """`bootstrap_scalar` that draws whole groups of examples, since those of one group are alike.

    Draw as many groups as there are, with replacement; the mean is over all their examples. With a group per example it
    is `bootstrap_scalar`; without groups each example is one.

    **Source**: cluster bootstrap, Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8.

    Raises:
        ValueError: if there is not one group for each example.
    """
    values = np.asarray(samples, dtype=np.float64)
    if not groups:
        return bootstrap_scalar(values, generator=generator, resamples=resamples, level=level)
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} examples need as many groups, not {len(groups)}.")
    names = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    where = np.array([names[group] for group in groups])
    totals, counts = np.bincount(where, values), np.bincount(where).astype(np.float64)
    ratio = bootstrap_ratio(totals, counts, generator=generator, resamples=resamples, level=level)
    return ratio._replace(mean=float(values.mean()))


def permutation_p(value: float, draws: Float[np.ndarray, " draw"] | Sequence[float], harm: int) -> float:
    """One-sided permutation p value of ``value`` among random ``draws``.

    **Definition**: (1 + number of draws at least as harmful) / (1 + number of draws).

    **Source**: Phipson and Smyth, "Permutation P-values should never be zero" (2010, arXiv:1603.05766).

    **Range**: 1 / (1 + draws) to 1; NaN if any number is.

    Args:
        value: what was measured.
        draws: the same, measured under the null hypothesis.
        harm: +1 if a high value is harm (a loss), -1 if a low one is (an accuracy).

    Raises:
        ValueError: if ``harm`` is neither.
    """
    if harm not in (1, -1):
        raise ValueError(f"harm is {harm}; it is +1 (harm raises the metric) or -1 (harm lowers it).")
    drawn = np.asarray(draws, dtype=np.float64)
    if np.isnan(value) or np.isnan(drawn).any():
        return float("nan")
    return float((1 + (harm * drawn >= harm * value).sum()) / (1 + drawn.size))


def mcnemar_p(gained: int, lost: int) -> float:
    """Two-sided exact p value of McNemar's test on paired right or wrong answers.

    **Definition**: with b gained and c lost of n = b + c items that changed, ``min(1, 2 P(X <= min(b, c)))`` where X is
    binomial with n draws of 1/2. Items that did not change say nothing.

    **Source**: McNemar 1947, Psychometrika 12; the exact form of Edwards 1948.

    **Range**: above 0 to 1; 1 if nothing changed.

    Args:
        gained: items that became right.
        lost: items that became wrong.

    Raises:
        ValueError: if a count is negative.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained and {lost} lost are no counts.")
    n = gained + lost
    ways = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return float(min(Fraction(1), Fraction(2 * ways, 2**n)))


def rank_agreement(a: Float[np.ndarray, " ..."], b: Float[np.ndarray, " ..."]) -> float:
    """Spearman's rank correlation between two scores of the same heads, ties at their mean rank.

    Heads where either score is NaN do not count.

    **Range**: -1 to 1; NaN if fewer than three heads count or a score is the same for all.

    Raises:
        ValueError: if the scores have different shapes.
    """
    pair = _paired(a, b)
    return float(_spearman(pair[:, None, :])[0]) if pair.shape[1] > 2 else float("nan")


def rank_agreement_interval(
    a: Float[np.ndarray, " ..."],
    b: Float[np.ndarray, " ..."],
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """`rank_agreement` with a percentile bootstrap interval over heads.

    The interval says how much the agreement hangs on single heads, not how much it would vary with other
    examples.

    Raises:
        ValueError: if the scores have different shapes.
    """
    pair, rho = _paired(a, b), rank_agreement(a, b)
    if np.isnan(rho):
        return Interval(rho, rho, rho)
    drawn = np.empty(resamples)
    for start in range(0, resamples, step := _at_once(pair.shape[1])):
        size = min(step, resamples - start)
        picked = generator.integers(0, pair.shape[1], size=(size, pair.shape[1]))
        drawn[start : start + size] = _spearman(pair[:, picked])
    low, high = (float(end[0]) for end in _ends(drawn[:, None], level))
    return Interval(rho, low, high)


def jaccard(a: AbstractSet[Hashable], b: AbstractSet[Hashable]) -> float:
    """Share of the members of either set that are in both; NaN if both are empty."""
    return len(a & b) / len(a | b) if a | b else float("nan")


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down correction of several p values: the chance of any false alarm among them (Holm 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    found = np.empty_like(values)
    found[order] = np.minimum(np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values)))), 1.0)
    return tuple(map(float, found))


def _at_once(n: int) -> int:
    """How many resamples of n examples are held in memory together."""
    return max(1, _COUNTS_AT_ONCE // max(n, 1))


def _draws(
    n: int, resamples: int, generator: np.random.Generator
) -> Iterator[tuple[slice, Float[np.ndarray, "resample n"]]]:
    """How often each example is drawn in each resample, a block of resamples at a time."""
    for start in range(0, resamples, step := _at_once(n)):
        size = min(step, resamples - start)
        picked = generator.integers(0, max(n, 1), size=(size, n))
        picked += n * np.arange(size)[:, None]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        yield slice(start, start + size), counts.astype(np.float64)


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where nothing was counted."""
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _ends(drawn: Float[np.ndarray, "resample cell"], level: float) -> Float[np.ndarray, "end cell"]:
    """Lower and upper end of the middle ``level`` of each column, NaN left out."""
    shares = [(1 - level) / 2, (1 + level) / 2]
    gaps = np.isnan(drawn).any(axis=0)
    ends = np.quantile(drawn, shares, axis=0)
    for column in np.flatnonzero(gaps):
        known = drawn[~np.isnan(drawn[:, column]), column]
        ends[:, column] = np.quantile(known, shares) if known.size else np.nan
    return ends


def _paired(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "2 head"]:
    """Both scores of the heads that have both."""
    if a.shape != b.shape:
        raise ValueError(f"scores of different models cannot be compared: {a.shape} and {b.shape} heads.")
    both = ~(np.isnan(a) | np.isnan(b))
    return np.stack([a[both], b[both]]).astype(np.float64)


def _spearman(pair: Float[np.ndarray, "2 resample head"]) -> Float[np.ndarray, " resample"]:
    from scipy.stats import rankdata  # half a second to import, and only this needs it

    ranks = rankdata(pair, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    product = (ranks[0] * ranks[1]).sum(-1)
    size = np.sqrt((ranks**2).sum(-1)).prod(0)
    return _divide(product, size)
