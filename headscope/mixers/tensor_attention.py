"""Three-way attention: a row attends to pairs of tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import MatrixKind, RowKind


class TensorAttentionSettings(Config):
    """Of three-way attention.

    Attributes:
        scale: scores are divided by the ``width`` of a key, or its square ``root``.
    """

    scale: Literal["width", "root"] = "width"


class TensorAttention(RowMixer):
    """``z_ic = sum_{j,l} p_ijl v_jc v'_lc``, ``p_i = softmax over pairs (j, l) of sum_e q_ie k_je k'_le / d``.

    Attention as a Kronecker computation (Alman and Song 2023, arXiv 2310.04064, abstract). Second keys k' and values
    v' are read off the stream as gates, so that z is linear in the first values:
    ``M^c_ij = sum_l p_ijl v'_lc``, one matrix for each channel c. All pairs are scored: T^2 for each row.

    Attributes:
        W_K2: (head, d_model, d_key).
        W_V2: (head, d_model, d_head).
    """

    kind: MatrixKind = "per_channel"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("second_key", "second_value")
    settings_type: ClassVar[type[Config]] = TensorAttentionSettings

    def __init__(self, shape: MixerShape, settings: TensorAttentionSettings) -> None:
        super().__init__(shape, settings)
        self.scale = 1 / shape.d_key if settings.scale == "width" else shape.d_key**-0.5
        std = shape.d_model**-0.5
        self.W_K2 = nn.Parameter(torch.randn(shape.n_heads, shape.d_model, shape.d_key) * std)
        self.W_V2 = nn.Parameter(torch.randn(shape.n_heads, shape.d_model, shape.d_head) * std)

    @property
    def gate_width(self) -> int:
        """A second key and a second value."""
        return self.shape.d_key + self.shape.d_head

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Second keys and values."""
        weights = {"second_key": self.W_K2, "second_value": self.W_V2}
        return {name: torch.einsum("btm,hme->bhte", stream, matrix) for name, matrix in weights.items()}

    def mix(self, given: MixerInput) -> Mix:
        """Softmax over all pairs; the second token of each is summed out with its value."""
        pairs = torch.einsum("bhqe,bhje,bhle->bhqjl", given.query, given.key, given.gates["second_key"]) * self.scale
        visible = given.visible[:, :, None] & given.visible[:, None, :]
        weights = pairs.masked_fill(~visible, -torch.inf).flatten(-2).softmax(-1).view_as(pairs)
        return Mix(torch.einsum("bhqjl,bhlc->bhcqj", weights, given.gates["second_value"]), given.value)
