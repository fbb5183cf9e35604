"""Mixers that are not linear in their values, read token by token."""

from __future__ import annotations

from typing import ClassVar

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
        return self.scanned(given)
