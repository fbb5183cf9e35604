"""A calibrate run as its pages read it: every trial, arms pooled over seeds, where sinks sit; no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

from app.live.plain_data import named_arrays, unpack
from app.views.calibration_arms import Effect, arm_effects
from circuits.calibration.results import ArmKind, BeforeAfter, ClassSinks, Selection, SinkMap, SinkToken, TrialResult
from headscope.errors import RunError, UnknownNameError, UnsupportedError
from headscope.runs.reading import Run
from headscope.tasks.labelled_catalog import LABELLED, labelled_set

KIND, CLASSES, SINKS = "calibrate", "classes", "sinks"
T = TypeVar("T")


def slug(name: str) -> str:
    """A data set's name as a part of a stage's: ``lm-eval:rte`` is ``lm-eval-rte``."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower())


@dataclass(frozen=True)
class Key:
    """A stage of one data set and seed: ``sentiment.0.select``.

    Attributes:
        name: `slug` of the data set's name.
        seed: of its split and demonstrations.
        part: heads chosen, or judged.
    """

    name: str
    seed: int
    part: Literal["select", "test"]

    @classmethod
    def read(cls, stage: str) -> Key:
        """The key of a stage."""
        name, seed, part = stage.rsplit(".", 2)
        return cls(name, int(seed), "select" if part == "select" else "test")

    def of(self, part: Literal["select", "test"]) -> Key:
        """The other stage of the same trial."""
        return replace(self, part=part)

    def __str__(self) -> str:
        return f"{self.name}.{self.seed}.{self.part}"


@dataclass(frozen=True)
class Sinks:
    """Where the sinks of every head sit, on prompts of one data set.

    Attributes:
        found: how many sinks, and how heavy.
        classes: means over the heads of each class; the chosen heads and all heads are classes too.
        shown: one head's attention, before and after.
        tokens: those that are sinks of most heads and texts; empty in runs made before they were counted.
    """

    found: SinkMap
    classes: tuple[ClassSinks, ...]
    shown: BeforeAfter
    tokens: tuple[SinkToken, ...]


class CalibrationRun:
    """A run of kind ``calibrate``, whole or unfinished; each part is read when it is first asked for."""

    def __init__(self, run: Run) -> None:
        """Read nothing yet.

        Raises:
            UnsupportedError: if the run is of another kind.
        """
        if run.manifest.kind != KIND:
            raise UnsupportedError(
                f"the run {run.manifest.id} is of kind {run.manifest.kind}, not {KIND}: no head was calibrated in it."
            )
        self.run = run
        self._trials: dict[tuple[str, int], TrialResult] = {}
        self._effects: dict[tuple[str, int | None], tuple[Effect, ...]] = {}

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return self.run.manifest.config

    @property
    def n_heads(self) -> int:
        """Heads of the model."""
        return self.run.manifest.model.n_layers * self.run.manifest.model.n_heads

    @property
    def planned_sets(self) -> tuple[str, ...]:
        """Data sets of the run, judged or not yet."""
        return tuple(map(str, self.config.get("sets", ())))

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """Data sets with any trial, in the order of the run."""
        return tuple(name for name in self.planned_sets if self.seeds(name))

    def seeds(self, name: str) -> tuple[int, ...]:
        """Seeds of a data set whose trial is in."""
        keys = [Key.read(stage) for stage in self.run.records if stage.endswith(".test")]
        return tuple(key.seed for key in keys if key.name == slug(name))

    def trial(self, name: str, seed: int) -> TrialResult:
        """One trial: a data set with the split and demonstrations of a seed.

        Raises:
            RunError: if it is not in, or does not parse.
        """
        if (name, seed) not in self._trials:
            self._trials[name, seed] = _packed(self.run, str(Key(slug(name), seed, "test")), TrialResult)
        return self._trials[name, seed]

    def trials(self, name: str) -> tuple[TrialResult, ...]:
        """Every trial of a data set, by seed."""
        return tuple(self.trial(name, seed) for seed in self.seeds(name))

    def effects(self, name: str, seed: int | None = None) -> tuple[Effect, ...]:
        """What each arm did on a data set, the baseline first.

        Args:
            name: the data set.
            seed: of one trial; None pools the items of all.
        """
        if (name, seed) not in self._effects:
            trials = self.trials(name) if seed is None else (self.trial(name, seed),)
            self._effects[name, seed] = arm_effects(trials, seed=self.run.manifest.seed)
        return self._effects[name, seed]

    def by_kind(self, name: str) -> dict[ArmKind, Effect]:
        """What the arms of each kind did, pooled over seeds."""
        return {one.kind: one for one in self.effects(name)}

    def chance(self, name: str) -> float:
        """Accuracy of a guess."""
        if name in LABELLED:
            return labelled_set(name).chance
        return 1 / (1 + max(int(trial.arms[0].answers.labels.max()) for trial in self.trials(name)))

    @cached_property
    def sinks(self) -> dict[str, Sinks]:
        """Where sinks sit, by data set; empty where that stage is not in."""
        if SINKS not in self.run.records:
            return {}
        record = self.run.record(SINKS)
        return _read(self.run, SINKS, lambda: _sinks_from(self.run, record))

    def known_set(self, name: str) -> str:
        """The data set asked for; the first of the run if none is.

        Raises:
            UnknownNameError: if the run has none of that name.
        """
        name = name or next(iter(self.planned_sets), "")
        if name not in self.planned_sets:
            raise UnknownNameError.of("data set of this run", name[:60], self.planned_sets)
        return name

    def missing(self) -> str:
        """A sentence for what is not in yet."""
        return (
            "This part of the run is not in yet. Where the run was stopped, go on with it: headscope calibrate "
            f"--resume {self.run.manifest.id}"
        )


def load_selection(run: Run, key: Key) -> Selection:
    """The heads that were chosen for a trial.

    Raises:
        RunError: if they are not in, or do not parse.
    """
    return _packed(run, str(key.of("select")), Selection)


def _sinks_from(run: Run, record: Mapping[str, Any]) -> dict[str, Sinks]:
    arrays = {name: run.tensor(SINKS, name) for name in named_arrays(dict(record))}
    tokens = record.get("tokens", [()] * len(record["sets"]))  # runs made before tokens were counted have none
    rows = zip(record["sets"], record["maps"], record["classes"], record["shown"], tokens, strict=True)
    return {
        str(name): Sinks(
            unpack(SinkMap, found, arrays),
            tuple(unpack(ClassSinks, one, arrays) for one in classes),
            unpack(BeforeAfter, shown, arrays),
            tuple(unpack(SinkToken, one, {}) for one in counted),
        )
        for name, found, classes, shown, counted in rows
    }


def _packed(run: Run, stage: str, kind: type[T]) -> T:
    """The dataclass that a stage's record holds."""
    record = run.record(stage)

    def make() -> T:
        data = record["result"]
        return unpack(kind, data, {name: run.tensor(stage, name) for name in named_arrays(data)})

    return _read(run, stage, make)


def _read(run: Run, stage: str, make: Callable[[], T]) -> T:
    """What ``make`` gives; a record that does not hold what it should is a damaged run, not a traceback."""
    try:
        return make()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunError(f"the run {run.manifest.id} cannot be read: the record {stage!r} ({reason}).") from None
