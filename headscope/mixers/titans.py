"""Memories that take a gradient step at every token and stay linear in the values."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize, pad, silu

from headscope.config import Config
from headscope.mixers.decay import decay_between
from headscope.mixers.delta import delta_matrix
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class Titans(Mixer):
    """``M_t = a_t M_{t-1} + S_t``, ``S_t = n_t S_{t-1} + r_t k_t (v_t - M_{t-1}^T k_t)^T``, ``z_t = M_t^T q_t``.

    Titans (2501.00663, section 3.1) with a matrix as its memory: gradient steps of size r on ``|M^T k - v|^2 / 2``,
    with momentum n and decay a, all three sigmoids of the stream. Keys and queries are silu, then unit vectors, and z
    is divided by ``sqrt(d)``.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("rate", "log_decay", "log_momentum")

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.rate, self.forget, self.momentum = HeadLinear(shape), HeadLinear(shape, bias=3.0), HeadLinear(shape)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Step size, and the logarithms of decay and momentum: (B, H, T) each."""
        return {
            "rate": self.rate.scalar(stream).sigmoid(),
            "log_decay": logsigmoid(self.forget.scalar(stream)),
            "log_momentum": logsigmoid(self.momentum.scalar(stream)),
        }

    def mix(self, given: MixerInput) -> Mix:
        """Reads of the state after each token."""
        return Mix(self.reads(given, given.columns), given.value)

    def reads(self, given: MixerInput, after: Int[Tensor, " T"]) -> Float[Tensor, "B H T T"]:
        """M of rows that read the state after the token at ``after``, before the first one where it is -1.

        What each step still weighs in later states, then the triangular solve of the delta rule.
        """
        query, key = unit(given.query) * given.scale, unit(given.key)
        kept = decay_between(given.gates["log_decay"]) @ decay_between(given.gates["log_momentum"])
        kept = pad(kept * given.gates["rate"][..., None, :], (0, 0, 1, 0))  # row t: the state before token t
        held = kept.index_select(-2, after + 1)
        return delta_matrix(query @ key.mT * held, key @ key.mT * kept[..., :-1, :])

    def start(self, token: MixerInput) -> State:
        """An empty memory, and nothing moving."""
        batch, heads, _, width = token.key.shape
        empty = token.value.new_zeros(batch, heads, width, token.value.shape[-1])
        return {"memory": empty, "momentum": empty.clone()}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """One gradient step, then read."""
        key, gates = unit(token.key), {name: gate[..., None] for name, gate in token.gates.items()}
        error = token.value - key @ state["memory"]
        momentum = gates["log_momentum"].exp() * state["momentum"] + key.mT @ error * gates["rate"]
        memory = gates["log_decay"].exp() * state["memory"] + momentum
        return unit(token.query) * token.scale @ memory, {"memory": memory, "momentum": momentum}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """Two matrices for each head."""
        return 2 * self.shape.n_heads * self.shape.d_key * self.shape.d_head


class TitansGateSettings(Config):
    """Of Titans with attention beside the memory.

    Attributes:
        window: tokens that softmax sees, the row's own among them; made smaller for small models.
    """

    window: int = Field(default=8, ge=1)


class TitansGate(Mixer):
    """``z_t = g_t softmax_window(s)_t v + (1 - g_t) M_t^T q_t / sqrt(d)``: `Titans` beside a sliding window (MAG).

    (2501.00663, section 4.2.) ``g_t = sigmoid(W x_t + b)`` for each head, so that z is linear in the values; the paper
    multiplies the two outputs after normalising them.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = (*Titans.gate_names, "window")
    settings_type: ClassVar[type[Config]] = TitansGateSettings

    def __init__(self, shape: MixerShape, settings: TitansGateSettings) -> None:
        super().__init__(shape, settings)
        self.window, self.memory, self.choose = settings.window, Titans(shape, Config()), HeadLinear(shape)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """The memory's gates, and the share of the window: (B, H, T) each."""
        return {**self.memory.gates(stream), "window": self.choose.scalar(stream).sigmoid()}

    def mix(self, given: MixerInput) -> Mix:
        """The gated sum of both matrices."""
        share = given.gates["window"][..., None]
        seen = given.visible & (given.offsets < self.window)
        window = given.scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return Mix(share * window + (1 - share) * self.memory.mix(given).matrix, given.value)

    def start(self, token: MixerInput) -> State:
        """An empty memory and no tokens."""
        return {**self.memory.start(token), "key": token.key[:, :, :0], "value": token.value[:, :, :0]}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """One step of the memory, and softmax over the window."""
        remembered, memory = self.memory.step(state, token)
        key = torch.cat([state["key"], token.key], 2)[:, :, -self.window :]
        value = torch.cat([state["value"], token.value], 2)[:, :, -self.window :]
        scores = token.query @ key.mT * token.scale
        scores = scores if token.bias is None else scores + token.bias[..., -self.window :]
        share = token.gates["window"][..., None]
        z = share * (scores.softmax(-1) @ value) + (1 - share) * remembered
        return z, {**memory, "key": key, "value": value}

    def state_size(self, length: int) -> int:
        """The memory, and the window's keys and values."""
        return self.memory.state_size(length) + min(length, self.window) * self.shape.cached

    def kept_tokens(self, length: int) -> KeptTokens:
        """Those of the window."""
        return self.shape.kept(min(length, self.window))


class TTTSettings(Config):
    """Of test-time training with a matrix and no normalisation.

    Attributes:
        mini_batch: tokens whose gradients are taken at the same point, the state before the first of them.
    """

    mini_batch: int = Field(default=4, ge=1)


class TTT(Mixer):
    """``W_t = W_{t-1} - r_t grad |W_b^T k_t - v_t|^2 / 2``, ``z_t = W_t^T q_t / sqrt(d)``, b the start of the batch.

    TTT-Linear (2407.04620, section 2) without the normalisation and the residual of its inner model and with
    ``W_0 = 0``: linear in the values. Mini-batches of one token are the delta rule, one batch of all tokens is linear
    attention. ``r_t`` is a sigmoid of the stream; keys and queries are unit vectors.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("rate",)
    settings_type: ClassVar[type[Config]] = TTTSettings

    def __init__(self, shape: MixerShape, settings: TTTSettings) -> None:
        super().__init__(shape, settings)
        self.mini_batch, self.rate = settings.mini_batch, HeadLinear(shape, bias=-1.0)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Step size of each token: (B, H, T)."""
        return {"rate": self.rate.scalar(stream).sigmoid()}

    def mix(self, given: MixerInput) -> Mix:
        """The delta rule where tokens take out only what earlier mini-batches wrote."""
        query, key = normalize(given.query, dim=-1) * given.scale, normalize(given.key, dim=-1)
        rate, batch = given.gates["rate"][..., None, :], given.columns // self.mini_batch
        removals = (key @ key.mT) * rate * (batch[:, None] > batch)
        return Mix(delta_matrix((query @ key.mT).tril() * rate, removals), given.value)

    def start(self, token: MixerInput) -> State:
        """Empty matrices, and no token of the mini-batch read."""
        batch, heads, _, width = token.key.shape
        empty = token.value.new_zeros(batch, heads, width, token.value.shape[-1])
        return {"memory": empty, "point": empty.clone(), "read": token.value.new_zeros(batch)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """One gradient step, taken at the memory before the mini-batch."""
        key, first = normalize(token.key, dim=-1), (state["read"] == 0)[:, None, None, None]
        point = torch.where(first, state["memory"], state["point"])
        error = (token.value - key @ point) * token.gates["rate"][..., None]
        memory = state["memory"] + key.mT @ error
        read = (state["read"] + 1) % self.mini_batch
        z = normalize(token.query, dim=-1) * token.scale @ memory
        return z, {"memory": memory, "point": point, "read": read}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The matrix now and before the mini-batch, and how many of its tokens were read."""
        return 2 * self.shape.n_heads * self.shape.d_key * self.shape.d_head + 1


def unit(x: Tensor) -> Tensor:
    """silu, then length 1."""
    return normalize(silu(x), dim=-1)
