"""A causal check as rows and as a sentence: the class ablated, against random heads of the same layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.views.numbers import NO_BREAK, decimals_of, fixed, interval, p_text
from headscope.checks import AblationPoint, CausalCheck

KEY_K = 5
"""The number of heads that headlines speak of, where it was measured."""

_VERBS = {
    "zero": "Zero-ablating",
    "mean": "Mean-ablating",
    "resample": "Resample-ablating",
    "uniform": "Giving a uniform pattern to",
    "to_bos": "Sending to the first token all attention of",
}


@dataclass(frozen=True)
class CausalRow:
    """One number of ablated heads: the class against the random draws.

    Attributes:
        k: heads ablated.
        heads: their labels, strongest first.
        value: metric with them ablated, and the 95 % interval of its change from the untouched model.
        low: lower end.
        high: upper end.
        change: ``value`` minus the baseline.
        random_mean: mean of the metric over the random draws.
        random_low: 2.5th percentile of the draws.
        random_high: 97.5th percentile of the draws.
        random_change: ``random_mean`` minus the baseline.
        n_draws: random draws.
        as_harmful: draws that did at least as much harm as the class.
        p_value: one-sided permutation p value.
    """

    k: int
    heads: tuple[str, ...]
    value: float
    low: float
    high: float
    change: float
    random_mean: float
    random_low: float
    random_high: float
    random_change: float
    n_draws: int
    as_harmful: int
    p_value: float


def causal_rows(check: CausalCheck) -> list[CausalRow]:
    """A row per k, ascending."""
    return [_row(check, point) for point in check.points]


def _row(check: CausalCheck, point: AblationPoint) -> CausalRow:
    harm = check.harm * (np.asarray(point.random_values) - point.value)
    return CausalRow(
        k=point.k,
        heads=point.heads,
        value=point.value,
        low=point.low,
        high=point.high,
        change=point.value - check.baseline,
        random_mean=point.random_mean,
        random_low=point.random_low,
        random_high=point.random_high,
        random_change=point.random_mean - check.baseline,
        n_draws=len(point.random_values),
        as_harmful=int((harm >= 0).sum()),
        p_value=point.p_value,
    )


def key_row(check: CausalCheck) -> CausalRow | None:
    """The row that headlines use: k = `KEY_K`, else the measured k nearest to it; None without points."""
    rows = causal_rows(check)
    return min(rows, key=lambda row: (abs(row.k - KEY_K), row.k)) if rows else None


def causal_decimals(check: CausalCheck) -> int:
    """Decimals for every number of the check."""
    points = [number for point in check.points for number in (point.value, point.high, point.random_high)]
    return decimals_of(np.array([check.baseline, *points]))


def p_floor(row: CausalRow) -> float:
    """The smallest p value that the number of draws can give: 1 / (draws + 1)."""
    return 1 / (row.n_draws + 1)


def causal_sentence(check: CausalCheck, row: CausalRow) -> str:
    """What ablating the class did, what random heads did, and how sure that is, in words."""
    digits = causal_decimals(check)
    before, after = fixed(check.baseline, digits), fixed(row.value, digits)
    verb = "lowers" if row.change < 0 else "raises"
    moved = f"{verb} {_metric(check)} from {before} to {after}"
    if before == after:
        moved = f"leaves {_metric(check)} at {after}"
    doing = _VERBS.get(check.ablation, f"{check.ablation}-ablating")
    heads = "head" if row.k == 1 else "heads"
    return (
        f"{doing} the {_strongest(row.k, check.head_class)} {moved} {interval(row.low, row.high, digits)}; "
        f"{row.n_draws} draws of {row.k} random {heads} of the same layers leave "
        f"{fixed(row.random_mean, digits)} on average ({_certainty(row)})."
    )


def _metric(check: CausalCheck) -> str:
    return f"{check.metric} ({check.unit})" if check.unit else check.metric


def _strongest(k: int, head_class: str) -> str:
    return f"strongest {head_class} head" if k == 1 else f"{k} strongest {head_class} heads"


def _certainty(row: CausalRow) -> str:
    text = f"p{NO_BREAK}={NO_BREAK}{p_text(row.p_value)}"
    if row.p_value <= p_floor(row) * 1.0001:
        return f"{text}, the smallest that {row.n_draws} draws can give"
    if row.p_value > 0.05:
        return f"{text}: {row.as_harmful} of these draws do at least as much harm, so it is no evidence"
    return text
