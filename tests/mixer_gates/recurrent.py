"""Gates of recurrences whose state is a matrix for each head."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.mixer_gates import Formula, Gates, affine, log_sigmoid, number, sigmoid, softplus, unit


def mamba_decay(mixer: Any, x: Tensor) -> Tensor:
    """``-exp(A_h) softplus(x)``, one A for each head, of x (batch, head, token) or wider (Mamba-2, gated DeltaNet)."""
    rate = torch.exp(mixer.log_rate)
    return torch.stack([-rate[h] * softplus(x[:, h]) for h in range(len(rate))], 1)


def delta(mixer: Any, stream: Tensor, *, largest: float = 1.0, decay: str = "none") -> Gates:
    """``0 < beta < largest``; gated DeltaNet has one decay for each head, KDA one for each channel of the key."""
    found = {"beta": largest * sigmoid(number(mixer.write, stream))}
    if decay == "none":
        return found
    read = number if decay == "head" else affine
    return found | {"log_decay": mamba_decay(mixer, read(mixer.forget, stream))}


def mamba2(mixer: Any, stream: Tensor) -> Gates:
    step = softplus(number(mixer.time, stream))
    return {"step": step, "log_decay": mamba_decay(mixer, number(mixer.time, stream))}


def gated_linear(mixer: Any, stream: Tensor) -> Gates:
    """``a = sigmoid(W x + b)^(1/16)`` of each channel."""
    return {"log_decay": torch.log(sigmoid(affine(mixer.forget, stream)) ** (1 / 16))}


def gated_linear_scalar(mixer: Any, stream: Tensor) -> Gates:
    return {"log_decay": gated_linear(mixer, stream)["log_decay"][..., 0]}


def rwkv6(mixer: Any, stream: Tensor) -> Gates:
    """``w = exp(-exp(d + W x))``."""
    products = torch.stack([stream @ weight for weight in mixer.W_forget], dim=1)
    return {"log_decay": -torch.exp(mixer.base[:, None] + products)}


def rwkv5(mixer: Any, stream: Tensor) -> Gates:
    """The same w for all tokens."""
    rate = torch.exp(mixer.base)[:, None].repeat(len(stream), 1, stream.shape[1], 1)
    return {"log_decay": -rate}


def rwkv7(mixer: Any, stream: Tensor) -> Gates:
    """``w = exp(-e^(-1/2) sigmoid(W_w x))``, ``a = sigmoid(W_a x)``: no channel loses more than 45.5% at a token."""
    forget = torch.exp(-math.exp(-0.5) * sigmoid(affine(mixer.forget, stream)))
    return {"log_decay": torch.log(forget), "rate": sigmoid(affine(mixer.rate, stream))}


def longhorn(mixer: Any, stream: Tensor) -> Gates:
    """beta of each channel of the value."""
    return {"beta": sigmoid(affine(mixer.strength, stream))}


def longhorn_head(mixer: Any, stream: Tensor) -> Gates:
    return {"beta": sigmoid(number(mixer.strength, stream))}


def mlstm(mixer: Any, stream: Tensor) -> Gates:
    """``i = exp(W x + b)``, ``f = sigmoid(W x + b)``."""
    write, forget = torch.exp(number(mixer.input, stream)), sigmoid(number(mixer.forget, stream))
    return {"log_input": torch.log(write), "log_decay": torch.log(forget)}


def mesa(mixer: Any, stream: Tensor) -> Gates:
    return {"beta": sigmoid(number(mixer.write, stream)), "log_decay": log_sigmoid(number(mixer.forget, stream))}


def log_linear(mixer: Any, stream: Tensor, *, rule: Formula) -> Gates:
    """The gates of the rule, and ``lambda = softplus(W x + b)`` of 1 + 5 levels, as many as 32 tokens have."""
    level = softplus(affine(mixer.weigh, stream))
    assert level.shape[-1] == 6
    return {**rule(mixer.rule, stream), "level": level}


def path(mixer: Any, stream: Tensor) -> Gates:
    """Unit vectors w and ``b = 2 sigmoid(W x + b)``: a reflection can turn w into its negative."""
    return {
        "direction": unit(affine(mixer.direction, stream)),
        "beta": 2 * sigmoid(number(mixer.strength, stream)),
    }


def path_fox(mixer: Any, stream: Tensor) -> Gates:
    return path(mixer, stream) | {"log_decay": log_sigmoid(number(mixer.forget, stream))}


def delta_former(mixer: Any, stream: Tensor) -> Gates:
    return {"beta": sigmoid(number(mixer.strength, stream))}


def gated_slots(mixer: Any, stream: Tensor) -> Gates:
    """``a = sigmoid(W x)^(1/8)`` of each slot."""
    return {"log_decay": torch.log(sigmoid(affine(mixer.write, stream)) ** (1 / 8))}


def bounded_memory(mixer: Any, stream: Tensor) -> Gates:
    """Slots take tokens with ``exp(W x)``: the score has no bound."""
    return {"slot_score": affine(mixer.write, stream)}


def delta_product(mixer: Any, stream: Tensor) -> Gates:
    """One more key and value beside the head's own, and two numbers ``0 < beta < 2``."""
    return {
        "step_key": affine(mixer.more_keys, stream)[..., None, :],
        "step_value": affine(mixer.more_values, stream)[..., None, :],
        "beta": 2 * sigmoid(affine(mixer.write, stream)),
    }


def gated_delta_product(mixer: Any, stream: Tensor) -> Gates:
    return delta_product(mixer, stream) | {"log_decay": mamba_decay(mixer, number(mixer.forget, stream))}


def cell(mixer: Any, stream: Tensor) -> Gates:
    """``W x + b`` of each gate of an LSTM: its function comes after ``R h`` is added."""
    return {name: affine(mixer.read[name], stream) for name in ("input", "forget", "output")}


def both_ways(mixer: Any, stream: Tensor) -> Gates:
    back = cell(mixer.backward_cell, stream)
    return cell(mixer.onward, stream) | {f"back_{name}": gate for name, gate in back.items()}


gated_delta = partial(delta, decay="head")

FORMULAS: dict[str, Formula] = {
    "delta": delta,
    "delta-negative": partial(delta, largest=2.0),
    "gated-delta": gated_delta,
    "kda": partial(delta, decay="channel"),
    "comba": gated_delta,
    "mamba2": mamba2,
    "gla": gated_linear,
    "gated-linear-scalar": gated_linear_scalar,
    "rwkv5": rwkv5,
    "rwkv6": rwkv6,
    "rwkv7": rwkv7,
    "longhorn": longhorn,
    "longhorn-head": longhorn_head,
    "mlstm": mlstm,
    "mesa": mesa,
    "log-linear-mamba2": partial(log_linear, rule=mamba2),
    "log-linear-gated-delta": partial(log_linear, rule=gated_delta),
    "path": path,
    "path-fox": path_fox,
    "delta-former": delta_former,
    "gsa": gated_slots,
    "abc": bounded_memory,
    "delta-product": delta_product,
    "gated-delta-product": gated_delta_product,
    "slstm": cell,
    "lstm": cell,
    "brnn": both_ways,
}
