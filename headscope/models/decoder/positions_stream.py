"""Vectors that are added to the stream: learned ones and sinusoids."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.errors import UnsupportedError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.position_settings import SinusoidalSettings


def sinusoids(positions: Int[Tensor, " T"], width: int, base: float) -> Float[Tensor, "T width"]:
    """``sin(p base^(-2 c / width))`` at channel 2 c, its cosine at ``2 c + 1`` (Vaswani et al. 2017, section 3.5)."""
    channel = torch.arange(width, device=positions.device)
    frequency = base ** -((channel - channel % 2).to(torch.float64) / width)
    angle = positions.to(torch.float64)[:, None] * frequency
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


def learned_rows(config: DecoderConfig) -> int | None:
    """Rows of a table of learned positions; None without one."""
    if config.position.kind != "learned":
        return None
    reach = config.position.randomised
    return config.n_ctx if reach is None else reach.largest


def stream_positions(
    config: DecoderConfig, table: Float[Tensor, "row M"] | None, positions: Int[Tensor, " T"], dtype: torch.dtype
) -> Float[Tensor, "T M"] | None:
    """What is added to the stream at every position, or None.

    Raises:
        UnsupportedError: for a text that is longer than the table of learned positions.
    """
    if table is not None:
        if config.position.randomised is None and len(positions) > len(table):
            raise UnsupportedError(
                f"a text of {len(positions)} tokens is longer than the {len(table)} learned positions of this model: "
                "raise n_ctx, or take another position encoding."
            )
        return table[positions]
    if config.position.kind == "sinusoidal":
        base = cast(SinusoidalSettings, config.position.parsed()).base
        return sinusoids(positions, config.d_model, base).to(dtype)
    return None
