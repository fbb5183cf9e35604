"""Routing: a row attends to the tokens of its own cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape
from headscope.mixers.selection import masked_softmax
from headscope.mixers.shared_query_key import SharedQueryKey


class RoutingSettings(Config):
    """Of the Routing Transformer.

    Attributes:
        clusters: of each head.
        decay: share of a centroid that stays at one step of training.
    """

    clusters: int = Field(default=4, ge=1)
    decay: float = Field(default=0.999, gt=0, lt=1)


class Routing(SharedQueryKey):
    """Softmax over the tokens of the row's cluster (Routing Transformer: Roy et al. 2020, 2003.05997, algorithm 1).

    Queries and keys are one vector x, put through a layer norm without parameters; its cluster is
    ``argmax_c mu_c . x``. Clusters are whole, not the best n / c tokens of each centroid, since that choice would look
    at later tokens. In training the centroids then follow the mean of their members, as running statistics do: M of a
    step depends on earlier steps only, and in evaluation mode nothing changes.

    Attributes:
        centroids: mu; a buffer, moved by `learn` and not by gradients.
    """

    settings_type: ClassVar[type[Config]] = RoutingSettings
    centroids: Float[Tensor, "H clusters E"]

    def __init__(self, shape: MixerShape, settings: RoutingSettings) -> None:
        super().__init__(shape, settings)
        self.clusters, self.decay = settings.clusters, settings.decay
        directions = torch.randn(shape.n_heads, settings.clusters, shape.d_key)
        self.register_buffer("centroids", normalize(directions, dim=-1) * shape.d_key**0.5)

    def mix_shared(self, given: MixerInput) -> Mix:
        """Softmax within clusters; in training the centroids learn from this batch afterwards."""
        query, key = (layer_norm(x, (self.shape.d_key,)) for x in (given.query, given.key))
        same = self._cluster(query)[..., None] == self._cluster(key)[:, :, None]
        seen = same & given.visible
        matrix = masked_softmax(replace(given, query=query, key=key).scores, seen)
        if self.training:
            self.learn(key)
        return Mix(matrix, given.value, choice=seen)

    @torch.no_grad()
    def learn(self, x: Float[Tensor, "B H T E"]) -> None:
        """``mu_c <- decay mu_c + (1 - decay) mean of the x in c``; a centroid without members stays."""
        member = (self._cluster(x)[..., None] == torch.arange(self.clusters, device=x.device)).to(x.dtype)
        count = member.sum((0, 2))[..., None]
        mean = torch.einsum("bhtc,bhte->hce", member, x.detach()) / count.clamp_min(1)
        self.centroids.lerp_(torch.where(count > 0, mean, self.centroids), 1 - self.decay)

    def _cluster(self, x: Float[Tensor, "B H T E"]) -> Int[Tensor, "B H T"]:
        return (x.detach() @ self.centroids.mT).argmax(-1)
