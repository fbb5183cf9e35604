"""What a layer keeps to read the next token, as numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from headscope.mixers.building import build_mixer
from headscope.mixers.interface import KeptTokens, Mixer
from headscope.models.decoder.convolution import ShortConvolution

if TYPE_CHECKING:
    from headscope.models.decoder.mixing_layer import MixingLayer


def layer_state_size(layer: MixingLayer, length: int) -> int:
    """Numbers the layer keeps for one text of ``length`` tokens to read the next one.

    That is the mixer's state and the last tokens of each convolution. Of the keys and values that the mixer keeps as
    they were given (`Mixer.kept_tokens`), a layer keeps no more than what no earlier layer keeps for it, and in their
    place the latent vectors that they are made from (MLA), or the embedding, which the first layers keep for all
    (InAttention); convolutions are then computed anew, from as many tokens more. What else a mixer keeps is its own,
    whatever is shared. Where layers that share keep different tokens, the larger number counts.
    """
    tokens, made = layer.mixer.kept_tokens(length), layer.keys_values
    own, convolutions = layer.mixer.state_size(length) - tokens.keys - tokens.values, [layer.conv_q]
    if made is None:
        earlier = _earlier(layer, length, layer.layer - layer.layer % layer.config.sharing.layers)
        kept = max(tokens.keys - earlier.keys, 0) + max(tokens.values - earlier.values, 0)
    elif tokens.tokens and (made.from_embedding or made.W_latent is not None):
        kept = _sources(layer, length)
    else:
        convolutions += [made.conv_k, made.conv_v]
        kept = tokens.keys + tokens.values
        if layer.config.value_residual == "first" and layer.layer > 0:
            kept -= min(tokens.values, _earlier(layer, length, 0).values)
    return own + kept + sum(_size(part) for part in convolutions)


def _sources(layer: MixingLayer, length: int) -> int:
    """Numbers in what keys and values are made from: latent vectors, or the part of the embedding not yet kept."""
    made = layer.keys_values
    assert made is not None
    needed = _with_convolution(layer, layer.mixer.kept_tokens(length).tokens, length)
    if made.W_latent is not None:
        return needed * (made.W_latent.shape[1] + (0 if made.W_KR is None else made.W_KR.shape[1]))
    before = _earlier(layer, length, 0).tokens
    return max(needed - (_with_convolution(layer, before, length) if before else 0), 0) * layer.config.d_model


def _with_convolution(layer: MixingLayer, tokens: int, length: int) -> int:
    """How many tokens the keys and values of some are made from."""
    return min(length, tokens + (layer.config.conv or 1) - 1)


def _earlier(layer: MixingLayer, length: int, first: int) -> KeptTokens:
    """The most that one of the layers from ``first`` up to this one keeps."""
    found = [_mixer(layer, index).kept_tokens(length) for index in range(first, layer.layer)]
    sizes = [(one.tokens, one.keys, one.values) for one in found]
    return KeptTokens(*(max(numbers) for numbers in zip((0, 0, 0), *sizes, strict=True)))


def _mixer(layer: MixingLayer, index: int) -> Mixer:
    """The mixer of another layer, or this layer's where it keeps as many tokens."""
    choice = layer.config.mixer_of(index)
    if choice == layer.config.mixer_of(layer.layer):
        return layer.mixer
    with torch.random.fork_rng(devices=[]):
        return build_mixer(choice.kind, replace(layer.shape, layer=index), choice.settings)


def _size(part: ShortConvolution | None) -> int:
    return 0 if part is None else part.state_size
