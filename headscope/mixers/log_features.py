"""Linear attention with positive features that are held as logarithms, so that no row underflows."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from headscope.mixers.decay import decayed_products
from headscope.mixers.interface import Mix, Mixer, MixerInput, State
from headscope.mixers.kinds import MatrixKind


class LogFeatureMixer(Mixer):
    """``M_ij = sum_m exp(a_im + b_jm) / sum``, a and b the logarithms of positive features of queries and keys.

    Feature m of the keys is held over its largest so far, ``c_im = max_{j <= i} b_jm``, and a row over its largest
    ``a_im + c_im``. Both cancel in M, in exact numbers; without them the features of long queries and keys underflow.

    Attributes:
        feature_width: numbers in the features of one head's key.
    """

    kind: MatrixKind = "linear"
    takes_scores: ClassVar[bool] = False
    feature_width: int

    @abstractmethod
    def log_query_features(self, query: Float[Tensor, "B H Q E"], scale: float) -> Float[Tensor, "B H Q F"]:
        """a, up to a constant for each row."""

    @abstractmethod
    def log_key_features(self, key: Float[Tensor, "B H K E"], scale: float) -> Float[Tensor, "B H K F"]:
        """b, up to a constant for each head."""

    def mix(self, given: MixerInput) -> Mix:
        """Products of features over their largest; where rows look back only, that grows along the text."""
        logs = self.log_key_features(given.key, given.scale)
        largest = logs.detach().cummax(2).values if given.causal else logs.detach().amax(2, keepdim=True)
        key = (logs - largest).exp()
        if given.causal:
            query = pad(self._over_largest(given, largest[:, :, given.first_row :]), (0, 0, given.first_row, 0))
            fall = pad(-largest.diff(dim=2), (0, 0, 1, 0))
            weights = decayed_products(query, key, fall)[:, :, given.first_row :]
        else:
            weights = self._over_largest(given, largest) @ key.mT
        return Mix(weights / weights.sum(-1, keepdim=True), given.value)

    def start(self, token: MixerInput) -> State:
        """Empty sums."""
        empty = token.key.new_zeros(*token.key.shape[:2], self.feature_width)
        memory = empty[..., None].repeat(1, 1, 1, token.value.shape[-1])
        return {"memory": memory, "total": empty, "largest": torch.full_like(empty, -torch.inf)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Put both sums over the new largest features, add the token, read."""
        logs = self.log_key_features(token.key, token.scale).squeeze(2)
        largest = torch.maximum(state["largest"], logs.detach())
        keep, key = (state["largest"] - largest).exp(), (logs - largest).exp()
        memory = keep[..., None] * state["memory"] + key[..., None] * token.value
        total = keep * state["total"] + key
        query = self._over_largest(token, largest[:, :, None])
        return query @ memory / (query @ total[..., None]), {"memory": memory, "total": total, "largest": largest}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix for each head, the sum of its keys' features and the largest of each; heads have features apart."""
        return self.shape.n_heads * self.feature_width * (self.shape.d_head + 2)

    def _over_largest(self, given: MixerInput, largest: Float[Tensor, "B H #Q F"]) -> Float[Tensor, "B H Q F"]:
        """Features of queries times the largest of the keys, over the row's largest product."""
        logs = self.log_query_features(given.query, given.scale) + largest
        return (logs - logs.detach().amax(-1, keepdim=True)).exp()
