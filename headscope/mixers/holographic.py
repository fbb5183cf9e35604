"""Hrrformer: keys and values bound into one vector, which queries unbind."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from headscope.errors import ConfigError
from headscope.mixers.interface import Mix, MixerInput, MixerShape, NoSettings
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.low_rank import BothWays


class Holographic(BothWays):
    """``z_i = softmax_i(cos(v_i, v'_i)) v_i``, ``v'_i = q_i^+ (*) sum_j k_j (*) v_j`` (Alam et al. 2023, 2305.19534).

    ``(*)`` is circular convolution, which binds, and ``q^+`` the involution ``q_{-e}``, which undoes it about. A row
    gets its own value only, weighted by how well the query finds it in the sum of all pairs: M is diagonal, and depends
    on the values.
    """

    kind: MatrixKind = "jacobian"
    row_kind: RowKind = "positive"
    takes_scores: ClassVar[bool] = False

    def __init__(self, shape: MixerShape, settings: NoSettings) -> None:
        super().__init__(shape, settings)
        if shape.d_key != shape.d_head:
            raise ConfigError(
                f"Hrrformer binds keys to values channel by channel: d_key {shape.d_key} and d_head {shape.d_head} "
                "must be the same."
            )

    def mix(self, given: MixerInput) -> Mix:
        """The weights at these values, on the diagonal."""
        return Mix(torch.diag_embed(self._weights(given)), given.value)

    def operation(self, given: MixerInput) -> Float[Tensor, "B H Q D"]:
        """Each value times its weight."""
        return self._weights(given)[..., None] * given.value

    def _weights(self, given: MixerInput) -> Float[Tensor, "B H T"]:
        channel = torch.arange(given.value.shape[-1], device=given.value.device)
        before = (channel[:, None] - channel) % len(channel)
        after = (channel[:, None] + channel) % len(channel)
        bound = torch.einsum("bhte,bhtde->bhd", given.key, given.value[..., before])
        found = torch.einsum("bhqe,bhde->bhqd", given.query, bound[..., after])
        return cosine_similarity(given.value, found, dim=-1).softmax(-1)
