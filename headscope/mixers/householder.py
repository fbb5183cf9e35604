"""DeltaProduct: several steps of the delta rule for each token."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, silu, softplus

from headscope.config import Config
from headscope.mixers.decay import decayed_products
from headscope.mixers.delta import delta_matrix
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, MixerInput, MixerShape
from headscope.mixers.matrix_memory import MatrixMemory, row_factor


class DeltaProductSettings(Config):
    """Of DeltaProduct.

    Attributes:
        steps: steps for each token.
        decay: what the state shrinks by before them: nothing, or one number for each head.
    """

    steps: int = Field(default=2, ge=2)
    decay: Literal["none", "head"] = "head"


class DeltaProduct(MatrixMemory):
    """``S <- a_t S``, then n steps ``S <- (I - b k k^T) S + b k v^T`` for each token, ``z_t = S^T q_t`` (2502.10297).

    Every step has its own unit key k, value v and ``0 < b < 2``. The first step's key and value are the head's own.
    Those of later steps come straight from the stream (gates ``step_key`` and ``step_value``), and their values are
    extra columns of M, step by step, each standing for its token.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("step_key", "step_value", "beta", "log_decay")
    settings_type: ClassVar[type[Config]] = DeltaProductSettings

    def __init__(self, shape: MixerShape, settings: DeltaProductSettings) -> None:
        super().__init__(shape, settings)
        self.steps, more = settings.steps, settings.steps - 1
        self.more_keys, self.more_values = HeadLinear(shape, more * shape.d_key), HeadLinear(shape, more * shape.d_head)
        self.write = HeadLinear(shape, settings.steps)
        decays = settings.decay == "head"
        self.forget = HeadLinear(shape, bias=-2.0) if decays else None
        self.log_rate = nn.Parameter(torch.zeros(shape.n_heads)) if decays else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Keys and values of the later steps (B, H, T, n - 1, width), beta (B, H, T, n), log decay (B, H, T)."""
        more = self.steps - 1
        found = {
            "step_key": self.more_keys(stream).unflatten(-1, (more, -1)),
            "step_value": self.more_values(stream).unflatten(-1, (more, -1)),
            "beta": self.write(stream).sigmoid() * 2,
        }
        if self.forget is not None and self.log_rate is not None:
            found["log_decay"] = -self.log_rate.exp()[:, None] * softplus(self.forget.scalar(stream))
        return found

    def mix(self, given: MixerInput) -> Mix:
        """The delta rule on n steps for each token, read after the last; columns of later steps are put behind."""
        size, steps = given.key.shape[2], self.steps
        key, beta = self._keys(given).flatten(2, 3), given.gates["beta"].flatten(2)
        query = self.asked(given).repeat_interleave(steps, 2)
        log_decay = given.gates.get("log_decay")
        if log_decay is not None:
            log_decay = pad(log_decay[..., None], (0, steps - 1)).flatten(2)
        reads = decayed_products(query, key, log_decay)[..., steps - 1 :: steps, :]
        removals = decayed_products(key * beta[..., None], key, log_decay)
        matrix = delta_matrix(reads, removals) * beta[..., None, :]
        matrix = matrix.unflatten(-1, (size, steps)).transpose(-1, -2).flatten(-2)
        value = torch.cat([given.value, *given.gates["step_value"].unbind(3)], 2)
        return Mix(
            matrix,
            value,
            columns=("summary",) * (size * (steps - 1)),
            column_positions=tuple(range(size)) * (steps - 1),
        )

    def asked(self, given: MixerInput) -> Float[Tensor, "B H T E"]:
        """Unit queries."""
        return normalize(silu(given.query), dim=-1) * given.scale

    def carried(self, memory: Float[Tensor, "B H E D"], token: MixerInput) -> Float[Tensor, "B H E D"]:
        """Decay, then take out under each key in turn."""
        log_decay = token.gates.get("log_decay")
        memory = memory if log_decay is None else memory * row_factor(log_decay)
        for key, beta in self._token_steps(token):
            memory = memory - key.mT @ (key @ memory) * beta
        return memory

    def written(self, token: MixerInput) -> Float[Tensor, "B H E D"]:
        """What the steps write, each taking out of what the steps before it wrote."""
        memory = torch.zeros_like(token.key.mT @ token.value)
        values = (token.value, *token.gates["step_value"].unbind(3))
        for (key, beta), value in zip(self._token_steps(token), values, strict=True):
            memory = memory + key.mT @ (value - key @ memory) * beta
        return memory

    def _keys(self, given: MixerInput) -> Float[Tensor, "B H T n E"]:
        return normalize(silu(torch.cat([given.key[:, :, :, None], given.gates["step_key"]], 3)), dim=-1)

    def _token_steps(self, token: MixerInput) -> list[tuple[Tensor, Tensor]]:
        """Key and strength of every step of one token."""
        keys, beta = self._keys(token).unbind(3), token.gates["beta"].unbind(3)
        return [(key, one[..., None]) for key, one in zip(keys, beta, strict=True)]
