"""Only the queries with the sharpest scores attend; the others read the mean."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.selection import masked_softmax


class SparseQueriesSettings(Config):
    """Of ProbSparse attention.

    Attributes:
        factor: of the number of queries that attend, ``factor * log(tokens + 1)``, rounded up.
    """

    factor: float = Field(default=2.0, gt=0)


class SparseQueries(Mixer):
    """Softmax for the queries with the largest ``max_j s_ij - mean_j s_ij``, the mean of what they see for others.

    ProbSparse attention (Informer: Zhou et al. 2021, 2012.07436, section 3). A causal row attends if it is among the
    sharpest of the rows up to it, so that no row depends on later ones; the sharpness is exact, the paper's is sampled.
    Decoding keeps the sharpness of every earlier row.
    """

    settings_type: ClassVar[type[Config]] = SparseQueriesSettings

    def __init__(self, shape: MixerShape, settings: SparseQueriesSettings) -> None:
        super().__init__(shape, settings)
        self.factor = settings.factor

    def mix(self, given: MixerInput) -> Mix:
        """Rank every row's sharpness."""
        return self._ranked(given, None)[0]

    def _ranked(self, given: MixerInput, earlier: Tensor | None) -> tuple[Mix, Float[Tensor, "B H K"]]:
        """M, and the sharpness of all rows; ``earlier`` is that of the rows before these."""
        scores, visible = given.scores, given.visible
        seen = visible.sum(-1)
        largest = scores.masked_fill(~visible, -torch.inf).amax(-1)
        sharpness = (largest - scores.masked_fill(~visible, 0).sum(-1) / seen).detach()
        every = sharpness if earlier is None else torch.cat([earlier, sharpness], -1)
        least = 64 * torch.finfo(sharpness.dtype).eps * (1 + sharpness.abs())  # what rounding can make of equal rows
        ahead = ((every[:, :, None] > (sharpness + least)[..., None]) & visible).sum(-1)
        active = ahead < (self.factor * (seen + 1).to(scores.dtype).log()).ceil()
        weights = masked_softmax(scores, visible.expand_as(scores))
        even = visible.to(weights.dtype) / seen[:, None]
        return Mix(
            torch.where(active[..., None], weights, even), given.value, choice=active[..., None] & visible
        ), every

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        parts = {"key": token.key, "value": token.value, "sharpness": token.query[..., 0]}
        return {name: part[:, :, :0] for name, part in parts.items()}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token and rank its row among the earlier ones."""
        key, value = torch.cat([state["key"], token.key], 2), torch.cat([state["value"], token.value], 2)
        mix, sharpness = self._ranked(replace(token, key=key, value=value), state["sharpness"])
        return mix.z, {"key": key, "value": value, "sharpness": sharpness}

    def state_size(self, length: int) -> int:
        """Keys, values, and one number for each row and head."""
        return length * (self.shape.cached + self.shape.n_heads)

    def kept_tokens(self, length: int) -> KeptTokens:
        """Of every token."""
        return self.shape.kept(length)
