"""flash-linear-attention's reference functions, loaded by file: importing the package loads its GPU kernels.

Only that of NSA imports the package by itself.

Some take (B, H, T, D) and some (B, T, H, D), and none can tell which it got: `heads_first` and `tokens_first` say it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor


@cache
def reference(path: str) -> ModuleType:
    """The reference module of an operation, such as ``gla`` or ``generalized_delta_rule/dplr``."""
    package = find_spec("fla")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "ops" / path / "naive.py"
    spec = spec_from_file_location(f"fla_reference_{path.replace('/', '_')}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def heads_first(operation: Callable[..., Any]) -> Callable[..., Tensor]:
    """Of an operation on (B, H, T, ...), our layout: its first result."""

    def call(*parts: Tensor, **options: Any) -> Tensor:
        found = operation(*(part.clone() for part in parts), **options)
        return found[0] if isinstance(found, tuple) else found

    return call


def tokens_first(operation: Callable[..., Any]) -> Callable[..., Tensor]:
    """Of an operation on (B, T, H, ...): called with our layout, and its first result in ours."""

    def call(*parts: Tensor, **options: Any) -> Tensor:
        options = {name: part.transpose(1, 2) if _by_token(part) else part for name, part in options.items()}
        found = operation(*(part.transpose(1, 2).contiguous() for part in parts), **options)
        return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)

    return call


def _by_token(part: object) -> bool:
    return isinstance(part, Tensor) and part.ndim > 2
