"""Mixers that are not linear in their values, read token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.mixers.interface import Mix, Mixer, MixerInput
from headscope.mixers.jacobian import jacobian_matrix
from headscope.mixers.kinds import MatrixKind, RowKind


class Nonlinear(Mixer):
    """A recurrence given by its `step` alone; its M is the norm of a Jacobian, to look at and not to apply."""

    kind: MatrixKind = "jacobian"
    row_kind: RowKind = "positive"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False

    def mix(self, given: MixerInput) -> Mix:
        """``|| d z_i / d v_j ||``, see `headscope.mixers.jacobian`; z is not its product with the values."""
        return Mix(jacobian_matrix(self, given), given.value)

    def operation(self, given: MixerInput) -> Float[Tensor, "B H Q D"]:
        """The recurrence."""
        state, rows = None, list[Tensor]()
        for at in range(given.key.shape[2]):
            token = token_of(given, at)
            z, state = self.step(self.start(token) if state is None else state, token)
            rows.append(z)
        return torch.cat(rows, 2)


def token_of(given: MixerInput, at: int) -> MixerInput:
    """One token of a call."""
    one = slice(at, at + 1)
    return replace(
        given,
        query=given.query[:, :, one],
        key=given.key[:, :, one],
        value=given.value[:, :, one],
        gates={name: gate[:, :, one] for name, gate in given.gates.items()},
        bias=None,
    )
