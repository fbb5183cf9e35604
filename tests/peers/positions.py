"""Positions beside transformers: the rotation of Llama, the slopes of BLOOM, the buckets of T5."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention

from headscope.mixers.interface import MixerShape
from headscope.mixers.registry import Variant
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.positions import NoPositions, build_positions
from tests.peers.comparison import Answers, agrees

LONG = 300


def positions_of(entry: Variant, *, heads: int = 2, width: int = 8, causal: bool = True) -> NoPositions:
    """The position axis of an entry."""
    sizes = {"n_heads": heads, "d_model": heads * width, "n_ctx": LONG, "causal": causal}
    config = DecoderConfig.parse(sizes | dict(entry.config))
    return build_positions(config, MixerShape(heads, width, width, heads * width, LONG)).double()


def bias(positions: NoPositions, heads: int, width: int = 8) -> Tensor:
    """What the position axis adds to scores, (H, T, T)."""
    empty = torch.zeros(1, heads, LONG, width)
    found = positions.bias(empty, empty, torch.arange(LONG), 1.0)
    assert found is not None
    return found[0]


@agrees("rope")
def llama(entry: Variant, seed: int) -> Answers:  # noqa: ARG001
    query, key = torch.randn(2, 1, LONG, 2, 8).unbind()
    ours = positions_of(entry).rotate(query, key, torch.arange(LONG))
    config = LlamaConfig(hidden_size=16, num_attention_heads=2, rope_theta=10000.0)
    cos, sin = LlamaRotaryEmbedding(config)(query, torch.arange(LONG)[None])
    theirs = apply_rotary_pos_emb(query, key, cos, sin, unsqueeze_dim=2)
    return Answers(torch.stack(ours), torch.stack(theirs))


@agrees("alibi")
def bloom(entry: Variant, seed: int) -> Answers:  # noqa: ARG001
    """Weights, as the peer adds slopes times positions of keys; 6 heads are no power of two."""
    heads = 6
    scores = torch.randn(heads, LONG, LONG).masked_fill(torch.ones(LONG, LONG, dtype=torch.bool).triu(1), -torch.inf)
    theirs = build_alibi_tensor(torch.ones(1, LONG), heads, torch.float64)
    ours = bias(positions_of(entry, heads=heads), heads)
    return Answers((scores + ours).softmax(-1), (scores + theirs).softmax(-1))


@agrees("t5-bias", double=False)
def t5(entry: Variant, seed: int) -> Answers:  # noqa: ARG001
    """Left to right and both ways, in float32, which decides at the edges of buckets; the table holds cell numbers."""
    ours, theirs = list[Tensor](), list[Tensor]()
    places = torch.arange(LONG)
    for causal in (True, False):
        positions = positions_of(entry, causal=causal)
        positions.table.copy_(torch.arange(positions.table.numel()).reshape(positions.table.shape))
        settings = positions.settings
        bucket = T5Attention._relative_position_bucket(
            places[None] - places[:, None], not causal, settings.buckets, settings.max_distance
        )
        ours.append(bias(positions, 2).double())
        theirs.append(positions.table[bucket].permute(2, 0, 1))
    return Answers(torch.stack(ours), torch.stack(theirs))
