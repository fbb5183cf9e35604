"""Whether circuits of different tasks share heads more than chance would have it. No torch.

Source: Merullo et al. 2023 (arXiv 2310.08744), who found 25 of 32 heads of two circuits of GPT-2 medium in both. The
experiment that goes with it, forcing heads on, is in `circuits.repair`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.circuit_scores import CircuitScores
from circuits.evaluation.pruning import rank_parts, top_parts
from headscope.errors import TaskError
from headscope.statistics import holm


@dataclass(frozen=True)
class ReuseMatrix:
    """The overlap of every pair of circuits.

    Attributes:
        model: name of the model.
        method: name of the method.
        tasks: rows and columns.
        k: heads in each circuit.
        ranking: how they were ranked.
        n: prompts behind each circuit.
        seed: of tied scores at the edge of a circuit.
        shared: heads in both circuits.
        overlap: shared heads over k, 0 to 1.
        jaccard: shared heads over heads in either, 0 to 1.
        expected: shared heads expected by chance: if each layer kept its number of heads and chose them at random.
        p_value: chance of at least as many shared heads then, exactly (no draws); 1 to 0, NaN on the diagonal.
        p_holm: the same, corrected for the number of pairs (Holm 1979).
    """

    model: str
    method: str
    tasks: tuple[str, ...]
    k: int
    ranking: str
    n: tuple[int, ...]
    seed: int
    shared: Int[np.ndarray, "task task"]
    overlap: Float[np.ndarray, "task task"]
    jaccard: Float[np.ndarray, "task task"]
    expected: Float[np.ndarray, "task task"]
    p_value: Float[np.ndarray, "task task"]
    p_holm: Float[np.ndarray, "task task"]


def reuse_matrix(scores: Sequence[CircuitScores], *, k: int, absolute: bool = False, seed: int = 0) -> ReuseMatrix:
    """Compare the top k heads of one method on several tasks.

    **Null**: within every layer the heads of one circuit are permuted. Circuits that use the same layers, and nothing
    else in common, overlap by this much; a null over all heads would call every pair of circuits related.

    Args:
        scores: of one model and method, a task each.
        k: size of the circuits (Merullo et al. take 2 % of the heads).
        absolute: rank by magnitude.
        seed: of tied scores.

    Raises:
        TaskError: unless there are two or more tasks of one model and method, and k is one of their sizes.
    """
    if len({(one.model, one.method, one.heads.shape) for one in scores}) != 1 or len(scores) < 2:
        raise TaskError("reuse compares two or more tasks, scored by one method on one model.")
    if not 1 <= k < scores[0].heads.size:
        raise TaskError(f"a circuit of {k} heads cannot be compared: the model has {scores[0].heads.size}.")
    generator = np.random.default_rng(seed)
    everything = np.ones_like(scores[0].heads, dtype=bool)
    tops = [
        top_parts(rank_parts(one.heads, everything, absolute=absolute, generator=generator), k, everything)
        for one in scores
    ]
    size = (len(scores), len(scores))
    shared, expected, p_value = np.zeros(size, dtype=int), np.zeros(size), np.full(size, np.nan)
    for i, a in enumerate(tops):
        for j, b in enumerate(tops):
            shared[i, j] = int((a & b).sum())
            expected[i, j] = float((a.sum(1) * b.sum(1)).sum() / a.shape[1])
            if i < j:
                p_value[i, j] = p_value[j, i] = overlap_p(a, b)
    return ReuseMatrix(
        model=scores[0].model,
        method=scores[0].method,
        tasks=tuple(one.task for one in scores),
        k=k,
        ranking="absolute" if absolute else "signed",
        n=tuple(one.n for one in scores),
        seed=seed,
        shared=shared,
        overlap=shared / k,
        jaccard=shared / (2 * k - shared),
        expected=expected,
        p_value=p_value,
        p_holm=_holm(p_value),
    )


def overlap_p(a: Bool[np.ndarray, "layer head"], b: Bool[np.ndarray, "layer head"]) -> float:
    """Chance of at least this overlap when the heads of one circuit are permuted within their layers.

    **Definition**: in each layer the overlap is hypergeometric; the sum over layers is their convolution. This is the
    permutation distribution itself, so it needs no draws and has no error of its own.

    **Range**: above 0 to 1; 1 if nothing is shared.
    """
    from scipy.stats import hypergeom  # half a second to import

    total = np.ones(1)
    for first, second in zip(a.sum(1), b.sum(1), strict=True):
        if first and second:
            total = np.convolve(total, hypergeom.pmf(np.arange(min(first, second) + 1), a.shape[1], first, second))
    return float(min(total[int((a & b).sum()) :].sum(), 1.0))


def _holm(p_value: Float[np.ndarray, "task task"]) -> Float[np.ndarray, "task task"]:
    """Step-down correction over the pairs, each counted once."""
    rows = np.triu_indices(len(p_value), 1)
    found = np.full_like(p_value, np.nan)
    found[rows] = holm(p_value[rows].tolist())
    return np.where(np.isnan(found), found.T, found)
