"""Softmax and its normalisers beside torch, x-transformers, transformers and flash-linear-attention."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.diffllama import DiffLlamaConfig
from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward
from x_transformers.attend import Attend
from x_transformers.x_transformers import Attention

from headscope.mixers.registry import Variant
from tests.mixer_cases import Case, make_case
from tests.peers.comparison import Answers, agrees, agrees_on_z, by_head, in_layer, packed, reads
from tests.peers.flash_linear_attention import reference, tokens_first


def hidden(case: Case) -> Tensor:
    """What is added to the scores of later tokens."""
    return torch.zeros_like(case.given.offsets, dtype=torch.float64).masked_fill(~case.given.visible, -torch.inf)


@agrees_on_z("softmax")
def torch_attention(case: Case) -> Tensor:
    given = case.given
    return scaled_dot_product_attention(given.query, given.key, given.value, is_causal=True)


@agrees_on_z("off-by-one")
def zero_key_and_value(case: Case) -> Tensor:
    given = case.given
    return Attend(causal=True, heads=given.query.shape[1], add_zero_kv=True)(given.query, given.key, given.value)[0]


@agrees_on_z("learned-sink")
def gpt_oss(case: Case) -> Tensor:
    given = case.given
    layer = SimpleNamespace(sinks=case.mixer.logit, num_key_value_groups=1, training=False)
    mask = hidden(case)[None, None]
    found, _ = eager_attention_forward(layer, given.query, given.key, given.value, mask, given.scale)
    return found.transpose(1, 2)


@agrees_on_z("mem-kv")
def memory_keys_and_values(case: Case) -> Tensor:
    stream, mixer = packed(case), case.mixer
    heads, width = case.given.query.shape[1], case.given.query.shape[-1]
    layer = Attention(stream.shape[-1], dim_head=width, heads=heads, causal=True, num_mem_kv=mixer.memories)
    for place, part in enumerate((layer.to_q, layer.to_k, layer.to_v)):
        reads(part, place * heads * width)
    reads(layer.to_out, 0)
    layer.mem_k.copy_(mixer.memory_key)
    layer.mem_v.copy_(mixer.memory_value)
    return by_head(layer(stream)[..., : heads * width], heads)


@agrees_on_z("sigmoid")
def sigmoid(case: Case) -> Tensor:
    """x-transformers has no bias; that of the length is given as a bias of positions."""
    given = case.given
    bias = (
        -given.visible.sum(-1)
        .double()
        .log()[None, None, :, None]
        .expand(1, given.query.shape[1], -1, len(given.columns))
    )
    peer = Attend(causal=True, heads=given.query.shape[1], sigmoid=True)
    return peer(given.query, given.key, given.value, attn_bias=bias)[0]


@agrees("differential")
def diff_llama(entry: Variant, seed: int) -> Answers:
    """Two heads of theirs are one of ours: its halves of queries and keys, and its halves of values."""
    case = in_layer(make_case(entry, seed=seed), layer=2, n_layers=4)
    given, heads, half = case.given, case.given.query.shape[1], case.given.query.shape[-1] // 2
    pairs = [torch.cat([x[..., 0::2], x[..., 1::2]], 1) for x in (given.query, given.key)]
    values = torch.cat(given.value.chunk(2, -1), 1)
    stream = torch.cat([x.transpose(1, 2).flatten(2) for x in (*pairs, values)], -1)
    config = DiffLlamaConfig(
        hidden_size=stream.shape[-1], num_attention_heads=2 * heads, num_key_value_heads=2 * heads, head_dim=half
    )
    config._attn_implementation = "eager"
    layer = DiffLlamaAttention(config, layer_idx=2)
    for place, part in enumerate((layer.q_proj, layer.k_proj, layer.v_proj)):
        reads(part, place * 2 * heads * half)
    reads(layer.o_proj, 0)
    layer.groupnorm = nn.Identity()
    for index, one in enumerate((layer.lambda_q1, layer.lambda_q2)):
        one.copy_(case.mixer.left[index])
    for index, one in enumerate((layer.lambda_k1, layer.lambda_k2)):
        one.copy_(case.mixer.right[index])
    unturned = (torch.ones(1, len(given.rows), half), torch.zeros(1, len(given.rows), half))
    found = layer(stream, unturned, hidden(case)[None, None])[0] / (1 - layer.lambda_init)
    return Answers(case.mixer.mix(given).z, by_head(found[..., : 2 * heads * half], heads))


@agrees_on_z("fox")
def forgetting(case: Case) -> Tensor:
    given = case.given
    peer = tokens_first(reference("forgetting_attn").naive_forgetting_attn)
    return peer(given.query, given.key, given.value, given.gates["log_forget"])


@agrees_on_z("stick-breaking")
def stick_breaking(case: Case) -> Tensor:
    given = case.given
    return tokens_first(reference("stickbreaking_attn").naive_stickbreaking_attn)(given.query, given.key, given.value)
