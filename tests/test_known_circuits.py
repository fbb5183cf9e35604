"""Published circuits have the heads and edges that their papers count, and fit the models that they are about."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest

from circuits.graph import Graph
from circuits.ground_truth import GroundTruth
from circuits.known_circuits import KNOWN, known_circuit
from circuits.truths import known_truths
from headscope.errors import HeadIndexError
from headscope.heads import Head
from headscope.models.protocol import HookedModel

GPT2 = Graph(12, 12, 12)
GRAPHS = {"gpt2": GPT2, "attn-only-4l": Graph(4, 8, 8)}
every_circuit = pytest.mark.parametrize("key", list(KNOWN), ids=" ".join)


@pytest.mark.parametrize(
    ("key", "heads", "mlps"),
    [(("gpt2", "ioi"), 26, None), (("gpt2", "greater-than"), 9, 8), (("attn-only-4l", "docstring"), 6, None)],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else str(part),
)
def test_a_circuit_has_as_many_heads_and_mlps_as_its_paper_counts(
    key: tuple[str, str], heads: int, mlps: int | None
) -> None:
    circuit = KNOWN[key]
    assert len(circuit.heads) == sum(map(len, circuit.roles.values())) == heads, "no head has two roles"
    assert (None if circuit.mlps is None else len(circuit.mlps)) == mlps
    assert circuit.kind == "published"
    assert "20" in circuit.source


@every_circuit
def test_labels_and_edge_labels_are_the_heads_and_edges_on_the_graph(key: tuple[str, str]) -> None:
    circuit, graph = KNOWN[key], GRAPHS[key[0]]
    labels, edges = circuit.labels(graph), circuit.edge_labels(graph)
    assert {Head(int(layer), int(head)) for layer, head in np.argwhere(labels)} == circuit.heads
    assert edges is not None
    assert circuit.edges is not None
    found = {(str(graph.writers[w]), str(graph.readers[r])) for w, r in np.argwhere(edges)}
    assert found == circuit.edges
    assert not (edges & ~graph.edges).any()


@every_circuit
def test_every_head_reads_something_and_is_heard(key: tuple[str, str]) -> None:
    circuit = KNOWN[key]
    assert circuit.edges is not None
    writers, readers = {writer for writer, _ in circuit.edges}, {reader for _, reader in circuit.edges}
    for layer, head in circuit.heads:
        assert f"L{layer}H{head}" in writers
        assert readers & {f"L{layer}H{head}.q", f"L{layer}KV{head}.k", f"L{layer}KV{head}.v"}


def test_edges_of_the_docstring_circuit_are_those_of_acdc_without_the_13_inside_heads() -> None:
    edges = KNOWN["attn-only-4l", "docstring"].edges
    assert edges is not None
    assert len(edges) == 37 - 13
    named = {("L0H5", "L1KV4.v"), ("L0H5", "L2H0.q"), ("L1H4", "L2KV0.v"), ("L1H4", "L3H6.q"), ("L1H2", "L3KV0.k")}
    assert named <= edges


def test_groups_expand_to_single_heads_in_the_order_of_layers() -> None:
    edges = KNOWN["gpt2", "ioi"].edges
    assert edges is not None
    assert ("L3H0", "L7KV3.k") in edges
    assert ("L8H6", "L9H9.q") in edges
    assert ("L4H11", "L5KV5.v") in edges
    assert sum(reader == "output" for _, reader in edges) == 13
    assert not any(writer.endswith("mlp") or reader.endswith("mlp") for writer, reader in edges)


def test_the_greater_than_circuit_runs_through_mlps() -> None:
    edges = KNOWN["gpt2", "greater-than"].edges
    assert edges is not None
    assert {("L0H1", "L0.mlp"), ("L3.mlp", "L5H5.q"), ("L9H1", "L9.mlp"), ("L11.mlp", "output")} <= edges
    assert ("L9H1", "L8.mlp") not in edges, "MLP 8 comes before"


def test_a_circuit_of_another_model_is_refused() -> None:
    with pytest.raises(HeadIndexError, match=r"gpt2 ioi has the head L\d+H\d+, and the model has 4 layers of 8 heads"):
        KNOWN["gpt2", "ioi"].labels(Graph(4, 8, 8))
    with pytest.raises(HeadIndexError, match="which this model cannot have"):
        KNOWN["gpt2", "ioi"].edge_labels(Graph(12, 12, 4))


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "openai-community/gpt2"])
def test_a_model_has_its_published_circuit_by_every_name_of_it(name: str) -> None:
    assert known_circuit(name, "ioi") is KNOWN["gpt2", "ioi"]
    model = Mock(spec=HookedModel, revision="main")
    model.name = name
    found = known_truths(model, "ioi", GPT2)
    assert [truth.unit for truth in found] == ["head", "edge"]


def test_a_circuit_that_nobody_published_is_none() -> None:
    assert known_circuit("gpt2", "docstring") is None
    assert known_circuit("gpt2-large", "ioi") is None


def test_unknown_edges_have_no_labels() -> None:
    truth = GroundTruth("measured", "measured", "exhaustive patching", frozenset({Head(0, 1)}))
    assert truth.edge_labels(GPT2) is None
    assert truth.labels(GPT2).sum() == 1


def test_published_circuits_need_no_torch() -> None:
    code = "import sys, circuits.known_circuits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
