"""Rotations by position, as features of queries and keys and as what a state turns by at every token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def turn(x: Float[Tensor, "*batch T E"], angles: Tensor) -> Float[Tensor, "*batch T E"]:
    """Rotate channel pairs ``(e, e + E / 2)`` of each row by ``angles``, (..., T or 1, E / 2)."""
    first, second = x.chunk(2, -1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


def with_zeros(x: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch 2*E"]:
    """Pair every channel with a zero: turned by a, the pair is ``(x cos a, x sin a)``."""
    return torch.cat([x, torch.zeros_like(x)], -1)
