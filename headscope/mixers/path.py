"""PaTH: softmax whose scores pass the key through a reflection at every token on the way to the query."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from headscope.config import Config
from headscope.mixers.decay import log_decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class PathSettings(Config):
    """Of PaTH.

    Attributes:
        forget: scores also lose ``-log f_t`` at every token between key and query (PaTH-FoX).
    """

    forget: bool = False


class Path(Mixer):
    """``M = softmax(s)``, ``s_ij = q_i^T H_i H_{i-1} ... H_{j+1} k_j / sqrt(d)``, ``H_t = I - b_t w_t w_t^T``.

    (PaTH, 2505.16381.) w is a unit vector and ``b_t = 2 sigmoid(W x_t + b)``, both read off the stream. All products
    together are one triangular solve.
    """

    kind: MatrixKind = "explicit"
    row_kind: RowKind = "stochastic"
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("direction", "beta", "log_decay")
    settings_type: ClassVar[type[Config]] = PathSettings

    def __init__(self, shape: MixerShape, settings: PathSettings) -> None:
        super().__init__(shape, settings)
        self.direction, self.strength = HeadLinear(shape, shape.d_key), HeadLinear(shape)
        self.forget = HeadLinear(shape, bias=3.0) if settings.forget else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """The reflections' directions (B, H, T, E) and strengths (B, H, T), and the logarithm of the forget gate."""
        found = {
            "direction": normalize(self.direction(stream), dim=-1),
            "beta": self.strength.scalar(stream).sigmoid() * 2,
        }
        return found if self.forget is None else found | {"log_decay": logsigmoid(self.forget.scalar(stream))}

    def mix(self, given: MixerInput) -> Mix:
        """Scores less what the reflections change, then softmax."""
        direction, beta = given.gates["direction"], given.gates["beta"][..., None]
        between = (direction * beta) @ direction.mT
        met = (direction * beta @ given.key.mT).tril(-1)
        change = torch.linalg.solve_triangular(between, met, upper=False, unitriangular=True)
        scores = given.query @ given.key.mT - (given.query @ direction.mT).tril() @ change
        scores = scores * given.scale
        if "log_decay" in given.gates:
            scores = scores + log_decay_between(given.gates["log_decay"]).masked_fill(~given.visible, 0.0)
        scores = scores if given.bias is None else scores + given.bias
        scores = scores if given.edit_scores is None else given.edit_scores(scores)
        return Mix(scores.masked_fill(~given.visible, -torch.inf).softmax(-1), given.value)

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        state = {"key": token.key[:, :, :0], "value": token.value[:, :, :0]}
        return state | ({"decay": token.gates["log_decay"][:, :, :0]} if self.forget is not None else {})

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Reflect all keys in the cache, append the token, softmax."""
        direction, beta = token.gates["direction"], token.gates["beta"][..., None]
        key = state["key"] - (state["key"] @ direction.mT) * beta * direction
        state = dict(state, key=torch.cat([key, token.key], 2), value=torch.cat([state["value"], token.value], 2))
        scores = token.query @ state["key"].mT * token.scale
        if "decay" in state:
            new = token.gates["log_decay"]
            state["decay"] = torch.cat([state["decay"] + new, torch.zeros_like(new)], 2)
            scores = scores + state["decay"][:, :, None]
        scores = scores if token.bias is None else scores + token.bias
        return scores.softmax(-1) @ state["value"], state

    def state_size(self, length: int) -> int:
        """Each head's reflected key of every token, its value, and with ``forget`` its decay so far."""
        values = (self.shape.value_heads or self.shape.n_heads) * self.shape.d_head
        return length * (self.shape.n_heads * (self.shape.d_key + int(self.forget is not None)) + values)

    def kept_tokens(self, length: int) -> KeptTokens:
        """The values; keys are reflected."""
        return replace(self.shape.kept(length), keys=0)
