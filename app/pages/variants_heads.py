"""The panels about a compare run: verdicts, the census of heads, claims, lengths."""

from __future__ import annotations

from typing import Any

from dash import html

from app.figures.training import length_figure
from app.figures.variant_heads import MOST_ROWS, strips_figure
from app.frame.exports import grid
from app.frame.page import Content, empty
from app.pages.variants_mixing import census_rows
from app.pages.variants_state import VariantsState, begun_comparison
from app.site import View
from app.views.numbers import fixed, interval
from app.views.source import source_line
from app.views.table import Table
from app.views.tables import incomplete_banner
from app.views.training_tables import length_table, lengths_of
from app.views.variant_census import CENSUS_RULE, role_table, shown_roles
from app.views.variant_claims import cautions, verdicts
from app.views.variant_comparison import CompareRun
from app.views.variant_cuts import RULE, claim_table, shown_claims
from app.views.variant_profiles import CELLS_MEAN, number_table, profile_table

_WIDTHS = {
    "weight": 120,
    "accuracy": 120,
    "drop": 178,
    "random": 262,
    "equal": 262,
    "role": 136,
    "layers": 84,
    "median_drop": 100,
    "cells": 118,
    "counts": 172,
    "n": 70,
    "head": 80,
    "found": 120,
    "more_random": 110,
    "more_equal": 130,
}


def source(found: CompareRun) -> str:
    """Where the numbers of a panel come from."""
    n = sorted({one.n for one in found.models})
    return f"{len(found.models)} of {found.planned} models, n = {n[0]} examples · {source_line(found.run)}"


def verdict(view: View, state: VariantsState) -> Content:
    found = begun_comparison(view.site, state)
    told = [
        html.P([html.Strong(f"{name}: "), sentence], className="variants-verdict") for name, sentence in verdicts(found)
    ]
    if banner := incomplete_banner(found.run):
        told.insert(0, html.P(banner, className="hs-refused"))
    return Content(body=told, caption=f"{RULE} {cautions(found)}", source=source(found))


def census(view: View, state: VariantsState) -> Content:
    found = begun_comparison(view.site, state)
    rows = census_rows(found, state)
    if not rows:
        return empty("These models have no such head.")
    numbers = number_table(rows)
    best = max(rows, key=lambda row: max(row.cells["moved"].values()))
    name = max(best.cells["moved"], key=lambda cell: best.cells["moved"][cell])
    left = f" Drawn: the first {MOST_ROWS} of {len(rows)} heads; the tables have all." if len(rows) > MOST_ROWS else ""
    return Content(
        strips_figure(rows[:MOST_ROWS]),
        body=_grid("variants-census-table", numbers, 330),
        table=profile_table(rows),
        summary=f"{len(rows)} heads: mean weight on each kind of cells in both views. Strongest: {best.label} "
        f"{best.head}, {name}, {fixed(best.cells['moved'][name])} of what it moves.",
        caption=f"{CELLS_MEAN[:1].upper()}{CELLS_MEAN[1:]}. Mean over n = {found.models[0].n} examples, the same "
        f"for all models.{left} Cells are in hundredths. The first token stands beside what uniform rows would give.",
        source=source(found),
    )


def roles(view: View, state: VariantsState) -> Content:
    found = begun_comparison(view.site, state)
    return Content(
        body=_grid("variants-roles-table", shown_roles(found), 430),
        table=role_table(found),
        caption=f"{CENSUS_RULE} {RULE}",
        source=source(found),
    )


def claims(view: View, state: VariantsState) -> Content:
    found = begun_comparison(view.site, state)
    table = claim_table(found)
    if not table.rows:
        return empty(f"No head of these models makes a claim. {RULE}")
    return Content(
        body=_grid("variants-claims-table", shown_claims(found), 380),
        table=table,
        caption=f"{RULE} {cautions(found)} Drop: accuracy untouched minus after the cut, with its 95 % "
        "bootstrap interval, paired by example.",
        source=source(found),
    )


def lengths(view: View, state: VariantsState) -> Content:
    found = begun_comparison(view.site, state)
    if not any(one.lengths for one in found.models):
        return empty(
            "Only the length of the training was measured. Other lengths are added by --lengths: "
            "headscope compare VARIANT --run latest --lengths 48,64"
        )
    told = "; ".join(f"{found.label(one)}: {_lengths_text(found, one.name)}" for one in found.models)
    trained = f" Upright line: the length of the training, {found.length} tokens." if found.length else ""
    return Content(
        length_figure(found),
        table=length_table(found),
        summary=f"Accuracy against the length of the text. {told}.",
        caption=f"A line for each model. Bars: 95 % bootstrap over n = {found.models[0].n} examples.{trained}"
        f"{_gaps(found)}",
        source=source(found),
    )


def _lengths_text(found: CompareRun, name: str) -> str:
    return ", ".join(
        f"{length} tokens {fixed(score.accuracy.mean)} {interval(score.accuracy.low, score.accuracy.high)}"
        for length, score in lengths_of(found, name)
        if not score.reason
    )


def _gaps(found: CompareRun) -> str:
    """Why points are missing, each reason once with its models."""
    own = [(score.reason, found.label(one)) for one in found.models for score in one.lengths.values() if score.reason]
    reasons = dict.fromkeys(reason for reason, _ in own)
    told = [f"{reason} ({_labels([label for other, label in own if other == reason], found)})" for reason in reasons]
    return f" Missing points: {'; '.join(told)}." if told else ""


def _labels(labels: list[str], found: CompareRun) -> str:
    return "all models" if len(labels) == len(found.models) else ", ".join(labels)


def _grid(grid_id: str, table: Table, most: int) -> Any:
    height = min(most, 32 * len(table.rows) + 84)
    made: Any = grid(grid_id, table=table, height=f"{height}px", options={"rowHeight": 32})
    for column, found in zip(table.columns, made.columnDefs, strict=True):
        found |= {"wrapHeaderText": True, "autoHeaderHeight": True, "minWidth": 92, "filter": False}
        found |= {"headerTooltip": column.meaning or column.title, "tooltipField": column.name}
        found |= {"minWidth": _WIDTHS[column.name]} if column.name in _WIDTHS else {}
    made.columnDefs[0] |= {"minWidth": 150, "pinned": "left", "filter": True}
    return made
