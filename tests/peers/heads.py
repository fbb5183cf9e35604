"""Layers whose keys, values and heads are shared or chosen, beside the same layers of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention
from transformers.models.jetmoe import JetMoeConfig
from transformers.models.jetmoe.modeling_jetmoe import JetMoeAttention

from headscope.mixers.registry import Variant
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.mixing_layer import MixingLayer
from headscope.models.decoder.sharing import Earlier
from tests.peers.comparison import Answers, agrees

MODEL, LENGTH = 16, 20


def layer_of(entry: Variant, **more: Any) -> MixingLayer:
    """One attention layer of an entry's decoder, all of its parameters random."""
    layer = MixingLayer(DecoderConfig.parse({"d_model": MODEL, "n_ctx": 32} | dict(entry.config) | more), 0).double()
    for parameter in layer.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    return layer


def later() -> Tensor:
    """The causal mask, as what is added to scores."""
    return torch.full((1, 1, LENGTH, LENGTH), -torch.inf).triu(1)


@agrees("mla")
def deepseek(entry: Variant, seed: int) -> Answers:  # noqa: ARG001
    """The peer has the turned part of a head last. Its angles are made here, for one pair, as ours are."""
    stream, heads, turned = torch.randn(2, LENGTH, MODEL), 2, 2
    ours = layer_of(entry, n_heads=heads)
    width, value, latent = ours.shape.d_key, ours.shape.d_head, entry.config["sharing"]["latent"]
    config = DeepseekV3Config(
        hidden_size=MODEL, num_attention_heads=heads, num_key_value_heads=heads, q_lora_rank=None, kv_lora_rank=latent,
        qk_rope_head_dim=turned, qk_nope_head_dim=width - turned, v_head_dim=value, rope_interleave=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = DeepseekV3Attention(config, 0)
    source = ours.keys_values
    theirs.q_proj.weight.copy_(ours.W_Q.roll(-turned, -1).transpose(1, 2).flatten(0, 1))
    theirs.kv_a_proj_with_mqa.weight.copy_(torch.cat([source.W_latent, source.W_KR], 1).T)
    theirs.kv_a_layernorm.weight.copy_(source.latent_norm.gain)
    theirs.kv_b_proj.weight.copy_(torch.cat([source.W_K, source.W_V], 2).transpose(1, 2).flatten(0, 1))
    theirs.o_proj.weight.copy_(ours.W_O.flatten(0, 1).T)
    angle = torch.arange(LENGTH)[None, :, None].double().expand(1, LENGTH, turned)
    return Answers(ours(stream, Earlier()), theirs(stream, (angle.cos(), angle.sin()), later())[0])


@agrees("attention-experts")
def jetmoe(entry: Variant, seed: int) -> Answers:  # noqa: ARG001
    """Four experts of one head, of which two are on; nothing is turned."""
    stream, width = torch.randn(2, LENGTH, MODEL), 4
    ours = layer_of(entry, n_heads=4, d_head=width, heads={"kind": "experts", "settings": {"top_k": 2}})
    config = JetMoeConfig(
        hidden_size=MODEL, num_key_value_heads=1, kv_channels=width, num_local_experts=4, num_experts_per_tok=2
    )
    config._attn_implementation = "eager"
    theirs = JetMoeAttention(config, 0)
    experts = theirs.experts
    experts.bias.zero_()
    experts.input_linear.weight.copy_(ours.W_Q.transpose(1, 2))
    experts.output_linear.weight.copy_(ours.W_O.transpose(1, 2))
    experts.router.layer.weight.copy_(ours.head_mixing.W_router.T)
    theirs.kv_proj.weight.copy_(torch.cat([ours.keys_values.W_K[0], ours.keys_values.W_V[0]], 1).T)
    unturned = (torch.ones(1, LENGTH, width), torch.zeros(1, LENGTH, width))
    return Answers(ours(stream, Earlier()), theirs(stream, later(), unturned)[0])
