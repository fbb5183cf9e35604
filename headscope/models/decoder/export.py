"""A decoder as a TransformerBridge of TransformerLens, with the same logits and the same pattern to edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.model_bridge.sources.native.model import NativeAttention, NativeModel

from headscope.errors import UnsupportedError
from headscope.mixers.interface import apply_matrix
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import MLP, Block, Decoder
from headscope.models.decoder.mixing_layer import MixingLayer
from headscope.models.decoder.norms import EPSILON, Norm
from headscope.models.decoder.positions_stream import stream_positions


class MixedAttention(NativeAttention):
    """TransformerLens's own attention with a layer's mixer in it: q, k, v and o are linear maps, the rest is the layer.

    Where the layer convolves or normalises queries, keys or values, `hook_q`, `hook_k` and `hook_v` of the bridge are
    what goes into that, and not what comes out as in the decoder.
    """

    def __init__(self, cfg: TransformerBridgeConfig, layer: MixingLayer) -> None:
        super().__init__(cfg)
        made = layer.keys_values
        assert made is not None and layer.W_Q is not None and layer.W_O is not None  # noqa: PT018
        assert made.W_K is not None and made.W_V is not None  # noqa: PT018
        for linear, weights in ((self.q, layer.W_Q), (self.k, made.W_K), (self.v, made.W_V)):
            _fill(linear, weights.permute(0, 2, 1).flatten(0, 1))
        _fill(self.o, layer.W_O.flatten(0, 1).mT)
        self.layer = _without_linear_maps(layer)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,  # noqa: ARG002
        pattern_fn: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """What the heads write, and M."""
        if attention_mask is not None and attention_mask.ndim == 2 and not bool(attention_mask.bool().all()):
            raise UnsupportedError("a decoder of Headscope reads texts without padding: give texts of one length.")
        layer, made = self.layer, self.layer.keys_values
        assert made is not None
        shape = (*hidden_states.shape[:2], -1, self.d_head)
        query, key, value = (part(hidden_states).view(shape) for part in (self.q, self.k, self.v))
        query, key, value = (
            part if conv is None else conv(part)
            for part, conv in ((query, layer.conv_q), (key, made.conv_k), (value, made.conv_v))
        )
        query = query if layer.norm_q is None else layer.norm_q(query)
        key = key if made.norm_k is None else made.norm_k(key)
        key, value = (part.repeat_interleave(self.kv_repeats, 2) for part in (key, value))
        mix = layer.mixer.mix(layer.placed(query, key, value, hidden_states))
        matrix = mix.matrix if pattern_fn is None else pattern_fn(mix.matrix)
        z = layer.gated(apply_matrix(matrix, mix.value).transpose(1, 2), hidden_states)
        return self.o(z.flatten(2)), matrix


def _without_linear_maps(layer: MixingLayer) -> MixingLayer:
    """A copy of a layer, with none of its hooks, that has no matrices for q, k, v and o."""
    with torch.random.fork_rng(devices=[]):
        copied = MixingLayer(layer.config, layer.layer)
    assert copied.keys_values is not None and layer.W_O is not None  # noqa: PT018
    copied.to(layer.W_O).load_state_dict(layer.state_dict())
    copied.W_Q = copied.W_O = copied.keys_values.W_K = copied.keys_values.W_V = None
    return copied.eval()


def to_bridge(model: Decoder) -> TransformerBridge:
    """A bridge with a copy of the model's weights: same logits, and edits of ``hook_pattern`` do the same.

    Texts may be up to n_ctx long. Positions that are neither on the stream nor rotations leave a table of zeros in
    ``pos_embed``.

    Raises:
        UnsupportedError: for a model that TransformerLens's own attention cannot express, saying why.
    """
    _check(model)
    config = model.config
    cfg = _bridge_config(model)
    native = NativeModel(cfg)
    native.rotary = None
    with torch.no_grad():
        native.tok_embed.weight.copy_(model.W_E)
        native.head.weight.copy_(model.W_U.mT)
        if native.pos is not None:
            places = torch.arange(config.n_ctx, device=model.W_E.device)
            table = stream_positions(config, model.W_pos, places, model.W_E.dtype)
            native.pos.weight.copy_(torch.zeros_like(native.pos.weight) if table is None else table)
        _fill_norm(native.ln_out, model.ln_final)
        for block, ours in zip(native.layers, _blocks(model), strict=True):
            _fill_block(block, ours, cfg)
    native.eval()
    bridge = build_bridge_from_module(
        native,
        architecture="TransformerLensNative",
        tl_config=cfg,
        dtype=model.W_E.dtype,
        device=model.W_E.device,
        model_name="headscope-decoder",
    )
    adapter: Any = bridge.adapter
    adapter.supports_fold_ln = False  # gates read the stream after the norm's gain
    return bridge


def _blocks(model: Decoder) -> list[Block]:
    return cast(list[Block], list(model.blocks))


def _bridge_config(model: Decoder) -> TransformerBridgeConfig:
    config = model.config
    return TransformerBridgeConfig(
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_ctx=config.n_ctx,
        d_head=config.head_width,
        n_heads=config.n_heads,
        n_key_value_heads=config.sharing.key_heads,
        d_vocab=config.d_vocab,
        d_vocab_out=config.answers,
        d_mlp=config.d_mlp or None,
        attn_only=not config.d_mlp,
        act_fn="gelu",
        eps=EPSILON,
        normalization_type="RMS" if config.norm == "rms" else "LN",
        attention_dir="causal" if config.causal else "bidirectional",
        positional_embedding_type="rotary" if model.mixing_layers[0].positions.turns else "standard",
        rotary_dim=2,  # its own tables are not used
        architecture="TransformerLensNative",
        init_weights=False,
        dtype=model.W_E.dtype,
    )


def _fill_block(block: Any, ours: Block, cfg: TransformerBridgeConfig) -> None:
    block.attn = MixedAttention(cfg, ours.attn)
    _fill_norm(block.ln1, ours.ln1)
    if isinstance(ours.mlp, MLP) and ours.ln2 is not None:
        _fill_norm(block.ln2, ours.ln2)
        _fill(block.mlp.fc_in, ours.mlp.W_in.mT)
        _fill(block.mlp.fc_out, ours.mlp.W_out.mT)


def _fill(linear: nn.Linear, weights: Tensor) -> None:
    with torch.no_grad():
        linear.weight = nn.Parameter(weights.detach().clone())
        linear.bias = nn.Parameter(weights.new_zeros(len(weights)))


def _fill_norm(norm: nn.Module, ours: nn.Module) -> None:
    assert isinstance(ours, Norm)
    norm.weight = nn.Parameter(ours.w.detach().clone())
    if ours.b is not None:
        norm.bias = nn.Parameter(ours.b.detach().clone())


def _check(model: Decoder) -> None:
    reason = _reason(model.config) or next(filter(None, (_layer_reason(layer) for layer in model.mixing_layers)), None)
    if reason is not None:
        raise UnsupportedError(f"this decoder cannot be made a TransformerBridge: {reason}.")


def _reason(config: DecoderConfig) -> str | None:
    sharing = config.sharing
    reasons = {
        "it reads vectors in place of tokens": bool(config.d_input),
        "its blocks move on the sphere in place of adding to the stream": config.block == "sphere",
        f"heads are mixed by {config.heads.kind!r}, and the bridge has one W_O for all tokens": config.heads.kind
        != "all",
        "its layers share keys and values": sharing.layers > 1,
        "keys and values are made from a latent vector": sharing.latent is not None,
        "keys and values are made from the embedding": sharing.source == "embedding",
        "values depend on those of the first layer": config.value_residual != "none",
        "positions are drawn": config.position.randomised is not None,
        "keys and values have different numbers of heads": sharing.key_heads != sharing.value_heads,
        "d_key is not d_head": config.key_width != config.head_width,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _layer_reason(layer: MixingLayer) -> str | None:
    name = type(layer.mixer).__name__
    if layer.mixer.kind in ("jacobian", "per_channel"):
        return f"the mixer {name} has no single matrix for each head"
    if not layer.mixer.reads_query_key:
        return f"the mixer {name} reads no queries and keys"
    return None
