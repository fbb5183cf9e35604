"""Biases on scores that read queries and keys: relative vectors, Transformer-XL, contextual positions."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headscope.mixers.interface import MixerShape
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.position_settings import CopeSettings, RelativeSettings, XLSettings
from headscope.models.decoder.positions import NoPositions
from headscope.models.decoder.positions_bias import offsets


class Relative(NoPositions):
    """``scale * q_i . a_(i - j)``, offsets clipped (Shaw et al. 2018, arXiv 1803.02155, eq. 4).

    The Music Transformer's relative attention (Huang et al. 2018, 1809.04281) is the same without clipping and with
    vectors for each head; it computes it by skewing ``Q A^T``.

    Attributes:
        vectors: a, (head or 1, offset, d_key); offsets from 0, or from ``-largest`` where rows see later tokens.
    """

    adds_bias: ClassVar[bool] = True

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        settings = cast(RelativeSettings, config.position.parsed())
        reach = config.position.randomised
        self.largest = settings.largest or (config.n_ctx if reach is None else reach.largest) - 1 or 1
        self.lowest = 0 if config.causal else -self.largest
        heads = shape.n_heads if settings.per_head else 1
        self.vectors = nn.Parameter(torch.randn(heads, self.largest - self.lowest + 1, shape.d_key) * 0.5)

    def bias(
        self,
        query: Float[Tensor, "B H T E"],
        key: Float[Tensor, "B H T E"],  # noqa: ARG002
        positions: Int[Tensor, " T"],
        scale: float,
    ) -> Float[Tensor, "B H T T"]:
        """All products of queries and vectors, then the one of each cell's offset."""
        products = query @ self.vectors.mT * scale
        at = offsets(positions).clamp(self.lowest, self.largest) - self.lowest
        return products.gather(-1, at.expand(*query.shape[:2], -1, -1))


class TransformerXL(NoPositions):
    """``scale * ((q_i + v) . W_R R_(i - j) + u . k_j)`` is added to scores (Dai et al. 2019, arXiv 1901.02860, 3.3).

    ``R_d`` holds the sines, then the cosines of ``d base^(-2 p / d_model)``. Because they are sums of products of
    functions of i and of j, the first part is one dot product of vectors as wide as R.

    Attributes:
        W_R: (head, sines and cosines, d_key).
        u: (head, d_key), the content bias.
        v: (head, d_key), the position bias.
    """

    adds_bias: ClassVar[bool] = True

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        self.base, self.width = cast(XLSettings, config.position.parsed()).base, config.d_model
        self.pairs = (config.d_model + 1) // 2
        self.W_R = nn.Parameter(torch.randn(shape.n_heads, 2 * self.pairs, shape.d_key) * config.d_model**-0.5)
        self.u = nn.Parameter(torch.randn(shape.n_heads, shape.d_key) * 0.1)
        self.v = nn.Parameter(torch.randn(shape.n_heads, shape.d_key) * 0.1)

    def bias(
        self,
        query: Float[Tensor, "B H T E"],
        key: Float[Tensor, "B H T E"],
        positions: Int[Tensor, " T"],
        scale: float,
    ) -> Float[Tensor, "B H T T"]:
        """Content and position bias of every cell."""
        pair = torch.arange(self.pairs, device=positions.device, dtype=torch.float64)
        angle = positions.to(torch.float64)[:, None] * self.base ** (-2 * pair / self.width)
        sin, cos = angle.sin().to(query.dtype), angle.cos().to(query.dtype)
        of_sin, of_cos = ((query + self.v[:, None]) @ self.W_R.mT).split(self.pairs, -1)
        rows = torch.cat([of_sin * sin + of_cos * cos, of_cos * sin - of_sin * cos], -1)
        return scale * (rows @ torch.cat([cos, sin], -1).mT + (key @ self.u[..., None]).mT)


class Cope(NoPositions):
    """CoPE: positions counted in what the query finds worth counting (Golovneva et al. 2024, arXiv 2405.18719).

    ``g_ij = sigmoid(scale q_i . k_j)``, ``p_ij = sum_(l = j ... i) g_il``, cut at the highest position, and the bias is
    ``q_i . e[p_ij]``, e interpolated between whole positions; not scaled, as in the paper's appendix B.

    Attributes:
        vectors: e, (d_key, position), the same in all heads.
    """

    adds_bias: ClassVar[bool] = True

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        self.largest = cast(CopeSettings, config.position.parsed()).largest or config.n_ctx
        self.vectors = nn.Parameter(torch.randn(shape.d_key, self.largest + 1) * 0.5)

    def bias(
        self,
        query: Float[Tensor, "B H T E"],
        key: Float[Tensor, "B H T E"],
        positions: Int[Tensor, " T"],
        scale: float,
    ) -> Float[Tensor, "B H T T"]:
        """The interpolated product at each cell's own position."""
        gates = (query @ key.mT * scale).sigmoid() * (offsets(positions) >= 0)
        place = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=self.largest)
        products = query @ self.vectors
        below = place.detach().floor()
        share = place - below
        low, high = below.long(), (below.long() + 1).clamp(max=self.largest)
        return products.gather(-1, low) * (1 - share) + products.gather(-1, high) * share
