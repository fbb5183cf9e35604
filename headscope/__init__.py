"""Headscope: what every attention head of a language model does, and the ablations that prove it.

Importing this package loads no torch; `load` brings it in when it is first asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headscope.models import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

_NEIGHBOURS = ("probes", "circuits", "app")


def _location(package: str) -> Path | None:
    """Where ``import package`` would find it: its folder, or its file if it is a plain module."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    places = spec.submodule_search_locations
    return Path(next(iter(places))) if places else Path(spec.origin or "")


def _refusal(package: str, found: Path | None, expected: Path) -> str:
    """The message for a neighbour that resolves elsewhere, with what to do about it."""
    if found is None:
        return f"headscope needs its own package {package!r} at {expected}, but nothing is there: reinstall it."
    from importlib import metadata  # reads every installed distribution, so only when something is wrong

    owners = [name for name in metadata.packages_distributions().get(package, []) if name != "headscope"]
    cure = f"pip uninstall {' '.join(owners)}" if owners else "rename it, or start Python elsewhere"
    return f"headscope needs its own package {package!r}, but Python finds another one at {found}: {cure}."


def _check_neighbours() -> None:
    """Refuse to start when another distribution's ``probes``, ``circuits`` or ``app`` hides ours.

    Raises:
        ImportError: naming the package, where it was found, and what to uninstall or rename.
    """
    home = Path(__file__).resolve().parent.parent
    for package in _NEIGHBOURS:
        found = _location(package)
        if found is None or found.resolve() != home / package:
            raise ImportError(_refusal(package, found, home / package))


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("headscope.models").load
    raise AttributeError(f"module 'headscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_check_neighbours()
