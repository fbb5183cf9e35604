"""State-space models on a HiPPO matrix: Legendre coefficients of each channel's past (S4, Legendre memory unit)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape, State
from headscope.mixers.state_space import FixedFilter


class HippoSettings(Config):
    """Of a state space that keeps Legendre coefficients of the past.

    Attributes:
        measure: ``legs``: of the whole past (S4); ``legt``: of a sliding window (Legendre memory unit).
        order: coefficients kept of each channel (S4 has 64).
        window: length of the window of ``legt``, in tokens.
    """

    measure: Literal["legs", "legt"] = "legs"
    order: int = Field(default=8, ge=1)
    window: float = Field(default=8.0, gt=0)


class Hippo(FixedFilter):
    """``x_t = A x_{t-1} + B v_t``, ``z_t = C . x_t + D v_t`` for each channel, with the HiPPO matrix.

    S4 (2111.00396, section 2): HiPPO-LegS, by the bilinear rule with a learned step of each channel. Legendre memory
    unit (Voelker et al. 2019; LMUFormer, 2402.04882): a window of fixed length, inputs held over each step.

    Attributes:
        W_C: C, (head, d_head, order).
        log_step: (head, d_head), or None for a window.
        continuous: A and B in continuous time, side by side.
    """

    continuous: Tensor
    settings_type: ClassVar[type[Config]] = HippoSettings

    def __init__(self, shape: MixerShape, settings: HippoSettings) -> None:
        super().__init__(shape, settings)
        heads, width, self.order = shape.n_heads, shape.d_head, settings.order
        legs = settings.measure == "legs"
        steps = torch.empty(heads, width).uniform_(math.log(0.05), math.log(0.5))
        self.log_step = nn.Parameter(steps) if legs else None
        self.W_C = nn.Parameter(torch.randn(heads, width, settings.order) * settings.order**-0.5)
        self.skip = nn.Parameter(torch.ones(heads, width))
        matrix = _legs(settings.order) if legs else _held(_legt(settings.order), settings.window)
        self.register_buffer("continuous", matrix, persistent=False)

    def kernel(self, size: int) -> Float[Tensor, "H D L"]:
        """``C A^l B``, by doubling, and the skip at lag 0."""
        power, states = self._discrete()
        while states.shape[-1] < size:
            states = torch.cat([states, power @ states], -1)
            power = power @ power
        kernel = (self.W_C[..., None, :] @ states[..., :size]).squeeze(-2)
        return torch.cat([kernel[..., :1] + self.skip[..., None], kernel[..., 1:]], -1)

    def start(self, token: MixerInput) -> State:
        """Zeros."""
        value = token.value[:, :, 0]
        return {"memory": value.new_zeros(*value.shape, self.order)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Carry the coefficients over, add the token, read."""
        value = token.value[:, :, 0]
        transition, inputs = self._discrete()
        memory = (transition @ state["memory"][..., None] + inputs * value[..., None, None]).squeeze(-1)
        z = (memory * self.W_C).sum(-1) + self.skip * value
        return z[:, :, None], {"memory": memory}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The coefficients of each channel; heads with the same values and the same window have the same."""
        heads = self.shape.valued if self.log_step is None else self.shape.n_heads
        return self.order * heads * self.shape.d_head

    def _discrete(self) -> tuple[Float[Tensor, "*HD N N"], Float[Tensor, "*HD N 1"]]:
        """A and B of one token."""
        matrix = self.continuous.to(self.W_C.dtype)
        if self.log_step is None:
            return matrix[:, :-1].expand(*self.W_C.shape, -1), matrix[:, -1:].expand(*self.W_C.shape, -1)
        step = self.log_step.exp()[..., None, None]
        eye = torch.eye(self.order, device=matrix.device, dtype=matrix.dtype)
        half = step / 2 * matrix[:, :-1]
        right = torch.cat([eye + half, step * matrix[:, -1:]], -1)
        solved = torch.linalg.solve_triangular(eye - half, right, upper=False)
        return solved[..., :-1], solved[..., -1:]


def _legs(order: int) -> Float[Tensor, "N N+1"]:
    """``A_nk = -sqrt(2n + 1) sqrt(2k + 1)`` below the diagonal, ``-(n + 1)`` on it; ``B_n = sqrt(2n + 1)``."""
    number = torch.arange(order, dtype=torch.float64)
    root = (2 * number + 1).sqrt()
    return torch.cat([-(root[:, None] * root).tril(-1) - torch.diag(number + 1), root[:, None]], -1)


def _legt(order: int) -> Float[Tensor, "N N+1"]:
    """``A_nk = (2n + 1) (-1 if n < k else (-1)^(n - k + 1))``, ``B_n = (2n + 1) (-1)^n``."""
    number = torch.arange(order, dtype=torch.float64)
    sign = 1 - 2 * ((number[:, None] - number).abs() % 2)
    matrix = torch.where(number[:, None] < number, -1.0, -sign)
    return (2 * number[:, None] + 1) * torch.cat([matrix, 1 - 2 * (number[:, None] % 2)], -1)


def _held(continuous: Float[Tensor, "N N+1"], window: float) -> Float[Tensor, "N N+1"]:
    """A and B over one token of ``window``, with the input held: one exponential of both."""
    order = continuous.shape[0]
    square = torch.cat([continuous, continuous.new_zeros(1, order + 1)])
    return torch.linalg.matrix_exp(square / window)[:order]
