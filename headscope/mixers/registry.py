"""Every variant by name: what it is, where it comes from, and the settings of the decoder that make it; no torch.

A variant is a set of settings of `headscope.models.decoder.DecoderConfig`: mostly a mixer, sometimes another way to
place, share or mix heads. A few are policies on a model that was trained with softmax (`headscope policies`), and some
are left out, with the reason. Each family's entries lie in a module of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal

from headscope.errors import UnknownNameError
from headscope.mixers.kinds import Family, MatrixKind, RowKind, Training

Status = Literal["built", "policy", "left out"]

_FAMILIES = (
    "softmax",
    "sparse",
    "local",
    "linear",
    "recurrent",
    "channels",
    "memory",
    "heads",
    "positions",
    "pooling",
    "policies",
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One variant of the literature.

    Attributes:
        name: what the command line and `build` call it.
        title: its name in print.
        family: the family it belongs to.
        source: arXiv id, or another short reference.
        equation: what it computes, in one line of plain text.
        config: settings of the decoder that make it; ``{"mixer": ...}`` for most.
        kind: how its M comes about.
        rows: what a row of M is like.
        causal: whether it reads left to right.
        bidirectional: whether it also works without a causal mask.
        training: what it needs.
        state: numbers that a layer keeps to read the next token, as a formula (H heads, T tokens, D width).
        peer: the implementation it is compared with in ``tests/peers``, or empty.
        status: built, available as a policy on a trained model, or left out.
        note: what is different here from the paper; the reason where it is left out.
        also: names of the literature that are the same thing here, or a setting of it.
    """

    name: str
    title: str
    family: Family
    source: str
    equation: str
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kind: MatrixKind = "explicit"
    rows: RowKind = "stochastic"
    causal: bool = True
    bidirectional: bool = False
    training: Training = "trained"
    state: str = "2 H T D"
    peer: str = ""
    status: Status = "built"
    note: str = ""
    also: tuple[str, ...] = ()


@cache
def variants() -> Mapping[str, Variant]:
    """All variants by name, family by family."""
    found: dict[str, Variant] = {}
    for family in _FAMILIES:
        entries: tuple[Variant, ...] = import_module(f"headscope.mixers.entries.{family}").ENTRIES
        for entry in entries:
            if entry.name in found:
                raise ValueError(f"two variants are called {entry.name!r}")
            found[entry.name] = entry
    return found


def variant(name: str) -> Variant:
    """The variant of a name, a title or another name of the literature; case, blanks and hyphens do not count.

    Raises:
        UnknownNameError: if there is none; suggests the nearest.
    """
    found = variants().get(name) or variants().get(_other_names().get(_plain(name), ""))
    if found is None:
        raise UnknownNameError.of("variant", name, variants(), "List them: headscope variants.")
    return found


@cache
def _other_names() -> Mapping[str, str]:
    """Titles and other names in plain letters, and the variant that each means; what means several is left out."""
    found: dict[str, set[str]] = {}
    for entry in variants().values():
        for other in (entry.name, entry.title, *entry.also):
            found.setdefault(_plain(other), set()).add(entry.name)
    return {other: next(iter(names)) for other, names in found.items() if len(names) == 1}


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


@cache
def mixer_places() -> Mapping[str, str]:
    """Where each mixer's class is: kind -> ``module:Class``."""
    places: dict[str, str] = {}
    for family in _FAMILIES:
        places |= import_module(f"headscope.mixers.entries.{family}").MIXERS
    return places
