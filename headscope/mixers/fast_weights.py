"""Memories that are small networks, trained by a gradient step at every token: not linear in the values."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, softplus

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import MixerInput, MixerShape, State
from headscope.mixers.nonlinear import Nonlinear

_EPSILON = 1e-6


class FastWeightsSettings(Config):
    """Of a memory that is a network.

    Attributes:
        hidden: width of its hidden layer, as a multiple of the key's; 0 is a linear map with a bias.
        loss: what a step lowers: ``l2``: half the squared error; ``lp``: the sum of its ``power``-th powers (Moneta);
            ``huber``: ``l2`` up to an error of a length that the stream sets, the sum of absolute errors beyond (Yaad).
        retention: how weights are kept: ``none``: as they are; ``decay``: times a forget gate; ``lq``: sums of steps
            decay, and are divided by their ``norm``-norm to the power ``norm - 2`` to make weights (Moneta); ``kl``:
            their logarithms decay, and the weights into each unit are a distribution (Memora).
        momentum: steps go on, times a gate (Titans).
        power: p of ``lp``.
        norm: q of ``lq``.
    """

    hidden: int = Field(default=2, ge=0)
    loss: Literal["l2", "lp", "huber"] = "l2"
    retention: Literal["none", "decay", "lq", "kl"] = "none"
    momentum: bool = False
    power: float = Field(default=3.0, gt=1)
    norm: float = Field(default=4.0, ge=2)


class FastWeights(Nonlinear):
    """``z_t = f(q_t; W_t)``, ``W_t = keep(W_{t-1}) - r_t grad loss(f(k_t; W_{t-1}), v_t)``, f a network of each head.

    ``f(x) = x + LN(x W + b)``, or ``x + LN(gelu(x W_1) W_2)``, with learned first weights. TTT-Linear and TTT-MLP
    (2407.04620), Titans with a deep memory (2501.00663), Moneta, Yaad and Memora (Miras, 2504.13173). Steps are taken
    token by token, never in mini-batches. Keys and queries are unit vectors. Steps have the size
    ``sigmoid(W x + b) / d_key``, as in TTT's released code, since what the network makes of a unit vector moves by some
    ``d_key`` times as much; Moneta's are not divided. Forget gates start near 1.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("rate", "log_decay", "momentum", "threshold")
    settings_type: ClassVar[type[Config]] = FastWeightsSettings

    def __init__(self, shape: MixerShape, settings: FastWeightsSettings) -> None:
        super().__init__(shape, settings)
        if shape.d_key != shape.d_head:
            raise ConfigError(f"the memory adds its input: d_key {shape.d_key} must equal d_head {shape.d_head}.")
        self.chosen = settings
        heads, width, hidden = shape.n_heads, shape.d_key, shape.d_key * settings.hidden
        sizes = [(width, hidden), (hidden, width)] if hidden else [(width, width), (1, width)]
        self.weights = nn.ParameterList(torch.randn(heads, *size) * max(size[0], 2) ** -0.5 for size in sizes)
        self.gain, self.shift = nn.Parameter(torch.ones(heads, 1, width)), nn.Parameter(torch.zeros(heads, 1, width))
        divided = settings.retention == "lq"  # by a norm of the sums, which makes steps small by itself
        self.largest_rate = 1.0 if divided else 1 / width
        self.rate = HeadLinear(shape, bias=-1.0)
        self.forget = None if settings.retention == "none" else HeadLinear(shape, bias=3.0 if divided else 5.0)
        self.going = HeadLinear(shape) if settings.momentum else None
        self.bound = HeadLinear(shape, bias=1.0) if settings.loss == "huber" else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Step size, logarithm of the decay, momentum, and the error beyond which ``huber`` is linear: (B, H, T).

        Step sizes are at most ``1 / d_key``, but for ``lq`` at most 1; the error is a softplus times ``sqrt(d_head)``.
        """
        found = {"rate": self.rate.scalar(stream).sigmoid() * self.largest_rate}
        if self.forget is not None:
            found["log_decay"] = -softplus(-self.forget.scalar(stream))
        if self.going is not None:
            found["momentum"] = self.going.scalar(stream).sigmoid()
        if self.bound is not None:
            found["threshold"] = softplus(self.bound.scalar(stream)) * self.shape.d_head**0.5
        return found

    def start(self, token: MixerInput) -> State:
        """The learned first weights; no momentum."""
        batch = token.key.shape[0]
        first = [weight.expand(batch, *weight.shape) for weight in self.weights]
        if self.chosen.retention == "kl":
            first = [weight.log_softmax(-2) for weight in first]
        state = {f"weight{index}": weight for index, weight in enumerate(first)}
        moving = {f"momentum{index}": torch.zeros_like(weight) for index, weight in enumerate(first)}
        return state | (moving if self.chosen.momentum else {})

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """One gradient step on the token's key and value, then the network on its query."""
        gates = {name: gate[..., None] for name, gate in token.gates.items()}
        kept = [state["weight0"], state["weight1"]]
        found = self._gradients([self._made(one) for one in kept], normalize(token.key, dim=-1), token.value, gates)
        after: State = {}
        for index, (one, gradient) in enumerate(zip(kept, found, strict=True)):
            change = -gates["rate"] * gradient
            if self.chosen.momentum:
                change = after[f"momentum{index}"] = gates["momentum"] * state[f"momentum{index}"] + change
            decayed = one if self.forget is None else gates["log_decay"].exp() * one
            moved = decayed + change
            after[f"weight{index}"] = moved.log_softmax(-2) if self.chosen.retention == "kl" else moved
        weights = [self._made(after["weight0"]), self._made(after["weight1"])]
        return self._network(weights, normalize(token.query, dim=-1))[0], after

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The weights of every head's network, twice with momentum."""
        return sum(weight.numel() for weight in self.weights) * (2 if self.chosen.momentum else 1)

    def _made(self, kept: Tensor) -> Tensor:
        """Weights from what is kept of them."""
        if self.chosen.retention == "kl":
            return kept.exp()
        if self.chosen.retention != "lq":
            return kept
        size = torch.linalg.vector_norm(kept, self.chosen.norm, dim=(-2, -1), keepdim=True)
        return kept / size.clamp(min=1.0) ** (self.chosen.norm - 2)

    def _network(self, weights: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Its output, and what the gradient needs: the input of the last map, normalised outputs, their deviation."""
        last = gelu(x @ weights[0]) if self.chosen.hidden else x
        out = last @ weights[1] if self.chosen.hidden else x @ weights[0] + weights[1]
        spread = (out.var(-1, correction=0, keepdim=True) + _EPSILON).sqrt()
        unit = (out - out.mean(-1, keepdim=True)) / spread
        return x + unit * self.gain + self.shift, last, unit, spread

    def _gradients(self, weights: list[Tensor], key: Tensor, value: Tensor, gates: dict[str, Tensor]) -> list[Tensor]:
        """Of the loss at one key and value, by hand, so that they can be differentiated again."""
        out, last, unit, spread = self._network(weights, key)
        slope = self._slope(out - value, gates) * self.gain
        slope = slope - slope.mean(-1, keepdim=True) - unit * (slope * unit).mean(-1, keepdim=True)
        slope = slope / spread
        if not self.chosen.hidden:
            return [key.mT @ slope, slope]
        before = key @ weights[0]
        normal = torch.exp(-before.square() / 2) * (2 * torch.pi) ** -0.5
        rise = 0.5 * (1 + torch.erf(before * 2**-0.5)) + before * normal
        return [key.mT @ (slope @ weights[1].mT * rise), last.mT @ slope]

    def _slope(self, error: Tensor, gates: dict[str, Tensor]) -> Tensor:
        """Derivative of the loss by the network's output."""
        if self.chosen.loss == "lp":
            return self.chosen.power * error.sign() * error.abs() ** (self.chosen.power - 1)
        if self.chosen.loss == "huber":
            small = torch.linalg.vector_norm(error, dim=-1, keepdim=True) <= gates["threshold"]
            return torch.where(small, error, gates["threshold"] * error.sign())
        return error
