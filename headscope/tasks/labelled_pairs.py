"""Items of two labels from pairs of phrases: both labels get the same subjects and the same openings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headscope.tasks.labelled import LabelledItem

_PER_PHRASE = 4  # sentences with one phrase


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def paired_items(domains: Mapping[str, str], frames: Sequence[str]) -> list[LabelledItem]:
    """Four sentences from each phrase of each pair; the pair is the group.

    Args:
        domains: from subjects (separated by a comma) to lines ``phrase of label 0 | phrase of label 1``; every phrase
            of a domain goes with each of its subjects.
        frames: sentences with the gaps ``{s}`` or ``{S}`` (subject, with a capital) and ``{said}`` (phrase).
    """
    pairs = [
        (subjects.split(", "), line.strip().split(" | "))
        for subjects, lines in domains.items()
        for line in lines.strip().splitlines()
    ]
    found: list[LabelledItem] = []
    for number, (subjects, phrases) in enumerate(pairs):
        for turn in range(_PER_PHRASE):
            subject = subjects[(number + turn) % len(subjects)]
            frame = frames[(number + 2 * turn) % len(frames)]
            for label, said in enumerate(phrases):
                text = frame.format(S=capital(subject), s=subject, said=said)
                found.append(LabelledItem(text, label, group=phrases[0]))
    return found
