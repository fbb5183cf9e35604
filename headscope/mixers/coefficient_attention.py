"""Softmax attention on a text that was transformed or shortened, and what comes of it back on tokens."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape
from headscope.mixers.kinds import RowKind


class CoefficientSettings(Config):
    """Of attention between coefficients.

    Attributes:
        transform: ``dct``: cosine transform; ``haar``: Haar wavelets.
        keep: share of the coefficients that is kept, those of low frequency first.
    """

    transform: Literal["dct", "haar"] = "dct"
    keep: float = Field(default=0.5, gt=0, le=1)


class CoefficientAttention(Mixer):
    """``M = W^T softmax(W q (W k)^T / sqrt(d)) W``, W an orthonormal transform along the text, or its first rows.

    Fourier Transformer (He et al. 2023, 2305.15099, section 3): a cosine transform without its high frequencies. WavSpA
    (Zhuang et al. 2022, 2210.01989, section 3): all coefficients of a wavelet transform, here of Haar's. Every
    coefficient is made of the whole text, so that it works both ways only.
    """

    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    causal: bool = False
    settings_type: ClassVar[type[Config]] = CoefficientSettings

    def __init__(self, shape: MixerShape, settings: CoefficientSettings) -> None:
        super().__init__(shape, settings)
        self.transform, self.keep = settings.transform, settings.keep

    def mix(self, given: MixerInput) -> Mix:
        """Attention between coefficients, from tokens and back."""
        size = given.value.shape[2]
        made = cosine_transform if self.transform == "dct" else haar_transform
        rows = made(size, given.value.device).to(given.value.dtype)
        rows = rows[: math.ceil(self.keep * rows.shape[0])]
        scores = (rows @ given.query) @ (rows @ given.key).mT * given.scale
        return Mix(rows.mT @ scores.softmax(-1) @ rows, given.value)

    def state_size(self, length: int) -> int:
        """The whole text: queries, keys and values."""
        return length * self.shape.n_heads * (2 * self.shape.d_key + self.shape.d_head)


def cosine_transform(size: int, device: torch.device | None = None) -> Float[Tensor, "size size"]:
    """The orthonormal cosine transform (DCT-II): rows are frequencies from low to high."""
    place = torch.arange(size, dtype=torch.float64, device=device)
    rows = (math.pi / size * place[:, None] * (place + 0.5)).cos() * math.sqrt(2 / size)
    return torch.cat([rows[:1] / math.sqrt(2), rows[1:]])


def haar_transform(size: int, device: torch.device | None = None) -> Float[Tensor, "power size"]:
    """The orthonormal Haar transform of a text padded with zeros to a power of two: rows from coarse to fine."""
    rows = torch.ones(1, 1, dtype=torch.float64, device=device)
    while rows.shape[1] < size:
        fine = torch.eye(rows.shape[1], dtype=torch.float64, device=device)
        sums, differences = torch.stack([rows, rows], -1), torch.stack([fine, -fine], -1)
        rows = torch.cat([sums, differences]).flatten(1) / math.sqrt(2)
    return rows[:, :size]


class FunnelSettings(Config):
    """Of attention from pooled queries.

    Attributes:
        stride: tokens whose queries are averaged.
    """

    stride: int = Field(default=2, ge=1)


class Funnel(Mixer):
    """``M_ij = softmax_j(mean of the queries of row i's block . k_j / sqrt(d))``: rows of a block are alike.

    Funnel-Transformer (Dai et al. 2020, 2006.03236, section 2.2): pooled queries, all keys and values; a block's output
    is handed to each of its tokens, as the paper's decoder does.
    """

    takes_scores: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    causal: bool = False
    settings_type: ClassVar[type[Config]] = FunnelSettings

    def __init__(self, shape: MixerShape, settings: FunnelSettings) -> None:
        super().__init__(shape, settings)
        self.stride = settings.stride

    def mix(self, given: MixerInput) -> Mix:
        """Softmax of every block's mean query."""
        block = given.columns // self.stride
        same = (block[:, None] == block).to(given.query.dtype)
        query = (same / same.sum(-1, keepdim=True)) @ given.query
        return Mix((query @ given.key.mT * given.scale).softmax(-1), given.value)

    def state_size(self, length: int) -> int:
        """The whole text: queries, keys and values."""
        return length * self.shape.n_heads * (2 * self.shape.d_key + self.shape.d_head)
