"""Filters that are sums of decaying oscillations, as convolution kernels and as recurrences.

``h_l = Re sum_n R_n exp(l (-rate_n + i angle_n))``: what a diagonal state-space model, a complex moving average and the
modal form of a long filter have in common. Real and imaginary parts are kept apart, so that any float type will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.mixers.interface import State


@dataclass(frozen=True)
class Modes:
    """One filter for each channel.

    Attributes:
        rate: decay of each mode, positive.
        angle: how far it turns in a step.
        real: real part of its weight R.
        imaginary: imaginary part of its weight R.
    """

    rate: Float[Tensor, "H C N"]
    angle: Float[Tensor, "H C N"]
    real: Float[Tensor, "H C N"]
    imaginary: Float[Tensor, "H C N"]

    def kernel(self, size: int) -> Float[Tensor, "H C L"]:
        """``h_0 .. h_{size - 1}``."""
        lag = torch.arange(size, device=self.rate.device, dtype=self.rate.dtype)
        turn = self.angle[..., None] * lag
        waves = self.real[..., None] * turn.cos() - self.imaginary[..., None] * turn.sin()
        return ((-self.rate[..., None] * lag).exp() * waves).sum(-2)

    def start(self, given: Float[Tensor, "B H C"]) -> State:
        """Zeros, for inputs like ``given``."""
        zeros = (given[..., None] * self.rate).mul(0)
        return {"real": zeros, "imaginary": zeros}

    def step(self, state: State, given: Float[Tensor, "B H C"]) -> tuple[Float[Tensor, "B H C"], State]:
        """One more input, and the output after it."""
        decay, cos, sin = (-self.rate).exp(), self.angle.cos(), self.angle.sin()
        real = decay * (cos * state["real"] - sin * state["imaginary"]) + given[..., None]
        imaginary = decay * (sin * state["real"] + cos * state["imaginary"])
        return (self.real * real - self.imaginary * imaginary).sum(-1), {"real": real, "imaginary": imaginary}


def convolve(kernel: Float[Tensor, "H C L"], given: Float[Tensor, "B H T C"]) -> Float[Tensor, "B H T C"]:
    """``y_i = sum_{j <= i} kernel_{i - j} x_j`` for each channel."""
    place = torch.arange(given.shape[2], device=given.device)
    return torch.einsum("hcij,bhjc->bhic", toeplitz(kernel, place[:, None] - place), given)


def toeplitz(kernel: Float[Tensor, "*any L"], offsets: Int[Tensor, "Q K"]) -> Float[Tensor, "*any Q K"]:
    """``T_ij = kernel_{i - j}`` for ``j <= i``, else 0; 0 beyond the kernel's end."""
    inside = (offsets >= 0) & (offsets < kernel.shape[-1])
    return kernel[..., offsets.clamp(0, kernel.shape[-1] - 1)] * inside
