"""Attention over a few slots that tokens are written to: ABC and gated slot attention."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid, silu

from headscope.config import Config
from headscope.mixers.decay import decayed_products, log_decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class SlotsSettings(Config):
    """Of attention over slots.

    Attributes:
        slots: how many; papers take about as many as a head is wide.
        gate: ``forget``: each slot keeps ``a`` of its content and takes ``1 - a`` of the token (GSA); ``average``: each
            slot is a mean of all tokens so far, weighted by the exponential of a score (ABC).
        temperature: what the logarithm of a forget gate is divided by.
    """

    slots: int = Field(default=8, ge=1)
    gate: Literal["forget", "average"] = "forget"
    temperature: float = Field(default=8.0, gt=0)


class Slots(Mixer):
    """``p_t = softmax_m(k~_tm . q_t / sqrt(d))``, ``z_t = sum_m p_tm v~_tm``, over slots m of averaged keys and values.

    ``k~_tm = a_tm k~_{t-1,m} + w_tm k_t``, and the same for values, so that
    ``M_ij = sum_m p_im w_jm prod_{j < t <= i} a_tm``. GSA (2409.07146): ``a = sigmoid(W x)^(1/temperature)``,
    ``w = 1 - a``, on silu of queries and keys. ABC (2110.02488): ``w_t = exp(W x_t)`` over its sum so far.
    """

    kind: MatrixKind = "recurrent"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("log_decay", "slot_score")
    settings_type: ClassVar[type[Config]] = SlotsSettings

    def __init__(self, shape: MixerShape, settings: SlotsSettings) -> None:
        super().__init__(shape, settings)
        self.slots, self.temperature, self.forgets = settings.slots, settings.temperature, settings.gate == "forget"
        self.row_kind: RowKind = "substochastic" if self.forgets else "stochastic"
        self.write = HeadLinear(shape, settings.slots)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Logarithm of each slot's decay, or the score of the token for each slot: (B, H, T, slots)."""
        score = self.write(stream)
        return {"log_decay": logsigmoid(score) / self.temperature} if self.forgets else {"slot_score": score}

    def mix(self, given: MixerInput) -> Mix:
        """What queries find in the slots' keys, then how much of each token the slots they chose hold."""
        weight, log_decay, _ = self._written(given, None)
        query, key = self._shaped(given)
        between = log_decay_between(log_decay.mT).exp()
        found = torch.einsum("bhij,bhjm,bhmij->bhim", query @ key.mT, weight, between)
        return Mix(decayed_products(found.softmax(-1), weight, log_decay), given.value)

    def start(self, token: MixerInput) -> State:
        """Empty slots."""
        batch, heads, _, width = token.key.shape
        state = {
            "keys": token.value.new_zeros(batch, heads, self.slots, width),
            "values": token.value.new_zeros(batch, heads, self.slots, token.value.shape[-1]),
        }
        return (
            state if self.forgets else state | {"total": token.value.new_full((batch, heads, self.slots), -torch.inf)}
        )

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Write the token to all slots, then read them."""
        weight, log_decay, total = self._written(token, state.get("total"))
        query, key = self._shaped(token)
        kept = log_decay.exp().mT
        keys, values = state["keys"] * kept + weight.mT * key, state["values"] * kept + weight.mT * token.value
        z = (query @ keys.mT).softmax(-1) @ values
        return z, {"keys": keys, "values": values} | ({} if total is None else {"total": total})

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A key and a value of each slot; the sum of weights, where slots are averages."""
        width = self.shape.d_key + self.shape.d_head + int(not self.forgets)
        return self.shape.n_heads * self.slots * width

    def _shaped(self, given: MixerInput) -> tuple[Tensor, Tensor]:
        if self.forgets:
            return silu(given.query) * given.scale, silu(given.key)
        return given.query * given.scale, given.key

    def _written(self, given: MixerInput, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight of each token in each slot, decay of the slot, and the logarithm of all weights so far."""
        if self.forgets:
            log_decay = given.gates["log_decay"]
            return -torch.expm1(log_decay), log_decay, None
        score = given.gates["slot_score"]
        if before is not None:
            total = torch.logaddexp(before[:, :, None], score)
            return (score - total).exp(), before[:, :, None] - total, total.squeeze(2)
        total = score.logcumsumexp(2)
        log_decay = torch.cat([torch.zeros_like(total[:, :, :1]), total[:, :, :-1] - total[:, :, 1:]], 2)
        return (score - total).exp(), log_decay, None
