"""One score in two runs: what differs between heads of the same index, and what can be said where there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from app.views.heads import head_row
from app.views.numbers import fixed, percent
from app.views.source import isolated
from app.views.table import Column, Table
from headscope.errors import UnsupportedError
from headscope.heads import Head, HeadScores
from headscope.statistics import Interval, jaccard, rank_agreement_interval

NO_COMMON_INDEX = "heads of different models have no common index"
_RESAMPLES = 400


@dataclass(frozen=True)
class MovedHead:
    """One head in both runs.

    Attributes:
        head: its place.
        a: value in the first run; ``a_low`` and ``a_high`` are the ends of its 95 % interval (NaN: exact).
        b: value in the second run, with its interval.
        difference: ``b - a``.
        is_apart: whether the two intervals do not overlap; False where one of them is missing.
        change: "entered", "left" or "stayed" in the class, "never" in it; empty where there is no class.
    """

    head: Head
    a: float
    a_low: float
    a_high: float
    b: float
    b_low: float
    b_high: float
    difference: float
    is_apart: bool
    change: str

    @property
    def intervals(self) -> str:
        """ "apart", "overlap", or "no interval" where either value has none."""
        if not np.isfinite([self.a_low, self.a_high, self.b_low, self.b_high]).all():
            return "no interval"
        return "apart" if self.is_apart else "overlap"


@dataclass(frozen=True)
class Comparison:
    """One score of the same heads in two runs.

    Attributes:
        a: the score in the first run.
        b: the score in the second.
        difference: ``b - a``; NaN where either has no value.
        apart: whether the 95 % intervals do not overlap.
        heads: a row per head with both values, largest absolute difference first.
        agreement: Spearman's rank correlation with a bootstrap interval over heads.
        overlap: Jaccard index of the two classes; NaN without members or without a class.
    """

    a: HeadScores
    b: HeadScores
    difference: Float[np.ndarray, "layer head"]
    apart: Bool[np.ndarray, "layer head"]
    heads: tuple[MovedHead, ...]
    agreement: Interval
    overlap: float

    @property
    def largest(self) -> MovedHead | None:
        """The head that moved most, None where no head has both values."""
        return self.heads[0] if self.heads else None

    def count(self, change: str) -> int:
        """How many heads entered, left, stayed."""
        return sum(row.change == change for row in self.heads)


def compare(a: HeadScores, b: HeadScores) -> Comparison:
    """Compare the heads of two runs by their index.

    Raises:
        UnsupportedError: if the two do not have the same layers and heads: heads are never matched silently.
    """
    if a.values.shape != b.values.shape:
        raise UnsupportedError(
            f"{NO_COMMON_INDEX}: {a.model} has {a.n_layers} layers of {a.n_heads} heads, {b.model} {b.n_layers} of "
            f"{b.n_heads}. The maps and the depth profile compare them without matching heads."
        )
    difference = b.values.astype(np.float64) - a.values.astype(np.float64)
    apart = (a.high < b.low) | (b.high < a.low)
    rows = [_row(a, b, Head(*place), bool(apart[place])) for place in np.ndindex(difference.shape)]
    kept = [row for row in rows if np.isfinite(row.difference)]
    return Comparison(
        a,
        b,
        difference,
        apart,
        tuple(sorted(kept, key=lambda row: -abs(row.difference))),
        rank_agreement_interval(a.values, b.values, generator=np.random.default_rng(0), resamples=_RESAMPLES),
        jaccard(set(members(a)), set(members(b))),
    )


def members(scores: HeadScores) -> list[Head]:
    """Heads at or beyond the threshold; none where the score has no threshold."""
    return [] if scores.definition.threshold is None else scores.members()


def _row(a: HeadScores, b: HeadScores, head: Head, is_apart: bool) -> MovedHead:
    one, two = float(a.values[head]), float(b.values[head])
    return MovedHead(
        head,
        one,
        float(a.low[head]),
        float(a.high[head]),
        two,
        float(b.low[head]),
        float(b.high[head]),
        two - one,
        is_apart,
        _change(a, b, head),
    )


def _change(a: HeadScores, b: HeadScores, head: Head) -> str:
    if a.definition.threshold is None or b.definition.threshold is None:
        return ""
    was, now = _reaches(a, head), _reaches(b, head)
    return {(True, True): "stayed", (True, False): "left", (False, True): "entered", (False, False): "never"}[was, now]


def _reaches(scores: HeadScores, head: Head) -> bool:
    bar = scores.definition.threshold
    assert bar is not None
    return bool(scores.values[head] >= bar if scores.definition.higher else scores.values[head] <= bar)


def agreement_sentence(found: Comparison) -> str:
    """Rank agreement and class overlap in words."""
    rho, low, high = found.agreement
    if np.isnan(rho):
        ranks = "Spearman's rank correlation is not defined: a run has the same value for all heads."
    else:
        ranks = f"Spearman's rank correlation of the two runs is {fixed(rho, 3)} [{fixed(low, 3)}, {fixed(high, 3)}]."
    return f"{ranks} {_class_sentence(found)}"


def _class_sentence(found: Comparison) -> str:
    if found.a.definition.threshold is None:
        return "This score makes no class."
    stayed, left, entered = (found.count(change) for change in ("stayed", "left", "entered"))
    if not stayed + left + entered:
        return "No head is in the class in either run."
    name = found.a.definition.head_class or found.a.definition.title.lower()
    return (
        f"Of the {stayed + left} {name} heads of A, {stayed} are in the class in B too, {left} left it and {entered} "
        f"entered it: Jaccard {fixed(found.overlap, 3)}."
    )


def comparison_table(found: Comparison) -> Table:
    """A row per head, largest absolute difference first."""
    columns = (
        Column("label", "head"),
        Column("layer", "layer"),
        Column("head", "head of layer"),
        Column("a", "A", 3, f"{found.a.definition.title} in run A, {found.a.definition.unit}"),
        Column("a_low", "A 95 % low", 3),
        Column("a_high", "A 95 % high", 3),
        Column("b", "B", 3, f"{found.b.definition.title} in run B"),
        Column("b_low", "B 95 % low", 3),
        Column("b_high", "B 95 % high", 3),
        Column("difference", "B - A", 3),
        Column("apart", "intervals", meaning="apart: the two 95 % intervals do not overlap; no interval: exact"),
        Column("change", "class"),
    )
    rows = tuple(
        (str(row.head), *row.head, row.a, row.a_low, row.a_high, row.b, row.b_low, row.b_high, row.difference,
         row.intervals, row.change)
        for row in found.heads
    )  # fmt: skip
    return Table(f"{found.a.definition.title}: B - A", columns, rows)


def paired_table(runs: dict[str, HeadScores]) -> Table:
    """A row per run and head: what two maps side by side show."""
    columns = (
        Column("run", "run"),
        Column("label", "head"),
        Column("layer", "layer"),
        Column("head", "head of layer"),
        Column("value", "value", 3),
        Column("low", "95 % low", 3),
        Column("high", "95 % high", 3),
        Column("n", "n"),
        Column("is_member", "in class"),
    )
    rows = tuple(
        (name, row.label, row.layer, row.head, row.value, row.low, row.high, row.n, row.is_member)
        for name, scores in runs.items()
        for row in (head_row(scores, Head(*place)) for place in np.ndindex(scores.values.shape))
    )
    title = next(iter(runs.values())).definition.title
    return Table(f"{title} in both runs", columns, rows)


def count_sentence(name: str, scores: HeadScores) -> str:
    """How many heads of one run are in the class: ``A (smollm2): 15 of 270 (5.6 %)``."""
    count, n = len(members(scores)), int(np.isfinite(scores.values).sum())
    return f"{name} ({isolated(scores.model)}): {count} of {n} ({percent(count / n if n else float('nan'))})"
