"""The collected text of the guide: score definitions, and the notes of each probe and method."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from headscope.heads import ScoreDefinition

FILE = "definitions.json"


@dataclass(frozen=True)
class Section:
    """A labelled paragraph of a note: "Definition", "Source", "Pitfalls"; a "Formula" has lines of its own."""

    label: str
    text: str


@dataclass(frozen=True)
class Note:
    """What a probe or a method says of itself.

    Attributes:
        name: key of the note.
        headline: one sentence.
        sections: what follows it, in order.
    """

    name: str
    headline: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Collected:
    """Everything the guide quotes.

    Attributes:
        definitions: every score, in the order of the census.
        notes: probes and methods by name.
    """

    definitions: tuple[ScoreDefinition, ...]
    notes: dict[str, Note]

    def of_probe(self, probe: str) -> tuple[ScoreDefinition, ...]:
        """The scores of one probe."""
        return tuple(each for each in self.definitions if each.probe == probe)


@cache
def collected() -> Collected:
    """The text that ships with the package; a test holds it equal to the code's."""
    data = json.loads((files("app.guide") / FILE).read_text(encoding="utf-8"))
    notes = [
        Note(each["name"], each["headline"], tuple(Section(**part) for part in each["sections"]))
        for each in data["notes"]
    ]
    return Collected(
        tuple(ScoreDefinition(**each) for each in data["definitions"]), {note.name: note for note in notes}
    )
