"""Gates of recurrences and convolutions by channel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.mixer_gates import Formula, Gates, affine, log_sigmoid, number, sigmoid, softplus


def mamba(mixer: Any, stream: Tensor) -> Gates:
    """``dt = softplus(W_2 W_1 x + b)`` of each channel."""
    low = stream @ mixer.W_down
    heads = range(mixer.bias.shape[0])
    return {"step": torch.stack([softplus(low @ mixer.W_up[h] + mixer.bias[h]) for h in heads], 1)}


def hydra(mixer: Any, stream: Tensor) -> Gates:
    """A step of each direction; the diagonal is ``D + w . x``."""
    return {
        "step": softplus(affine(mixer.time, stream)),
        "own": number(mixer.diagonal, stream) + mixer.skip[:, None],
    }


def attamba(mixer: Any, stream: Tensor) -> Gates:
    return {"log_decay": log_sigmoid(number(mixer.forget, stream))}


def mingru(mixer: Any, stream: Tensor) -> Gates:
    """``1 - z``, ``z = sigmoid(-(W x + b))``: the map's sign is that of what is kept."""
    update = sigmoid(-affine(mixer.forget, stream))
    return {"log_decay": torch.log(1 - update)}


def minlstm(mixer: Any, stream: Tensor) -> Gates:
    """``f / (f + i)``."""
    forget, write = sigmoid(affine(mixer.forget, stream)), sigmoid(affine(mixer.write, stream))
    return {"log_decay": torch.log(forget / (forget + write))}


def hgrn(mixer: Any, stream: Tensor) -> Gates:
    """``l + (1 - l) sigmoid(W x + b)``."""
    lower = sigmoid(mixer.lower)[:, None]
    return {"log_decay": torch.log(lower + (1 - lower) * sigmoid(affine(mixer.forget, stream)))}


def rg_lru(mixer: Any, stream: Tensor) -> Gates:
    """``log a = -8 softplus(L) sigmoid(W_a x + b_a)``."""
    recurrence = sigmoid(affine(mixer.recurrence, stream))
    log_decay = -8 * softplus(mixer.rate)[:, None] * recurrence
    return {"log_decay": log_decay, "input": sigmoid(affine(mixer.input, stream))}


def nothing(mixer: Any, stream: Tensor) -> Gates:  # noqa: ARG001
    """RWKV-4 reads queries, keys and values alone."""
    return {}


def perspectives(mixer: Any, stream: Tensor) -> Gates:
    """Shares of three perspectives."""
    weight = torch.exp(affine(mixer.view, stream))
    assert weight.shape[-1] == 3
    return {"perspective": weight / weight.sum(-1, keepdim=True)}


def megalodon(mixer: Any, stream: Tensor) -> Gates:
    """What the moving average runs over."""
    return {"shared": affine(mixer.shared, stream)}


def mambaout(mixer: Any, stream: Tensor) -> Gates:
    """``gelu(x) = x (1 + erf(x / sqrt 2)) / 2`` of a linear map, not its approximation by a tanh."""
    x = affine(mixer.gate, stream)
    return {"row_gate": x * (1 + torch.erf(x / math.sqrt(2))) / 2}


def linear_gate(mixer: Any, stream: Tensor) -> Gates:
    """A gate that is a linear map alone (BaseConv, Extractor, PoNet)."""
    return {"row_gate": affine(mixer.gate, stream)}


FORMULAS: dict[str, Formula] = {
    "mamba": mamba,
    "mamba-plain": mamba,
    "decimamba": mamba,
    "hydra": hydra,
    "attamba": attamba,
    "mingru": mingru,
    "minlstm": minlstm,
    "hgrn": hgrn,
    "rg-lru": rg_lru,
    "rwkv4": nothing,
    "rwkv-perspectives": perspectives,
    "megalodon": megalodon,
    "mambaout": mambaout,
    "base-conv": linear_gate,
    "extractor": linear_gate,
    "ponet": linear_gate,
}
