"""The matrix of a mixer that has none: how much each token's value moves each row."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.mixers.interface import Mixer, MixerInput


def jacobian_matrix(mixer: Mixer, given: MixerInput) -> Float[Tensor, "B H Q K"]:
    """``M_ij = || d z_i / d v_j ||_F / sqrt(D)`` of each head, at these values, queries, keys and gates.

    Of a mixer that is linear in its values it is ``|M_ij|``. Heads do not mix, so each column's derivative is taken in
    all heads and examples at once: Q * D backward passes.
    """
    given = replace(given, **{name: getattr(given, name).detach() for name in ("query", "key")})
    value = given.value.detach().requires_grad_()
    with torch.enable_grad():
        z = mixer.operation(replace(given, value=value))
        squares = torch.zeros(*z.shape[:3], value.shape[2], device=z.device, dtype=z.dtype)
        for row in range(z.shape[2]):
            for channel in range(z.shape[3]):
                (grad,) = torch.autograd.grad(z[:, :, row, channel].sum(), value, retain_graph=True)
                squares[:, :, row] += grad.square().sum(-1)
    return (squares / z.shape[3]).sqrt().detach()
