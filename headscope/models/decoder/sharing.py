"""Keys and values of a layer, and which heads and layers share them.

Under grouped keys head h reads group ``h // (n_heads // groups)``, as transformers has it. Keys and values may be
grouped differently (DiffQKV), be made from one latent vector for each token (MLA), from the embedding (InAttention), or
be those of an earlier layer (CLA, MLKV, SVFormer). Convolution and normalisation come before heads and layers share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.convolution import ShortConvolution
from headscope.models.decoder.norms import UnitRMS


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of every query head; None where the layer makes none."""

    key: Float[Tensor, "B T H E"] | None
    value: Float[Tensor, "B T H D"] | None


@dataclass
class Earlier:
    """What layers hand on to later ones in one forward pass.

    Attributes:
        positions: of the tokens; 0, 1, 2, ... if None.
        embedding: the stream before the first layer.
        first_value: values of the first layer, for value residuals.
        keys_values: keys and values of the layer that the current one shares with.
    """

    positions: Int[Tensor, " T"] | None = None
    embedding: Float[Tensor, "B T M"] | None = None
    first_value: Float[Tensor, "B T H D"] | None = None
    keys_values: KeysValues | None = None


class ProjectedKeysValues(nn.Module):
    """``k = W_K x``, ``v = W_V x`` for each group of heads; x is first put through a latent where there is one.

    Attributes:
        W_K: (key head, d_in, d_key), without the part of a latent's keys that is read off the stream.
        W_V: (value head, d_in, d_head); None where the values come from elsewhere.
        W_KR: (d_model, width), that part.
    """

    stream_axes: ClassVar[dict[str, int]] = {"W_K": 1, "W_V": 1, "W_KR": 0, "W_latent": 0}

    def __init__(self, config: DecoderConfig, *, keys: bool, values: bool, value_conv: bool) -> None:
        super().__init__()
        sharing, size = config.sharing, config.sharing.latent or config.d_model
        self.n_heads, self.from_embedding = config.n_heads, sharing.source == "embedding"
        width, key_width = config.head_width, config.key_width
        key_heads, value_heads = sharing.key_heads or config.n_heads, sharing.value_heads or config.n_heads
        latent = sharing.latent if keys or values else None
        rope = sharing.latent_rope or 0
        self.source_norm = UnitRMS(config.d_model, learned=True) if self.from_embedding else None
        self.W_latent = None if latent is None else _weights(config.d_model, latent)
        self.latent_norm = None if latent is None else UnitRMS(latent, learned=True)
        self.W_K = _weights(key_heads, size, key_width - rope) if keys else None
        self.W_KR = _weights(config.d_model, rope) if keys and rope else None
        self.W_V = _weights(value_heads, size, width) if values else None
        self.conv_k = ShortConvolution(key_heads * key_width, config.conv) if config.conv and keys else None
        self.conv_v = ShortConvolution(value_heads * width, config.conv) if config.conv and value_conv else None
        self.norm_k = UnitRMS(key_width, learned=True) if config.qk_norm and keys else None

    def forward(self, stream: Float[Tensor, "B T M"], earlier: Earlier, value: Tensor | None = None) -> KeysValues:
        """Keys and values, repeated for the heads that share them; ``value`` takes the place of ``W_V x``."""
        if self.source_norm is not None and earlier.embedding is not None:
            stream = self.source_norm(earlier.embedding)
        source = stream
        if self.W_latent is not None and self.latent_norm is not None:
            source = self.latent_norm(stream @ self.W_latent)
        if self.W_V is not None:
            value = torch.einsum("btm,gmd->btgd", source, self.W_V)
        if value is not None:
            value = self._repeated(value if self.conv_v is None else self.conv_v(value))
        return KeysValues(self._key(source, stream), value)

    def _key(self, source: Tensor, stream: Tensor) -> Tensor | None:
        if self.W_K is None:
            return None
        key = torch.einsum("btm,gmd->btgd", source, self.W_K)
        if self.W_KR is not None:
            key = torch.cat([(stream @ self.W_KR)[:, :, None].expand(-1, -1, key.shape[2], -1), key], -1)
        key = key if self.conv_k is None else self.conv_k(key)
        return self._repeated(key if self.norm_k is None else self.norm_k(key))

    def _repeated(self, groups: Float[Tensor, "B T G D"]) -> Float[Tensor, "B T H D"]:
        return groups.repeat_interleave(self.n_heads // groups.shape[2], dim=2)


def _weights(*shape: int) -> nn.Parameter:
    """Random weights of variance one over what they sum."""
    return nn.Parameter(torch.randn(*shape) * shape[-2] ** -0.5)
