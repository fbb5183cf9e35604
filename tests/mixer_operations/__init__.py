"""A naive twin of every mixer: z by the plainest loop, kept apart from the code that it is the oracle of.

A twin is ``operation(mixer, given) -> z`` in plain torch, at most thirty lines, reading the mixer's parameters and
settings but none of its methods. `OPERATIONS` of each family's module names them by the kind of mixer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from headscope.mixers.interface import MixerInput

Operation = Callable[[Any, MixerInput], Tensor]


@cache
def operations() -> dict[str, Operation]:
    """All naive twins, by the kind of mixer."""
    found: dict[str, Operation] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        found |= import_module(f"tests.mixer_operations.{path.stem}").OPERATIONS
    return found
