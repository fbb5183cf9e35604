"""A circuit run as its pages read it: every method's scores, its curves, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from app.views.circuit_words import no_edges
from app.views.record_numbers import spread
from circuits.circuit_scores import CircuitScores
from circuits.evaluation import Agreement, FaithfulnessCurve, Spread, Truth
from circuits.evaluation.agreement import Ranking
from circuits.evaluation.pruning import connected, rank_parts, top_parts
from circuits.evaluation.truth import Unit
from circuits.graph import Graph
from circuits.records import agreement_from, curve_from, scores_from, truth_from
from headscope.errors import RunError, UnsupportedError
from headscope.heads import HeadScores
from headscope.runs.reading import Run

KIND = "circuit"
_PARTS, _CURVES = "-parts", "-curves"


@dataclass(frozen=True)
class Curve:
    """A faithfulness curve and its areas: ``cpr`` or ``cmd``, and ``log_area``."""

    curve: FaithfulnessCurve
    areas: Mapping[str, Spread]

    @cached_property
    def ends(self) -> Float[np.ndarray, "end point"]:
        """Interval of faithfulness at each point; resampled once."""
        return self.curve.intervals()


class CircuitRun:
    """A run of kind ``circuit``, whole or unfinished; each part is read when it is first asked for."""

    def __init__(self, run: Run) -> None:
        """Read nothing yet.

        Raises:
            UnsupportedError: if the run is of another kind.
        """
        if run.manifest.kind != KIND:
            raise UnsupportedError(
                f"the run {run.manifest.id} is of kind {run.manifest.kind}, not {KIND}: it holds no circuits."
            )
        self.run = run
        self._scores: dict[str, CircuitScores] = {}
        self._curves: dict[str, dict[tuple[str, str], Curve]] = {}
        self._kept: dict[tuple[str, str, str, int], Bool[np.ndarray, "row column"]] = {}

    @property
    def config(self) -> Mapping[str, Any]:
        """Its settings."""
        return self.run.manifest.config

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.config.get("task", ""))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Methods whose scores are in, in the order of the run."""
        records = set(self.run.records)
        return tuple(m for m in self.config.get("methods", ()) if m + _PARTS in records)

    @property
    def seed(self) -> int:
        """Of the run: ties are broken with it."""
        return int(self.run.manifest.seed)

    def has(self, stage: str) -> bool:
        """Whether a stage's record is in."""
        return stage in self.run.records

    def missing(self, stage: str) -> str:
        """A sentence for a stage that is not in."""
        return (
            f"The stage {stage!r} of this run is not in yet. Where the run was stopped, go on with it: headscope "
            f"circuit --resume {self.run.manifest.id}"
        )

    def scores(self, method: str) -> CircuitScores:
        """What a method found.

        Raises:
            RunError: if the method's scores are not in, or do not parse.
        """
        if method not in self._scores:
            record = self.run.record(method + _PARTS)
            with_arrays = {name: self.run.tensor(method + _PARTS, name) for name in record["arrays"]}
            self._scores[method] = _read(self.run, method + _PARTS, lambda: scores_from(record["scores"], with_arrays))
        return self._scores[method]

    def head_scores(self, method: str) -> HeadScores | None:
        """The same scores of heads as the run's table has them, with their intervals."""
        return self.run.scores().get("circuit_" + method.replace("-", "_"))

    def curve(self, method: str, unit: Unit, ranking: Ranking) -> Curve | None:
        """A faithfulness curve, or None where the run has none (yet)."""
        if not self.has(method + _CURVES):
            return None
        if method not in self._curves:
            record, stage = self.run.record(method + _CURVES), method + _CURVES
            self._curves[method] = _read(self.run, stage, lambda: self._read_curves(stage, record))
        return self._curves[method].get((unit, ranking))

    def _read_curves(self, stage: str, record: Mapping[str, Any]) -> dict[tuple[str, str], Curve]:
        found = dict[tuple[str, str], Curve]()
        for one in record["curves"]:
            arrays = {name: self.run.tensor(stage, f"{one['key']}.{name}") for name in one["arrays"]}
            areas = {name: spread(area) for name, area in one["areas"].items()}
            curve = curve_from(one["curve"], arrays)
            found[curve.unit, curve.ranking] = Curve(curve, areas)
        return found

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What the run was compared with, by key; empty where the stage is not in."""
        return self._from("agreement", "truths", "truth", truth_from)

    @cached_property
    def agreements(self) -> dict[str, Agreement]:
        """Every method against every truth, by key."""
        return self._from("agreement", "rows", "agreement", agreement_from)

    def _from(self, stage: str, rows: str, part: str, read: Any) -> dict[str, Any]:
        if not self.has(stage):
            return {}
        record = self.run.record(stage)
        return _read(
            self.run,
            stage,
            lambda: {
                row["key"]: read(
                    row[part], {name: self.run.tensor(stage, f"{row['key']}.{name}") for name in row["arrays"]}
                )
                for row in record[rows]
            },
        )

    def agreement(self, method: str, truth: Truth, ranking: Ranking) -> Agreement | None:
        """One method against one truth; unsigned methods have the same by magnitude."""
        found = [a for a in self.agreements.values() if (a.method, a.truth, a.unit) == (method, truth.name, truth.unit)]
        return next((a for a in found if a.ranking == ranking), found[0] if found else None)

    def kept(self, method: str, unit: Unit, ranking: Ranking, size: int) -> Bool[np.ndarray, "row column"]:
        """The circuit that was judged at a size: heads ``[layer head]`` or edges ``[writer reader]``, pruned.

        Ties are broken as the run broke them: by its seed.

        Raises:
            UnsupportedError: for edges of a method that scores none.
        """
        key = (method, unit, ranking, size)
        if key not in self._kept:
            scores = self.scores(method)
            table = scores.heads if unit == "head" else scores.edges
            if table is None:
                raise UnsupportedError(no_edges(method))
            possible = scores.graph.edges if unit == "edge" else np.ones_like(table, dtype=bool)
            generator = np.random.default_rng(self.seed)
            order = rank_parts(table, possible, absolute=ranking == "absolute", generator=generator)
            top = top_parts(order, size, possible)
            self._kept[key] = connected(top, scores.graph) if unit == "edge" else top
        return self._kept[key]

    def alive(self, method: str, unit: Unit, ranking: Ranking, size: int) -> set[str]:
        """Labels of the components in the circuit; every MLP is in a circuit of heads."""
        kept = self.kept(method, unit, ranking, size)
        if unit == "head":
            mlps = {f"L{layer}.mlp" for layer in range(len(kept))}
            return {f"L{layer}H{head}" for layer, head in np.argwhere(kept)} | mlps
        return _writers_in(kept, self.scores(method).graph)

    @property
    def k(self) -> int:
        """Heads of the circuits that the run checked; 10 where it did not yet."""
        for stage in ("check", "stability"):
            if self.has(stage):
                return int(self.run.record(stage)["k"])
        return 10


def _writers_in(kept: Bool[np.ndarray, "writer reader"], graph: Graph) -> set[str]:
    return {str(graph.writers[index]) for index in np.flatnonzero(kept.any(1))}


def _read(run: Run, stage: str, make: Any) -> Any:
    """What ``make`` gives; a record that does not hold what it should is a damaged run, not a traceback."""
    try:
        return make()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunError(f"the run {run.manifest.id} cannot be read: the record {stage!r} ({reason}).") from None
