"""The registry of attention variants as its page shows it: filtered, counted, and one of them in full."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from app.views.table import Column, Table
from app.views.variants import count_by_status
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.registry import Variant, variants

COLUMNS = (
    Column("name", "Name", meaning="what commands call it"),
    Column("title", "Title"),
    Column("family", "Family"),
    Column("equation", "Equation", meaning="M is the mixing matrix, s is q.k / sqrt(d), c a running sum of log decays"),
    Column("kind", "M", meaning="how the mixing matrix comes about"),
    Column("rows", "Rows of M"),
    Column("causal", "Reads", meaning="left to right, or the whole text"),
    Column("needs", "Needs", meaning="what it has to be given: training, none, or a softmax model to copy"),
    Column("state", "State per layer", meaning="numbers kept to read one more token: H heads, T tokens, D width"),
    Column("peer", "Compared with", meaning="the implementation that its numbers are compared with in the tests"),
    Column("status", "Status"),
    Column("source", "Source", meaning="arXiv id, or another reference"),
)
KINDS: dict[MatrixKind, str] = {
    "explicit": "weights written down, from scores",
    "linear": "a dot product of features of query and key",
    "recurrent": "the closed form of a linear recurrence",
    "per_channel": "a matrix of its own for every channel of a head",
    "static": "the same for every text",
    "jacobian": "not linear in the values: M is the size of each block of the Jacobian, and cannot be cut",
}
ROWS: dict[RowKind, str] = {
    "stochastic": "rows sum to 1",
    "substochastic": "rows sum to at most 1",
    "positive": "rows sum to anything, no weight is negative",
    "signed": "weights of either sign",
}


def registry(text: str = "", family: str = "", status: str = "") -> tuple[Variant, ...]:
    """The variants of a family and a status whose words hold every word of ``text``; all of them without."""
    words = text.lower().split()
    return tuple(
        one
        for one in variants().values()
        if (not family or one.family == family)
        and (not status or one.status == status)
        and all(word in _words(one) for word in words)
    )


def families() -> tuple[str, ...]:
    """Families that have a variant, in the order of the registry."""
    return tuple(dict.fromkeys(one.family for one in variants().values()))


def find(name: str) -> Variant | None:
    """The variant of that name, or None."""
    return variants().get(name)


def registry_table(entries: Sequence[Variant]) -> Table:
    """A row for each variant."""
    rows = tuple(
        (one.name, one.title, one.family, one.equation, one.kind, one.rows, reads(one), one.training, one.state,
         one.peer, one.status, one.source)
        for one in entries
    )  # fmt: skip
    return Table("Attention variants", COLUMNS, rows)


def count_text(entries: Sequence[Variant]) -> str:
    """``281 variants: 244 built, 28 policies, 9 left out.``"""
    counts = count_by_status(entries)
    names = {"built": "built", "policy": "policies" if counts.get("policy", 0) != 1 else "policy"}
    told = ", ".join(f"{n} {names.get(status, status)}" for status, n in counts.items())
    many = f"{len(entries)} {'variant' if len(entries) == 1 else 'variants'}"
    return f"{many}: {told}." if told else "No variant is like that."


def reads(one: Variant) -> str:
    """``left to right``, ``both ways`` or both."""
    ways = [word for word, so in (("left to right", one.causal), ("both ways", one.bidirectional)) if so]
    return " and ".join(ways) or "both ways"


def train_command(one: Variant, task: str = "mqar") -> str:
    """The command that trains it; empty where there is none."""
    return f"headscope train {task} --variants {shlex.quote(one.name)}" if one.status == "built" else ""


def status_text(one: Variant) -> str:
    """What its status means for somebody who wants it."""
    if one.status == "built":
        return "Built: it can be trained here, and its mixing matrix can be read and cut."
    if one.status == "policy":
        return "A policy: it runs on a model that was trained with softmax (headscope policies)."
    return "Left out; the note says why."


def card_facts(one: Variant) -> tuple[tuple[str, str], ...]:
    """What is known of a variant, a name and a text each; what it does not have is left out."""
    told = (
        ("Name", one.name),
        ("Also called", ", ".join(one.also)),
        ("Family", one.family),
        ("Source", one.source),
        ("M", f"{one.kind}: {KINDS[one.kind]}" if one.status == "built" else ""),
        ("Rows", f"{one.rows}: {ROWS[one.rows]}" if one.status == "built" else ""),
        ("Reads", reads(one) if one.status == "built" else ""),
        ("Needs", one.training),
        ("State per layer", one.state if one.status == "built" else ""),
        ("Compared with", one.peer),
        ("Settings", json.dumps(dict(one.config)) if one.config else ""),
        ("Status", status_text(one)),
        ("Note", one.note),
    )
    return tuple((name, text) for name, text in told if text)


def _words(one: Variant) -> str:
    parts = (one.name, one.title, one.family, one.equation, one.source, one.note, one.kind, one.rows, *one.also)
    return " ".join(parts).lower()
