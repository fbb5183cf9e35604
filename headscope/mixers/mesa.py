"""MesaNet: every row is read with the exact solution of a regression on the past."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize, silu, softplus

from headscope.config import Config
from headscope.mixers.decay import decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class MesaSettings(Config):
    """Of MesaNet.

    Attributes:
        least: lower bound of the ridge.
    """

    least: float = Field(default=0.25, gt=0)


class Mesa(Mixer):
    """``H_t = a_t H_{t-1} + b_t k_t k_t^T``, ``G_t = a_t G_{t-1} + b_t k_t v_t^T``, ``z_t = G_t^T (H_t + L)^-1 q_t``.

    (MesaNet, 2506.05233.) ``G_t^T (H_t + L)^-1`` is the ridge regression of the decayed past values on their keys. The
    solve is exact, by factorisation; the paper iterates conjugate gradients. Keys and queries are unit vectors, and
    there is no ``1/sqrt(d)``.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("beta", "log_decay")
    settings_type: ClassVar[type[Config]] = MesaSettings

    def __init__(self, shape: MixerShape, settings: MesaSettings) -> None:
        super().__init__(shape, settings)
        self.least = settings.least
        self.write, self.forget = HeadLinear(shape), HeadLinear(shape, bias=3.0)
        self.ridge = nn.Parameter(torch.zeros(shape.n_heads, shape.d_key))

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Weight of each token in the regression, and the logarithm of its decay: (B, H, T) each."""
        return {"beta": self.write.scalar(stream).sigmoid(), "log_decay": logsigmoid(self.forget.scalar(stream))}

    def mix(self, given: MixerInput) -> Mix:
        """One small system for every row, then products with the keys."""
        query, key = _unit(given.query), _unit(given.key)
        weight = decay_between(given.gates["log_decay"]) * given.gates["beta"][..., None, :]
        squares = torch.einsum("bhte,bhtf->bhtef", key, key).flatten(-2)
        moments = (weight @ squares).unflatten(-1, (key.shape[-1], key.shape[-1]))
        return Mix(self._solved(moments, query) @ key.mT * weight, given.value)

    def start(self, token: MixerInput) -> State:
        """Empty moments."""
        batch, heads, _, width = token.key.shape
        return {
            "keys": token.value.new_zeros(batch, heads, width, width),
            "memory": token.value.new_zeros(batch, heads, width, token.value.shape[-1]),
        }

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Both moments after the token, then the system."""
        query, key = _unit(token.query), _unit(token.key)
        kept, written = token.gates["log_decay"].exp()[..., None], (key * token.gates["beta"][..., None]).mT
        state = {
            "keys": state["keys"] * kept + written @ key,
            "memory": state["memory"] * kept + written @ token.value,
        }
        return self._solved(state["keys"][:, :, None], query) @ state["memory"], state

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The moments of keys with keys and with values."""
        return self.shape.n_heads * self.shape.d_key * (self.shape.d_key + self.shape.d_head)

    def _solved(self, moments: Float[Tensor, "B H T E E"], query: Tensor) -> Float[Tensor, "B H T E"]:
        """``(H_t + L)^-1 q_t`` of every row."""
        ridge = torch.diag_embed(softplus(self.ridge) + self.least)[:, None]
        factor: Tensor = torch.linalg.cholesky_ex(moments + ridge)[0]
        half = torch.linalg.solve_triangular(factor, query[..., None], upper=False)
        return torch.linalg.solve_triangular(factor.mT, half, upper=True).squeeze(-1)


def _unit(x: Tensor) -> Tensor:
    return normalize(silu(x), dim=-1)
