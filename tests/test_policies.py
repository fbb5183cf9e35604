"""Every policy, held to the same promises: keeps-everything is the model, decoding is prefilling, no look ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from circuits.interventions import ablate
from circuits.policies.catalog import POLICIES, build_policy
from circuits.policies.head_split import random_split
from circuits.policies.policy import Policy, applied
from headscope.attention import tap
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.protocol import HookedModel
from headscope.readings import read

Tiny = Callable[[str], HookedModel]
SIZE, PROMPT = 40, 29
TOLERANCE = 2e-5  # of logits up to 3 in float32: CPUs add up in different orders (1.0e-5 seen between two)

KEEPS_ALL: dict[str, dict[str, Any] | None] = {
    "full": {},
    "streaming": {"recent": 10_000},
    "lm-infinite": {"recent": 10_000},
    "duo": {"recent": 10_000},
    "razor": {"recent": 10_000},
    "moa": {"base": 10_000},
    "h2o": {"heavy": 20, "recent": 20},
    "tova": {"budget": 40},
    "d2o": {"heavy": 20, "recent": 20},
    "snapkv": {"budget": 29, "window": 4},
    "attention-gate": {"threshold": 0},
    "recycled": {"top": 40},
    "top-keys": {"keys": 10_000},
    "quest": {"pages": 10_000, "dense_layers": 0},
    "lserve": {"recent": 10_000, "pages": 10_000},
    "longheads": {"chunks": 10_000, "size": 5},
    "hip": {"keys": 100, "dense_layers": 0},
    "hyper": {"samples": 10_000},
    "temperature": {"temperature": 1.0},
    "length-scale": {"trained": 10_000},
    "sigmoid": None,
    "off-by-one": {"null_logit": None},
    "sink-removal": {"which": "later", "alpha": 10_000},
    "act": {"beta": 1.0, "skip_first": 0, "skip_last": 0},
}
"""Settings under which each policy has nothing to leave out; None where it has no such settings."""

CUTS: dict[str, dict[str, Any]] = {
    "full": {},
    "streaming": {"sink": 2, "recent": 6},
    "lm-infinite": {"sink": 2, "recent": 6, "ceiling": 9},
    "duo": {"sink": 2, "recent": 5},
    "razor": {"sink": 2, "recent": 5, "recent_share": 0.1},
    "moa": {"sink": 1, "base": 3.0, "slope": 0.1},
    "h2o": {"heavy": 4, "recent": 3},
    "tova": {"budget": 6},
    "d2o": {"heavy": 4, "recent": 3},
    "snapkv": {"budget": 8, "window": 3, "kernel": 3},
    "attention-gate": {"grace": 3, "threshold": 0.8},
    "recycled": {"top": 3, "stride": 4},
    "top-keys": {"keys": 5},
    "quest": {"page": 4, "pages": 2, "dense_layers": 0},
    "lserve": {"sink": 2, "recent": 5, "logical": 4, "page": 2, "pages": 2},
    "longheads": {"size": 5, "chunks": 4},
    "hip": {"keys": 6, "dense_layers": 0},
    "hyper": {"bits": 2, "block": 3, "recent": 3, "samples": 4},
    "temperature": {"temperature": 2.0},
    "length-scale": {"trained": 16},
    "sigmoid": {},
    "off-by-one": {},
    "sink-removal": {"which": "later", "alpha": 1.0},
    "act": {"sinks": "so far", "alpha": 1.5, "skip_first": 0, "skip_last": 0},
}
"""Settings under which each policy has much to leave out in a short text."""

NAMES = sorted(POLICIES)


def make(model: HookedModel, name: str, settings: dict[str, Any]) -> Policy:
    """The policy with some heads kept whole where it wants to know."""
    shape = model.shape
    split = random_split(shape.n_layers, shape.n_kv_heads, 0.5, np.random.default_rng(1))
    return build_policy(model, name, settings, split if POLICIES[name].needs_split else None)


def tokens_of(model: HookedModel, batch: int = 2, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randint(0, model.shape.d_vocab, (batch, size), generator=torch.Generator().manual_seed(seed))


def logits_under(model: HookedModel, policy: Policy, tokens: Tensor, *pieces: int, from_row: int = 0) -> Tensor:
    """Logits of all rows, read in pieces of these sizes through one cache (all at once by default)."""
    cache, found, start = DynamicCache(), list[Tensor](), 0
    with torch.no_grad(), applied(model, policy, from_row=from_row):
        for size in pieces or (tokens.shape[1],):
            part = tokens[:, start : start + size]
            found.append(model.plain(input_ids=part, past_key_values=cache, use_cache=True).logits)
            start += size
    return torch.cat(found, 1)


def from_row_of(name: str, model: HookedModel) -> int:
    """Where the policy begins to act: behind the prompt for those that read it in full."""
    return 0 if make(model, name, CUTS[name]).eager else PROMPT


@pytest.fixture
def model(tiny: Tiny) -> HookedModel:
    return tiny("llama")


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_that_keeps_everything_is_the_model(tiny: Tiny, name: str) -> None:
    settings = KEEPS_ALL[name]
    if settings is None:
        pytest.skip("its weights are no softmax under any setting")
    model = tiny("llama")
    tokens = tokens_of(model)
    plain = model.logits(tokens)
    for from_row in (0, PROMPT):
        found = logits_under(model, make(model, name, settings), tokens, from_row=from_row)
        assert (found - plain).abs().max() < TOLERANCE, f"from row {from_row}"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"full"}))
def test_a_policy_that_cuts_changes_the_model(model: HookedModel, name: str) -> None:
    tokens = tokens_of(model)
    found = logits_under(model, make(model, name, CUTS[name]), tokens, from_row=from_row_of(name, model))
    assert (found - model.logits(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [(PROMPT, 4, *[1] * (SIZE - PROMPT - 4)), (1,) * SIZE], ids=["prompt", "tokens"])
def test_decoding_gives_what_prefill_gives(model: HookedModel, name: str, pieces: tuple[int, ...]) -> None:
    policy, tokens = make(model, name, CUTS[name]), tokens_of(model)
    from_row = from_row_of(name, model)
    whole = logits_under(model, policy, tokens, from_row=from_row)
    stepped = logits_under(model, policy, tokens, *pieces, from_row=from_row)
    assert (whole - stepped).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_later_tokens(model: HookedModel, name: str) -> None:
    policy, tokens = make(model, name, CUTS[name]), tokens_of(model)
    other = tokens.clone()
    other[:, 33:] = (other[:, 33:] + 1) % model.shape.d_vocab
    from_row = from_row_of(name, model)
    one, two = (logits_under(model, policy, part, from_row=from_row) for part in (tokens, other))
    assert (one[:, :33] - two[:, :33]).abs().max() < TOLERANCE
    assert (one[:, 33:] - two[:, 33:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_a_batch_do_not_mix(model: HookedModel, name: str) -> None:
    policy, tokens = make(model, name, CUTS[name]), tokens_of(model, batch=3)
    from_row = from_row_of(name, model)
    together = logits_under(model, policy, tokens, from_row=from_row)
    alone = logits_under(model, policy, tokens[1:2], from_row=from_row)
    assert (together[1:2] - alone).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_the_pattern_and_the_counts_are_those_of_the_run(model: HookedModel, name: str) -> None:
    """M is what readers are given: rows are finite, zero after the diagonal; the cache holds no more than the text."""
    tokens, patterns, shape = tokens_of(model), list[Tensor](), model.shape
    policy, from_row = make(model, name, CUTS[name]), from_row_of(name, model)
    with (
        torch.no_grad(),
        applied(model, policy, from_row=from_row) as opened,
        tap(model.plain, reader=lambda call: patterns.append(call.pattern)),
    ):
        model.plain.base_model(input_ids=tokens, use_cache=False)
    for pattern in patterns:
        assert pattern.shape == (2, shape.n_heads, SIZE, SIZE)
        assert torch.isfinite(pattern).all()
        assert pattern.triu(1).abs().max() == 0
    tally = opened.tally
    assert set(tally.rows.values()) == {SIZE - from_row}
    assert tally.kv_bytes > 0
    assert tally.flops > 0
    if POLICIES[name].family != "softmax":
        most = shape.n_layers * shape.n_kv_heads * SIZE * 2 * shape.d_head * 4
        slack = 1.3 if POLICIES[name].family == "sparse" else 1.0  # what finds keys is stored besides them
        assert tally.kv_bytes <= most * slack
        assert tally.share_attended <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_embedding_through_a_policy(model: HookedModel, name: str) -> None:
    tokens = tokens_of(model, batch=1)
    embedded = model.plain.get_input_embeddings()(tokens).detach().requires_grad_()
    with applied(model, make(model, name, CUTS[name]), from_row=from_row_of(name, model)):
        logits = model.plain(inputs_embeds=embedded, use_cache=False).logits
    (gradient,) = torch.autograd.grad(logits[:, -1].logsumexp(-1).sum(), embedded)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("order", ["policy outside", "ablation outside"])
def test_an_ablation_acts_on_what_the_policy_gives(model: HookedModel, order: str) -> None:
    tokens, policy = tokens_of(model), make(model, "streaming", CUTS["streaming"])
    everything = [Head(layer, head) for layer in range(model.shape.n_layers) for head in range(model.shape.n_heads)]
    blocks = [lambda: applied(model, policy), lambda: ablate(model, everything)]
    outer, inner = blocks if order == "policy outside" else blocks[::-1]
    with torch.no_grad(), outer(), inner():
        both = model.plain(input_ids=tokens, use_cache=False).logits
    with torch.no_grad(), ablate(model, everything):
        ablated = model.plain(input_ids=tokens, use_cache=False).logits
    assert (both - ablated).abs().max() == 0  # no head writes anything, whatever it attends to
    assert (both - model.logits(tokens)).abs().max() > 1e-3


def test_nothing_is_left_after_the_block(model: HookedModel) -> None:
    tokens, before = tokens_of(model), model.logits(tokens_of(model))
    with applied(model, make(model, "streaming", CUTS["streaming"])):
        assert (model.logits(tokens) - before).abs().max() > 1e-3
    assert torch.equal(model.logits(tokens), before)


def test_two_policies_at_once_are_refused(model: HookedModel) -> None:
    policy = make(model, "full", {})
    with (
        applied(model, policy),
        pytest.raises(UnsupportedError, match="another policy is open"),
        applied(model, policy),
    ):
        pass


def test_a_prompt_read_outside_the_block_is_refused(model: HookedModel) -> None:
    tokens, cache = tokens_of(model), DynamicCache()
    with torch.no_grad():
        model.plain.base_model(input_ids=tokens[:, :10], past_key_values=cache, use_cache=True)
        with applied(model, make(model, "full", {})), pytest.raises(UnsupportedError, match="from its first token"):
            model.plain(input_ids=tokens[:, 10:], past_key_values=cache, use_cache=True)


def test_the_flash_reading_of_a_policy_is_the_pattern_of_the_policy(model: HookedModel) -> None:
    tokens, found = tokens_of(model), list[Tensor]()
    window = build_policy(model, "streaming", {"sink": 0, "recent": 6, "positions": "text"})
    with applied(model, window):
        read(model, tokens, lambda _, reading: found.append(reading.offset_mass()))
    for mass in found:
        assert mass[..., 6:].abs().max() == 0
        assert (mass.sum(-1) - 1).abs().max() < TOLERANCE
