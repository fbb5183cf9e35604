"""Transformer-XL: relative positions, and rows that also see the segment before their own."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.mask_patterns import Block
from headscope.mixers.masked import Masked, MaskedSettings


class TransformerXLSettings(Config):
    """Of Transformer-XL; segments are short by default, for small models.

    Attributes:
        segment: tokens of a segment.
        memory: tokens before its segment that a row also sees.
    """

    segment: int = Field(default=8, ge=1)
    memory: int = Field(default=8, ge=0)


class TransformerXL(Masked):
    """``s_ij = (q_i . k_j + q_i . W_R r_{i-j} + u . k_j + v . W_R r_{i-j}) / sqrt d`` (Dai et al. 2019, 1901.02860).

    Section 3.3, with ``r`` the sinusoids of the distance. The recurrence over segments (section 3.2) is a mask here: a
    row sees its own segment and the ``memory`` tokens before it, all read in one pass.

    Attributes:
        W_R: (head, width of the sinusoids, d_key).
        content_bias: u, of each head.
        position_bias: v, of each head.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = TransformerXLSettings

    def __init__(self, shape: MixerShape, settings: TransformerXLSettings) -> None:
        block = Block(size=settings.segment, halo=settings.memory)
        super().__init__(shape, MaskedSettings(patterns=((block,),)))
        self.settings = settings
        heads, width = shape.n_heads, shape.d_model + shape.d_model % 2
        self.W_R = nn.Parameter(torch.randn(heads, width, shape.d_key) * width**-0.5)
        self.content_bias = nn.Parameter(torch.zeros(heads, shape.d_key))
        self.position_bias = nn.Parameter(torch.zeros(heads, shape.d_key))

    def extra_scores(
        self,
        given: MixerInput,
        heads: range,
        rows: Int[Tensor, " Q"],
        columns: Int[Tensor, " K"],
        length: int,
    ) -> Float[Tensor, "B H Q K"]:
        """All but ``q_i . k_j``."""
        some = slice(heads.start, heads.stop)
        content = (given.key * self.content_bias[some, None]).sum(-1)[:, :, None]
        distances = sinusoids(length, self.W_R.shape[1], given.query) @ self.W_R[some]
        by_distance = (given.query + self.position_bias[some, None]) @ distances.mT
        apart = (rows[:, None] - columns).clamp(min=0).expand(*by_distance.shape[:2], -1, -1)
        return (content + by_distance.gather(-1, apart)) * given.scale


def sinusoids(count: int, width: int, like: Tensor) -> Float[Tensor, "count width"]:
    """Sines, then cosines, of ``d / 10000^(2 w / width)`` for d from 0 to ``count - 1``."""
    rate = 10000 ** (-torch.arange(0, width, 2, device=like.device, dtype=like.dtype) / width)
    angle = torch.arange(count, device=like.device, dtype=like.dtype)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], -1)
