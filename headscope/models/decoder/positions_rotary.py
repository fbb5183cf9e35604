"""Rotations of queries and keys by their positions: RoPE, its interpolations, xPos and CoCA.

Dimension p of a head is turned together with dimension ``p + n``, n being the number of turned pairs, as in Llama; what
is not turned follows. The dot product of a turned query and key depends on how far apart they stand.
"""

from __future__ import annotations

from math import pi
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.errors import ConfigError
from headscope.mixers.interface import MixerShape
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.position_settings import RopeSettings, RotarySettings, XposSettings
from headscope.models.decoder.positions import NoPositions

_TRUNCATED_TO_ZERO, _TRUNCATED_LOW = 8, 16
"""Giraffe's truncated basis: periods of more than 8 cutoffs do not turn, those between turn once in 16 cutoffs."""


def turned(x: Float[Tensor, "B T H E"], angle: Float[Tensor, "T pair"]) -> Float[Tensor, "B T H E"]:
    """Every pair of dimensions of ``x`` turned by the angle of its position."""
    half = angle.shape[1]
    cos, sin = (part.to(x.dtype)[:, None] for part in (angle.cos(), angle.sin()))
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


class Rotary(NoPositions):
    """The base of rotations: pair p of n turns by ``base^(-p / n)`` radians for each position."""

    turns: ClassVar[bool] = True

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        self.settings = cast(RotarySettings, config.position.parsed())
        self.pairs = int(self.settings.fraction * shape.d_key) // 2
        if not self.pairs:
            raise ConfigError(
                f"position {config.position.kind!r} turns {self.settings.fraction:g} of {shape.d_key} dimensions of "
                "a head, which is no pair: raise fraction or d_key."
            )

    def frequencies(self, device: torch.device) -> Float[Tensor, " pair"]:
        """Radians per position of every pair."""
        return self.settings.base ** -self._share(device)

    def angles(self, positions: Int[Tensor, " T"]) -> Float[Tensor, "T pair"]:
        """Angle of every pair at every position."""
        return positions.to(torch.float64)[:, None] * self.frequencies(positions.device)

    def _share(self, device: torch.device) -> Float[Tensor, " pair"]:
        """``p / n`` of every pair."""
        return torch.arange(self.pairs, device=device, dtype=torch.float64) / self.pairs


class Rope(Rotary):
    """RoPE (Su et al. 2021, arXiv 2104.09864, section 3.2), with changed frequencies for longer texts.

    ``linear`` is position interpolation (Chen et al. 2023, 2306.15595), ``ntk`` a raised base, ``base * factor^(d / (d
    - 2))``, ``power`` and ``truncated`` the bases of Giraffe (Pal et al. 2023, 2308.10882, section 3).
    """

    settings: RopeSettings

    def __init__(self, config: DecoderConfig, shape: MixerShape) -> None:
        super().__init__(config, shape)
        self.cutoff = self.settings.cutoff or config.n_ctx

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Both turned by their positions."""
        angle = self.angles(positions)
        return turned(query, angle), turned(key, angle)

    def frequencies(self, device: torch.device) -> Float[Tensor, " pair"]:
        """Those of RoPE, interpolated."""
        plain, settings = super().frequencies(device), self.settings
        if settings.interpolation == "linear":
            return plain / settings.factor
        if settings.interpolation == "ntk":
            return plain * settings.factor ** -(self._share(device) * self.pairs / max(1, self.pairs - 1))
        if settings.interpolation == "power":
            return plain * (1 - self._share(device)) ** settings.power
        if settings.interpolation == "truncated":
            kept = 2 * pi / self.cutoff
            low = torch.full_like(plain, kept / _TRUNCATED_LOW).masked_fill(plain < kept / _TRUNCATED_TO_ZERO, 0)
            return torch.where(plain < kept, low, plain)
        return plain


class Xpos(Rotary):
    """xPos: ``q_i -> zeta^(i / b) R_i q``, ``k_j -> zeta^(-j / b) R_j k`` (Sun et al. 2022, arXiv 2212.10554, 3.2).

    ``zeta_p = (p / n + gamma) / (1 + gamma)`` for pair p of n, so scores of pair p fade with ``zeta_p^((i - j) / b)``.
    What is not turned does not fade.
    """

    settings: XposSettings

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Both turned; queries shrunk and keys grown."""
        angle, settings = self.angles(positions), self.settings
        zeta = (self._share(positions.device) + settings.gamma) / (1 + settings.gamma)
        power = (positions.to(torch.float64) / settings.scale_base)[:, None] * zeta.log()
        power = torch.cat([power, power, power.new_zeros(len(positions), query.shape[-1] - 2 * self.pairs)], 1)
        query = turned(query, angle) * power.exp().to(query.dtype)[:, None]
        return query, turned(key, angle) * (-power).exp().to(key.dtype)[:, None]


class Coca(Rotary):
    """CoCA: a key is ``q_i * t_j``, collinear with the query in every pair (Zhu et al. 2023, arXiv 2309.08646).

    ``t_j`` is the ReLU of the mean of the key's two halves, one number for each pair, so that after rotation
    ``s_ij = sum_p t_jp |q_ip|^2 cos((i - j) w_p)``: a rotated dot product of ``(|q_p|^2, 0)`` and ``(t_p, 0)``. What is
    not turned stays a plain dot product.
    """

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The two vectors whose dot product is the score."""
        half, angle = self.pairs, self.angles(positions)
        square = query[..., :half].square() + query[..., half : 2 * half].square()
        factor = ((key[..., :half] + key[..., half : 2 * half]) / 2).relu()
        parts = [
            torch.cat([first, torch.zeros_like(first), whole[..., 2 * half :]], -1)
            for first, whole in ((square, query), (factor, key))
        ]
        return turned(parts[0], angle), turned(parts[1], angle)
