"""Random features: an exponential of a score as the mean of products."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from headscope.config import Config
from headscope.mixers.decay import decay_between
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer
from headscope.mixers.kinds import MatrixKind
from headscope.mixers.linear import FeatureMixer

_LOWEST = 1e-2


def random_directions(heads: int, count: int, width: int) -> Float[Tensor, "heads width count"]:
    """Gaussian directions for each head, orthogonal to each other in groups of ``width``."""
    groups = -(-count // width)
    rotations, upper = torch.linalg.qr(torch.randn(heads, groups, width, width))
    signs = upper.diagonal(dim1=-2, dim2=-1).sign()  # without them the rotations are not uniform, and kernels biased
    rotations = (rotations * signs[..., None, :]).flatten(1, 2)[:, :count]
    lengths = torch.randn(heads, count, width).norm(dim=-1, keepdim=True)
    return (rotations * lengths).mT.contiguous()


def positive_features(
    x: Float[Tensor, "B H T E"], directions: Float[Tensor, "H E F"], *, of_query: bool
) -> Float[Tensor, "B H T F"]:
    """``exp(w . x - |x|^2 / 2) / sqrt F`` for each direction w.

    A query's are divided by its largest, which the row sum takes out again; a key's are at most ``exp(|w|^2 / 2)``.
    """
    along = x @ directions
    shift = along.amax(-1, keepdim=True) if of_query else x.square().sum(-1, keepdim=True) / 2
    return (along - shift).exp() * directions.shape[-1] ** -0.5


class RandomFeatureSettings(Config):
    """Of random features.

    Attributes:
        features: ``positive``: exponentials along fixed random directions; ``fourier``: sines and cosines of unit
            queries and keys along them, each channel times a learned width.
        count: directions of each head.
    """

    features: Literal["positive", "fourier"] = "positive"
    count: int = Field(default=32, ge=1)


class RandomFeatures(FeatureMixer):
    """``M_ij = phi(q_i) . phi(k_j) / sum``, where ``E phi(x) . phi(y)`` is the exponential kernel.

    ``positive`` is Performer's FAVOR+ (Choromanski et al. 2020, 2009.14794), whose mean is
    ``exp(x . y)`` of queries and keys times the square root of the scale. ``fourier`` is RFA (Peng et al. 2021,
    2103.02143), whose mean is ``exp(-|x - y|^2 / 2)``; its row sums are kept at 0.01 or more.

    Attributes:
        directions: (head, d_key, direction), drawn once.
        widths: (head, 1, d_key), of sines and cosines.
    """

    by_head: ClassVar[bool] = True
    settings_type: ClassVar[type[Config]] = RandomFeatureSettings
    directions: Tensor

    def __init__(self, shape: MixerShape, settings: RandomFeatureSettings) -> None:
        super().__init__(shape, settings)
        self.fourier = settings.features == "fourier"
        self.row_kind = "signed" if self.fourier else "stochastic"
        self.feature_width = settings.count * (2 if self.fourier else 1)
        self.register_buffer("directions", random_directions(shape.n_heads, settings.count, shape.d_key))
        self.widths = nn.Parameter(torch.ones(shape.n_heads, 1, shape.d_key)) if self.fourier else None

    def query_features(self, query: Tensor, scale: float) -> Tensor:
        """Features of a query."""
        if self.widths is not None:
            return self._waves(query, self.widths)
        return positive_features(query * scale**0.5, self.directions, of_query=True)

    def key_features(self, key: Tensor, scale: float) -> Tensor:
        """Features of a key."""
        if self.widths is not None:
            return self._waves(key, self.widths)
        return positive_features(key * scale**0.5, self.directions, of_query=False)

    def divisor(self, total: Tensor) -> Tensor:
        """The row sum; of sines and cosines at least 0.01, since it may be anything."""
        return total.clamp_min(_LOWEST) if self.fourier else total + self.small

    def _waves(self, x: Tensor, widths: Tensor) -> Tensor:
        along = (normalize(x, dim=-1) * widths) @ self.directions
        return torch.cat([along.sin(), along.cos()], -1) * self.directions.shape[-1] ** -0.5


class GatedRandomFeatures(RandomFeatures):
    """Random features with a forget gate: ``S_t = g_t S_{t-1} + (1 - g_t) phi(k_t) v_t^T``, and its sum of keys alike.

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
        query = positive_features(normalize(given.query, dim=-1), self.directions, of_query=True)
        key = positive_features(normalize(given.key, dim=-1), self.directions, of_query=False)
        last = self.shape.n_ctx - 1
        bias = self.bias[:, given.offsets.clamp(-last, last) + last].masked_fill(~given.visible, -torch.inf)
        weights = (query @ key.mT) * (bias - bias.amax(-1, keepdim=True)).exp()
        return Mix(weights / weights.sum(-1, keepdim=True), given.value)
