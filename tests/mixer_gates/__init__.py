"""How gates are made, written down from the papers: what each variant reads off the stream beside queries and keys.

A formula is ``gates(mixer, stream) -> {name: gate}`` in plain torch, from the mixer's parameters by name. It calls none
of the mixer's methods and reads none of its settings: constants are literals, given where a variant is named.
`FORMULAS` of each module names them by variant.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Gates = dict[str, Tensor]
Formula = Callable[[Any, Tensor], Gates]


def formulas() -> dict[str, Formula]:
    """All formulas, by the name of the variant."""
    found: dict[str, Formula] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        found |= import_module(f"tests.mixer_gates.{path.stem}").FORMULAS
    return found


def affine(part: Any, stream: Tensor) -> Tensor:
    """``W_h x_t + b_h``, head by head: (batch, head, token, number)."""
    heads = range(part.weight.shape[0])
    return torch.stack([stream @ part.weight[h] + part.bias[h] for h in heads], 1)


def number(part: Any, stream: Tensor) -> Tensor:
    """One number of each head: (batch, head, token)."""
    return affine(part, stream)[..., 0]


def by_head(weight: Tensor, stream: Tensor) -> Tensor:
    """``W_h x_t`` of weights (head, d_model, number)."""
    return torch.stack([stream @ one for one in weight], 1)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-x))


def softplus(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(x))


def unit(x: Tensor) -> Tensor:
    return x / (x * x).sum(-1, keepdim=True).sqrt()
