"""A train run as its pages read it: variants at several widths, rates and seeds, and what each came to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headscope.errors import RunError, UnknownNameError, UnsupportedError
from headscope.runs.reading import Run
from headscope.training.sweep import Cell, CellResult, VariantResult, best_rates

KIND, SUMMARY = "train", "summary"
_OF_ANY_TASK = re.compile(
    r"((share|moved)\.(offset\.\d+|carry\.\d+|match\.-?\d+|first)|first_norm|row_mass|null_mass)\.L\d+H\d+"
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a training.

    Attributes:
        step: steps taken before.
        loss: held-out loss, nats per answer.
        accuracy: held-out accuracy.
    """

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Trained:
    """One training that is in.

    Attributes:
        result: what it came to.
        curve: its evaluations, in order.
        pictured: steps at which its mixing matrices were kept.
        seconds: time it took.
    """

    result: CellResult
    curve: tuple[Evaluation, ...]
    pictured: tuple[int, ...]
    seconds: float

    @property
    def cell(self) -> Cell:
        """Which training."""
        return self.result.cell


@dataclass(frozen=True)
class Snapshot:
    """What the heads of a training did at one evaluation.

    Attributes:
        step: steps taken before.
        probes: of every head of any task, by name, ``share.offset.1.L0H0``.
        measures: the task's own, by name, ``risk.backcopy``, ``share.first.other.L0H0``; empty where it has none.
    """

    step: int
    probes: Mapping[str, float]
    measures: Mapping[str, float]


class TrainRun:
    """A run of kind ``train``, whole or unfinished."""

    def __init__(self, run: Run) -> None:
        """Read nothing yet.

        Raises:
            UnsupportedError: if the run is of another kind.
        """
        if run.manifest.kind != KIND:
            raise UnsupportedError(
                f"the run {run.manifest.id} is of kind {run.manifest.kind}, not {KIND}: nothing was trained in it."
            )
        self.run = run

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return self.run.manifest.config

    @property
    def task(self) -> str:
        """What was learned."""
        return str(self.config.get("task", "?"))

    @property
    def planned(self) -> int:
        """Trainings that were asked for."""
        return sum(stage != SUMMARY for stage in self.run.manifest.planned)

    @cached_property
    def trained(self) -> tuple[Trained, ...]:
        """Every training that is in, in the order of the run.

        Raises:
            RunError: if a record does not hold what it should.
        """
        stages = [stage for stage in self.run.manifest.planned if stage in set(self.run.records) - {SUMMARY}]
        return tuple(_trained(self.run, stage) for stage in stages)

    @cached_property
    def best(self) -> tuple[VariantResult, ...]:
        """A row for each variant and width: its best rate among those that are in."""
        return tuple(best_rates([one.result for one in self.trained]))

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants with a training that is in."""
        return tuple(dict.fromkeys(one.cell.variant for one in self.trained))

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths with a training that is in, small to large."""
        return tuple(sorted({one.cell.width for one in self.trained}))

    @property
    def pictured(self) -> tuple[Trained, ...]:
        """Trainings of the best rates whose mixing matrices were kept, then those of other rates."""
        best = {(one.variant, one.width, one.rate) for one in self.best}
        kept = [one for one in self.trained if one.pictured]
        return tuple(sorted(kept, key=lambda one: (one.cell.variant, one.cell.width, one.cell.rate) not in best))

    def at(self, stage: str) -> Trained:
        """The training of that name.

        Raises:
            UnknownNameError: if there is none, or it is not in yet.
        """
        found = {one.cell.stage: one for one in self.trained}
        if stage not in found:
            raise UnknownNameError.of("training of this run", stage[:80], found)
        return found[stage]

    def of(self, variant: str, width: int, rate: float) -> tuple[Trained, ...]:
        """The seeds of a variant at a width and rate."""
        wanted = (variant, width, rate)
        return tuple(one for one in self.trained if (one.cell.variant, one.cell.width, one.cell.rate) == wanted)

    def snapshots(self, stage: str) -> tuple[Snapshot, ...]:
        """What the heads of a training did at each evaluation; empty where no pictures were kept.

        Raises:
            RunError: if the record does not hold what it should.
        """
        try:
            return tuple(
                _snapshot(int(point["step"]), {name: float(value) for name, value in point["probes"].items()})
                for point in self.run.record(stage)["curve"]
                if point.get("probes")
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _unreadable(self.run, stage, error) from None


def _snapshot(step: int, numbers: Mapping[str, float]) -> Snapshot:
    of_any = {name: value for name, value in numbers.items() if _OF_ANY_TASK.fullmatch(name)}
    return Snapshot(step, of_any, {name: value for name, value in numbers.items() if name not in of_any})


def cell_from(stage: str) -> Cell:
    """The training that a stage is named after: ``softmax.64.0.003.1``.

    Raises:
        ValueError: if it is named otherwise.
    """
    variant, width, *rate, seed = stage.split(".")
    return Cell(variant, int(width), float(".".join(rate)), int(seed))


def cell_label(cell: Cell, others: Sequence[Cell]) -> str:
    """A training for people, among others: what they have in common is left out, but for the seed."""
    parts = [cell.variant]
    if len({one.width for one in others}) > 1:
        parts.append(f"width {cell.width}")
    if len({(one.variant, one.width, one.rate) for one in others}) > len({(one.variant, one.width) for one in others}):
        parts.append(f"rate {cell.rate:g}")
    return ", ".join([*parts, f"seed {cell.seed}"])


def _trained(run: Run, stage: str) -> Trained:
    record = run.record(stage)
    try:
        result = CellResult(
            cell=cell_from(stage),
            accuracy=float(record["accuracy"]),
            held_out=float(record["held_out"]),
            loss=float(record["loss"]),
            solved_at=None if record["solved_at"] is None else int(record["solved_at"]),
            steps=int(record["steps"]),
            diverged=bool(record["diverged"]),
            state_size=int(record["state_size"]),
            parameters=int(record["parameters"]),
        )
        curve = tuple(
            Evaluation(int(point["step"]), float(point["loss"]), float(point["accuracy"])) for point in record["curve"]
        )
        pictured = tuple(int(step) for step in record.get("steps_pictured", ()))
        return Trained(result, curve, pictured, float(record.get("train_seconds", "nan")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(run, stage, error) from None


def _unreadable(run: Run, stage: str, error: Exception) -> RunError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return RunError(f"the run {run.manifest.id} cannot be read: the record {stage!r} ({reason}).")
