"""What the stages of a circuit run share: the model, the pairs that methods see, those they are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.circuit_config import CircuitConfig
from circuits.circuit_runs import CircuitRuns
from circuits.circuit_scores import CircuitScores
from circuits.discovery import graph_of
from circuits.evaluation import Truth
from circuits.truths import known_truths
from headscope.models.anatomy import Anatomy
from headscope.tasks.contrast import ContrastBatch
from headscope.tasks.contrast_performance import TaskPerformance


@dataclass(frozen=True)
class Seeker:
    """A model, the pairs that methods see, and those that they are judged on.

    Attributes:
        config: the run's settings.
        anatomy: the model's parts.
        seen: pairs for the methods; the first ``config.pairs`` for most of them.
        judged: pairs for judging, none of them among ``seen``.
        performance: how well the model does the task, on ``seen``.
    """

    config: CircuitConfig
    anatomy: Anatomy
    seen: ContrastBatch
    judged: ContrastBatch
    performance: TaskPerformance

    def pairs_of(self, method: str) -> ContrastBatch:
        """The pairs that a method sees."""
        return self.seen.select(range(min(self.config.pairs_of(method), len(self.seen))))

    @cached_property
    def runs(self) -> CircuitRuns:
        """Circuits on the pairs to judge on."""
        return CircuitRuns(self.anatomy, self.judged, ablation=self.config.ablation)

    def truths(self, found: dict[str, CircuitScores]) -> list[Truth]:
        """What is known of the circuit beforehand, and what exhaustive patching in this run measured."""
        model, graph = self.anatomy.model, graph_of(self.anatomy)
        truths = known_truths(model, self.config.task, graph)
        if (patched := found.get("patching")) is not None:
            truths.append(Truth.measured("activation patching in this run", patched.heads, graph=graph))
        edges = found["path-patching"].edges if "path-patching" in found else None
        if edges is not None and not np.isnan(edges[graph.edges]).any():
            truths.append(Truth.measured("path patching in this run", edges, graph=graph, unit="edge"))
        return truths

    def size(self, truths: list[Truth]) -> int:
        """Heads of the circuits that are checked."""
        heads = [truth for truth in truths if truth.unit == "head"]
        asked = self.config.size or (int(heads[0].members.sum()) if heads else 10)
        return min(asked, self.anatomy.model.shape.n_layers * self.anatomy.model.shape.n_heads - 1)
