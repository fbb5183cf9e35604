"""State-space models that do not look at the tokens: a fixed filter for each channel.

S4D and Megalodon's complex moving average; `headscope.mixers.hippo` has those with a full matrix.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.modes import Modes, convolve, toeplitz


class FixedFilter(Mixer):
    """``z_i = sum_{j <= i} h_{i - j} v_j`` with a filter h for each channel: M is Toeplitz, the same for any text."""

    kind: MatrixKind = "per_channel"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False

    @abstractmethod
    def kernel(self, size: int) -> Float[Tensor, "H D L"]:
        """``h_0 .. h_{size - 1}``."""

    def mix(self, given: MixerInput) -> Mix:
        """The filter along every diagonal."""
        matrix = toeplitz(self.kernel(given.key.shape[2]), given.offsets)
        return Mix(matrix.expand(given.value.shape[0], -1, -1, -1, -1), given.value)

    def operation(self, given: MixerInput) -> Tensor:
        """One filter for the whole batch."""
        return convolve(self.kernel(given.key.shape[2]), given.value)


class ModalFilter(FixedFilter):
    """A filter made of modes, which is also a recurrence with one complex number for each mode."""

    @abstractmethod
    def modes(self) -> Modes:
        """The filter."""

    @abstractmethod
    def own(self) -> Float[Tensor, "H D"]:
        """What is added to ``h_0``."""

    @property
    @abstractmethod
    def order(self) -> int:
        """Modes of each channel."""

    def kernel(self, size: int) -> Float[Tensor, "H D L"]:
        """The modes' filter, and the skip at lag 0."""
        kernel = self.modes().kernel(size)
        return torch.cat([kernel[..., :1] + self.own()[..., None], kernel[..., 1:]], -1)

    def start(self, token: MixerInput) -> State:
        """Zeros."""
        return self.modes().start(token.value[:, :, 0])

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Turn and shrink every mode, add the token."""
        value = token.value[:, :, 0]
        z, state = self.modes().step(state, value)
        return (z + self.own() * value)[:, :, None], state

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A complex number for each mode of each channel."""
        return 2 * self.order * self.shape.n_heads * self.shape.d_head


class DiagonalModes(nn.Module):
    """Modes of a diagonal state-space model ``x' = A x + u``, ``y = 2 Re(C x)``, held over steps (S4D, 2206.11893).

    ``A = -exp(log_damping) + i frequency``, first ``-1/2 + i pi n`` (S4D-Lin); ``R = 2 C (exp(dt A) - 1) / A``.
    """

    def __init__(self, shape: MixerShape, order: int) -> None:
        super().__init__()
        size = (shape.n_heads, shape.d_head, order)
        steps = torch.empty(size[:2]).uniform_(math.log(0.02), math.log(0.5))
        self.log_step = nn.Parameter(steps)
        self.log_damping = nn.Parameter(torch.full(size, math.log(0.5)))
        self.frequency = nn.Parameter((math.pi * torch.arange(order)).expand(size).clone())
        self.real, self.imaginary = (nn.Parameter(torch.randn(size) * (2 * order) ** -0.5) for _ in range(2))

    def forward(self) -> Modes:
        """The discrete modes."""
        step, damping = self.log_step.exp()[..., None], self.log_damping.exp()
        rate, angle = step * damping, step * self.frequency
        up, across = (-rate).exp() * angle.cos() - 1, (-rate).exp() * angle.sin()  # exp(dt A) - 1
        square = damping.square() + self.frequency.square()
        held_real = (self.frequency * across - damping * up) / square  # over A
        held_imaginary = (-damping * across - self.frequency * up) / square
        real = 2 * (self.real * held_real - self.imaginary * held_imaginary)
        imaginary = 2 * (self.real * held_imaginary + self.imaginary * held_real)
        return Modes(rate, angle, real, imaginary)


class S4DSettings(Config):
    """Of S4D.

    Attributes:
        order: complex states of each channel (the paper has 32).
    """

    order: int = Field(default=8, ge=1)


class S4D(ModalFilter):
    """``h_l = 2 Re sum_n C_n exp(l dt A_n) (exp(dt A_n) - 1) / A_n``, plus D at lag 0 (Gu et al. 2022, 2206.11893)."""

    settings_type: ClassVar[type[Config]] = S4DSettings

    def __init__(self, shape: MixerShape, settings: S4DSettings) -> None:
        super().__init__(shape, settings)
        self.diagonal = DiagonalModes(shape, settings.order)
        self.skip = nn.Parameter(torch.ones(shape.n_heads, shape.d_head))
        self._order = settings.order

    @property
    def order(self) -> int:
        """Modes of each channel."""
        return self._order

    def modes(self) -> Modes:
        """The discrete modes."""
        return self.diagonal()

    def own(self) -> Float[Tensor, "H D"]:
        """D."""
        return self.skip


class CEMASettings(Config):
    """Of the complex exponential moving average.

    Attributes:
        order: complex states of each channel (the paper has 16).
    """

    order: int = Field(default=4, ge=1)


class CEMA(ModalFilter):
    """``h_t = a e^(i th) v_t + (1 - a d) e^(i th) h_{t-1}``, ``z_t = Re(eta . h_t)`` (Megalodon, 2404.08801, 3.1).

    ``th_n = 2 pi n w / N`` with a learned w of each channel; a, d and w lie between 0 and 1. The paper's expansion of
    the input is part of eta.
    """

    settings_type: ClassVar[type[Config]] = CEMASettings

    def __init__(self, shape: MixerShape, settings: CEMASettings) -> None:
        super().__init__(shape, settings)
        size = (shape.n_heads, shape.d_head, settings.order)
        self.alpha, self.delta = nn.Parameter(torch.randn(size) * 0.2), nn.Parameter(torch.randn(size) * 0.2)
        self.period = nn.Parameter(torch.randn(*size[:2], 1))
        self.real, self.imaginary = (nn.Parameter(torch.randn(size) * (2 * size[-1]) ** -0.5) for _ in range(2))
        self.skip = nn.Parameter(torch.ones(size[:2]))

    @property
    def order(self) -> int:
        """Modes of each channel."""
        return self.alpha.shape[-1]

    def modes(self) -> Modes:
        """Decay ``1 - a d``, angle th, weight ``a e^(i th) eta``."""
        alpha, delta = self.alpha.sigmoid(), self.delta.sigmoid()
        number = torch.arange(1, self.order + 1, device=alpha.device, dtype=alpha.dtype)
        angle = 2 * math.pi / self.order * number * self.period.sigmoid()
        real = alpha * (angle.cos() * self.real - angle.sin() * self.imaginary)
        imaginary = alpha * (angle.cos() * self.imaginary + angle.sin() * self.real)
        return Modes(-torch.log1p(-alpha * delta), angle, real, imaginary)

    def own(self) -> Float[Tensor, "H D"]:
        """The residual weight of a token itself."""
        return self.skip
