"""A recurrence without any matrix: each channel is pooled through a swish."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape, State
from headscope.mixers.nonlinear import Nonlinear


class SwishRecurrence(Nonlinear):
    """``c_t = swish(c_{t-1} - v_t) + v_t``, ``z_t = c_t + s``, channel by channel (Lei et al. 2022, 2205.11588).

    ``swish(x) = x sigmoid(a x + b)`` with a, b and s learned for each channel: a soft maximum of what came and what is
    held. It is not linear in its values.

    Attributes:
        slope: a, (head, d_head).
        bias: b, (head, d_head).
        offset: s, (head, d_head).
    """

    reads_query_key: ClassVar[bool] = False

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        size = (shape.n_heads, shape.d_head)
        self.slope, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.offset = nn.Parameter(torch.zeros(size))

    def start(self, token: MixerInput) -> State:
        """Zeros."""
        return {"held": torch.zeros_like(token.value[:, :, 0])}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """One more token."""
        held = self._pooled(state["held"], token.value[:, :, 0])
        return (held + self.offset)[:, :, None], {"held": held}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A number for each channel."""
        return self.shape.n_heads * self.shape.d_head

    def _pooled(self, held: Tensor, value: Tensor) -> Tensor:
        gap = held - value
        return gap * (self.slope * gap + self.bias).sigmoid() + value
