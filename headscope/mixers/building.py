"""A mixer by its kind and settings."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from headscope.errors import UnknownNameError
from headscope.mixers.interface import Mixer, MixerShape
from headscope.mixers.registry import mixer_places


def mixer_class(kind: str) -> type[Mixer]:
    """The class of a mixer.

    Raises:
        UnknownNameError: if there is none of that kind; suggests the nearest.
    """
    if kind not in mixer_places():
        raise UnknownNameError.of("mixer", kind, mixer_places())
    module, _, name = mixer_places()[kind].partition(":")
    found: type[Mixer] = getattr(import_module(module), name)
    return found


def build_mixer(kind: str, shape: MixerShape, settings: Mapping[str, Any]) -> Mixer:
    """A mixer with random parameters from torch's generator.

    Raises:
        UnknownNameError: for a kind that does not exist.
        ConfigError: for a setting that the kind does not have, or with an impossible value.
    """
    chosen = mixer_class(kind)
    return chosen(shape, chosen.settings_type.parse(dict(settings)))
