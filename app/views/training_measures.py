"""A task's own measures over a training: curves of each variant at its best rate, by head or layer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.views.measure_meanings import Measure, beside_title, measure_of, offered
from app.views.numbers import fixed, interval
from app.views.table import Column, Table
from app.views.tables import TextTable
from app.views.training import Trained, TrainRun
from app.views.training_curves import held
from headscope.training.sweep import VariantResult

Numbers = Mapping[str, Mapping[int, float]]
_PLACED = re.compile(r"(.+)\.(L\d+(?:H\d+)?|embed)")
_IN_REPORT = 6
BAND_RULE = (
    "Each variant at its best rate: thin lines are seeds, thick ones their mean, in which a training that ended early "
    "keeps its last value; bands reach from the least to the largest seed."
)
HEADS_RULE = "Heads of two seeds share no more than their number."


def parted(name: str) -> tuple[str, str]:
    """A measure and its place: ``share.first.other.L0H1`` is ``share.first.other`` at ``L0H1``.

    The place is a head, a layer, ``embed``, or empty for the whole model.
    """
    found = _PLACED.fullmatch(name)
    return (found[1], found[2]) if found else (name, "")


@dataclass(frozen=True)
class MeasureCurve:
    """One measure of a variant at one place, over the seeds of its best rate.

    Attributes:
        best: the variant at its width.
        measure: its name.
        place: head, layer, ``embed``, or empty for the whole model.
        seeds: of the trainings that have it.
        steps: all steps at which any of them was evaluated.
        values: of each seed at each step.
        mean: over seeds; NaN where one of them has no number.
        low: the least seed.
        high: the largest seed.
    """

    best: VariantResult
    measure: str
    place: str
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Beside:
    """What a measure is compared with: a dashed line.

    Attributes:
        name: as the probe calls it.
        title: for people.
        steps: of the evaluations.
        mean: over all trainings that are drawn, which nearly always agree.
    """

    name: str
    title: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]


@dataclass(frozen=True)
class Facet:
    """One of several pictures side by side.

    Attributes:
        title: above it.
        curves: its lines.
        beside: its dashed lines.
        is_share: whether its values lie in 0 to 1.
    """

    title: str
    curves: tuple[MeasureCurve, ...]
    beside: tuple[Beside, ...]
    is_share: bool


class MeasuredRun:
    """The measures of a train run; each training is read once."""

    def __init__(self, found: TrainRun) -> None:
        """Read nothing yet."""
        self.found = found
        self._numbers = dict[str, Numbers]()

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Measures that a training at a best rate has, in the order in which they are offered; none without."""
        kept = (next((t for t in self._trained(one) if t.pictured), None) for one in self.found.best)
        names = dict.fromkeys(name for one in kept if one is not None for name in self.numbers(one))
        return offered(list(dict.fromkeys(parted(name)[0] for name in names)))

    def numbers(self, one: Trained) -> Numbers:
        """The measures of a training by their whole name: the value at each step."""
        stage = one.cell.stage
        if stage not in self._numbers:
            made = dict[str, dict[int, float]]()
            for shot in self.found.snapshots(stage):
                for name, value in shot.measures.items():
                    made.setdefault(name, {})[shot.step] = value
            self._numbers[stage] = made
        return self._numbers[stage]

    def curves(self, measure: str, best: Sequence[VariantResult]) -> tuple[MeasureCurve, ...]:
        """A curve for each of the variants and each of its places."""
        return tuple(self._curve(one, measure, place) for one in best for place in places_of(self._names(one), measure))

    def beside(self, measure: str, best: Sequence[VariantResult]) -> tuple[Beside, ...]:
        """The dashed lines of a measure that these variants have."""
        found = list[Beside]()
        for name in measure_of(measure).beside:
            own = [self.numbers(t)[name] for one in best for t in self._trained(one) if name in self.numbers(t)]
            steps = sorted({step for known in own for step in known})
            if own:
                means = np.mean([held(known, steps) for known in own], axis=0)
                found.append(Beside(name, beside_title(name), tuple(steps), tuple(map(float, means))))
        return tuple(found)

    def by_place(self, measure: str, best: Sequence[VariantResult]) -> tuple[Facet, ...]:
        """A picture for each place of a measure."""
        curves, beside, known = self.curves(measure, best), self.beside(measure, best), measure_of(measure)
        return tuple(
            Facet(place or known.title, tuple(c for c in curves if c.place == place), beside, known.is_share)
            for place in sorted({curve.place for curve in curves}, key=_place_order)
        )

    def for_report(self, best: Sequence[VariantResult]) -> tuple[tuple[Measure, Facet], ...]:
        """A picture for each of at most six measures, with all of their places."""
        here = [one for one in self.measures if self.curves(one.name, best)]
        shown = ([one for one in here if one.is_first] or here)[:_IN_REPORT]
        return tuple(
            (one, Facet(one.title, self.curves(one.name, best), self.beside(one.name, best), one.is_share))
            for one in shown
        )

    def _trained(self, one: VariantResult) -> tuple[Trained, ...]:
        return self.found.of(one.variant, one.width, one.rate)

    def _names(self, one: VariantResult) -> list[str]:
        return list(dict.fromkeys(name for trained in self._trained(one) for name in self.numbers(trained)))

    def _curve(self, one: VariantResult, measure: str, place: str) -> MeasureCurve:
        name = f"{measure}.{place}" if place else measure
        own = {t.cell.seed: self.numbers(t)[name] for t in self._trained(one) if name in self.numbers(t)}
        steps = sorted({step for known in own.values() for step in known})
        values = np.stack([held(known, steps) for known in own.values()])
        mean, low, high = (tuple(map(float, part)) for part in (values.mean(0), values.min(0), values.max(0)))
        each = tuple(tuple(map(float, part)) for part in values)
        return MeasureCurve(one, measure, place, tuple(own), tuple(steps), each, mean, low, high)


def places_of(names: Sequence[str], measure: str) -> tuple[str, ...]:
    """Places at which a measure was taken: the embedding, then layers and heads."""
    return tuple(sorted({place for what, place in map(parted, names) if what == measure}, key=_place_order))


def _place_order(place: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", place)))


def shown_table(facets: Sequence[Facet], title: str) -> Table:
    """The drawn numbers: a row for each variant, place and step, then the dashed lines."""
    columns = (
        Column("variant", "Variant", meaning="or what it is compared with"), Column("rate", "Rate"),
        Column("measure", "Measure"), Column("place", "Where", meaning="head or layer; empty for the whole model"),
        Column("step", "Step", meaning="steps taken before"), Column("mean", "Mean", 4, "over seeds"),
        Column("low", "Least", 4, "of the seeds"), Column("high", "Largest", 4, "of the seeds"),
        Column("seeds", "Seeds"),
    )  # fmt: skip
    lines = [
        (one.best.variant, one.best.rate, one.measure, one.place, *point, len(one.seeds))
        for facet in facets
        for one in facet.curves
        for point in zip(one.steps, one.mean, one.low, one.high, strict=True)
    ]
    dashed = [
        (one.title, None, one.name, "", step, mean, None, None, None)
        for one in dict.fromkeys(one for facet in facets for one in facet.beside)
        for step, mean in zip(one.steps, one.mean, strict=True)
    ]
    return Table(title, columns, (*lines, *dashed), {"rule": BAND_RULE})


def measure_table(found: TrainRun) -> Table:
    """A row for each measure of each training, at every evaluation."""
    columns = (
        Column("training", "Training"), Column("variant", "Variant"), Column("width", "Width"),
        Column("rate", "Rate"), Column("seed", "Seed"), Column("step", "Step", meaning="steps taken before"),
        Column("measure", "Measure"), Column("place", "Where", meaning="head or layer; empty for the whole model"),
        Column("value", "Value", 4),
    )  # fmt: skip
    rows = tuple(
        (
            one.cell.stage,
            one.cell.variant,
            one.cell.width,
            one.cell.rate,
            one.cell.seed,
            shot.step,
            *parted(name),
            value,
        )
        for one in found.trained
        for shot in found.snapshots(one.cell.stage)
        for name, value in shot.measures.items()
    )
    told = {name: measure_of(name).meaning for name in dict.fromkeys(str(row[6]) for row in rows)}
    return Table("Measures of the task", columns, rows, {"task": found.task, "meanings": told})


def end_text(facets: Sequence[tuple[Measure, Facet]]) -> TextTable:
    """The same at the last evaluation, for the report."""
    columns = ("measure", "variant", "where", "mean", "least to largest", "seeds")
    rows = tuple(
        (measure.title, one.best.variant, one.place, fixed(one.mean[-1]), _reach(one), str(len(one.seeds)))
        for measure, facet in facets
        for one in facet.curves
    )
    return TextTable("Measures at the last evaluation", columns, rows, frozenset(columns[3:]), BAND_RULE)


def _reach(one: MeasureCurve) -> str:
    known = len(one.seeds) > 1 and math.isfinite(one.mean[-1])
    return interval(one.low[-1], one.high[-1]) if known else ""
