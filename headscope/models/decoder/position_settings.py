"""The settings of every way to tell tokens where they are; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from headscope.config import Config
from headscope.errors import UnknownNameError


class NoSettings(Config):
    """Of an encoding that has none."""


class SinusoidalSettings(Config):
    """Of sines and cosines that are added to the stream.

    Attributes:
        base: the longest period is this times 2 pi.
    """

    base: float = Field(default=10000.0, gt=1)


class RotarySettings(Config):
    """Of a rotation of queries and keys.

    Attributes:
        base: the longest period is about this times 2 pi.
        fraction: share of a head's dimensions that are turned, the first ones; rounded down to an even number.
    """

    base: float = Field(default=10000.0, gt=1)
    fraction: float = Field(default=1.0, gt=0, le=1)


class RopeSettings(RotarySettings):
    """Of RoPE, and of how its frequencies are changed for longer texts.

    Attributes:
        interpolation: ``linear`` divides all frequencies by ``factor``; ``ntk`` raises the base so that the lowest one
            is divided by it and the highest stays; ``power`` multiplies frequency p of n by ``(1 - p / n) ** power``;
            ``truncated`` keeps those with a period of up to ``cutoff`` positions, gives one low frequency to those
            with periods of up to eight times that, and none to the rest.
        factor: how many times longer texts are than those trained on.
        power: exponent of the power basis.
        cutoff: longest period that is kept; ``n_ctx`` by default.
    """

    interpolation: Literal["none", "linear", "ntk", "power", "truncated"] = "none"
    factor: float = Field(default=1.0, ge=1)
    power: float = Field(default=0.5, gt=0)
    cutoff: float | None = Field(default=None, gt=0)


class XposSettings(RotarySettings):
    """Of xPos.

    Attributes:
        gamma: the fastest decay is ``gamma / (1 + gamma)`` in ``scale_base`` positions.
        scale_base: positions over which a pair of dimensions decays by its factor.
    """

    gamma: float = Field(default=0.4, gt=0)
    scale_base: float = Field(default=512.0, gt=0)


class BucketSettings(Config):
    """Of T5's bias.

    Attributes:
        buckets: distances told apart; half of them are single distances.
        max_distance: all distances from this on share a bucket.
    """

    buckets: int = Field(default=32, ge=4, multiple_of=4)
    max_distance: int = Field(default=128, ge=2)

    @model_validator(mode="after")
    def _longer(self) -> BucketSettings:
        if self.max_distance <= self.buckets // 2:
            raise ValueError(f"max_distance {self.max_distance} is not above buckets / 2 = {self.buckets // 2}")
        return self


class KerpleSettings(Config):
    """Of Kerple.

    Attributes:
        kernel: ``log``: -r1 log(1 + r2 d); ``power``: -r1 d^r2.
    """

    kernel: Literal["log", "power"] = "log"


class FireSettings(Config):
    """Of FIRE.

    Attributes:
        hidden: width of the network that maps a distance to the biases of all heads.
        threshold: rows up to this position share a normaliser, at the start; ``n_ctx`` by default.
    """

    hidden: int = Field(default=32, ge=1)
    threshold: float | None = Field(default=None, gt=0)


class RelativeSettings(Config):
    """Of vectors for relative positions.

    Attributes:
        largest: distances beyond this share a vector; the longest text (``n_ctx``) by default.
        per_head: every head has vectors of its own.
    """

    largest: int | None = Field(default=None, ge=1)
    per_head: bool = True


class XLSettings(Config):
    """Of Transformer-XL's scores.

    Attributes:
        base: of the sines and cosines of a distance.
    """

    base: float = Field(default=10000.0, gt=1)


class CopeSettings(Config):
    """Of contextual positions.

    Attributes:
        largest: highest position that is told apart; ``n_ctx`` by default.
    """

    largest: int | None = Field(default=None, ge=1)


class RandomisedSettings(Config):
    """Positions drawn from a longer range, in order.

    Attributes:
        largest: positions there are to draw from; texts cannot be longer.
        evaluation: outside training, ``spread`` takes the means of the positions drawn for a text of ``n_ctx`` tokens,
            ``first`` takes 0, 1, 2, ..., ``drawn`` takes one fixed draw, which depends on the text's length; so do the
            means for texts beyond ``n_ctx``.
    """

    largest: int = Field(ge=2)
    evaluation: Literal["spread", "first", "drawn"] = "spread"


POSITION_SETTINGS: Mapping[str, type[Config]] = {
    "none": NoSettings,
    "learned": NoSettings,
    "sinusoidal": SinusoidalSettings,
    "rope": RopeSettings,
    "xpos": XposSettings,
    "coca": RotarySettings,
    "alibi": NoSettings,
    "t5": BucketSettings,
    "kerple": KerpleSettings,
    "fire": FireSettings,
    "relative": RelativeSettings,
    "transformer-xl": XLSettings,
    "cope": CopeSettings,
}
"""The settings of each encoding."""

_WITHOUT_POSITIONS = ("none", "cope")


class PositionSettings(Config):
    """How tokens know where they are.

    Attributes:
        kind: the encoding: none, learned or sinusoidal vectors on the stream, a rotation (rope, xpos, coca) or a bias
            on scores (alibi, t5, kerple, fire, relative, transformer-xl, cope).
        settings: its own settings, by name.
        randomised: positions are drawn from a longer range in training; a number is the length of that range.
    """

    kind: str = "none"
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    randomised: RandomisedSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("randomised"), int):
            return data | {"randomised": {"largest": data["randomised"]}}
        return data

    @model_validator(mode="after")
    def _known(self) -> PositionSettings:
        if self.kind not in POSITION_SETTINGS:
            raise UnknownNameError.of("position encoding", self.kind, POSITION_SETTINGS)
        self.parsed()
        if self.randomised is not None and self.kind in _WITHOUT_POSITIONS:
            raise ValueError(f"position {self.kind!r} reads no positions: leave randomised out")
        return self

    def parsed(self) -> Config:
        """The encoding's own settings, checked.

        Raises:
            ConfigError: for a setting that it does not have, or with an impossible value.
        """
        return POSITION_SETTINGS[self.kind].parse(self.settings)
