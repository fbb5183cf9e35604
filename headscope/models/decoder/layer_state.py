"""What a layer keeps to read the next token, as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headscope.mixers.interface import RowMixer
from headscope.models.decoder.convolution import ShortConvolution

if TYPE_CHECKING:
    from headscope.models.decoder.mixing_layer import MixingLayer


def layer_state_size(layer: MixingLayer, length: int) -> int:
    """Numbers the layer keeps for one text of ``length`` tokens to read the next one.

    That is the mixer's state and the last tokens of each convolution. A mixer that keeps all keys and values keeps only
    those its layer makes: none where they are an earlier layer's, in their place the latent vector they are made from
    (MLA), or the embedding, which the first layer keeps for all (InAttention); convolutions are then computed anew. A
    mixer with a state of its own keeps that, whatever is shared.
    """
    kept, convolutions = layer.mixer.state_size(length), [layer.conv_q]
    made = layer.keys_values
    keeps_tokens = type(layer.mixer).state_size is RowMixer.state_size
    if keeps_tokens:
        kept += length * (_per_token(layer) - layer.shape.cached)
    if made is not None and not (keeps_tokens and (made.from_embedding or made.W_latent is not None)):
        convolutions += [made.conv_k, made.conv_v]
    return kept + sum(_size(part) for part in convolutions)


def _per_token(layer: MixingLayer) -> int:
    """Numbers kept of one token in place of keys and values."""
    made, config = layer.keys_values, layer.config
    if made is None:
        return 0
    if made.from_embedding:
        return config.d_model if layer.layer == 0 else 0
    if made.W_latent is not None:
        return made.W_latent.shape[1] + (0 if made.W_KR is None else made.W_KR.shape[1])
    keys = 0 if made.W_K is None else layer.shape.key_heads or layer.shape.n_heads
    has_values = not (config.value_residual == "first" and layer.layer > 0)
    values = (layer.shape.value_heads or layer.shape.n_heads) if has_values else 0
    return keys * layer.shape.d_key + values * layer.shape.d_head


def _size(part: ShortConvolution | None) -> int:
    return 0 if part is None else part.state_size
