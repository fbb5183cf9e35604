"""Log-linear attention: one state for each of a logarithm of ever older and longer stretches of the past."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from headscope.config import Config
from headscope.mixers.delta import Delta, DeltaSettings
from headscope.mixers.gated_linear import Mamba2, Mamba2Settings
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, MixerInput, MixerShape, State
from headscope.mixers.matrix_memory import MatrixMemory

_ONE = 0.5413  # softplus of it is 1


class LogLinearSettings(Config):
    """Of log-linear attention.

    Attributes:
        rule: how each state is carried over and written to.
    """

    rule: Literal["mamba2", "gated_delta"] = "mamba2"


class LogLinear(MatrixMemory):
    """``M_ij = lambda_i[level(i, j)] M'_ij``, with M' of Mamba-2 or gated DeltaNet (2506.04761).

    Level 0 is the token itself; level l holds the ``2^(l-1)`` tokens before the last position at which i has lost its
    ``l - 1`` lowest bits, if bit ``l - 1`` of i is set (a Fenwick tree): the level is the bit length of ``i xor j``.
    Each level has a state of its own, carried by the rule; ``lambda_i = softplus(W x_i + b)`` weighs what is read of
    each. Levels above the last that ``n_ctx`` needs share its weight.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("beta", "step", "log_decay", "level")
    settings_type: ClassVar[type[Config]] = LogLinearSettings

    def __init__(self, shape: MixerShape, settings: LogLinearSettings) -> None:
        super().__init__(shape, settings)
        self.rule: MatrixMemory = (
            Mamba2(shape, Mamba2Settings(skip=False))
            if settings.rule == "mamba2"
            else Delta(shape, DeltaSettings(decay="head"))
        )
        self.last = max(shape.n_ctx - 1, 1).bit_length()
        self.weigh = HeadLinear(shape, self.last + 1, bias=_ONE)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """The rule's gates, and the weight of each level: (B, H, T, levels)."""
        return {**self.rule.gates(stream), "level": softplus(self.weigh(stream))}

    def mix(self, given: MixerInput) -> Mix:
        """The rule's matrix times the weight of each cell's level."""
        mix = self.rule.mix(given)
        levels = fenwick_levels(given.columns).clamp(max=self.last).expand_as(mix.matrix)
        return Mix(mix.matrix * given.gates["level"].gather(-1, levels), given.value)

    def asked(self, given: MixerInput) -> Float[Tensor, "B H T E"]:
        """The rule's queries."""
        return self.rule.asked(given)

    def carried(self, memory: Float[Tensor, "B H E D"], token: MixerInput) -> Float[Tensor, "B H E D"]:
        """As the rule."""
        return self.rule.carried(memory, token)

    def written(self, token: MixerInput) -> Float[Tensor, "B H E D"]:
        """As the rule."""
        return self.rule.written(token)

    def start(self, token: MixerInput) -> State:  # noqa: ARG002
        """No stretches."""
        return {}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Carry every stretch over, read them all, then join stretches of equal length as a counter carries digits."""
        query, new, weight = self.asked(token), self.written(token), token.gates["level"]
        state = {digit: self.carried(memory, token) for digit, memory in state.items()}
        z = weight[..., :1] * (query @ new)
        for digit, memory in state.items():
            level = min(int(digit) + 1, self.last)
            z = z + weight[..., level : level + 1] * (query @ memory)
        digit = 0
        while str(digit) in state:
            new = new + state.pop(str(digit))
            digit += 1
        return z, {**state, str(digit): new}

    def state_size(self, length: int) -> int:
        """A matrix for each head and each digit 1 of ``length`` in binary."""
        return length.bit_count() * super().state_size(length)


def fenwick_levels(positions: Int[Tensor, " T"]) -> Int[Tensor, "T T"]:
    """Number of binary digits of ``i xor j``."""
    differing = positions[:, None] ^ positions[None, :]
    powers = 2 ** torch.arange(31, device=positions.device)
    return (differing[..., None] >= powers).sum(-1)
