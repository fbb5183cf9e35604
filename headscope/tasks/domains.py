"""Texts of several domains that come with Python or Headscope: what a change of attention costs differs by domain."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

from headscope.errors import TaskError, UnknownNameError
from headscope.tasks.haystack import load_haystack

_MODULES = ("argparse", "ast", "calendar", "configparser", "csv", "difflib", "doctest", "inspect", "shutil", "tarfile")


def _code() -> str:
    """Source code of the standard library, docstrings and comments included."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts = [path.read_text(encoding="utf-8") for name in _MODULES if (path := folder / f"{name}.py").is_file()]
    if not parts:
        raise TaskError(f"the domain 'code' reads Python's own source, and {folder} holds none of it.")
    return "\n\n".join(parts)


def _opinions() -> str:
    """Short opinions and reports, one a line: the texts of two labelled data sets in turn."""
    from headscope.tasks.labelled_catalog import labelled_set

    items = zip(labelled_set("sentiment").items, labelled_set("topic").items, strict=False)
    return "\n".join(f"{one.text}\n{other.text}" for one, other in items)


DOMAINS: dict[str, Callable[[], str]] = {"reference": load_haystack, "code": _code, "opinions": _opinions}
"""``reference``: the language reference; ``code``: the standard library's source; ``opinions``: short statements."""


def domain_text(name: str) -> str:
    """The text of a domain; differs a little between Python versions, which runs record.

    Raises:
        UnknownNameError: if there is no such domain.
        TaskError: if this Python comes without it.
    """
    if name not in DOMAINS:
        raise UnknownNameError.of("domain", name, DOMAINS)
    return DOMAINS[name]()
