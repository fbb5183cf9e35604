"""Retention: linear attention whose state fades, and may turn, at the same rate at every token."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.rotation import turn, with_zeros

_BASE = 10000.0


class RetentionSettings(Config):
    """Of retention.

    Attributes:
        features: of queries and keys: ``identity``: none; ``silu``: x sigmoid(x).
        decay: of head h of H in layer l of L: ``retention``: 1 - 2^(-5-h); ``layered``: exp(-(8 h / H) (1 - l / L));
            ``sloped``: exp(-2^(-8 (h + 1) / H) (1 - l / (L - 1))).
        rotation: ``none``; ``pairs``: rotary, at fixed angles; ``first_layer``: every channel times the cosine of a
            learned angle for each token in between, in the first layer only.
    """

    features: Literal["identity", "silu"] = "identity"
    decay: Literal["retention", "layered", "sloped"] = "retention"
    rotation: Literal["none", "pairs", "first_layer"] = "none"


def log_decays(kind: str, shape: MixerShape) -> Float[Tensor, " H"]:
    """Logarithm of each head's decay."""
    head = torch.arange(shape.n_heads)
    if kind == "retention":
        return torch.log1p(-(2.0 ** (-5.0 - head)))
    if kind == "layered":
        return -8 * head / shape.n_heads * (1 - shape.layer / shape.n_layers)
    depth = 1 - shape.layer / (shape.n_layers - 1 + 1e-5) + 1e-5
    return -(2.0 ** (-8 * (head + 1) / shape.n_heads)) * depth


def first_angles(kind: str, shape: MixerShape) -> Float[Tensor, "H P"]:
    """Angle by which each pair of channels turns for each token: one for two channels, or one for every channel."""
    heads, width = shape.n_heads, shape.d_key
    if kind != "pairs":
        return _BASE ** (-2 * torch.arange(heads * width).reshape(heads, width) / (heads * width))
    if width % 2:
        raise ConfigError(f"rotation 'pairs' turns pairs of channels: d_key {width} is odd.")
    return (_BASE ** (-torch.arange(0, width, 2) / width)).repeat(heads, 1)


class Retention(Mixer):
    """``M_ij = (scale) phi(q_i) . R^(i-j) phi(k_j) gamma^(i-j)``, one gamma and one rotation R for each head.

    RetNet (Sun et al. 2023, 2307.08621), TransNormerLLM and its Lightning Attention (Qin et al. 2023,
    2307.14995; 2405.17381), which differ in the decay, the rotation and the features.

    Attributes:
        log_decay: (head,), fixed.
        angles: (head, pair), fixed or learned, or None.
    """

    kind: MatrixKind = "linear"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = RetentionSettings
    log_decay: Tensor
    angles: Tensor | None

    def __init__(self, shape: MixerShape, settings: RetentionSettings) -> None:
        super().__init__(shape, settings)
        self.features, self.rotation = settings.features, settings.rotation
        self.register_buffer("log_decay", log_decays(settings.decay, shape))
        turns_alone = self.rotation == "first_layer" and shape.layer == 0
        self.feature_width = shape.d_key * (1 + int(turns_alone))
        angles = first_angles(self.rotation, shape)
        if turns_alone:
            self.angles = nn.Parameter(angles)
        else:
            self.register_buffer("angles", angles if self.rotation == "pairs" else None)

    def mix(self, given: MixerInput) -> Mix:
        """Products of turned queries and keys, times the decay between them."""
        query = self._turned(self._feature(given.query), given.rows)
        key = self._turned(self._feature(given.key), given.columns)
        fading = (given.offsets.clamp_min(0) * self.log_decay[:, None, None]).exp().to(query.dtype)
        return Mix((query @ key.mT) * given.scale * fading * given.visible, given.value)

    def start(self, token: MixerInput) -> State:
        """An empty state."""
        batch, heads = token.key.shape[:2]
        return {"memory": token.key.new_zeros(batch, heads, self.feature_width, token.value.shape[-1])}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """``S <- gamma R^-1 S + k v^T``; ``z = q S``."""
        memory = state["memory"]
        if self.angles is not None:
            memory = turn(memory.mT, -self.angles[:, None]).mT
        memory = memory * self.log_decay[:, None, None].exp().to(memory.dtype)
        memory = memory + self._feature(token.key).mT @ token.value
        return self._feature(token.query) @ memory * token.scale, {"memory": memory}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix for each head."""
        return self.shape.n_heads * self.feature_width * self.shape.d_head  # decays differ by head

    def _feature(self, x: Tensor) -> Tensor:
        x = silu(x) if self.features == "silu" else x
        return x if self.feature_width == x.shape[-1] else with_zeros(x)

    def _turned(self, x: Tensor, positions: Tensor) -> Tensor:
        if self.angles is None:
            return x
        return turn(x, (positions[:, None] * self.angles[:, None]).to(x.dtype))
