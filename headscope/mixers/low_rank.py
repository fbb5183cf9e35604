"""Low-rank attention: rows and tokens meet in a few landmarks; for texts that are read both ways."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.errors import UnsupportedError
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape
from headscope.mixers.kinds import MatrixKind, RowKind


class BothWays(Mixer):
    """A mixer that sees a text as a whole: every row depends on all tokens, so that it cannot read token by token."""

    kind: MatrixKind = "linear"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    causal: bool = False
    decodes: ClassVar[bool] = False

    def state_size(self, length: int) -> int:
        """Queries, keys and values of all tokens, since another token changes every row."""
        return length * (self.shape.cached + self.shape.n_heads * self.shape.d_key)

    def kept_tokens(self, length: int) -> KeptTokens:
        """Of every token."""
        return self.shape.kept(length)


def segment_means(x: Float[Tensor, "B H T E"], count: int) -> Float[Tensor, "B H count E"]:
    """Means of ``count`` pieces of the text of equal length, up to one token; of each token in a shorter text."""
    size = x.shape[2]
    count = min(count, size)
    piece = torch.arange(size, device=x.device) * count // size
    member = (piece == torch.arange(count, device=x.device)[:, None]).to(x.dtype)
    return (member / member.sum(-1, keepdim=True)) @ x


def weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Softmax of scaled dot products."""
    return (query @ key.mT * scale).softmax(-1)


class RankSettings(Config):
    """Of low-rank attention.

    Attributes:
        rank: landmarks, agents or projected tokens, made small for small models.
    """

    rank: int = Field(default=8, ge=1)


class Linformer(BothWays):
    """``M = softmax(q (E k)^T) F``: E and F learned maps from positions to ``rank`` (Wang et al. 2020, 2006.04768).

    One E and one F for all heads of a layer. A text shorter than ``n_ctx`` uses their first columns.

    Attributes:
        projections: (keys or values, rank, n_ctx).
    """

    settings_type: ClassVar[type[Config]] = RankSettings

    def __init__(self, shape: MixerShape, settings: RankSettings) -> None:
        super().__init__(shape, settings)
        self.projections = nn.Parameter(torch.randn(2, settings.rank, shape.n_ctx) * settings.rank**-0.5)

    def mix(self, given: MixerInput) -> Mix:
        """Weights on projected keys, then the projection of values."""
        size = given.key.shape[2]
        if size > self.shape.n_ctx:
            raise UnsupportedError(
                f"Linformer's projections are n_ctx {self.shape.n_ctx} tokens long and the text has {size}: give a "
                "shorter text, or a model with a larger n_ctx."
            )
        of_keys, of_values = self.projections[:, :, :size]
        return Mix(weights(given.query, of_keys @ given.key, given.scale) @ of_values, given.value)


class NystromSettings(RankSettings):
    """Of Nystrom attention.

    Attributes:
        iterations: of the pseudo-inverse.
        kernel: width of a convolution of the values that is added, odd; 0 leaves it out. The paper has 33.
    """

    iterations: int = Field(default=6, ge=1)
    kernel: int = Field(default=5, ge=0)


class Nystrom(BothWays):
    """``M = softmax(q k~^T) softmax(q~ k~^T)^+ softmax(q~ k^T)``, with means of segments q~, k~ as landmarks.

    Xiong et al. 2021 (2102.03902): the pseudo-inverse by an iteration of third order that starts from the
    transpose, and a convolution over positions of the values beside it, one filter for each head.

    Attributes:
        filter: (head, kernel), or None.
    """

    settings_type: ClassVar[type[Config]] = NystromSettings

    def __init__(self, shape: MixerShape, settings: NystromSettings) -> None:
        super().__init__(shape, settings)
        self.rank, self.iterations, self.kernel = settings.rank, settings.iterations, settings.kernel
        width = settings.kernel
        self.filter = nn.Parameter(torch.randn(shape.n_heads, width) * width**-0.5) if width else None

    def mix(self, given: MixerInput) -> Mix:
        """The product of the three, and the convolution's band."""
        query, key = segment_means(given.query, self.rank), segment_means(given.key, self.rank)
        middle = pseudo_inverse(weights(query, key, given.scale), self.iterations)
        matrix = weights(given.query, key, given.scale) @ middle @ weights(query, given.key, given.scale)
        if self.filter is not None:
            tap = given.offsets + self.kernel // 2
            inside = (tap >= 0) & (tap < self.kernel)
            matrix = matrix + self.filter[:, tap.clamp(0, self.kernel - 1)] * inside
        return Mix(matrix, given.value)


def pseudo_inverse(x: Float[Tensor, "B H R R"], iterations: int) -> Float[Tensor, "B H R R"]:
    """``Z <- Z (13 - xZ (15 - xZ (7 - xZ))) / 4`` from ``x^T / (|x|_1 |x|_inf)`` of each head by itself."""
    largest = x.abs().sum(-1).amax(-1) * x.abs().sum(-2).amax(-1)
    inverse = x.mT / largest[..., None, None]
    one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    for _ in range(iterations):
        product = x @ inverse
        inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return inverse


class Agent(BothWays):
    """``M = softmax(q a^T) softmax(a k^T)``: agents a, pooled queries, ask the tokens and answer the rows.

    Han et al. 2023 (2312.08874).
    """

    row_kind: RowKind = "stochastic"
    settings_type: ClassVar[type[Config]] = RankSettings

    def __init__(self, shape: MixerShape, settings: RankSettings) -> None:
        super().__init__(shape, settings)
        self.rank = settings.rank

    def mix(self, given: MixerInput) -> Mix:
        """The product of both softmaxes."""
        agents = segment_means(given.query, self.rank)
        return Mix(weights(given.query, agents, given.scale) @ weights(agents, given.key, given.scale), given.value)


class CompressedSettings(Config):
    """Of attention to compressed keys and values.

    Attributes:
        kernel: width of the convolutions.
        stride: tokens from one compressed token to the next.
    """

    kernel: int = Field(default=5, ge=1)
    stride: int = Field(default=3, ge=1)


class Compressed(BothWays):
    """``z = softmax(q conv_k(k)^T) conv_v(v)``, convolutions over positions with a stride.

    Speechformer's ConvAttention (Papi et al. 2021, 2109.04574). A filter for each channel of each head, so that every
    channel has an M.

    Attributes:
        filters: (head, d_key + d_head, kernel), those of keys first.
    """

    kind: MatrixKind = "per_channel"
    settings_type: ClassVar[type[Config]] = CompressedSettings

    def __init__(self, shape: MixerShape, settings: CompressedSettings) -> None:
        super().__init__(shape, settings)
        self.kernel, self.stride = settings.kernel, settings.stride
        channels = shape.d_key + shape.d_head
        self.filters = nn.Parameter(torch.randn(shape.n_heads, channels, self.kernel) * self.kernel**-0.5)

    def mix(self, given: MixerInput) -> Mix:
        """Weights on compressed keys, then each channel's way from tokens to compressed values."""
        size, middle = given.key.shape[2], (self.kernel - 1) // 2
        centres = torch.arange(0, size, self.stride, device=given.key.device)
        tap = given.columns - centres[:, None] + middle
        bands = self.filters[..., tap.clamp(0, self.kernel - 1)] * ((tap >= 0) & (tap < self.kernel))
        of_keys, of_values = bands.split([self.shape.d_key, self.shape.d_head], 1)
        key = torch.einsum("hect,bhte->bhce", of_keys, given.key)
        return Mix(torch.einsum("bhqc,hdct->bhdqt", weights(given.query, key, given.scale), of_values), given.value)
