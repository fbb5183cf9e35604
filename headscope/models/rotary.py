"""Turning rotary positions on: post-rotary queries and keys, as if they stood elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.errors import UnsupportedError
from headscope.models.protocol import HookedModel

_FIXED = ("default", "linear", "llama3", None)


@dataclass(frozen=True)
class Rotary:
    """The rotation of a model whose frequencies do not depend on the text's length.

    Attributes:
        frequencies: radians per position of each rotated pair: dimension d goes with ``d + rotated / 2``.
    """

    frequencies: Float[Tensor, " pair"]

    def turn(
        self, x: Float[Tensor, "batch head pos d_head"], by: Int[Tensor, " pos"]
    ) -> Float[Tensor, "batch head pos d_head"]:
        """``R(by) x``: what ``x`` would be, had it stood ``by`` positions later.

        Args:
            x: post-rotary queries or keys.
            by: positions to move each one; negative is earlier.
        """
        half = len(self.frequencies)
        angle = by.to(torch.float64)[:, None] * self.frequencies.to(by.device, torch.float64)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def rotary_of(model: HookedModel) -> Rotary | None:
    """The model's rotation; None if it has no rotary positions.

    Raises:
        UnsupportedError: if its frequencies change with the length of the text.
    """
    module: Any = getattr(model.plain.base_model, "rotary_emb", None)
    if module is None or not hasattr(module, "inv_freq"):
        return None
    kind = getattr(module, "rope_type", None)
    if kind not in _FIXED:
        raise UnsupportedError(
            f"the rotary positions of {model.name!r} are of the type {kind!r}, whose frequencies change with the text: "
            f"keys cannot be moved. Those of the types {', '.join(str(one) for one in _FIXED[:-1])} can."
        )
    return Rotary(module.inv_freq.detach().float())
