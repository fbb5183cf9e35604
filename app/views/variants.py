"""The registry of attention variants as plain data: rows, tables, a page of documentation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from app.views.tables import TextTable
from headscope.errors import UnknownNameError
from headscope.mixers.kinds import Family
from headscope.mixers.registry import Variant, variants


def chosen_variants(family: str | None = None) -> list[Variant]:
    """All variants, or those of a family; part of its name is enough.

    Raises:
        UnknownNameError: if no family's name has ``family`` in it.
    """
    found = list(variants().values())
    if family is None:
        return found
    kept = [entry for entry in found if family.lower() in entry.family]
    if not kept:
        raise UnknownNameError.of("family of variants", family, get_args(Family))
    return kept


def variant_rows(entries: Iterable[Variant]) -> list[dict[str, Any]]:
    """Each variant as plain data, one key for each of its attributes."""
    return [json.loads(json.dumps(dataclasses.asdict(entry))) for entry in entries]


def variant_list(entries: Sequence[Variant]) -> TextTable:
    """A row for each variant."""
    counts = count_by_status(entries)
    return TextTable(
        title=f"{len(entries)} variants: " + ", ".join(f"{n} {status}" for status, n in counts.items()),
        columns=("name", "family", "M", "rows", "needs", "status", "source"),
        rows=tuple(
            (entry.name, entry.family, entry.kind, entry.rows, entry.training, entry.status, entry.source)
            for entry in entries
        ),
        numbers=frozenset(),
        note="One of them: headscope variants NAME. Train it: headscope train TASK --variants NAME.",
    )


def variant_card(entry: Variant) -> TextTable:
    """One variant, an attribute for each row."""
    return TextTable(entry.title, ("", ""), tuple(_attributes(entry)), frozenset())


def _attributes(entry: Variant) -> list[tuple[str, str]]:
    ways = " and ".join(word for word, so in (("left to right", entry.causal), ("both ways", _both(entry))) if so)
    told = [
        ("name", entry.name),
        ("family", entry.family),
        ("source", entry.source),
        ("equation", entry.equation),
        ("settings", json.dumps(dict(entry.config)) if entry.config else ""),
        ("M", f"{entry.kind}; rows {entry.rows}" if entry.status == "built" else ""),
        ("reads", ways if entry.status == "built" else ""),
        ("needs", entry.training),
        ("state per layer", entry.state if entry.status == "built" else ""),
        ("compared with", entry.peer),
        ("status", entry.status),
        ("note", entry.note),
        ("also", ", ".join(entry.also)),
    ]
    return [(label, text) for label, text in told if text]


def _both(entry: Variant) -> bool:
    return entry.bidirectional or not entry.causal


def count_by_status(entries: Iterable[Variant]) -> dict[str, int]:
    """How many variants are built, policies, left out, in this order; those that occur."""
    found = [entry.status for entry in entries]
    return {status: found.count(status) for status in ("built", "policy", "left out") if status in found}


def variants_page() -> str:
    """`docs/variants.md`: the registry as one page of Markdown."""
    entries = list(variants().values())
    counts = count_by_status(entries)
    names = len(entries) + sum(len(entry.also) for entry in entries)
    shares = ", ".join(f"{n} {status}" for status, n in counts.items())
    parts = [
        "# Attention variants",
        "Written by `python -m app.guide.variants_page` from the registry (`headscope/mixers`); a test keeps it so.",
        f"{len(entries)} entries for {names} names of the literature: {shares}. *Built* means that "
        "`headscope train TASK --variants NAME` trains it and that every test of `tests/test_mixers.py` holds of it. "
        "A *policy* runs on a model trained with softmax (`headscope policies`).",
        "M is the mixing matrix, `z = M v`; s is `q.k / sqrt(d)`; c is a running sum of logarithms of decays. State: "
        "the numbers that one layer keeps to read the next token, for H heads of width D and a text of T tokens.",
    ]
    for family in get_args(Family):
        members = [entry for entry in entries if entry.family == family and entry.status != "left out"]
        if members:
            parts += [f"## {family[0].upper()}{family[1:]}", _markdown(members)]
    left_out = [entry for entry in entries if entry.status == "left out"]
    if left_out:
        rows = [f"| {entry.title} | {entry.source} | {_cell(entry.note)} |" for entry in left_out]
        parts += ["## Left out", "\n".join(["| variant | source | reason |", "|---|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _markdown(members: Sequence[Variant]) -> str:
    head = "| name | variant | equation | M | reads | needs | state | compared with | notes |"
    rows = [
        f"| `{entry.name}` | {entry.title} ({entry.source}) | `{_cell(entry.equation)}` | {entry.kind}, {entry.rows} "
        f"| {'causal' if entry.causal else 'both ways'}{', both ways' if entry.causal and entry.bidirectional else ''} "
        f"| {entry.training} | {_cell(entry.state)} | {entry.peer} | {_cell(_notes(entry))} |"
        for entry in members
    ]
    return "\n".join([head, "|---" * 9 + "|", *rows])


def _notes(entry: Variant) -> str:
    also = f"Also: {', '.join(entry.also)}." if entry.also else ""
    return " ".join(part for part in (entry.note, also) if part)


def _cell(text: str) -> str:
    """Text for a cell: bars would end it."""
    return text.replace("|", "\\|").replace("\n", " ")
