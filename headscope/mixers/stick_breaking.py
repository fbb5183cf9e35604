"""Stick-breaking attention: the nearest token takes its share first, the next one a share of what is left."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind


class StickBreakingSettings(Config):
    """Of stick-breaking attention.

    Attributes:
        rest: what is left of the stick goes to ``nothing``, or to the row's own token (``self``).
    """

    rest: Literal["nothing", "self"] = "nothing"


class StickBreaking(RowMixer):
    """``M_ij = sigmoid(s_ij) prod_{j < t < i} (1 - sigmoid(s_it))`` for j < i (Tan et al. 2024, arXiv 2410.17980).

    A row does not see its own token but for the rest of the stick, where ``rest`` gives it that.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = StickBreakingSettings

    def __init__(self, shape: MixerShape, settings: StickBreakingSettings) -> None:
        super().__init__(shape, settings)
        self.rest = settings.rest
        self.row_kind: RowKind = "stochastic" if self.rest == "self" else "substochastic"

    def mix(self, given: MixerInput) -> Mix:
        """Logarithms of shares and of what they leave, summed from the row backwards."""
        before = given.offsets > 0
        scores = given.scores
        left = logsigmoid(-scores).masked_fill(~before, 0.0)
        log_left = _sums_from(left)
        taken = (logsigmoid(scores) + _later(log_left)).masked_fill(~before, -torch.inf).exp()
        rest = log_left[..., 0].exp()
        if self.rest == "nothing":
            return Mix(taken, given.value, null_mass=rest)
        return Mix(taken + rest[..., None] * (given.offsets == 0), given.value)


def _sums_from(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Sum of each entry and all after it."""
    return x.flip(-1).cumsum(-1).flip(-1)


def _later(sums: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Sum of all after each entry, from that which takes it in."""
    return pad(sums[..., 1:], (0, 1))
