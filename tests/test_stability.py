"""Stability over prompts and ablations: closed forms, and models of scores whose spread is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from circuits.attribution import edge_scores
from circuits.circuit_scores import CircuitScores
from circuits.discovery import discover
from circuits.graph import Graph
from circuits.method_settings import AttributionSettings
from circuits.stability import ablation_sensitivity, stability_of_prompts, stability_of_runs
from headscope.errors import TaskError
from headscope.models.anatomy import dissect
from headscope.models.bridged import BridgedModel
from headscope.tasks.contrast import ContrastBatch

GRAPH = Graph(n_layers=5, n_heads=8, n_kv_heads=8)


def examples(noise: float, n: int = 20, seed: int = 0) -> np.ndarray:
    """Four heads of effect 1 among 40, every prompt with noise of its own."""
    generator = np.random.default_rng(seed)
    table = generator.normal(0, noise, (n, 5, 8))
    table[:, 1, :4] += 1.0
    return table


def test_prompts_that_agree_give_the_same_circuit_every_time() -> None:
    found = stability_of_prompts(np.repeat(examples(0.3)[:1], 10, 0), k=4, resamples=100)
    assert (found.jaccard, found.low, found.high) == (1.0, 1.0, 1.0)
    assert set(np.unique(found.inclusion)) == {0.0, 1.0}
    assert found.core().sum() == 4
    assert found.is_stable
    assert found.verdict.startswith("Stable: ")


def test_mean_pairwise_jaccard_and_inclusion_are_those_of_all_pairs() -> None:
    tables = np.random.default_rng(1).normal(size=(7, 5, 8))
    found = stability_of_runs(tables, k=6, n=3)
    sets = [set(np.argsort(-table.ravel())[:6].tolist()) for table in tables]
    pairs = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[i + 1 :]]
    assert found.jaccard == pytest.approx(np.mean(pairs))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(pairs, [0.025, 0.975])))
    share = np.mean([[part in one for part in range(40)] for one in sets], 0)
    assert found.inclusion.ravel() == pytest.approx(share)
    assert found.inclusion.sum() == pytest.approx(6)


def test_noise_makes_a_circuit_vary_and_the_verdict_never_calls_it_stable() -> None:
    steady, shaky = (stability_of_prompts(examples(noise), k=4, resamples=120) for noise in (0.3, 6.0))
    assert steady.jaccard > 0.95 > 0.8 > shaky.jaccard
    assert (steady.is_stable, shaky.is_stable) == (True, False)
    assert "stable" not in shaky.verdict.lower()
    few = replace(steady, resamples=99)
    assert not few.is_stable
    assert "stable" not in few.verdict.lower()
    assert "100 resamples" in few.verdict
    low = replace(steady, jaccard=0.79)
    assert "stable" not in low.verdict.lower()
    assert replace(steady, jaccard=0.80).is_stable


def test_equal_scores_do_not_look_like_agreement() -> None:
    """A method that scores nothing would always pick the first heads, if ties were broken by position."""
    found = stability_of_prompts(np.zeros((10, 5, 8)), k=8, resamples=150)
    assert found.jaccard == pytest.approx(found.chance, abs=0.03)
    assert not found.is_stable
    assert found.inclusion.max() < 0.5


def test_inclusion_is_the_chance_that_a_resample_puts_the_part_in() -> None:
    """Two heads, one prompt in two each: head a leads in a resample of n prompts with more than half for it."""
    table = np.zeros((9, 1, 2))
    table[:6, 0, 0] = 1.0
    table[6:, 0, 1] = 1.0
    found = stability_of_prompts(table, k=1, resamples=1500)
    draws = np.random.default_rng(7).binomial(9, 6 / 9, 200_000)
    assert found.inclusion[0, 0] == pytest.approx((draws > 4.5).mean(), abs=0.04)


def test_edges_that_cannot_be_are_never_in_and_sign_counts_only_if_asked() -> None:
    graph = Graph(2, 2, 2)
    table = np.where(graph.edges, 0.1, np.nan)[None].repeat(5, 0)
    strongest = (graph.writer("L0H1"), graph.reader("output"))
    table[:, *strongest] = -3.0
    found = stability_of_prompts(table, k=1, unit="edge", possible=graph.edges, absolute=True, resamples=20)
    assert found.inclusion[strongest] == 1.0
    signed = stability_of_prompts(table, k=5, unit="edge", possible=graph.edges, resamples=50)
    assert signed.inclusion[strongest] == 0.0
    assert signed.inclusion[~graph.edges].max() == 0.0
    assert signed.unit == "edge"


def test_too_few_prompts_or_too_large_a_circuit_is_refused() -> None:
    with pytest.raises(TaskError, match="at least 2 prompts"):
        stability_of_prompts(examples(1.0, n=1), k=4)
    with pytest.raises(TaskError, match="1 to 40 parts"):
        stability_of_prompts(examples(1.0), k=41)


def scored(heads: np.ndarray, task: str = "ioi") -> CircuitScores:
    return CircuitScores("patching", task, "model", GRAPH, "by hand", "none", True, heads)


def test_ablations_that_agree_and_disagree_are_told_apart() -> None:
    base = np.random.default_rng(3).normal(size=(5, 8))
    kinds = {"resample": scored(base), "mean": scored(2 * base + 1), "zero": scored(-base)}
    found = ablation_sensitivity(kinds, k=5)
    assert [(one.first, one.second) for one in found] == [("resample", "mean"), ("resample", "zero"), ("mean", "zero")]
    assert [one.rank.mean for one in found] == pytest.approx([1, -1, -1])
    assert [one.overlap for one in found] == [1, 0, 0]
    by_size = ablation_sensitivity({"resample": scored(base), "zero": scored(-base)}, k=5, absolute=True)
    assert (by_size[0].rank.mean, by_size[0].overlap) == pytest.approx((1, 1))
    with pytest.raises(TaskError, match="one model and one task"):
        ablation_sensitivity({"resample": scored(base), "mean": scored(base, "docstring")}, k=5)


def test_edges_of_single_prompts_average_to_those_of_all_and_can_be_resampled(
    tiny: Callable[[str], BridgedModel], random_pairs: Callable[..., ContrastBatch]
) -> None:
    anatomy = dissect(tiny("llama"))
    batch = random_pairs(anatomy.model, n=4)
    whole = discover(anatomy, batch, "eap")
    assert whole.edges is not None
    possible = whole.graph.edges
    examples = edge_scores(anatomy, batch, AttributionSettings(), "eap")
    assert examples.mean(0)[possible] == pytest.approx(whole.edges[possible], abs=1e-4)
    edges = stability_of_prompts(examples, k=10, unit="edge", possible=possible, resamples=20)
    assert edges.inclusion[possible].sum() == pytest.approx(10)
