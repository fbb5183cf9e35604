"""Entries of the registry compute what their peers compute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from headscope.mixers.registry import variant
from tests.mixer_cases import make_case
from tests.peers import channels, gated, heads, linear, positions, recurrent, softmax, sparse
from tests.peers.comparison import COMPARISONS, Comparison, in_double
from tests.peers.flash_linear_attention import heads_first, reference, tokens_first

MODULES = (channels, gated, heads, linear, positions, recurrent, softmax, sparse)
"""Importing them has filled the list."""

Wrapper = Callable[[Callable[..., Any]], Callable[..., torch.Tensor]]


@pytest.mark.parametrize("seed", [0, 1], ids=["seed-0", "seed-1"])
@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda comparison: comparison.entry)
def test_the_peer_computes_the_same(comparison: Comparison, seed: int) -> None:
    with torch.no_grad(), torch.random.fork_rng(devices=[]), in_double() if comparison.double else nullcontext():
        torch.manual_seed(seed)
        answers = comparison.compare(variant(comparison.entry), seed)
    ours, theirs = answers.ours, answers.theirs
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.float64
    assert bool(ours.isfinite().all())
    assert float((ours - ours.mean()).abs().max()) > 1e-3, "the same number everywhere compares nothing"
    assert float((ours - theirs).abs().max()) <= comparison.bound * (1 + float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("entry", "right", "wrong", "path", "operation"),
    [
        ("delta", heads_first, tokens_first, "delta_rule", "delta_rule_recurrence"),
        ("gla", tokens_first, heads_first, "gla", "naive_recurrent_gla"),
    ],
    ids=["delta-rule", "gla"],
)
def test_the_other_layout_gives_other_numbers_and_no_error(
    entry: str, right: Wrapper, wrong: Wrapper, path: str, operation: str
) -> None:
    given = make_case(variant(entry)).given
    gate = next(iter(given.gates.values()))
    peer = getattr(reference(path), operation)
    with torch.no_grad():
        found, other = (wrap(peer)(given.query, given.key, given.value, gate) for wrap in (right, wrong))
    assert found.shape == other.shape
    assert float((found - other).abs().max()) > 0.1
