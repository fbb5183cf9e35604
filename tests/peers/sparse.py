"""Sparse attention by content, and windows, beside x-transformers, reformer-pytorch, fla, transformers and torch."""

from __future__ import annotations

from dataclasses import replace

import torch
from reformer_pytorch import LSHAttention
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import normalize
from transformers.models.yoso.modeling_yoso import YosoCumulation
from x_transformers.attend import Attend

from headscope.mixers.registry import Variant
from tests.mixer_cases import Case, make_case
from tests.peers.comparison import Answers, agrees, agrees_on_z, with_settings
from tests.peers.flash_linear_attention import reference, tokens_first


@agrees_on_z("top-keys")
def top_keys(case: Case) -> Tensor:
    given = case.given
    peer = Attend(causal=True, heads=given.query.shape[1], sparse_topk=case.mixer.keys)
    return peer(given.query, given.key, given.value)[0]


@agrees("reformer", bound=1e-8)
def reformer(entry: Variant, seed: int) -> Answers:
    """With two buckets, half of the text each, a token and those before it in its bucket are always in reach.

    The peer adds 1e-9 to how often a pair met before it takes the logarithm.
    """
    case = make_case(with_settings(entry, {"buckets": 2, "rounds": 3}), seed=seed)
    both, heads = (case.given.query + case.given.key) * 2**-0.5, case.given.query.shape[1]
    options = {"allow_duplicate_attention": False, "attend_across_buckets": False}
    peer = LSHAttention(bucket_size=both.shape[2] // 2, n_hashes=3, causal=True, **options)
    torch.manual_seed(seed)
    rotations = torch.randn(1, both.shape[-1], 3, 1)  # what the peer is about to draw
    case.mixer.rotations.copy_(rotations[0].permute(1, 0, 2))
    torch.manual_seed(seed)
    found = peer(both.flatten(0, 1), case.given.value.flatten(0, 1))[0]
    return Answers(case.mixer.mix(case.given).z, found.unflatten(0, (-1, heads)))


@agrees_on_z("nsa")
def native_sparse(case: Case) -> Tensor:
    """Its branches, with the mean of a block as its key and value; the window is that of forgetting attention."""
    given, mixer, nsa = case.given, case.mixer, reference("nsa")
    for places in (mixer.place_key, mixer.place_value):
        places.zero_()
    key, value = (x.unflatten(2, (-1, mixer.size)).mean(3) for x in (given.key, given.value))
    options = {"block_size": mixer.size, "scale": given.scale}
    compressed = tokens_first(nsa.naive_nsa_compression)(given.query, key, value, **options)
    blocks = tokens_first(nsa.naive_nsa_topk)(given.query, key, block_counts=mixer.blocks, **options)
    chosen = tokens_first(nsa.naive_nsa_selection)(given.query, given.key, given.value, blocks, **options)
    window = tokens_first(reference("forgetting_attn").naive_forgetting_attn)
    near = window(given.query, given.key, given.value, torch.zeros_like(given.query[..., 0]), window_size=mixer.window)
    return (torch.stack([compressed, chosen, near], -1) * given.gates["branch_gate"][..., None, :]).sum(-1)


@agrees("dsa")
def lightning_indexer(entry: Variant, seed: int) -> Answers:
    """Which keys are chosen; the peer adds nothing to their scores. Of many index heads one fires on every key."""
    case = make_case(entry, seed=seed)
    batch, _, size, _ = case.given.query.shape
    gates = {
        "index_query": torch.randn(batch, 8, size, 6),
        "index_key": torch.randn(batch, 1, size, 6),
        "index_weight": torch.randn(batch, 8, size),
    }
    chosen = case.mixer.mix(replace(case.given, gates=gates)).choice
    peer = reference("dsa").naive_dsa_indexer
    parts = (gates["index_query"].transpose(1, 2), gates["index_key"][:, 0], gates["index_weight"].transpose(1, 2))
    places = peer(*parts, topk=case.mixer.keys, activation="relu")
    found = torch.zeros(batch, size, size + 1).scatter(-1, places % (size + 1), 1.0)[..., :size]  # -1 is none
    return Answers(chosen.double(), found[:, None].expand_as(chosen))


@agrees_on_z("yoso", causal=False)
def yoso(case: Case) -> Tensor:
    """The expectation that the peer computes before it divides by its norm; it reads both ways only."""
    query, key, value = (x.flatten(0, 1) for x in (case.given.query, case.given.key, case.given.value))
    all_tokens = torch.ones(query.shape[:2])
    config = {"hash_code_len": case.mixer.bits}
    found = YosoCumulation.apply(
        all_tokens, all_tokens, normalize(query, dim=-1), normalize(key, dim=-1), value, config
    )
    return found.reshape(case.given.value.shape)


@agrees_on_z("sliding-window")
def flex_window(case: Case) -> Tensor:
    """Torch's flexible attention under the mask ``0 <= i - j < 8``."""
    given, size = case.given, case.given.query.shape[2]

    def near(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:  # noqa: ARG001
        return (row - column >= 0) & (row - column < 8)

    mask = create_block_mask(near, None, None, size, size, device="cpu")
    return flex_attention(given.query, given.key, given.value, block_mask=mask)
