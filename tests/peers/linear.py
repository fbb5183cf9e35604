"""Linear and low-rank attention beside flash-linear-attention, transformers and packages of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from agent_attention_pytorch.agent_attention_pytorch import AgentSelfAttention
from linformer.linformer import LinformerSelfAttention
from nystrom_attention import NystromAttention
from torch import Tensor, nn
from torch.nn.functional import elu, layer_norm, silu
from transformers.models.minimax import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

from headscope.mixers.registry import Variant
from tests.mixer_cases import Case, make_case
from tests.peers.comparison import Answers, agrees, agrees_on_z, by_head, flat, in_layer, packed, reads
from tests.peers.flash_linear_attention import heads_first, reference, tokens_first


def normalised(peer: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What a peer without normalisation gives for the values, over what it gives for ones: no small number is added."""
    return peer(query, key, value) / peer(query, key, torch.ones_like(value))


@agrees_on_z("linear", bound=1e-6)
def linear(case: Case) -> Tensor:
    """Ours adds 1e-6 to row sums, as the paper's code does; the peer adds 1e-10 to scaled ones."""
    query, key = (elu(x) + 1 for x in (case.given.query, case.given.key))
    peer = tokens_first(reference("linear_attn").naive_recurrent_linear_attn)
    return peer(query, key, case.given.value, normalize=True)


@agrees_on_z("linear-raw")
def linear_raw(case: Case) -> Tensor:
    given = case.given
    return tokens_first(reference("linear_attn").naive_recurrent_linear_attn)(given.query, given.key, given.value)


@agrees_on_z("based")
def based(case: Case) -> Tensor:
    peer = heads_first(reference("based").naive_parallel_based)
    given = case.given
    return normalised(lambda *parts: peer(*parts, use_norm=False), given.query, given.key, given.value)


@agrees_on_z("rebased")
def rebased(case: Case) -> Tensor:
    """The norm is the layer's, not the operation's."""
    given, gain, offset = case.given, case.mixer.gain, case.mixer.offset
    query, key = (layer_norm(x, x.shape[-1:]) * gain[at] + offset[at] for at, x in enumerate((given.query, given.key)))
    peer = heads_first(reference("rebased").naive_parallel_rebased)
    return normalised(lambda *parts: peer(*parts, use_norm=False), query, key, given.value)


@agrees_on_z("retention", bound=1e-7)
def retention(case: Case) -> Tensor:
    """Our decays are made in float32."""
    return heads_first(reference("retention").naive_retention)(case.given.query, case.given.key, case.given.value)


@agrees("lightning")
def lightning(entry: Variant, seed: int) -> Answers:
    """Before the norm, in the second of three layers, by blocks of 8 tokens; the peer does not divide by sqrt(d)."""
    case = in_layer(make_case(entry, seed=seed), layer=1, n_layers=3)
    given, heads, width = case.given, case.given.query.shape[1], case.given.query.shape[-1]
    stream = flat(torch.cat([given.query, given.key, given.value], -1))
    config = MiniMaxConfig(
        hidden_size=stream.shape[-1], num_attention_heads=heads, head_dim=width, num_hidden_layers=3, block_size=8
    )
    layer = MiniMaxLightningAttention(config, layer_idx=1)
    reads(layer.qkv_proj, 0)
    layer.norm = layer.out_proj = nn.Identity()
    layer.output_gate.weight.zero_()  # a gate of one half
    found = by_head(layer(stream, (stream, stream), None)[0] * 2, heads) * given.scale
    return Answers(case.mixer.mix(given).matrix @ silu(given.value), found)


@agrees_on_z("linformer")
def linformer(case: Case) -> Tensor:
    """On a text shorter than what the projections were made for."""
    stream, heads, width = packed(case), case.given.query.shape[1], case.given.query.shape[-1]
    projections = case.mixer.projections
    _, rank, longest = projections.shape
    layer = LinformerSelfAttention(stream.shape[-1], longest, k=rank, heads=heads, dim_head=width)
    for place, part in enumerate((layer.to_q, layer.to_k, layer.to_v)):
        reads(part, place * heads * width)
    reads(layer.to_out, 0)
    for one, ours in zip((layer.proj_k, layer.proj_v), projections, strict=True):
        one.copy_(ours.T)
    return by_head(layer(stream)[..., : heads * width], heads)


@agrees_on_z("nystromformer", length=24)
def nystrom(case: Case) -> Tensor:
    """Head by head and text by text: the peer's inverse starts from the largest norm of all of them.

    Its convolution reads the filter the other way round.
    """
    given, mixer = case.given, case.mixer
    found = torch.empty_like(given.value)
    for text in range(len(found)):
        for head in range(found.shape[1]):
            parts = [x[text, head] for x in (given.query, given.key, given.value)]
            width = parts[0].shape[-1]
            sizes = {"num_landmarks": mixer.rank, "residual_conv_kernel": mixer.kernel}
            layer = NystromAttention(3 * width, dim_head=width, heads=1, pinv_iterations=mixer.iterations, **sizes)
            reads(layer.to_qkv, 0)
            reads(layer.to_out[0], 0)
            layer.res_conv.weight.copy_(mixer.filter[head].flip(0)[None, None, :, None])
            found[text, head] = layer(torch.cat(parts, -1)[None])[0, :, :width]
    return found


@agrees_on_z("agent", length=24)
def agent(case: Case) -> Tensor:
    """The peer learns its agents; it is given the means of the queries' segments."""
    stream, heads, width = packed(case), case.given.query.shape[1], case.given.query.shape[-1]
    agents = case.given.query.unflatten(2, (case.mixer.rank, -1)).mean(3)
    options = {"talking_heads": False, "gate": False, "num_agent_tokens": case.mixer.rank}
    layer = AgentSelfAttention(stream.shape[-1], dim_head=width, heads=heads, **options)
    reads(layer.to_qkv[0], 0)
    reads(layer.to_out[1], 0)
    return by_head(layer(stream, agent_tokens=agents)[..., : heads * width], heads)
