"""Recurrences by channel, and Fourier mixing, beside transformers, mambapy, minGRU-pytorch and fla."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import torch
from mambapy.mamba import MambaBlock
from minGRU_pytorch import minGRU
from minGRU_pytorch.minLSTM import minLSTM
from torch import Tensor, nn
from transformers.models.fnet import FNetConfig
from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform
from transformers.models.mamba.modeling_mamba import mamba_selective_scan
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

from headscope.mixers.registry import Variant
from tests.mixer_cases import Case, make_case
from tests.peers.comparison import Answers, agrees, agrees_on_z, by_head, flat, reads
from tests.peers.flash_linear_attention import reference


@agrees("mamba", "mamba-plain")
def selective_scan(entry: Variant, seed: int) -> Answers:
    """The state space alone, by both peers; theirs have one B and C for all channels, so each gets a head at a time."""
    case = make_case(entry, seed=seed)
    mix, ours = case.mixer.mix(case.given).z, case.mixer.operation(case.given)
    return Answers(torch.stack([mix, ours]), torch.stack([_each_head(case, _transformers), _each_head(case, _mambapy)]))


def _each_head(case: Case, peer: Callable[..., Tensor]) -> Tensor:
    """x and dt as (B, T, D), A as (D, N), B and C as (B, T, N), D as (D,)."""
    given, mixer = case.given, case.mixer
    parts = (given.value, given.gates["step"], -mixer.log_rate.exp(), given.key, given.query * given.scale, mixer.skip)
    heads = range(given.value.shape[1])
    return torch.stack([peer(*(part[:, h] if part.ndim == 4 else part[h] for part in parts)) for h in heads], 1)


def _transformers(x: Tensor, step: Tensor, rate: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    return mamba_selective_scan(x.mT, step.mT, rate, b.mT, c.mT, D=skip).mT


def _mambapy(x: Tensor, step: Tensor, rate: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    sizes = SimpleNamespace(config=SimpleNamespace(d_inner=x.shape[-1], d_state=b.shape[-1]))
    return MambaBlock.selective_scan_seq(sizes, x, step, rate, b, c, skip)


def _on_positive_values(case: Case) -> Tensor:
    """Our z on what the peers put values through: ``x + 1/2``, or a sigmoid below 0."""
    value = torch.where(case.given.value >= 0, case.given.value + 0.5, case.given.value.sigmoid())
    return case.mixer.mix(replace(case.given, value=value)).z


@agrees("mingru")
def min_gru(entry: Variant, seed: int) -> Answers:
    """The peer's gate writes, ours keeps."""
    case = make_case(entry, seed=seed)
    value = flat(case.given.value)
    layer = minGRU(2 * value.shape[-1], expansion_factor=0.5, proj_out=False)
    reads(layer.to_hidden_and_gate, 0)
    found = layer(torch.cat([value, -flat(case.mixer.forget(case.stream))], -1))
    return Answers(_on_positive_values(case), by_head(found, case.given.value.shape[1]))


@agrees("minlstm")
def min_lstm(entry: Variant, seed: int) -> Answers:
    """Both gates of the peer, in its order: forget, input."""
    case = make_case(entry, seed=seed)
    value = flat(case.given.value)
    layer = minLSTM(3 * value.shape[-1], expansion_factor=1 / 3, proj_out=False)
    reads(layer.to_hidden_and_f_i_gate, 0)
    gates = [flat(case.mixer.forget(case.stream)), flat(case.mixer.write(case.stream))]
    found = layer(torch.cat([value, *gates], -1))
    return Answers(_on_positive_values(case), by_head(found, case.given.value.shape[1]))


@agrees_on_z("hgrn")
def hgrn(case: Case) -> Tensor:
    given, bound = case.given, case.mixer.lower.sigmoid()[:, None]
    kept = bound + (1 - bound) * case.mixer.forget(case.stream).sigmoid()
    found = reference("hgrn").naive_recurrent_hgrn(flat((1 - kept) * given.value), flat(kept.log()))[0]
    return by_head(found, given.value.shape[1])


@agrees("rg-lru")
def recurrent_gemma(entry: Variant, seed: int) -> Answers:
    """The peer's gates read the values of their own block: they are the stream here, and ours read that block.

    It takes position 0 for the start of a text and does not scale what is written there; positions start at 1.
    """
    case = make_case(entry, seed=seed)
    mixer, heads = case.mixer, case.given.value.shape[1]
    stream = flat(case.given.value)
    width = stream.shape[-1] // heads
    layer = RecurrentGemmaRglru(SimpleNamespace(num_attention_heads=heads, lru_width=stream.shape[-1]))
    layer.recurrent_param.copy_(mixer.rate.flatten())
    names = (("input_gate", mixer.input), ("recurrent_gate", mixer.recurrence))
    for name, ours in names:
        weight = torch.randn(heads, width, width)
        getattr(layer, f"{name}_weight").copy_(weight)
        getattr(layer, f"{name}_bias").copy_(ours.bias)
        blocks = torch.block_diag(*weight).split(width, 1)
        ours.weight = nn.Parameter(torch.stack(blocks))
    given = replace(case.given, gates=mixer.gates(stream))
    positions = torch.arange(1, stream.shape[1] + 1).expand(len(stream), -1)
    found = by_head(layer(stream, positions), heads)
    return Answers(torch.stack([mixer.mix(given).z, mixer.operation(given)]), torch.stack([found, found]))


@agrees_on_z("rwkv4")
def rwkv(case: Case) -> Tensor:
    """The receptance multiplies what the peer's operation gives."""
    given, mixer = case.given, case.mixer
    found, _ = rwkv_linear_attention_cpu(
        mixer.log_rate.flatten(), mixer.bonus.flatten(), flat(given.key), flat(given.value)
    )
    return by_head(found, given.value.shape[1]) * given.query.sigmoid()


@agrees("fnet")
def fourier(entry: Variant, seed: int) -> Answers:
    """The transform over tokens and channels: two heads, on the cosine and the sine transform of the channels."""
    case = make_case(entry, seed=seed)
    stream, size = case.stream, case.stream.shape[1]
    places = torch.arange(stream.shape[-1])
    angle = 2 * torch.pi * places[:, None] * places / stream.shape[-1]
    values = torch.stack([stream @ angle.cos(), stream @ angle.sin()], 1)
    ours = (case.mixer.mix(case.given).matrix @ values).sum(1) * size**0.5
    return Answers(ours, FNetBasicFourierTransform(FNetConfig(hidden_size=stream.shape[-1]))(stream)[0])
