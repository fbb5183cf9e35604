"""Large entries found by hashing, and a weighted sample of keys that stands for all others."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.selection import ChoosingMixer


class SampledKeysSettings(Config):
    """Of hashing with sampling; sizes are small by default, for small models.

    Attributes:
        bits: hyperplanes of the hash: ``2 ** bits`` buckets.
        block: newest keys of its bucket that a row attends to.
        recent: most recent keys that it attends to besides, itself included.
        samples: keys expected to be sampled from all visible ones.
        rates: ``uniform``: all alike; ``key_norm``: half of the sample in proportion to ``exp(scale |k|^2 / 2)``.
    """

    bits: int = Field(default=3, ge=1, le=16)
    block: int = Field(default=4, ge=0)
    recent: int = Field(default=4, ge=1)
    samples: int = Field(default=8, ge=0)
    rates: Literal["uniform", "key_norm"] = "uniform"


class SampledKeys(ChoosingMixer):
    """``M_ij ~ exp(s_ij) w_ij``: w = 1 for recent keys and those of the bucket, ``1 / p_ij`` for sampled ones.

    HyperAttention (Han et al. 2024, 2310.05869) with uniform rates ``p_ij = min(1, n / (i + 1))``. With ``key_norm``
    half of n goes by ``exp(scale |k_j|^2 / 2)``, the weight of key j when attention is written as a Gaussian density
    (KDEformer: Zandieh et al. 2023, 2302.02451). Key j is in the sample of every row i with ``u_j < p_ij``, for a
    number u_j drawn once for each head and position, so numerator and normaliser are unbiased over draws. Rates pass
    no gradient: the estimate's own is unbiased without.

    Attributes:
        planes: of the hash; a buffer.
        draws: u; a buffer, repeated beyond the trained length.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = SampledKeysSettings
    planes: Float[Tensor, "bits E"]
    draws: Float[Tensor, "H n_ctx"]

    def __init__(self, shape: MixerShape, settings: SampledKeysSettings) -> None:
        super().__init__(shape, settings)
        self.block, self.recent, self.samples = settings.block, settings.recent, settings.samples
        self.by_norm = settings.rates == "key_norm"
        self.register_buffer("planes", torch.randn(settings.bits, shape.d_key))
        self.register_buffer("draws", torch.rand(shape.n_heads, shape.n_ctx))

    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """Recent keys, keys of the bucket, and sampled ones, whose scores grow by ``-log p``."""
        exact, rates = self._exact(given), self._rates(given)
        draws = self.draws[:, given.columns % self.draws.shape[1]][:, None]
        sampled = (draws < rates) & given.visible & ~exact
        return exact | sampled, torch.where(sampled, scores - rates.clamp_min(1e-9).log(), scores)

    def _exact(self, given: MixerInput) -> Bool[Tensor, "B H Q K"]:
        near = given.visible & (given.offsets < self.recent)
        same = self._codes(given.query)[..., None] == self._codes(given.key)[:, :, None]
        same = same & given.visible & ~near
        newer = same.flip(-1).cumsum(-1).flip(-1)  # of the bucket, at or after each key
        return near | (same & (newer <= self.block))

    @torch.no_grad()
    def _rates(self, given: MixerInput) -> Float[Tensor, "B H Q K"]:
        even = (1 / (given.rows + 1).to(given.key.dtype))[:, None]
        if self.by_norm:
            weight = given.key.square().sum(-1)[:, :, None] * given.scale / 2
            even = (even + weight.masked_fill(~given.visible, -torch.inf).softmax(-1)) / 2
        return (self.samples * even).clamp_max(1).expand(*given.query.shape[:3], given.key.shape[2])

    def _codes(self, x: Float[Tensor, "B H T E"]) -> Int[Tensor, "B H T"]:
        sides = (x.detach() @ self.planes.T > 0).long()
        return (sides << torch.arange(len(self.planes), device=x.device)).sum(-1)
