"""Parts of the report that hold figures: one section per class, one small map per further score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from app.figures.causal import causal_figure
from app.figures.head_map import LARGEST_HEATMAP, head_map_figure
from app.figures.top_heads import top_heads_figure
from app.report.blocks import FigureBlock, anchor, figure_block
from app.views.causal import CausalRow, causal_decimals, causal_rows, causal_sentence, key_row
from app.views.classes import HeadClass
from app.views.heads import HeadRow, top_groups, top_heads
from app.views.numbers import decimals_of, fixed
from headscope.checks import CausalCheck
from headscope.heads import HeadScores

WIDE = 24
"""Heads per layer from which on a map takes the whole width of the page."""


@dataclass(frozen=True)
class MapSection:
    """The map of one score with its table.

    Attributes:
        anchor: id in the page.
        scores: the score.
        figure: its map.
        decimals: decimals of its values.
        members: which heads are in the class.
        is_wide: whether the map needs the whole width.
        has_table: whether the page lists every value; False where the map itself is a PNG.
    """

    anchor: str
    scores: HeadScores
    figure: FigureBlock
    decimals: int
    members: Bool[np.ndarray, "layer head"]
    is_wide: bool
    has_table: bool


@dataclass(frozen=True)
class CheckSection:
    """One causal check: curve, rows and sentence."""

    anchor: str
    check: CausalCheck
    figure: FigureBlock
    rows: tuple[CausalRow, ...]
    key: CausalRow | None
    decimals: int
    sentence: str


@dataclass(frozen=True)
class ClassSection:
    """Everything about one class of heads."""

    anchor: str
    head_class: HeadClass
    map: MapSection
    top: tuple[HeadRow, ...]
    groups: tuple[HeadRow, ...]
    intervals: FigureBlock
    check: CheckSection | None


def class_section(head_class: HeadClass, scores: HeadScores) -> ClassSection:
    """The section of a class; ``scores`` is the score that makes it."""
    name = anchor("class", head_class.name)
    top = top_heads(scores)
    return ClassSection(
        anchor=name,
        head_class=head_class,
        map=map_section(scores, compact=False),
        top=tuple(top),
        groups=tuple(top_groups(scores)) if scores.n_kv_heads != scores.n_heads else (),
        intervals=figure_block(
            top_heads_figure(top, scores.definition),
            anchor=anchor("intervals", scores.name),
            label=f"The {len(top)} strongest heads by {scores.definition.title} with 95 % intervals; "
            "the same numbers are in the table.",
            caption="Strongest heads with 95 % bootstrap intervals; filled where the head is in the class.",
        ),
        check=None if head_class.check is None else check_section(head_class.check),
    )


def map_section(scores: HeadScores, *, compact: bool) -> MapSection:
    """The map of one score; ``compact`` where many stand side by side."""
    has_class = scores.definition.threshold is not None
    members = np.zeros(scores.values.shape, dtype=np.bool_)
    for head in scores.members() if has_class else ():
        members[head] = True
    return MapSection(
        anchor=anchor("score", scores.name),
        scores=scores,
        figure=figure_block(
            head_map_figure(scores, compact=compact),
            anchor=anchor("map", scores.name),
            label=_map_label(scores, int(members.sum())),
            caption="" if compact else f"{'Outlined: heads of the class. ' if members.any() else ''}Layer 0 is on top.",
        ),
        decimals=decimals_of(scores.values),
        members=members,
        is_wide=scores.n_heads > WIDE,
        has_table=max(scores.values.shape) <= LARGEST_HEATMAP,
    )


def check_section(check: CausalCheck) -> CheckSection:
    """The section of a causal check."""
    row = key_row(check)
    sentence = "" if row is None else causal_sentence(check, row)
    return CheckSection(
        anchor=anchor("check", check.head_class),
        check=check,
        figure=figure_block(
            causal_figure(check),
            anchor=anchor("curve", check.head_class),
            label=f"{check.metric} over the number of ablated heads. {sentence}",
            caption=(
                "Bands: 95 % interval of the change that ablating the class makes (paired over examples), and "
                "2.5th to 97.5th percentile of the random draws."
            ),
        ),
        rows=tuple(causal_rows(check)),
        key=row,
        decimals=causal_decimals(check),
        sentence=sentence,
    )


def class_sections(classes: Sequence[HeadClass], scores: Mapping[str, HeadScores]) -> tuple[ClassSection, ...]:
    """A section per class, in order."""
    return tuple(class_section(one, scores[one.definition.name]) for one in classes)


def _map_label(scores: HeadScores, n_members: int) -> str:
    title = scores.definition.title
    best = top_heads(scores, 1)
    if not best:
        return f"{title} by layer and head: no head has a value."
    strongest = f"strongest {best[0].label} at {fixed(best[0].value, decimals_of(scores.values))}"
    counted = f", {n_members} of {scores.values.size} heads in the class" if n_members else ""
    return f"{title} by layer and head: {strongest}{counted}."
