"""The delta rule: each token first takes out what the state holds under its key, then writes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, silu, softplus

from headscope.config import Config
from headscope.mixers.decay import decayed_products, earlier_products
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, MixerInput, MixerShape
from headscope.mixers.matrix_memory import MatrixMemory, row_factor


def delta_matrix(reads: Float[Tensor, "*batch R T"], removals: Float[Tensor, "*batch T T"]) -> Tensor:
    """``reads (I + stril(removals))^-1``: M where token i writes ``u_i = v_i - sum_{j<i} removals_ij u_j``.

    Args:
        reads: weight of each ``u_j`` in each row.
        removals: weight of ``u_j`` in what token i takes out; the diagonal and above are not read.
    """
    return torch.linalg.solve_triangular(removals, reads, upper=False, left=False, unitriangular=True)


class DeltaSettings(Config):
    """Of the delta rule.

    Attributes:
        decay: what the state shrinks by at every token: nothing, one number for each head (gated DeltaNet), or one for
            each channel of the key (KDA).
        activation: of queries and keys, before they are made unit vectors.
        strength: largest beta: 1, or 2, which lets a token turn what is stored under its key into its negative.
        closed_loop: Comba: tokens take out ``p_t = sigmoid(b_h) k_t`` of the state before its decay, and queries are
            ``q_t - d_h p_t``.
    """

    decay: Literal["none", "head", "channel"] = "none"
    activation: Literal["silu", "none"] = "silu"
    strength: Literal[1, 2] = 1
    closed_loop: bool = False


class Delta(MatrixMemory):
    """``S_t = (I - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T``, ``z_t = S_t^T q_t / sqrt(d)``.

    DeltaNet without decay (2406.06484), gated DeltaNet (2412.06464) with one decay for each head, Kimi delta attention
    (2510.26692) with one for each channel; Comba (2506.02475) with ``closed_loop``. M is ``reads (I + removals)^-1
    diag(beta)``, a triangular solve. Keys and queries are unit vectors; ``a_t = exp(-exp(A_h) softplus(W x_t + b))``.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("beta", "log_decay")
    settings_type: ClassVar[type[Config]] = DeltaSettings

    def __init__(self, shape: MixerShape, settings: DeltaSettings) -> None:
        super().__init__(shape, settings)
        self.decay, self.activation, self.strength = settings.decay, settings.activation, settings.strength
        self.closed_loop = settings.closed_loop
        heads = shape.n_heads
        self.write = HeadLinear(shape)
        decays = settings.decay != "none"
        self.forget = HeadLinear(shape, shape.d_key if self.decay == "channel" else 1, bias=-2.0) if decays else None
        self.log_rate = nn.Parameter(torch.zeros(heads)) if decays else None
        self.removal = nn.Parameter(torch.ones(heads)) if self.closed_loop else None
        self.correction = nn.Parameter(torch.ones(heads)) if self.closed_loop else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """How strongly each token writes, and the logarithm of the decay: (B, H, T), or (B, H, T, E) by channel."""
        found = {"beta": self.write.scalar(stream).sigmoid() * self.strength}
        if self.forget is not None and self.log_rate is not None:
            decay = -self.log_rate.exp()[:, None, None] * softplus(self.forget(stream))
            found["log_decay"] = decay if self.decay == "channel" else decay.squeeze(-1)
        return found

    def mix(self, given: MixerInput) -> Mix:
        """Reads and removals with their decays, then the triangular solve."""
        query, key, removed = self._vectors(given)
        log_decay, beta = None if self.decay == "none" else given.gates["log_decay"], given.gates["beta"]
        products = earlier_products if self.closed_loop else decayed_products
        removals = products(removed * beta[..., None], key, log_decay)
        return Mix(delta_matrix(decayed_products(query, key, log_decay), removals) * beta[..., None, :], given.value)

    def asked(self, given: MixerInput) -> Float[Tensor, "B H T E"]:
        """Queries."""
        return self._vectors(given)[0]

    def carried(self, memory: Float[Tensor, "B H E D"], token: MixerInput) -> Float[Tensor, "B H E D"]:
        """Decay, and take out what lies under the key."""
        _, key, removed = self._vectors(token)
        decayed = memory if self.decay == "none" else memory * row_factor(token.gates["log_decay"])
        old = removed @ (memory if self.closed_loop else decayed)
        return decayed - key.mT @ (old * token.gates["beta"][..., None])

    def written(self, token: MixerInput) -> Float[Tensor, "B H E D"]:
        """``beta_t k_t v_t^T``."""
        return self._vectors(token)[1].mT @ (token.value * token.gates["beta"][..., None])

    def _vectors(self, given: MixerInput) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key, and the key that tokens take out under."""
        query, key = given.query, given.key
        if self.activation == "silu":
            query, key = silu(query), silu(key)
        query, key = normalize(query, dim=-1), normalize(key, dim=-1)
        if self.removal is None or self.correction is None:
            return query * given.scale, key, key
        removed = key * self.removal.sigmoid()[:, None, None]
        return (query - self.correction[:, None, None] * removed) * given.scale, key, removed
