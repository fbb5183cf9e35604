"""The capability card: what a loaded model was seen to support, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CardEntry:
    """One thing that was checked by running.

    Attributes:
        name: short key ("pattern_edit_reaches_logits").
        title: what was checked, for people.
        value: what was seen, with its number.
        ok: whether the model supports it; None where the entry is only a fact.
    """

    name: str
    title: str
    value: str
    ok: bool | None = None


@dataclass(frozen=True)
class CapabilityCard:
    """All entries of one model, in the order they were checked."""

    model: str
    entries: tuple[CardEntry, ...]

    def __getitem__(self, name: str) -> CardEntry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"the card has no entry {name!r}: {', '.join(entry.name for entry in self.entries)}")

    def supports(self, name: str) -> bool:
        """Whether the named capability was seen to work."""
        return self[name].ok is True

    def __str__(self) -> str:
        marks = {True: "yes", False: "NO ", None: "   "}
        width = max(len(entry.title) for entry in self.entries)
        return "\n".join(f"{marks[e.ok]}  {e.title:<{width}}  {e.value}" for e in self.entries)
