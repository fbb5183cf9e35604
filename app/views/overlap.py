"""How far the classes share their heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from app.views.classes import HeadClass
from headscope.heads import Head
from headscope.statistics import jaccard


@dataclass(frozen=True)
class SharedHead:
    """A head that belongs to several classes."""

    label: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ClassOverlap:
    """Shared heads of every pair of classes.

    Attributes:
        names: the classes, in the order of rows and columns.
        counts: heads in both; the diagonal is the size of each class.
        jaccard: heads in both over heads in either, in [0, 1]; NaN where both are empty.
        shared: heads of two classes or more, those of most classes first.
    """

    names: tuple[str, ...]
    counts: Int[np.ndarray, "class class"]
    jaccard: Float[np.ndarray, "class class"]
    shared: tuple[SharedHead, ...]


def class_overlap(classes: Sequence[HeadClass]) -> ClassOverlap:
    """Overlap of ``classes``, by query head."""
    members = [{row.label for row in one.members} for one in classes]
    shape = (len(members), len(members))
    counts, index = np.zeros(shape, dtype=np.int64), np.full(shape, np.nan)
    for a, first in enumerate(members):
        for b, second in enumerate(members):
            counts[a, b], index[a, b] = len(first & second), jaccard(first, second)
    return ClassOverlap(tuple(one.name for one in classes), counts, index, _shared(classes))


def _shared(classes: Sequence[HeadClass]) -> tuple[SharedHead, ...]:
    belongs: dict[str, list[str]] = {}
    for one in classes:
        for row in one.members:
            belongs.setdefault(row.label, []).append(one.name)
    several = [SharedHead(label, tuple(names)) for label, names in belongs.items() if len(names) > 1]
    return tuple(sorted(several, key=lambda head: (-len(head.classes), Head.parse(head.label))))
