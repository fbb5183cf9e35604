"""Biases on scores that depend on positions alone: ALiBi, T5's buckets, Kerple and FIRE."""

from __future__ import annotations

from math import log, log2
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from headscope.mixers.interface import MixerShape
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.position_settings import BucketSettings, FireSettings, KerpleSettings
from headscope.models.decoder.positions import NoPositions


class PositionBias(NoPositions):
    """The base of biases ``b_h(i, j)`` that read no query."""

    adds_bias: ClassVar[bool] = True

    def bias(self, query: Tensor, key: Tensor, positions: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """The bias of every head, the same for all texts."""
        return self.of(positions).to(query.dtype)[None]

    def of(self, positions: Int[Tensor, " T"]) -> Float[Tensor, "H T T"]:
        """The bias of every head."""
        raise NotImplementedError


def offsets(positions: Int[Tensor, " T"]) -> Int[Tensor, "T T"]:
    """``i - j`` of every row and column."""
    return positions[:, None] - positions[None, :]


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slopes: ``2^(-8 h / n)`` for h = 1 ... n, n a power of two; then every second one of twice as many."""
    power = 2 ** int(log2(heads))
    slopes = [2.0 ** (-8 * head / power) for head in range(1, power + 1)]
    return slopes + [2.0 ** (-4 * head / power) for head in range(1, 2 * (heads - power), 2)]


class Alibi(PositionBias):
    """``-m_h |i - j|`` (Press et al. 2021, arXiv 2108.12409, section 3).

    Attributes:
        slopes: m of every head.
    """

    slopes: Tensor

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(shape.n_heads)), persistent=False)

    def of(self, positions: Int[Tensor, " T"]) -> Float[Tensor, "H T T"]:
        """A straight line in the distance."""
        return -self.slopes[:, None, None] * offsets(positions).abs()


def t5_buckets(
    offset: Int[Tensor, "*shape"], *, buckets: int, max_distance: int, causal: bool
) -> Int[Tensor, "*shape"]:
    """The bucket of every offset ``i - j``: the first half exact, then logarithmic up to ``max_distance``.

    Reading both ways, offsets before and after the row have half of the buckets each.
    """
    later = torch.zeros_like(offset)
    if causal:
        distance = offset.clamp(min=0)
    else:
        buckets //= 2
        later, distance = (offset < 0) * buckets, offset.abs()
    exact = buckets // 2
    share = (distance.clamp(min=exact).float() / exact).log() / log(max_distance / exact)
    far = (exact + (share * (buckets - exact)).long()).clamp(max=buckets - 1)
    return later + torch.where(distance < exact, distance, far)


class T5Buckets(PositionBias):
    """A learned number for each head and bucket of distances (Raffel et al. 2019, arXiv 1910.10683, section 2.1).

    Attributes:
        table: (bucket, head).
    """

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        self.settings, self.causal = cast(BucketSettings, config.position.parsed()), config.causal
        self.table = nn.Parameter(torch.randn(self.settings.buckets, shape.n_heads) * 0.5)

    def of(self, positions: Int[Tensor, " T"]) -> Float[Tensor, "H T T"]:
        """The number of each distance's bucket."""
        settings = self.settings
        bucket = t5_buckets(
            offsets(positions), buckets=settings.buckets, max_distance=settings.max_distance, causal=self.causal
        )
        return self.table[bucket].permute(2, 0, 1)


class Kerple(PositionBias):
    """``-r1 log(1 + r2 d)`` or ``-r1 d^r2`` with d = |i - j|, r1, r2 > 0 for each head (Chi et al. 2022, 2205.09921).

    The power's r2 is at most 2, where its kernel stops being conditionally positive definite.

    Attributes:
        raw: (2, head); r1 and r2 before they are made positive.
    """

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        self.kernel = cast(KerpleSettings, config.position.parsed()).kernel
        self.raw = nn.Parameter(torch.randn(2, shape.n_heads) * 0.5)

    def of(self, positions: Int[Tensor, " T"]) -> Float[Tensor, "H T T"]:
        """The logarithmic or the power kernel."""
        distance = offsets(positions).abs().to(self.raw.dtype)
        size, rate = softplus(self.raw[0])[:, None, None], self.raw[1][:, None, None]
        if self.kernel == "log":
            return -size * (softplus(rate) * distance).log1p()
        powered = distance.clamp(min=1) ** (2 * rate.sigmoid())
        return -size * torch.where(distance > 0, powered, 0.0)


class Fire(PositionBias):
    """``b = f(psi(i - j) / psi(max(L, i)))``, ``psi(x) = log(c x + 1)`` (Li et al. 2023, arXiv 2310.04418).

    f is a small network from one number to one for each head. Its second layer has no bias, which would not change a
    softmax.

    Attributes:
        rate: c; its absolute value counts.
        threshold: L; its absolute value counts.
        W_in: (hidden,) and ``b_in``.
        W_out: (hidden, head).
    """

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        settings = cast(FireSettings, config.position.parsed())
        self.rate = nn.Parameter(torch.tensor(0.1))
        self.threshold = nn.Parameter(torch.tensor(float(settings.threshold or config.n_ctx)))
        self.W_in, self.b_in = nn.Parameter(torch.randn(settings.hidden)), nn.Parameter(torch.randn(settings.hidden))
        self.W_out = nn.Parameter(torch.randn(settings.hidden, shape.n_heads) * settings.hidden**-0.5)

    def of(self, positions: Int[Tensor, " T"]) -> Float[Tensor, "H T T"]:
        """The network of the distance's share of the row's position."""
        row = torch.maximum(positions.to(self.rate.dtype), self.threshold.abs())
        rate = self.rate.abs()
        share = (rate * offsets(positions).abs()).log1p() / ((rate * row).log1p()[:, None] + 1e-6)
        return ((share[..., None] * self.W_in + self.b_in).relu() @ self.W_out).permute(2, 0, 1)
