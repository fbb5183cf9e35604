"""RWKV-7: a decay for each channel plus a change of rank one."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from headscope.config import Config
from headscope.mixers.decay import decayed_products, earlier_products
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, MixerInput, MixerShape, State
from headscope.mixers.matrix_memory import MatrixMemory, row_factor

_FASTEST = -0.6065306597126334  # -exp(-1/2)


class RWKV7Settings(Config):
    """Of RWKV-7.

    Attributes:
        bonus: a token's own value is added, weighted by ``r_t . (u * k_t)``.
    """

    bonus: bool = True


class RWKV7(MatrixMemory):
    """``S_t = (diag(w_t) - (a_t * g_t) g_t^T) S_{t-1} + k~_t v_t^T``, ``z_t = S_t^T r_t + (r_t . (u * k~_t)) v_t``.

    The query is the receptance r; ``g = unit(k * xi)`` is the key that is taken out, ``k~ = k * (1 + alpha (a - 1))``
    the one that is written, ``a_t = sigmoid(W_a x_t)`` the learning rate of each channel, and
    ``log w_t = -exp(-1/2) sigmoid(W_w x_t)`` (2503.14456). With u_i what token i takes out,
    M = ``A_rk - A_rb (I + A_gb)^-1 A_gk``.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("log_decay", "rate")
    settings_type: ClassVar[type[Config]] = RWKV7Settings

    def __init__(self, shape: MixerShape, settings: RWKV7Settings) -> None:
        super().__init__(shape, settings)
        heads, width = shape.n_heads, shape.d_key
        self.forget = HeadLinear(shape, width, bias=-2.0)
        self.rate = HeadLinear(shape, width)
        self.removal = nn.Parameter(torch.full((heads, width), 0.7))
        self.replacement = nn.Parameter(torch.ones(heads, width))
        self.bonus = nn.Parameter(torch.full((heads, width), 0.1)) if settings.bonus else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of the decay, and the learning rate, of each channel: (B, H, T, E)."""
        return {"log_decay": _FASTEST * self.forget(stream).sigmoid(), "rate": self.rate(stream).sigmoid()}

    def mix(self, given: MixerInput) -> Mix:
        """What is written, less what later tokens take out of it."""
        query, log_decay = self.asked(given), given.gates["log_decay"]
        removed, key = self._keys(given)
        change = removed * given.gates["rate"]
        taken = earlier_products(removed, change, log_decay)  # of what was taken out before: it is not there
        held = earlier_products(removed, key, log_decay)
        taken_out = torch.linalg.solve_triangular(taken, held, upper=False, unitriangular=True)
        matrix = decayed_products(query, key, log_decay) - decayed_products(query, change, log_decay) @ taken_out
        own = self._own(given)
        return Mix(matrix if own is None else matrix + torch.diag_embed(own), given.value)

    def asked(self, given: MixerInput) -> Float[Tensor, "B H T E"]:
        """Receptances."""
        return given.query * given.scale

    def carried(self, memory: Float[Tensor, "B H E D"], token: MixerInput) -> Float[Tensor, "B H E D"]:
        """Decay, and take out what lies under the removal key, at each channel's rate."""
        removed, _ = self._keys(token)
        change = removed * token.gates["rate"]
        return memory * row_factor(token.gates["log_decay"]) - change.mT @ (removed @ memory)

    def written(self, token: MixerInput) -> Float[Tensor, "B H E D"]:
        """``k~_t v_t^T``."""
        return self._keys(token)[1].mT @ token.value

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """As every matrix memory, plus the bonus."""
        z, state = super().step(state, token)
        own = self._own(token)
        return z if own is None else z + own[..., None] * token.value, state

    def _keys(self, given: MixerInput) -> tuple[Tensor, Tensor]:
        """The key that is taken out, and the one that is written."""
        removed = normalize(given.key * self.removal[:, None], dim=-1)
        return removed, given.key * (1 + self.replacement[:, None] * (given.gates["rate"] - 1))

    def _own(self, given: MixerInput) -> Tensor | None:
        if self.bonus is None:
            return None
        return (self.asked(given) * self.bonus[:, None] * self._keys(given)[1]).sum(-1)
