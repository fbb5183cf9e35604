"""Whether a circuit does what the model does (faithfulness), all of it (completeness) and nothing idle (minimality).

Definitions as in Wang et al. 2022 (arXiv 2211.00593, section 4), with everything outside the circuit ablated; the curve
over sizes and its areas as in the MIB benchmark (Mueller et al. 2025, arXiv 2504.13151, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from circuits.circuit_runs import CircuitRuns
from circuits.circuit_scores import CircuitScores
from circuits.evaluation.agreement import Ranking
from circuits.evaluation.curves import FRACTIONS, FaithfulnessCurve, Spread, ratio_spread
from circuits.evaluation.pruning import connected, random_connected, rank_parts, top_parts
from headscope.errors import ConfigError, TaskError
from headscope.heads import Head
from headscope.statistics import bootstrap_scalar


def head_curve(
    runs: CircuitRuns,
    scores: CircuitScores,
    *,
    ranking: Ranking = "signed",
    shares: Sequence[float] = FRACTIONS,
    random_draws: int = 0,
    seed: int = 0,
) -> FaithfulnessCurve:
    """Faithfulness of the best heads, for growing shares of all heads.

    **MLPs and the embedding are always kept** and recomputed, so the empty circuit is the model without heads, not the
    corrupted run, and the figures are not comparable with circuits of edges or of heads and MLPs.

    Args:
        runs: the prompts to judge on, and the ablation.
        scores: the ranking; equal scores are ordered at random.
        ranking: ``signed`` for CPR, ``absolute`` for CMD.
        shares: shares of the heads; `FRACTIONS` for the published areas.
        random_draws: random sets of heads of each size.
        seed: of ties, random sets and intervals.
    """
    generator = np.random.default_rng(seed)
    possible, sizes = np.ones_like(scores.heads, dtype=bool), _sizes(shares, scores.heads.size)
    order = rank_parts(scores.heads, possible, absolute=ranking == "absolute", generator=generator)
    sets = [top_parts(order, size, possible) for size in sizes]
    drawn = [
        top_parts(generator.permutation(possible.size), size, possible) for _ in range(random_draws) for size in sizes
    ]
    values = runs.heads(np.stack([*sets, np.zeros_like(possible), *drawn]))
    return _curve(runs, scores, "head", ranking, shares, sizes, sizes, possible.size, values, seed)


def edge_curve(
    runs: CircuitRuns,
    scores: CircuitScores,
    *,
    ranking: Ranking = "signed",
    shares: Sequence[float] = FRACTIONS,
    random_draws: int = 0,
    seed: int = 0,
) -> FaithfulnessCurve:
    """Faithfulness of the best edges, after pruning what hangs in the air; with resampling, exactly MIB's curve.

    **Definition**: the ``int(share * edges)`` highest edges, `connected`; all other edges carry the ablated run's
    values; nothing kept is the ablated run itself.

    Args:
        runs: the prompts to judge on, and the ablation.
        scores: the ranking of the edges; equal scores are ordered at random.
        ranking: ``signed`` for CPR, ``absolute`` for CMD.
        shares: shares of all edges; `FRACTIONS` for the published areas.
        random_draws: random connected circuits of each pruned size (`random_connected`).
        seed: of ties, random circuits and intervals.

    Raises:
        ConfigError: if the method scores no edges, or for zero ablation.
    """
    if scores.edges is None:
        raise ConfigError(f"{scores.method!r} scores no edges: judge its heads, or take a method that does (eap, ...).")
    generator, graph = np.random.default_rng(seed), scores.graph
    sizes = _sizes(shares, graph.n_edges)
    order = rank_parts(scores.edges, graph.edges, absolute=ranking == "absolute", generator=generator)
    sets = [connected(top_parts(order, size, graph.edges), graph) for size in sizes]
    left = [int(kept.sum()) for kept in sets]
    drawn = [random_connected(graph, size, generator) for _ in range(random_draws) for size in left]
    values = runs.edges(np.stack([*sets, np.zeros_like(graph.edges), *drawn]))
    return _curve(runs, scores, "edge", ranking, shares, sizes, left, graph.n_edges, values, seed)


def _sizes(shares: Sequence[float], parts: int) -> list[int]:
    if not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] <= 1:
        raise ConfigError(f"shares must rise from above 0 to at most 1, not {list(shares)}.")
    return [int(share * parts) for share in shares]


def _curve(
    runs: CircuitRuns,
    scores: CircuitScores,
    unit: str,
    ranking: Ranking,
    shares: Sequence[float],
    kept: list[int],
    left: list[int],
    n_parts: int,
    values: Float[np.ndarray, "set example"],
    seed: int,
) -> FaithfulnessCurve:
    """The curve out of the values of its circuits, the empty one, and the random ones."""
    points = len(shares)
    drawn = values[points + 1 :].mean(1).reshape(-1, points)
    return FaithfulnessCurve(
        method=scores.method,
        task=scores.task,
        model=scores.model,
        unit="edge" if unit == "edge" else "head",
        ranking=ranking,
        ablation=runs.ablation,
        measure=runs.measure,
        shares=np.asarray(shares, dtype=np.float64),
        kept=np.asarray(kept),
        connected=np.asarray(left),
        n_parts=n_parts,
        values=values[:points],
        full=runs.full(),
        empty=values[points],
        random=drawn if len(drawn) else None,
        seed=seed,
    )


@dataclass(frozen=True)
class CircuitCheck:
    """What one set of heads does, alone and by its absence.

    Attributes:
        heads: the circuit.
        ablation: what stands for the heads that are not kept.
        measure: what is measured.
        full: measure of the whole model, mean.
        empty: measure without any head, mean (MLPs kept).
        faithfulness: f of the circuit alone; 1 is best.
        left: completeness: f of the model *without* the circuit; 0 if the circuit is all there is.
        incompleteness: largest ``|f(C without K) - f(model without K)|`` over random subsets K of the circuit (Wang et
            al. 2022, section 4.2); 0 is best. NaN if none were drawn.
        subsets: how many K were drawn, each member with chance 1/2.
        drops: minimality: for each head, the measure of the circuit minus that of the circuit without this head, in the
            measure's unit, paired by prompt. About 0: the head idles, or a backup in the circuit covers for it.
        random_faithfulness: f of random sets of as many heads.
    """

    heads: tuple[Head, ...]
    ablation: str
    measure: str
    full: float
    empty: float
    faithfulness: Spread
    left: Spread
    incompleteness: float
    subsets: int
    drops: tuple[Spread, ...]
    random_faithfulness: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Minimality on the scale of faithfulness: each drop over the gap between the full and the empty model."""
        return tuple(drop.value / (self.full - self.empty) for drop in self.drops)


def check_circuit(
    runs: CircuitRuns,
    heads: Sequence[Head],
    *,
    subsets: int = 10,
    random_draws: int = 20,
    seed: int = 0,
    resamples: int = 1000,
) -> CircuitCheck:
    """Faithfulness, completeness and minimality of a set of heads, beside random sets of as many.

    Args:
        runs: the prompts to judge on, and the ablation; MLPs are always kept.
        heads: the circuit.
        subsets: random subsets for the incompleteness score.
        random_draws: random sets of heads for comparison.
        seed: of subsets, random sets and intervals.
        resamples: bootstrap resamples of the prompts.

    Raises:
        TaskError: if the circuit is empty, or the model does the same with all heads ablated.
    """
    if not heads:
        raise TaskError("an empty circuit has nothing to check: pass at least one head.")
    groups = _judged_sets(runs, heads, subsets=subsets, random_draws=random_draws, seed=seed)
    (alone, left, empty), without, inner, outer, randoms = _run_groups(runs, groups)
    full = runs.full()
    gap = float(full.mean() - empty.mean())
    if not abs(gap) > 1e-9:
        raise TaskError(f"without any head the measure stays {float(full.mean()):.3g}: there is nothing to explain.")
    gaps = [abs(float(a.mean() - b.mean()) / gap) for a, b in zip(inner, outer, strict=True)]
    return CircuitCheck(
        heads=tuple(heads),
        ablation=runs.ablation,
        measure=runs.measure,
        full=float(full.mean()),
        empty=float(empty.mean()),
        faithfulness=ratio_spread(alone, full, empty, seed=seed, resamples=resamples),
        left=ratio_spread(left, full, empty, seed=seed, resamples=resamples),
        incompleteness=max(gaps, default=float("nan")),
        subsets=subsets,
        drops=tuple(mean_spread(alone - values, seed=seed, resamples=resamples) for values in without),
        random_faithfulness=tuple(float((values.mean() - empty.mean()) / gap) for values in randoms),
    )


def mean_spread(values: Float[np.ndarray, " example"], *, seed: int, resamples: int = 1000) -> Spread:
    """A mean over prompts with its bootstrap interval."""
    found = bootstrap_scalar(values, generator=np.random.default_rng(seed), resamples=resamples)
    return Spread(found.mean, found.low, found.high, len(values), seed, resamples)


def _judged_sets(
    runs: CircuitRuns, heads: Sequence[Head], *, subsets: int, random_draws: int, seed: int
) -> list[list[Bool[np.ndarray, "layer head"]]]:
    """The circuit, all but it and nothing; it without each head; without each K; all heads but K; random sets."""
    generator, circuit = np.random.default_rng(seed), runs.heads_of([heads])[0]
    everything = np.ones_like(circuit)
    removed = [runs.heads_of([[head]])[0] for head in heads]
    chosen = [circuit & (generator.random(circuit.shape) < 0.5) for _ in range(subsets)]
    drawn = [top_parts(generator.permutation(circuit.size), len(set(heads)), everything) for _ in range(random_draws)]
    return [
        [circuit, ~circuit, ~everything],
        [circuit & ~head for head in removed],
        [circuit & ~part for part in chosen],
        [~part for part in chosen],
        drawn,
    ]


def _run_groups(
    runs: CircuitRuns, groups: list[list[Bool[np.ndarray, "layer head"]]]
) -> list[Float[np.ndarray, "set example"]]:
    """All sets in one go, handed back by group."""
    values = runs.heads(np.stack([one for group in groups for one in group]))
    return np.split(values, np.cumsum([len(group) for group in groups])[:-1])
