"""How variants look in all figures of a run: a colour, a dash and a mark each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_COLOURS = ("#2f7ec2", "#c9771b", "#6a51a3", "#3a8f5c", "#b04a6e", "#8c6d1f", "#1f8a8a", "#a8443a")
_DASHES = ("solid", "dash", "dashdot", "longdash", "dot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "star", "pentagon", "hexagon", "bowtie")


@dataclass(frozen=True)
class Look:
    """Colour, dash and mark of one variant."""

    colour: str
    dash: str
    symbol: str

    def pale(self, share: float = 0.35) -> str:
        """The colour, let through."""
        red, green, blue = (int(self.colour[place : place + 2], 16) for place in (1, 3, 5))
        return f"rgba({red}, {green}, {blue}, {share:g})"


def look(name: str, order: Sequence[str]) -> Look:
    """How a variant looks among those of its run; where colours come round again, with the next dash and mark."""
    place = list(order).index(name) if name in order else len(order)
    turn, colour = divmod(place, len(_COLOURS))
    return Look(_COLOURS[colour], _DASHES[turn % len(_DASHES)], _SYMBOLS[(turn + colour) % len(_SYMBOLS)])
