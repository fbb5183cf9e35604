"""A check of mixers that multiply keys with values channel by channel."""

from __future__ import annotations

from headscope.errors import ConfigError
from headscope.mixers.interface import MixerShape


def check_same_width(shape: MixerShape, kind: str) -> None:
    """Refuse keys of another width than values.

    Raises:
        ConfigError: if the widths differ.
    """
    if shape.d_key != shape.d_head:
        raise ConfigError(
            f"the mixer {kind!r} works channel by channel: d_key {shape.d_key} must be d_head {shape.d_head}."
        )
