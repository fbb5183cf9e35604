"""Random features: a kernel of a query and a key as the mean of products."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from headscope.config import Config
from headscope.mixers.decay import decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.linear import FeatureMixer
from headscope.mixers.log_features import LogFeatureMixer

_LOWEST = 1e-2


def random_directions(heads: int, count: int, width: int) -> Float[Tensor, "heads width count"]:
    """Gaussian directions for each head, orthogonal to each other in groups of ``width``."""
    groups = -(-count // width)
    rotations, upper = torch.linalg.qr(torch.randn(heads, groups, width, width))
    signs = upper.diagonal(dim1=-2, dim2=-1).sign()  # without them the rotations are not uniform, and kernels biased
    rotations = (rotations * signs[..., None, :]).flatten(1, 2)[:, :count]
    lengths = torch.randn(heads, count, width).norm(dim=-1, keepdim=True)
    return (rotations * lengths).mT.contiguous()


def log_positive_features(x: Float[Tensor, "B H T E"], directions: Float[Tensor, "H E F"]) -> Float[Tensor, "B H T F"]:
    """``w . x - |x|^2 / 2`` for each direction w: the logarithm of Performer's positive features, times ``sqrt F``."""
    return x @ directions - x.square().sum(-1, keepdim=True) / 2


class RandomFeatureSettings(Config):
    """Of random features.

    Attributes:
        count: directions of each head.
    """

    count: int = Field(default=32, ge=1)


class RandomFeatures(LogFeatureMixer):
    """``M_ij = phi(q_i) . phi(k_j) / sum``, ``phi(x)_m = exp(w_m . x - |x|^2 / 2) / sqrt F``, w Gaussian.

    Performer's FAVOR+ (Choromanski et al. 2020, 2009.14794): the mean of a product over directions is
    ``exp(x . y)``, of queries and keys times the square root of the scale.

    Attributes:
        directions: (head, d_key, direction), drawn once.
    """

    settings_type: ClassVar[type[Config]] = RandomFeatureSettings
    directions: Tensor

    def __init__(self, shape: MixerShape, settings: RandomFeatureSettings) -> None:
        super().__init__(shape, settings)
        self.feature_width = settings.count
        self.register_buffer("directions", random_directions(shape.n_heads, settings.count, shape.d_key))

    def log_query_features(self, query: Tensor, scale: float) -> Tensor:
        """``w . q``; the rest is a constant of the row."""
        return query * scale**0.5 @ self.directions

    def log_key_features(self, key: Tensor, scale: float) -> Tensor:
        """``w . k - |k|^2 / 2``."""
        return log_positive_features(key * scale**0.5, self.directions)


class FourierFeatures(FeatureMixer):
    """``M_ij = phi(q_i) . phi(k_j) / sum``, phi the sines and cosines of unit queries and keys along directions.

    RFA (Peng et al. 2021, 2103.02143): each channel is times a learned width, and the mean of a product over
    directions is ``exp(-|x - y|^2 / 2)``. Row sums are kept at 0.01 or more.

    Attributes:
        directions: (head, d_key, direction), drawn once.
        widths: (head, 1, d_key).
    """

    row_kind: RowKind = "signed"
    by_head: ClassVar[bool] = True
    settings_type: ClassVar[type[Config]] = RandomFeatureSettings
    directions: Tensor

    def __init__(self, shape: MixerShape, settings: RandomFeatureSettings) -> None:
        super().__init__(shape, settings)
        self.feature_width = 2 * settings.count
        self.register_buffer("directions", random_directions(shape.n_heads, settings.count, shape.d_key))
        self.widths = nn.Parameter(torch.ones(shape.n_heads, 1, shape.d_key))

    def query_features(self, query: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """Features of a query."""
        return self._waves(query)

    def key_features(self, key: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """Features of a key."""
        return self._waves(key)

    def divisor(self, total: Tensor) -> Tensor:
        """The row sum, at least 0.01, since it may be anything."""
        return total.clamp_min(_LOWEST)

    def _waves(self, x: Tensor) -> Tensor:
        along = (normalize(x, dim=-1) * self.widths) @ self.directions
        return torch.cat([along.sin(), along.cos()], -1) * self.directions.shape[-1] ** -0.5


class GatedFourierFeatures(FourierFeatures):
    """Fourier features with a forget gate: ``S_t = g_t S_{t-1} + (1 - g_t) phi(k_t) v_t^T``, its sum of keys alike.

    ``M_ij = phi(q_i) . phi(k_j) (1 - g_j) prod_{j < t <= i} g_t / sum`` (Peng et al. 2021, 2103.02143).

    Attributes:
        forget: what g is made of, the sigmoid of a linear map of the stream.
    """

    kind: MatrixKind = "recurrent"
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("forget",)

    def __init__(self, shape: MixerShape, settings: RandomFeatureSettings) -> None:
        super().__init__(shape, settings)
        self.forget = HeadLinear(shape)

    def gates(self, stream: Tensor) -> dict[str, Tensor]:
        """How much of the state each token keeps."""
        return {"forget": self.forget.scalar(stream).sigmoid()}

    def reach(self, given: MixerInput) -> Tensor:
        """What is left of each token when a row reads it."""
        forget = given.gates["forget"]
        return decay_between(forget.log()) * (1 - forget)[:, :, None]

    def keep_and_write(self, token: MixerInput) -> tuple[Tensor, Tensor]:
        """g and 1 - g."""
        forget = token.gates["forget"][..., None]
        return forget, 1 - forget


class RelativeFeatureSettings(Config):
    """Of random features with relative positions.

    Attributes:
        count: directions of each head.
    """

    count: int = Field(default=32, ge=1)


class RelativeFeatures(RowMixer):
    """``M_ij = phi(q_i / |q_i|) . phi(k_j / |k_j|) e^{b_{i-j}} / sum``, b learned for each head and distance.

    Luo et al. 2021 (2106.12566), who multiply by this Toeplitz matrix with a fast Fourier transform.
    Distances beyond ``n_ctx`` share its last entry.

    Attributes:
        directions: (head, d_key, direction), drawn once.
        bias: (head, distance), from ``1 - n_ctx`` to ``n_ctx - 1``.
    """

    kind: MatrixKind = "linear"
    takes_scores: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = RelativeFeatureSettings
    directions: Tensor

    def __init__(self, shape: MixerShape, settings: RelativeFeatureSettings) -> None:
        super().__init__(shape, settings)
        self.register_buffer("directions", random_directions(shape.n_heads, settings.count, shape.d_key))
        self.bias = nn.Parameter(torch.zeros(shape.n_heads, 2 * shape.n_ctx - 1))

    def mix(self, given: MixerInput) -> Mix:
        """Products of features times the exponential of the biases, then the row sums."""
        query, key = (
            log_positive_features(normalize(part, dim=-1), self.directions).exp() for part in (given.query, given.key)
        )
        last = self.shape.n_ctx - 1
        bias = self.bias[:, given.offsets.clamp(-last, last) + last].masked_fill(~given.visible, -torch.inf)
        weights = (query @ key.mT) * (bias - bias.amax(-1, keepdim=True)).exp()
        return Mix(weights / weights.sum(-1, keepdim=True), given.value)
