"""Which heads the trainings of a variant grow, over seeds: roles, their weight, and what cutting them costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from app.views.numbers import fixed, interval
from app.views.table import Column, Table
from app.views.variant_comparison import CELLS_MEANING, CompareRun
from app.views.variant_cuts import Tested, claims_of
from app.views.variant_profiles import FIRST, ProfileRow, compared_rows
from circuits.comparison_results import CLAIMED, ModelReport
from headscope.heads import Head
from headscope.statistics import Interval, bootstrap_scalar

FIRST_TOKEN = "first token"
ROLES: Mapping[str, str] = {
    "offset 1": "previous token",
    "carry 1": "previous token of the pair",
    "match +1": "retrieval",
    "match +0": "duplicate token",
    FIRST_TOKEN: "first token",
}
CENSUS_RULE = (
    f"A training has a head of a role where one puts {CLAIMED} or more of what it moves on its cells (on "
    "carries and the first token so much more than uniform rows, which have more there); of several the "
    "one with most weight stands for the training, whatever its cut costs. Weights are medians over the "
    "trainings that have one. The drop is a mean over them with a 95 % bootstrap interval over trainings, which is too "
    "narrow with fewer than ten and missing with one."
)


@dataclass(frozen=True)
class VariantAccuracy:
    """A variant over the seeds of its training.

    Attributes:
        variant: its name.
        accuracies: of each training.
        accuracy: their mean, with a bootstrap interval over them; NaN ends with one.
    """

    variant: str
    accuracies: tuple[float, ...]
    accuracy: Interval


@dataclass(frozen=True)
class RoleCount:
    """A role in the trainings of one variant.

    Attributes:
        variant: its name.
        role: ``previous token``, ``retrieval``, ..., or the name of the cells.
        cells: ``offset 1``, ``carry 1``, ``match +1``, ``first token``.
        seeds: trainings.
        found: how many have a head of the role.
        heads: heads of the role in all of them.
        layers: layers of those that stand for their training.
        moved: median weight of these, moved; NaN where none was found.
        share: the same, share.
        cut: trainings whose head was cut (a mixer that is not linear in its values has no cells).
        drop: what the cut costs, mean over those, with an interval over them; NaN where there is none.
        median_drop: the median of the same.
        counts: trainings in which it costs more than cutting random cells.
        any_counts: trainings in which this holds of any head of the role, be it not the one with most weight.
        equals: trainings that have cells of equal weight to compare with.
        exceeds: of these, trainings in which it costs more than cutting those.
    """

    variant: str
    role: str
    cells: str
    seeds: int
    found: int
    heads: int
    layers: tuple[int, ...]
    moved: float
    share: float
    cut: int
    drop: Interval
    median_drop: float
    counts: int
    equals: int
    exceeds: int
    any_counts: int = 0


def variant_accuracies(found: CompareRun) -> tuple[VariantAccuracy, ...]:
    """Every variant, its trainings as one."""
    return tuple(
        VariantAccuracy(name, tuple(one.accuracy.mean for one in models), _mean([one.accuracy.mean for one in models]))
        for name, models in found.variants.items()
    )


def role_counts(found: CompareRun) -> tuple[RoleCount, ...]:
    """Every variant and role: those that have a name always, other cells where a head reads them."""
    rows = compared_rows(found)
    return tuple(
        _count(name, cells, models, [row for row in rows if row.model in {one.name for one in models}])
        for name, models in found.variants.items()
        for cells in _cells(found, name)
    )


def census_record(found: CompareRun) -> dict[str, Any]:
    """Both as plain data, as a run keeps them."""
    return {
        "variants": [asdict(one) for one in variant_accuracies(found)],
        "roles": [asdict(one) for one in role_counts(found)],
    }


def role_table(found: CompareRun) -> Table:
    """A row for each variant and role."""
    columns = (
        Column("variant", "Variant"),
        Column("role", "Role"),
        Column("cells", "Cells", meaning=CELLS_MEANING),
        Column("seeds", "Trainings"),
        Column("found", "With such a head", meaning="trainings"),
        Column("found_share", "Share", 3, "of the trainings"),
        Column("heads", "Heads", meaning="of the role, in all trainings"),
        Column("layers", "Layers", meaning="of the heads that stand for their training"),
        Column("moved", "Weight, moved", 3, "median over the trainings that have one"),
        Column("share", "Weight, share", 3, "the same in where the head looks"),
        Column("cut", "Cut", meaning="trainings whose head was cut"),
        Column("drop", "Drop", 3, "what the cut costs, mean over trainings"),
        Column("low", "Drop, low", 3, "lower end of its 95 % bootstrap interval over trainings"),
        Column("high", "Drop, high", 3, "upper end"),
        Column("median_drop", "Drop, median", 3),
        Column("counts", "More than random", meaning="trainings in which the cut costs more than random cells"),
        Column(
            "any_counts", "Any head more than random", meaning="trainings in which it holds of any head of the role"
        ),
        Column("equals", "Have equal weight", meaning="trainings that have other cells of equal weight"),
        Column("exceeds", "More than equal weight", meaning="trainings in which the cut costs more than those"),
    )
    rows = tuple(
        (
            one.variant, one.role, one.cells, one.seeds, one.found, one.found / one.seeds, one.heads,
            ", ".join(map(str, one.layers)), one.moved, one.share, one.cut, *one.drop, one.median_drop, one.counts,
            one.any_counts, one.equals, one.exceeds,
        )
        for one in role_counts(found)
    )  # fmt: skip
    return Table("Census by variant", columns, rows, {"rule": CENSUS_RULE})


def shown_roles(found: CompareRun) -> Table:
    """The same with value and interval in one cell, as it is read on screen and in the report."""
    columns = (
        Column("variant", "Variant"), Column("role", "Role"), Column("cells", "Cells"),
        Column("found", "Trainings with such a head"), Column("layers", "Layers"),
        Column("weight", "Weight: moved, share"), Column("drop", "Drop, 95 % over trainings"),
        Column("median_drop", "Median drop"), Column("more_random", "More than random"),
        Column("more_equal", "More than equal weight"),
    )  # fmt: skip
    rows = tuple(
        (
            one.variant, one.role, one.cells, f"{one.found} of {one.seeds}", ", ".join(map(str, one.layers)) or "",
            f"{fixed(one.moved)}, {fixed(one.share)}" if one.found else "", seeds_text(one.drop, one.cut),
            fixed(one.median_drop) if one.cut else "", _counts_text(one),
            f"{one.exceeds} of {one.equals}" if one.equals else ("none to compare" if one.cut else ""),
        )
        for one in role_counts(found)
    )  # fmt: skip
    return Table("Census by variant", columns, rows)


def _counts_text(one: RoleCount) -> str:
    """``1 of 3``; ``1 of 3, any head: 2`` where another head of the role needs its cells and this one does not."""
    if not one.cut:
        return ""
    told = f"{one.counts} of {one.cut}"
    return told if one.any_counts <= one.counts else f"{told}, any head: {one.any_counts}"


def seeds_text(value: Interval, n: int) -> str:
    """``0.400 [0.350, 0.450]``; ``0.400 (1 training)`` where there is no interval; empty without any."""
    if not n:
        return ""
    return f"{fixed(value.mean)} {interval(value.low, value.high)}" if n > 1 else f"{fixed(value.mean)} (1 training)"


def cells_order(cells: str) -> tuple[int, int]:
    """Offsets, then carries, then matches, then the first token."""
    kind, _, number = cells.partition(" ")
    return ("offset", "carry", "match", "first").index(kind), 0 if kind == "first" else int(number)


def _cells(found: CompareRun, variant: str) -> list[str]:
    """Cells with a row for this variant: those of the named roles that the task has, and those its heads read."""
    rows = [row for row in compared_rows(found) if row.model in {one.name for one in found.variants[variant]}]
    known = {_name(cells) for row in rows for cells in row.cells["moved"]}
    read = {
        _name(c)
        for row in rows
        for c, weight in row.cells["moved"].items()
        if weight >= row.bars.get(_name(c), CLAIMED)
    }
    return sorted(((set(ROLES) & known) | read) - {"offset 0"}, key=cells_order)


def _count(variant: str, cells: str, models: Sequence[ModelReport], rows: Sequence[ProfileRow]) -> RoleCount:
    own = {one.name: [row for row in rows if row.model == one.name and _is_head(row, cells)] for one in models}
    strongest = {name: max(heads, key=lambda row: _weight(row, cells, "moved")) for name, heads in own.items() if heads}
    cut = [one for model in models if model.name in strongest for one in _cut(model, strongest[model.name].head, cells)]
    drops = [one.claim.check.drop for one in cut]
    beside = [one.exceeds for one in cut if one.exceeds is not None]
    return RoleCount(
        variant=variant,
        role=ROLES.get(cells, cells),
        cells=cells,
        seeds=len(models),
        found=len(strongest),
        heads=sum(map(len, own.values())),
        layers=tuple(sorted({Head.parse(row.head).layer for row in strongest.values()})),
        moved=_median([_weight(row, cells, "moved") for row in strongest.values()]),
        share=_median([_weight(row, cells, "share") for row in strongest.values()]),
        cut=len(cut),
        drop=_mean(drops),
        median_drop=_median(drops),
        counts=sum(one.counts for one in cut),
        equals=len(beside),
        exceeds=sum(beside),
        any_counts=sum(any(c.counts for row in own[one.name] for c in _cut(one, row.head, cells)) for one in models),
    )


def _is_head(row: ProfileRow, cells: str) -> bool:
    return _weight(row, cells, "moved") >= row.bars.get(cells, CLAIMED)


def _cut(model: ModelReport, head: str, cells: str) -> list[Tested]:
    return [one for one in claims_of(model) if (one.claim.head, one.claim.cells) == (head, cells)]


def _name(cells: str) -> str:
    return FIRST_TOKEN if cells == FIRST else cells


def _weight(row: ProfileRow, cells: str, view: str) -> float:
    own: Mapping[str, Mapping[str, float]] = {str(name): values for name, values in row.cells.items()}
    return own[view].get(FIRST if cells == FIRST_TOKEN else cells, 0.0)


def _mean(values: Sequence[float]) -> Interval:
    """Mean with an interval over trainings."""
    return bootstrap_scalar(np.array(values, dtype=np.float64), generator=np.random.default_rng(0))


def _median(values: Sequence[float]) -> float:
    return float(median(values)) if values else math.nan
