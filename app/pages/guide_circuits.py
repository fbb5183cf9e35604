"""The guide's cards on circuits: every method and every task, from their registries."""

from __future__ import annotations

from typing import Any

from dash import html

from app.guide.entries import collected
from app.pages.guide_text import facts, marked, noted
from circuits.methods import METHODS
from headscope.tasks.contrast_catalog import CONTRAST_TASKS


def methods_text() -> list[Any]:
    """What each method does and what its scores are."""
    lead = noted([collected().notes["graph"]])
    return [
        *lead,
        *(facts(one.title, one.name, _method(one.name), anchor=f"circuit-{one.name}") for one in METHODS.values()),
    ]


def tasks_text() -> list[Any]:
    """What each task asks, and how its prompts are corrupted."""
    lead = html.P(
        "A task is pairs of prompts, clean and corrupted, that differ in what a circuit has to notice. A circuit is "
        "only sought where the model passes the task's bar.",
        className="hs-headline",
    )
    return [
        lead,
        *(facts(one.title, one.name, _task(one.name), anchor=f"circuit-{one.name}") for one in CONTRAST_TASKS.values()),
    ]


def _method(name: str) -> list[tuple[str, Any]]:
    one = METHODS[name]
    scored = ["heads", *(["MLPs"] if one.mlps else []), *(["edges"] if one.edges else [])]
    sign = "above 0 helps the right answer, below 0 works against it" if one.signed else "a magnitude, without a sign"
    return [
        ("how", one.summary),
        ("score", f"{one.meaning}; {sign}"),
        ("unit", one.unit),
        ("scores", ", ".join(scored)),
        ("source", marked(one.source)),
    ]


def _task(name: str) -> list[tuple[str, Any]]:
    one = CONTRAST_TASKS[name]
    return [
        ("prompt", one.description),
        ("corrupted", one.corruption),
        ("positions", ", ".join(one.positions)),
        ("bar", f"right on at least {one.bar:.0%} of the prompts"),
        ("source", marked(one.source)),
    ]
