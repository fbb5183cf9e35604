"""One layer's heads: what they read, how a mixer mixes it, and what they write.

Hook names and shapes are those of TransformerLens: `hook_q`, `hook_k`, `hook_v` and `hook_z` are (batch, position,
head, width), `hook_attn_scores` and `hook_pattern` (batch, head, query, key), one key and value for each query head
even where heads share them. `hook_pattern` is M for every kind of mixer and is read before M is applied, so an edit of
it cuts token j from row i whatever the mixer is. Of a mixer with one matrix for each channel it is (batch, head,
channel, query, key). `hook_z` has the output norm, the gate and the head's weight in it. An edit of a layer's keys or
values reaches that layer only, not those that share them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from headscope.errors import ConfigError, UnsupportedError
from headscope.mixers.building import build_mixer, mixer_class
from headscope.mixers.interface import Mix, MixerInput, MixerShape, apply_matrix
from headscope.mixers.jacobian import jacobian_matrix
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.convolution import ShortConvolution
from headscope.models.decoder.head_mixing import build_head_mixing
from headscope.models.decoder.layer_state import layer_state_size
from headscope.models.decoder.norms import UnitRMS
from headscope.models.decoder.positions import build_positions
from headscope.models.decoder.sharing import Earlier, KeysValues, ProjectedKeysValues
from headscope.models.decoder.sphere import LearnedScale, unit

_DENSE = 256
"""Up to this length M is built, unless a mixer streams; longer texts take its operation, unless M is asked for."""


class MixingLayer(nn.Module):
    """Queries, keys and values of a layer, its mixer, and W_O.

    Attributes:
        W_Q: (head, d_model, d_key), or None where the mixer reads no queries.
        W_O: (head, d_head, d_model), or None where the head mixing writes by itself.
        keys_values: makes keys and values; None where the layer uses those of an earlier one.
        mixer: computes M.
        on_mix: told of M and the values it is applied to in every forward pass; see `Decoder.recorded_mixes`.
    """

    stream_axes: ClassVar[dict[str, int]] = {"W_Q": 1, "W_O": 2}

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.shape = layer_shape(config, layer)
        choice, (heads, width, key_width) = (
            config.mixer_of(layer),
            (config.n_heads, config.head_width, config.key_width),
        )
        self.mixer = build_mixer(choice.kind, self.shape, choice.settings)
        self.positions = build_positions(config, self.shape)
        self._check(choice.kind)
        self.reads = reads = self.mixer.reads_query_key
        self.head_mixing = build_head_mixing(config)
        self.W_Q = _weights(heads, config.d_model, key_width) if reads else None
        needs_output = self.head_mixing.needs_output
        self.W_O = _weights(heads, width, config.d_model, fan_in=heads * width) if needs_output else None
        self.keys_values = self._build_keys_values()
        self.conv_q = ShortConvolution(heads * key_width, config.conv) if config.conv and reads else None
        self.gate = self._build_gate()
        self.output_norm = UnitRMS(width, learned=True) if config.output_norm else None
        self.norm_q = UnitRMS(key_width, learned=True) if config.qk_norm and reads else None
        sphere = config.block == "sphere"
        self.scale_qk = LearnedScale(heads, key_width, stored=config.d_model**-0.5) if sphere and reads else None
        self.scale = key_width**0.5 if sphere else key_width**-0.5
        self.log_temperature = nn.Parameter(torch.zeros(heads)) if config.temperature == "learned" and reads else None
        learned = config.value_residual == "learned" and layer > 0
        self.value_mix = nn.Parameter(torch.tensor([0.5, 0.5])) if learned else None
        self.use_result = False
        self._build_hooks()
        self.on_mix: Callable[[Mix], None] | None = None

    def _build_keys_values(self) -> ProjectedKeysValues | None:
        config, makes_values = self.config, self.head_mixing.makes_values
        if self.layer % config.sharing.layers:
            return None
        has_values = not (config.value_residual == "first" and self.layer > 0)
        return ProjectedKeysValues(
            config, keys=self.reads, values=has_values and not makes_values, value_conv=has_values
        )

    def _build_hooks(self) -> None:
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()
        self.hook_gate, self.hook_head_weight = HookPoint(), HookPoint()
        self.hook_mixer = nn.ModuleDict({name: HookPoint() for name in self.mixer.gate_names})

    def forward(self, stream: Float[Tensor, "B T M"], earlier: Earlier) -> Float[Tensor, "B T M"]:
        """What the layer's heads write."""
        z = self.gated(self.mixed(self.read(stream, earlier)).transpose(1, 2), stream)
        weights = self.head_mixing.weights(stream)
        if weights is not None:
            z = z * self.hook_head_weight(weights)[..., None]
        z = self.hook_z(z)
        if self.use_result:
            return self.hook_result(self.head_mixing.results(z, self.W_O, stream)).sum(2)
        return self.head_mixing.output(z, self.W_O, stream)

    def read(self, stream: Float[Tensor, "B T M"], earlier: Earlier) -> MixerInput:
        """What the mixer is called with."""
        shared = self._keys_values(stream, earlier)
        value = self.hook_v(self._residual_value(shared.value, earlier))
        query = key = value.new_zeros(*value.shape[:3], self.shape.d_key)
        if self.W_Q is not None and shared.key is not None:
            query = torch.einsum("btm,hme->bthe", stream, self.W_Q)
            query = query if self.conv_q is None else self.conv_q(query)
            query = query if self.norm_q is None else self.norm_q(query)
            key = shared.key
            if self.scale_qk is not None:
                query, key = unit(query), unit(key)
            query, key = self.hook_q(query), self.hook_k(key)
        return self.placed(query, key, value, stream, earlier.positions)

    def placed(
        self, query: Tensor, key: Tensor, value: Tensor, stream: Tensor, positions: Int[Tensor, " T"] | None = None
    ) -> MixerInput:
        """What the mixer is called with, given queries, keys and values as (B, T, H, ...) before their positions."""
        if positions is None:
            positions = torch.arange(stream.shape[1], device=stream.device)
        bias = None
        if self.reads:
            if self.positions.turns:
                query, key = self.positions.rotate(query, key, positions)
                query, key = self.hook_rot_q(query), self.hook_rot_k(key)
            if self.scale_qk is not None:
                query, key = query * self.scale_qk(), key * self.scale_qk()
            query = self._tempered(query)
            bias = self.positions.bias(query.transpose(1, 2), key.transpose(1, 2), positions, self.scale)
        gates = {name: self.hook_mixer[name](gate) for name, gate in self.mixer.gates(stream).items()}
        edit = self.hook_attn_scores if _has_hooks(self.hook_attn_scores) else None
        parts = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return MixerInput(*parts, gates, self.scale, bias, self.config.causal, edit)

    def mixed(self, given: MixerInput) -> Float[Tensor, "B H T D"]:
        """z of every head, by M where it is short or asked for."""
        if self.mixer.kind == "jacobian":
            return self._nonlinear(given)
        wanted = _has_hooks(self.hook_pattern) or _has_hooks(self.hook_attn_scores) or self.on_mix is not None
        if not wanted and (self.mixer.streams or given.key.shape[2] > _DENSE):
            return self.mixer.operation(given)
        mix = self.mixer.mix(given)
        matrix = self.hook_pattern(mix.matrix)
        if self.on_mix is not None:
            self.on_mix(replace(mix, matrix=matrix))
        return apply_matrix(matrix, mix.value)

    def gated(self, z: Float[Tensor, "B T H D"], stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H D"]:
        """z after the output norm and the output gate."""
        if self.output_norm is not None:
            z = self.output_norm(z)
        if self.gate is not None:
            z = z * self.hook_gate(torch.sigmoid(torch.einsum("btm,mhd->bthd", stream, self.gate)))
        return z

    def state_size(self, length: int) -> int:
        """Numbers the layer keeps for one text of ``length`` tokens to read the next one."""
        return layer_state_size(self, length)

    def _keys_values(self, stream: Tensor, earlier: Earlier) -> KeysValues:
        if self.keys_values is not None:
            earlier.keys_values = self.keys_values(stream, earlier, self.head_mixing.values(stream))
        assert earlier.keys_values is not None
        return earlier.keys_values

    def _residual_value(self, value: Tensor | None, earlier: Earlier) -> Tensor:
        first = earlier.first_value
        if first is None or self.config.value_residual == "none":
            assert value is not None
            earlier.first_value = value
            return value
        if self.value_mix is None or value is None:
            return first
        return self.value_mix[0] * first + self.value_mix[1] * value

    def _tempered(self, query: Float[Tensor, "B T H E"]) -> Float[Tensor, "B T H E"]:
        if self.log_temperature is not None:
            return query * self.log_temperature.exp()[:, None]
        if self.config.temperature == "log_length":
            seen = torch.arange(1, query.shape[1] + 1, device=query.device, dtype=torch.float64)
            seen = seen if self.config.causal else torch.full_like(seen, query.shape[1])
            return query * (seen.log1p() / log(1 + self.config.n_ctx)).to(query.dtype)[:, None, None]
        return query

    def _nonlinear(self, given: MixerInput) -> Tensor:
        """A mixer without a matrix: its Jacobian is shown where somebody asks for it, and cannot be edited."""
        if _has_hooks(self.hook_pattern) or self.on_mix is not None:
            matrix = jacobian_matrix(self.mixer, given)
            if self.on_mix is not None:
                self.on_mix(Mix(matrix, given.value))
            if not torch.equal(self.hook_pattern(matrix), matrix):
                raise UnsupportedError(
                    f"{type(self.mixer).__name__} is not linear in its values: its hook_pattern is the norm of a "
                    "Jacobian and cannot be edited. Edit hook_v or hook_z."
                )
        return self.mixer.operation(given)

    def _build_gate(self) -> nn.Parameter | None:
        if self.config.output_gate == "none":
            return None
        width = 1 if self.config.output_gate == "head" else self.shape.d_head
        size = self.config.d_model
        return nn.Parameter(torch.randn(size, self.shape.n_heads, width) * size**-0.5)

    def _check(self, kind: str) -> None:
        """Refuse what cannot go together."""
        config, position = self.config, self.config.position.kind
        if config.causal and not self.mixer.causal:
            raise ConfigError(f"the mixer {kind!r} reads a text both ways only: set causal to false.")
        if not config.causal and not self.mixer.bidirectional:
            raise ConfigError(f"the mixer {kind!r} reads left to right only: leave causal at true.")
        if self.positions.adds_bias and not self.mixer.takes_scores:
            raise ConfigError(
                f"position {position!r} adds a bias to scores, and the mixer {kind!r} has none: take another position, "
                "such as rope, or a mixer that makes its weights from scores."
            )
        if self.positions.turns and not self.mixer.reads_query_key:
            raise ConfigError(f"position {position!r} turns queries and keys, and the mixer {kind!r} reads none.")
        leader = config.mixer_of(self.layer - self.layer % config.sharing.layers).kind
        if self.mixer.reads_query_key and not mixer_class(leader).reads_query_key:
            raise ConfigError(
                f"the mixer {kind!r} reads keys, and the mixer {leader!r}, whose layer it shares, makes none."
            )


def layer_shape(config: DecoderConfig, layer: int) -> MixerShape:
    """What a layer's mixer is built for."""
    return MixerShape(
        n_heads=config.n_heads,
        d_head=config.head_width,
        d_key=config.key_width,
        d_model=config.d_model,
        n_ctx=config.n_ctx,
        layer=layer,
        n_layers=config.n_layers,
        key_heads=config.sharing.key_heads,
        value_heads=config.sharing.value_heads,
    )


def _has_hooks(point: HookPoint) -> bool:
    return bool(point.fwd_hooks or point.bwd_hooks)


def _weights(*shape: int, fan_in: int | None = None) -> nn.Parameter:
    """Random weights of variance one over what they sum."""
    return nn.Parameter(torch.randn(*shape) * (fan_in or shape[-2]) ** -0.5)
