"""Hash buckets: a row attends to the tokens whose hash is its own."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape
from headscope.mixers.selection import ChoosingMixer, masked_softmax
from headscope.mixers.shared_query_key import SharedQueryKey


class HashingSettings(Config):
    """Of hash buckets.

    Attributes:
        buckets: of one round; even.
        rounds: hashes, each with a rotation of its own; a row sees the tokens that share a bucket in any of them.
    """

    buckets: int = Field(default=4, ge=2, multiple_of=2)
    rounds: int = Field(default=2, ge=1)


def buckets_of(x: Float[Tensor, "B H T E"], rotations: Float[Tensor, "rounds E half"]) -> Int[Tensor, "B H T rounds"]:
    """``argmax [xR; -xR]`` for each round's random R (Andoni et al. 2015, 1509.02897)."""
    turned = torch.einsum("bhte,ren->bhtrn", x.detach(), rotations)
    return torch.cat([turned, -turned], -1).argmax(-1)


def share_a_bucket(query: Int[Tensor, "B H Q rounds"], key: Int[Tensor, "B H K rounds"]) -> Bool[Tensor, "B H Q K"]:
    """Whether two tokens share a bucket in any round."""
    return (query[:, :, :, None] == key[:, :, None]).any(-1)


class Reformer(SharedQueryKey):
    """Softmax over the tokens that share a bucket in any round (Kitaev et al. 2020, 2001.04451, section 2).

    Queries and keys are one vector, keys of unit length; a token attends to itself only where it sees no other. The
    paper merges rounds by their normalisers, each score less the log of the number of rounds that found it: that is
    softmax over the union. Buckets are whole, not cut into chunks after sorting, and rotations are drawn once.

    Attributes:
        rotations: R; a buffer.
    """

    settings_type: ClassVar[type[Config]] = HashingSettings
    rotations: Float[Tensor, "rounds E half"]

    def __init__(self, shape: MixerShape, settings: HashingSettings) -> None:
        super().__init__(shape, settings)
        self.register_buffer("rotations", torch.randn(settings.rounds, shape.d_key, settings.buckets // 2))

    def mix_shared(self, given: MixerInput) -> Mix:
        """Softmax over the union of the rounds' buckets."""
        found = share_a_bucket(buckets_of(given.query, self.rotations), buckets_of(given.key, self.rotations))
        itself = given.offsets == 0
        others = found & given.visible & ~itself
        seen = others | (itself & ~others.any(-1, keepdim=True))
        scores = replace(given, key=normalize(given.key, dim=-1)).scores
        return Mix(masked_softmax(scores, seen), given.value, choice=seen)


class HashEqual(ChoosingMixer):
    """Softmax over the keys whose hash is the query's (Pagliardini et al. 2023, 2306.01160, section 3.2).

    Queries and keys are hashed alike; a token always sees itself, so that no row is empty.

    Attributes:
        rotations: R; a buffer.
    """

    settings_type: ClassVar[type[Config]] = HashingSettings
    rotations: Float[Tensor, "rounds E half"]

    def __init__(self, shape: MixerShape, settings: HashingSettings) -> None:
        super().__init__(shape, settings)
        self.register_buffer("rotations", torch.randn(settings.rounds, shape.d_key, settings.buckets // 2))

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """Equal hashes."""
        found = share_a_bucket(buckets_of(given.query, self.rotations), buckets_of(given.key, self.rotations))
        return (found | (given.offsets == 0)) & given.visible, scores
