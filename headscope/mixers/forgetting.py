"""Softmax with a forget gate: what lies further back is scored lower, by how much the tokens between decide."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer


class ForgettingSettings(Config):
    """Of forgetting attention.

    Attributes:
        start: logit that every forget gate starts from; the larger, the less is forgotten.
    """

    start: float = Field(default=0.0, allow_inf_nan=False)


class Forgetting(RowMixer):
    """``M_i = softmax_j(s_ij + sum_{j < t <= i} log f_t)``, ``f_t = sigmoid(w . x_t + b)`` for each head.

    The forgetting transformer (Lin et al. 2025, arXiv 2503.02130). The same as data-dependent ALiBi, and as
    CABLE (arXiv 2503.08067), whose bias is a sum of ``-softplus(-(w . x + b))``.

    Attributes:
        W_forget: (d_model, head).
        b_forget: (head,).
    """

    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("log_forget",)
    settings_type: ClassVar[type[Config]] = ForgettingSettings

    def __init__(self, shape: MixerShape, settings: ForgettingSettings) -> None:
        super().__init__(shape, settings)
        self.W_forget = nn.Parameter(torch.randn(shape.d_model, shape.n_heads) * shape.d_model**-0.5)
        self.b_forget = nn.Parameter(torch.full((shape.n_heads,), settings.start))

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of the forget gate."""
        return {"log_forget": logsigmoid(stream @ self.W_forget + self.b_forget).mT}

    def mix(self, given: MixerInput) -> Mix:
        """Softmax of the scores and the sums of gates between."""
        total = given.gates["log_forget"].cumsum(-1)
        decay = total[:, :, given.first_row :, None] - total[:, :, None, :]
        return Mix((given.scores + decay).masked_fill(~given.visible, -torch.inf).softmax(-1), given.value)
