"""What each score means, as a list for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.views.classes import bound_text
from headscope.heads import HeadScores, ScoreDefinition

_ARXIV = re.compile(r"(?:arxiv[:\s]*)?\b(\d{4}\.\d{4,5})\b", re.IGNORECASE)


@dataclass(frozen=True)
class DefinitionEntry:
    """One score's meaning.

    Attributes:
        definition: the definition as the run recorded it.
        link: page of the paper it is taken from, or None where the source names no arXiv id.
        rule: when a head counts as one of the class, in words; empty where the score makes no class.
    """

    definition: ScoreDefinition
    link: str | None
    rule: str


def definition_entries(scores: Iterable[HeadScores]) -> list[DefinitionEntry]:
    """An entry per score, in the order of the scores."""
    return [_entry(one.definition) for one in scores]


def _entry(definition: ScoreDefinition) -> DefinitionEntry:
    found = _ARXIV.search(definition.source)
    link = f"https://arxiv.org/abs/{found.group(1)}" if found else None
    rule = ""
    if definition.head_class is not None and definition.threshold is not None:
        rule = f"{definition.head_class} head: {definition.title.lower()} {bound_text(definition)}"
    return DefinitionEntry(definition, link, rule)
