"""Linear attention whose state forgets: one decay for each head, or one for each channel of the key."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu, softplus

from headscope.config import Config
from headscope.mixers.decay import decayed_products, earlier_products
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, MixerInput, MixerShape, State
from headscope.mixers.matrix_memory import MatrixMemory, row_factor


@dataclass(frozen=True)
class Parts:
    """What a decaying state is made of.

    Attributes:
        query: what reads it.
        key: what writes to it, times how strongly.
        log_decay: (B, H, T), or (B, H, T, E) by channel.
        own: weight of each token's own value beside the state (a skip, a bonus), or None.
    """

    query: Float[Tensor, "B H T E"]
    key: Float[Tensor, "B H T E"]
    log_decay: Tensor
    own: Float[Tensor, "B H T"] | None = None


class Decaying(MatrixMemory):
    """``S_t = diag(a_t) S_{t-1} + k_t v_t^T``, ``z_t = S_t^T q_t + own_t v_t``; the base of gated linear attention.

    q is the query over ``sqrt(d)``. ``M_ij = sum_e q_ie k_je prod_{j < t <= i} a_te``: one matrix for each head,
    although decays differ by channel of the key, plus ``own`` on the diagonal.

    Attributes:
        reads_before: rows read ``S_{t-1}``, so that the diagonal is ``own`` alone.
    """

    reads_before: ClassVar[bool] = False

    @abstractmethod
    def parts(self, given: MixerInput) -> Parts:
        """Queries, keys and decays."""

    def mix(self, given: MixerInput) -> Mix:
        """Products of queries, keys and the decays between them."""
        parts = self.parts(given)
        products = earlier_products if self.reads_before else decayed_products
        matrix = products(parts.query, parts.key, parts.log_decay)
        return Mix(matrix if parts.own is None else matrix + torch.diag_embed(parts.own), given.value)

    def asked(self, given: MixerInput) -> Float[Tensor, "B H T E"]:
        """Queries."""
        return self.parts(given).query

    def carried(self, memory: Float[Tensor, "B H E D"], token: MixerInput) -> Float[Tensor, "B H E D"]:
        """Decay."""
        return memory * row_factor(self.parts(token).log_decay)

    def written(self, token: MixerInput) -> Float[Tensor, "B H E D"]:
        """``k_t v_t^T``."""
        return self.parts(token).key.mT @ token.value

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """As every matrix memory, plus the token's own value."""
        z, after = super().step(state, token)
        if self.reads_before:
            z = self.asked(token) @ state["memory"]
        own = self.parts(token).own
        return z if own is None else z + own[..., None] * token.value, after


class GatedLinearSettings(Config):
    """Of gated linear attention.

    Attributes:
        decay: one for each channel of the key (GLA), or one for each head.
        temperature: what log decays are divided by: the larger, the longer the memory.
    """

    decay: Literal["channel", "head"] = "channel"
    temperature: float = Field(default=16.0, gt=0)


class GatedLinear(Decaying):
    """`Decaying` with ``log a_t = logsigmoid(W x_t + b) / temperature`` (GLA, 2312.06635)."""

    gate_names: ClassVar[tuple[str, ...]] = ("log_decay",)
    settings_type: ClassVar[type[Config]] = GatedLinearSettings

    def __init__(self, shape: MixerShape, settings: GatedLinearSettings) -> None:
        super().__init__(shape, settings)
        self.decay, self.temperature = settings.decay, settings.temperature
        self.forget = HeadLinear(shape, shape.d_key if self.decay == "channel" else 1)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of the decay, at most 0: (B, H, T, E), or (B, H, T) for each head."""
        decay = logsigmoid(self.forget(stream)) / self.temperature
        return {"log_decay": decay if self.decay == "channel" else decay.squeeze(-1)}

    def parts(self, given: MixerInput) -> Parts:
        """Queries and keys as they come."""
        return Parts(given.query * given.scale, given.key, given.gates["log_decay"])


class Mamba2Settings(Config):
    """Of Mamba-2.

    Attributes:
        skip: a learned multiple D of each token's own value is added, on the diagonal of M.
    """

    skip: bool = True


class Mamba2(Decaying):
    """``S_t = exp(-A_h dt_t) S_{t-1} + dt_t B_t x_t^T``, ``y_t = S_t^T C_t + D_h x_t`` (SSD, 2405.21060).

    C is the query over ``sqrt(d)``, B the key, x the value; ``dt_t = softplus(W x_t + b)`` and
    ``A_h = exp(log_rate_h)`` of each head.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("step", "log_decay")
    settings_type: ClassVar[type[Config]] = Mamba2Settings

    def __init__(self, shape: MixerShape, settings: Mamba2Settings) -> None:
        super().__init__(shape, settings)
        self.time = HeadLinear(shape, bias=-2.0)
        self.log_rate = nn.Parameter(torch.linspace(0.0, 1.0, shape.n_heads))
        self.skip = nn.Parameter(torch.ones(shape.n_heads)) if settings.skip else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """The step dt, and the logarithm of the decay that it makes: (B, H, T) each."""
        step = softplus(self.time.scalar(stream))
        return {"step": step, "log_decay": -self.log_rate.exp()[:, None] * step}

    def parts(self, given: MixerInput) -> Parts:
        """Keys times the step."""
        step = given.gates["step"]
        own = None if self.skip is None else self.skip[:, None].expand_as(step)
        return Parts(given.query * given.scale, given.key * step[..., None], given.gates["log_decay"], own)


class RWKV6Settings(Config):
    """Of RWKV-5 and RWKV-6.

    Attributes:
        dynamic: decays depend on the token (RWKV-6); if not, each channel has a constant one (RWKV-5).
    """

    dynamic: bool = True


class RWKV6(Decaying):
    """``z_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t``, ``S_t = diag(w_t) S_{t-1} + k_t v_t^T`` (2404.05892).

    The query is the receptance r, over ``sqrt(d)``; ``w_t = exp(-exp(d + W x_t))``, in RWKV-5 without ``W x_t``;
    the bonus u is what a token gives itself.

    Attributes:
        W_forget: W, (head, d_model, d_key), or None in RWKV-5.
        base: d.
        bonus: u.
    """

    reads_before: ClassVar[bool] = True
    gate_names: ClassVar[tuple[str, ...]] = ("log_decay",)
    settings_type: ClassVar[type[Config]] = RWKV6Settings

    def __init__(self, shape: MixerShape, settings: RWKV6Settings) -> None:
        super().__init__(shape, settings)
        heads, width = shape.n_heads, shape.d_key
        weight = torch.randn(heads, shape.d_model, width) * 0.3 * shape.d_model**-0.5
        self.W_forget = nn.Parameter(weight) if settings.dynamic else None
        self.base = nn.Parameter(torch.linspace(-4.0, 0.0, width).repeat(heads, 1))
        self.bonus = nn.Parameter(torch.full((heads, width), 0.5))

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of the decay of each channel: (B, H, T, E)."""
        batch, size, _ = stream.shape
        rate = self.base[:, None].expand(batch, -1, size, -1)
        if self.W_forget is not None:
            rate = rate + torch.einsum("btm,hme->bhte", stream, self.W_forget)
        kept = rate.clamp(max=20)  # beyond it nothing is kept anyway, and gradients are no numbers
        return {"log_decay": -kept.exp()}

    def parts(self, given: MixerInput) -> Parts:
        """The bonus as the weight of a token's own value."""
        query = given.query * given.scale
        own = (query * self.bonus[:, None] * given.key).sum(-1)
        return Parts(query, given.key, given.gates["log_decay"], own)


class HGRN2(Decaying):
    """``S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T``, ``z_t = S_t^T silu(q_t)`` (HGRN2, 2404.07904).

    The key is what forget gates are made of: ``f_t = l + (1 - l) sigmoid(k_t)``, with a learned lower bound l.
    """

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.bound = nn.Parameter(torch.full((shape.n_heads, shape.d_key), -2.0))

    def parts(self, given: MixerInput) -> Parts:
        """What is not kept is written."""
        forgotten = (-self.bound).sigmoid()[:, None] * (-given.key).sigmoid()
        return Parts(silu(given.query) * given.scale, forgotten, torch.log1p(-forgotten))
