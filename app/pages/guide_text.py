"""Collected text as components: code between double backticks, and arXiv ids as links that open on a click."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from dash import html

from app.guide.entries import Note, Section

_PIECE = re.compile(r"``(?P<code>[^`]+)``|`(?P<name>[^`]+)`|\barXiv[: ](?P<arxiv>\d{4}\.\d{4,5})\b")


def marked(text: str) -> list[Any]:
    """The text in pieces: words, code, links to the papers it names."""
    parts: list[Any] = []
    start = 0
    for found in _PIECE.finditer(text):
        parts += [text[start : found.start()], _piece(found)]
        start = found.end()
    return [part for part in (*parts, text[start:]) if part != ""]


def _piece(found: re.Match[str]) -> Any:
    if found["arxiv"]:
        href = f"https://arxiv.org/abs/{found['arxiv']}"
        return html.A(found[0], href=href, target="_blank", rel="noreferrer noopener")
    return html.Code(found["code"] or found["name"])


def sectioned(sections: Iterable[Section]) -> list[Any]:
    """Labelled paragraphs, and formulas line by line."""
    return [
        html.Pre(part.text, className="hs-formula")
        if part.label == "Formula"
        else html.P(
            [*([html.Strong(f"{part.label}. ")] if part.label else []), *marked(part.text)], className="hs-note"
        )
        for part in sections
    ]


def noted(notes: Iterable[Note]) -> list[Any]:
    """Notes one below another, each with its headline."""
    return [
        part
        for note in notes
        for part in (html.P(marked(note.headline), className="hs-headline"), *sectioned(note.sections))
    ]


def facts(title: str, name: str, rows: Iterable[tuple[str, Any]], *, anchor: str) -> html.Section:
    """What a registry says of one of its entries, as a list of terms."""
    parts: list[Any] = []
    for label, text in rows:
        parts += [html.Dt(label), html.Dd(text)]
    return html.Section([html.H3([title, " ", html.Code(name)]), html.Dl(parts, className="hs-facts")], id=anchor)
