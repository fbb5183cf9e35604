"""The guide's cards on policies: what each is, from the catalogue, and what attention calibration does."""

from __future__ import annotations

from typing import Any

from dash import html

from app.guide.entries import collected
from app.pages.guide_text import facts, marked, noted
from app.views.policy_tables import family_text
from circuits.policies.catalog import POLICIES
from circuits.policies.kinds import PolicyKind

_POLICY = (
    "A policy says, for every row of every layer, which keys it attends to, with what weights, and what the cache "
    "keeps. Rows are taken in order, so that reading a prompt at once and decoding token by token give the same. The "
    "model's own cache stays whole meanwhile: what a cache under the policy would hold, the keys attended and the "
    "operations are counted row by row."
)
_TRIAL = (
    "Heads are chosen on one part of a data set and judged on another that no choice has seen, beside as many random "
    "heads of the same layers, all heads, and the chosen heads with their sinks fed instead of weakened. A gain that "
    "random heads have too says nothing about the heads."
)


def policies_text() -> list[Any]:
    """What every policy of the catalogue does, whom it is from and where it is not theirs."""
    return [
        html.P(_POLICY, className="hs-headline"),
        *(facts(kind.title, kind.name, _rows(kind), anchor=f"policy-{kind.name}") for kind in POLICIES.values()),
    ]


def calibration_text() -> list[Any]:
    """What attention calibration does to a head, what its sinks are, and how it is judged."""
    notes = noted([collected().notes[name] for name in ("act", "act_sinks")])
    return [*notes, html.P([html.Strong("Controls. "), _TRIAL], className="hs-note")]


def _rows(kind: PolicyKind) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        ("how", kind.summary),
        ("keys", family_text(kind)),
        ("unit", kind.unit),
        ("source", marked(kind.source)),
    ]
    return [*rows, *([("differs", kind.note)] if kind.note else [])]
