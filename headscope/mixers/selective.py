"""Mamba's selective state space: a matrix for every channel, whose step size the token chooses."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from headscope.config import Config
from headscope.mixers.decay import decayed_products
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind

_ROUNDING = 1e-5  # of the average, so that equal steps are all kept


class MambaSettings(Config):
    """Of Mamba.

    Attributes:
        skip: a learned multiple D of each token's own value is added, on the diagonal of M.
        rank: rank of the map from the stream to step sizes; ``d_model / 16``, at least 1, by default.
        decimate: a token whose step, averaged over channels, is below this share of the average over the tokens so far
            neither writes nor decays the state; 0 keeps all.
    """

    skip: bool = True
    rank: int | None = Field(default=None, ge=1)
    decimate: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Mamba(Mixer):
    """``h_t = exp(dt_t A) * h_{t-1} + dt_t B_t x_t``, ``y_t = C_t . h_t + D x_t``, by channel (S6, 2312.00752, 3.2).

    C is the query, B the key, of width N; x the value. ``dt_t = softplus(W_2 W_1 x_t + b)`` is a number for each
    channel and ``A = -exp(log_rate)`` one for each channel and each of the N, so that for channel c
    ``M_ij = sum_n C_in B_jn dt_jc exp(A_cn sum_{j < t <= i} dt_tc)``, and D on the diagonal.

    Attributes:
        log_rate: (head, d_head, d_key).
        skip: D, (head, d_head), or None.
    """

    kind: MatrixKind = "per_channel"
    streams: bool = True
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("step",)
    settings_type: ClassVar[type[Config]] = MambaSettings

    def __init__(self, shape: MixerShape, settings: MambaSettings) -> None:
        super().__init__(shape, settings)
        heads, width, states = shape.n_heads, shape.d_head, shape.d_key
        rank = settings.rank or max(1, shape.d_model // 16)
        self.decimate = settings.decimate
        self.W_down = nn.Parameter(torch.randn(shape.d_model, rank) * shape.d_model**-0.5)
        self.W_up = nn.Parameter(torch.randn(heads, rank, width) * rank**-0.5)
        first = torch.empty(heads, width).uniform_(math.log(1e-2), math.log(0.3)).exp()
        self.bias = nn.Parameter(first.expm1().log())  # softplus of it is the first step
        self.log_rate = nn.Parameter(torch.arange(1.0, states + 1).log().expand(heads, width, states).clone())
        self.skip = nn.Parameter(torch.ones(heads, width)) if settings.skip else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """The step of each channel: (B, H, T, D)."""
        step = torch.einsum("btr,hrd->bhtd", stream @ self.W_down, self.W_up)
        return {"step": softplus(step + self.bias[:, None])}

    def mix(self, given: MixerInput) -> Mix:
        """Products of queries, keys and the decays between them, for each channel."""
        matrix = decayed_products(*self._parts(given))
        if self.skip is not None:
            eye = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
            matrix = matrix + self.skip[..., None, None] * eye
        return Mix(matrix, given.value)

    def start(self, token: MixerInput) -> State:
        """Zeros; the sum of steps, and how many tokens came, where tokens are dropped."""
        state = {"memory": torch.zeros_like(token.value.mT * token.key)}
        zeros = token.value.new_zeros(len(token.value))
        return state | ({"total": zeros, "count": zeros} if self.decimate else {})

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Decay every channel's state, write to it, read it."""
        step, after = token.gates["step"], dict[str, Tensor]()
        if self.decimate:
            mean = step.mean((1, 2, 3))
            after = {"total": state["total"] + mean, "count": state["count"] + 1}
            step = step * self._large(mean, after["total"], after["count"])[:, None, None, None]
        step = step.mT
        memory = state["memory"] * (-self.log_rate.exp() * step).exp() + step * token.value.mT * token.key
        z = (memory @ (token.query * token.scale).mT).mT
        z = z if self.skip is None else z + self.skip[:, None] * token.value
        return z, after | {"memory": memory}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """N numbers for each channel; two of all where tokens are dropped."""
        return self.shape.n_heads * self.shape.d_head * self.shape.d_key + (2 if self.decimate else 0)

    def _parts(self, given: MixerInput) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, what is written, and log decays of every channel: (B, H, D, T, N) each."""
        step = self._kept(given.gates["step"]).mT[..., None]
        log_decay = -self.log_rate.exp()[:, :, None] * step
        query = (given.query * given.scale)[:, :, None].expand_as(log_decay)
        return query, given.key[:, :, None] * step, log_decay

    def _kept(self, step: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
        """Steps, 0 where the token is dropped."""
        if not self.decimate:
            return step
        mean = step.mean((1, 3))
        count = torch.arange(1, mean.shape[1] + 1, device=mean.device)
        return step * self._large(mean, mean.cumsum(-1), count)[:, None, :, None]

    def _large(self, mean: Tensor, total: Tensor, count: Tensor) -> Tensor:
        """Whether a step reaches its share of the average so far."""
        return mean * count >= self.decimate * total * (1 - _ROUNDING)
