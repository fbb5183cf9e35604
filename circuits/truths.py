"""What is known of a model's circuit for a task before anything is measured."""

from __future__ import annotations

import re

from circuits.evaluation.truth import Truth
from circuits.graph import Graph
from circuits.known_circuits import known_circuit
from headscope.heads import Head
from headscope.models.planted import CIRCUIT_KINDS, PlantedModel, build_planted
from headscope.models.protocol import HookedModel
from headscope.models.trained import CIRCUIT

_SEED = re.compile(r"seed (\d+)")
_INDUCTION_KINDS = ("induction", "all")


def known_truths(model: HookedModel, task: str, graph: Graph) -> list[Truth]:
    """The circuits of this model for this task that were published, written or trained into it; none for most models.

    Args:
        model: the model; planted ones are built again from the seed in their revision.
        task: name of the task.
        graph: the model's.
    """
    published = known_circuit(model.name, task)
    if published is not None:
        return Truth.known(published, graph)
    kind, _, name = model.name.partition(":")
    if kind == "trained" and name == task == "ioi":
        return [Truth.of_heads("trained-in circuit", graph, CIRCUIT.values())]
    seed = _SEED.search(model.revision)
    if kind != "planted" or seed is None:
        return []
    if name in CIRCUIT_KINDS and name == task:
        return _planted(build_planted(name, int(seed[1])), task, graph)
    if name in _INDUCTION_KINDS and task == "induction":
        truth = build_planted(name, int(seed[1])).truth
        return [Truth.of_heads("planted circuit", graph, truth["previous-token"] | truth["induction"])]
    return []


def _planted(built: PlantedModel, task: str, graph: Graph) -> list[Truth]:
    heads: frozenset[Head] = built.truth[task]
    edges = [(graph.writer(writer), graph.reader(reader)) for writer, reader in built.edges]
    return [
        Truth.of_heads("planted circuit", graph, sorted(heads)),
        *([Truth.of_edges("planted circuit", graph, sorted(edges))] if edges else []),
    ]
