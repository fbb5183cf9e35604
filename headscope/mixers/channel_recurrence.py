"""Recurrences with one number as the state of each channel: minGRU, minLSTM, HGRN, RG-LRU."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from headscope.config import Config
from headscope.mixers.decay import decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind

_SMALL = 1e-12


class ChannelRecurrence(Mixer):
    """``h_t = a_t * h_{t-1} + b_t * v_t``, ``z_t = h_t``, channel by channel.

    ``M_ij = b_j prod_{j < t <= i} a_t``. Neither a nor b depends on h, so M is exact.
    """

    kind: MatrixKind = "per_channel"
    streams: bool = True
    row_kind: RowKind = "substochastic"
    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False

    @abstractmethod
    def parts(self, given: MixerInput) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """``log a_t`` and ``b_t``."""

    def mix(self, given: MixerInput) -> Mix:
        """What each token writes, times the decays since."""
        log_decay, write = self.parts(given)
        return Mix(decay_between(log_decay.mT) * write.mT[..., None, :], given.value)

    def start(self, token: MixerInput) -> State:
        """Zeros."""
        return {"memory": torch.zeros_like(token.value[:, :, 0])}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Decay and write."""
        log_decay, write = self.parts(token)
        memory = log_decay.exp()[:, :, 0] * state["memory"] + (write * token.value)[:, :, 0]
        return memory[:, :, None], {"memory": memory}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A number for each channel."""
        return self.shape.n_heads * self.shape.d_head


class MinimalGatedSettings(Config):
    """Of gated units whose gates read no state.

    Attributes:
        gates: ``one``: an update gate z (minGRU, HGRN); ``two``: a forget and an input gate (minLSTM).
        bound: what is kept is at least a learned share of each channel (HGRN's lower bound).
    """

    gates: Literal["one", "two"] = "one"
    bound: bool = False


class MinimalGated(ChannelRecurrence):
    """``h_t = f_t h_{t-1} + (1 - f_t) v_t`` with a gate of each channel that reads the token alone.

    minGRU: ``f = 1 - sigmoid(W x)`` (Feng et al. 2024, 2410.01201, section 3.1). minLSTM: ``f = f' / (f' + i')`` of two
    sigmoids (section 3.2). HGRN: ``f = l + (1 - l) sigmoid(W x)`` with a learned lower bound l (2311.04823, section 3).

    Attributes:
        lower: l before its sigmoid, or None.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("log_decay",)
    settings_type: ClassVar[type[Config]] = MinimalGatedSettings

    def __init__(self, shape: MixerShape, settings: MinimalGatedSettings) -> None:
        super().__init__(shape, settings)
        self.forget = HeadLinear(shape, shape.d_head, bias=1.0)
        self.write = HeadLinear(shape, shape.d_head) if settings.gates == "two" else None
        self.lower = nn.Parameter(torch.full((shape.n_heads, shape.d_head), -2.0)) if settings.bound else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of what each channel keeps."""
        keep = self.forget(stream)
        if self.write is not None:
            keep = logsigmoid(keep) - logsigmoid(self.write(stream))
        if self.lower is None:
            return {"log_decay": logsigmoid(keep)}
        return {"log_decay": torch.log1p(-(-self.lower).sigmoid()[:, None] * (-keep).sigmoid())}

    def parts(self, given: MixerInput) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """What is not kept is written."""
        log_decay = given.gates["log_decay"]
        return log_decay, -torch.expm1(log_decay)


class RGLRUSettings(Config):
    """Of the real-gated linear recurrent unit.

    Attributes:
        sharpness: the constant c that log decays are multiplied by.
    """

    sharpness: float = Field(default=8.0, gt=0)


class RGLRU(ChannelRecurrence):
    """``h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t * v_t)``, ``log a_t = -c softplus(L) r_t`` (2402.19427, section 2.4).

    ``r_t = sigmoid(W_a x_t + b_a)`` and ``i_t = sigmoid(W_x x_t + b_x)``; L is learned for each channel.

    Attributes:
        rate: L.
    """

    row_kind: RowKind = "positive"
    gate_names: ClassVar[tuple[str, ...]] = ("log_decay", "input")
    settings_type: ClassVar[type[Config]] = RGLRUSettings

    def __init__(self, shape: MixerShape, settings: RGLRUSettings) -> None:
        super().__init__(shape, settings)
        self.sharpness = settings.sharpness
        self.recurrence, self.input = HeadLinear(shape, shape.d_head), HeadLinear(shape, shape.d_head)
        fastest = torch.rand(shape.n_heads, shape.d_head) * (0.999 - 0.9) + 0.9  # a where r is 1
        self.rate = nn.Parameter((-fastest.log() / settings.sharpness).expm1().log())

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of the decay, and the input gate, of each channel."""
        log_decay = -self.sharpness * softplus(self.rate)[:, None] * self.recurrence(stream).sigmoid()
        return {"log_decay": log_decay, "input": self.input(stream).sigmoid()}

    def parts(self, given: MixerInput) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """Inputs are scaled so that the state keeps its variance."""
        log_decay = given.gates["log_decay"]
        room = -torch.expm1(2 * log_decay)
        return log_decay, room.clamp_min(_SMALL).sqrt() * given.gates["input"]
