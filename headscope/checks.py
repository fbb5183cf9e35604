"""The result of a causal check, as plain data: a head class ablated against random heads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AblationPoint:
    """The task metric with k heads ablated.

    Attributes:
        k: number of heads ablated.
        heads: labels of the class heads ablated, strongest first.
        value: metric with them ablated, mean over examples.
        low: lower end of its 95 % paired bootstrap interval: that of the change of each example from the untouched
            model, added to the untouched mean.
        high: upper end.
        random_values: metric of each random draw of equally many heads from the same layers.
        random_mean: their mean.
        random_low: 2.5th percentile of the draws.
        random_high: 97.5th percentile of the draws.
        p_value: one-sided permutation p value, (1 + draws at least as harmful) / (1 + draws).
    """

    k: int
    heads: tuple[str, ...]
    value: float
    low: float
    high: float
    random_values: tuple[float, ...]
    random_mean: float
    random_low: float
    random_high: float
    p_value: float


@dataclass(frozen=True)
class CausalCheck:
    """A head class against equally many random heads of the same layers.

    Attributes:
        head_class: name of the class ("retrieval").
        score: name of the score that ranked the heads.
        metric: what is measured ("needle accuracy").
        unit: unit of the metric.
        harm: +1 if harm raises the metric (a loss), -1 if harm lowers it (an accuracy).
        ablation: which ablation (zero, mean, resample, uniform, to_bos).
        rows: which query rows it acts on (all, prefill, decode).
        baseline: metric of the untouched model.
        baseline_low: lower end of its 95 % bootstrap interval.
        baseline_high: upper end.
        n: number of examples.
        n_draws: random draws per k.
        seed: seed of the draws.
        points: one per k, ascending.
        note: what the metric is, in a sentence; reservations.
    """

    head_class: str
    score: str
    metric: str
    unit: str
    harm: int
    ablation: str
    rows: str
    baseline: float
    baseline_low: float
    baseline_high: float
    n: int
    n_draws: int
    seed: int
    points: tuple[AblationPoint, ...]
    note: str = ""
