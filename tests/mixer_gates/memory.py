"""Gates of memories that take a gradient step at every token."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor

from tests.mixer_gates import Formula, Gates, affine, log_sigmoid, number, sigmoid, softplus

_WIDTH = 8  # of the heads under test


def titans(mixer: Any, stream: Tensor) -> Gates:
    """Step size theta, what is kept (1 - alpha) and momentum eta: three sigmoids of each head."""
    return {
        "rate": sigmoid(number(mixer.rate, stream)),
        "log_decay": log_sigmoid(number(mixer.forget, stream)),
        "log_momentum": log_sigmoid(number(mixer.momentum, stream)),
    }


def titans_gate(mixer: Any, stream: Tensor) -> Gates:
    return titans(mixer.memory, stream) | {"window": sigmoid(number(mixer.choose, stream))}


def titans_context(mixer: Any, stream: Tensor) -> Gates:
    return titans(mixer.memory, stream) | {"context_key": affine(mixer.context_key, stream)}


def step_size(mixer: Any, stream: Tensor, *, largest: float = 1 / _WIDTH) -> Gates:
    """``sigmoid(W x + b) / d`` of a network of width d, as TTT has it; plain ``sigmoid(W x + b)`` without a network."""
    return {"rate": largest * sigmoid(number(mixer.rate, stream))}


def decaying(mixer: Any, stream: Tensor, *, largest: float = 1 / _WIDTH) -> Gates:
    return step_size(mixer, stream, largest=largest) | {"log_decay": log_sigmoid(number(mixer.forget, stream))}


def titans_network(mixer: Any, stream: Tensor) -> Gates:
    return decaying(mixer, stream) | {"momentum": sigmoid(number(mixer.going, stream))}


def yaad(mixer: Any, stream: Tensor) -> Gates:
    """The error beyond which the loss is linear, as a length in d channels."""
    return decaying(mixer, stream) | {"threshold": softplus(number(mixer.bound, stream)) * math.sqrt(_WIDTH)}


FORMULAS: dict[str, Formula] = {
    "titans-linear": titans,
    "titans-mag": titans_gate,
    "titans-mac": titans_context,
    "titans-mlp": titans_network,
    "ttt-linear-plain": partial(step_size, largest=1.0),
    "ttt-linear": step_size,
    "ttt-mlp": step_size,
    "moneta": partial(decaying, largest=1.0),
    "yaad": yaad,
    "memora": decaying,
}
