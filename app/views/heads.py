"""Rows of heads, strongest first: one query head or one key/value group each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from headscope.heads import Head, HeadScores


@dataclass(frozen=True)
class HeadRow:
    """One head with its score.

    Attributes:
        label: ``L5H1``, or ``L5KV0`` for a key/value group.
        layer: layer, from 0.
        head: query head, or key/value head of a group row.
        kv_head: key/value head that the head reads.
        value: mean over examples.
        low: lower end of the 95 % interval, NaN where the value is exact.
        high: upper end.
        n: examples behind the value.
        is_member: whether it reaches the score's own threshold; False where the score has none.
    """

    label: str
    layer: int
    head: int
    kv_head: int
    value: float
    low: float
    high: float
    n: int
    is_member: bool


def head_row(scores: HeadScores, head: Head) -> HeadRow:
    """The row of one query head."""
    return HeadRow(
        label=str(head),
        layer=head.layer,
        head=head.head,
        kv_head=scores.kv_head(head.head),
        value=float(scores.values[head]),
        low=float(scores.low[head]),
        high=float(scores.high[head]),
        n=int(scores.n[head]),
        is_member=reaches(scores, float(scores.values[head])),
    )


def reaches(scores: HeadScores, value: float) -> bool:
    """Whether ``value`` is at or beyond the score's threshold, on the side that makes the class."""
    bar = scores.definition.threshold
    if bar is None:
        return False
    return value >= bar if scores.definition.higher else value <= bar


def top_heads(scores: HeadScores, count: int = 10) -> list[HeadRow]:
    """The ``count`` strongest query heads that have a value, strongest first."""
    best = [head for head in scores.ranked() if not np.isnan(scores.values[head])]
    return [head_row(scores, head) for head in best[:count]]


def top_groups(scores: HeadScores, count: int = 10) -> list[HeadRow]:
    """The ``count`` strongest key/value groups; a group has the value of its strongest query head."""
    groups = scores.by_kv_head("max")
    best = [head for head in groups.ranked() if not np.isnan(groups.values[head])]
    return [replace(head_row(groups, head), label=f"L{head.layer}KV{head.head}") for head in best[:count]]
