"""The chance that a query and a key fall into the same hash bucket, as their weight."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch.nn.functional import normalize

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import RowKind


class CollisionSettings(Config):
    """Of YOSO.

    Attributes:
        bits: hyperplanes of the hash, tau.
    """

    bits: int = Field(default=8, ge=1)


class Collision(RowMixer):
    """``M_ij = (1 - arccos(q_i . k_j) / pi) ** tau``, q and k of unit length (YOSO-E: Zeng et al. 2021, 2111.09714).

    The expectation of what YOSO draws with one hash of tau hyperplanes. Rows have no normaliser.
    """

    row_kind: RowKind = "positive"
    takes_scores: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = CollisionSettings

    def __init__(self, shape: MixerShape, settings: CollisionSettings) -> None:
        super().__init__(shape, settings)
        self.bits = settings.bits

    def mix(self, given: MixerInput) -> Mix:
        """Angles, then powers."""
        cosine = normalize(given.query, dim=-1) @ normalize(given.key, dim=-1).mT
        near = 1 - 1e-6  # the angle has no slope at 0 and pi: there, that of a cosine a little nearer to 0 is taken
        sloped = cosine.clamp(-near, near).arccos()
        angle = sloped + (cosine.detach().clamp(-1, 1).arccos() - sloped.detach())
        weights = (1 - angle / math.pi) ** self.bits
        return Mix(weights * given.visible, given.value)
