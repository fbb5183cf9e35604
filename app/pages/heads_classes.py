"""The panels of the page Heads about classes: their members, and what the model loses without them."""

from __future__ import annotations

from typing import Any

from dash import html

from app.figures.causal import causal_figure
from app.frame.page import Content, cannot, empty
from app.frame.words import link
from app.pages.heads_state import HeadsState, chosen
from app.site import View
from app.views.causal import causal_decimals, causal_sentence, key_row
from app.views.causal_table import causal_table
from app.views.classes import HeadClass, head_classes
from app.views.numbers import fixed, percent
from app.views.score_table import (
    class_table,
)
from app.views.source import source_line

_SHOWN_MEMBERS = 14


def classes(view: View, state: HeadsState) -> Content:
    run, scores, one = chosen(view, state)
    moved = {**scores, one.name: one}
    classes = head_classes(moved.values(), run.checks())
    if not classes:
        return empty("No score of this run makes a class of heads.")
    head = [html.Th(text, scope="col") for text in ("class", "rule", "heads", "strongest first", "without them")]
    rows = [_class_row(each, state) for each in classes]
    body = html.Table([html.Thead(html.Tr(head)), html.Tbody(rows)], className="hs-table")
    return Content(body=body, table=class_table(run, classes), source=source_line(run))


def _class_row(one: HeadClass, state: HeadsState) -> html.Tr:
    members = one.members[:_SHOWN_MEMBERS]
    labels: list[Any] = []
    for row in members:
        labels += [link(row.label, "/head", run=state.run, head=row.label), " "]
    if one.count > len(members):
        labels.append(f"and {one.count - len(members)} more")
    return html.Tr(
        [
            html.Th(link(one.name, "/heads", run=state.run, score=one.definition.name), scope="row"),
            html.Td(one.bound, title=f"{one.definition.name} {one.bound}", className="hs-number"),
            html.Td(f"{one.count} ({percent(one.share)})", className="hs-number"),
            html.Td(labels or "none"),
            html.Td(_effect(one)),
        ]
    )


def _effect(one: HeadClass) -> str:
    """What ablating the class did, in a few words; the curve has the rest."""
    row = key_row(one.check) if one.check else None
    if one.check is None or row is None:
        return "not tested"
    digits = causal_decimals(one.check)
    moved = f"{fixed(one.check.baseline, digits)} to {fixed(row.value, digits)}"
    return f"{one.check.metric} {moved}, random {fixed(row.random_mean, digits)} (k = {row.k})"


def causal(view: View, state: HeadsState) -> Content:
    run, _, one = chosen(view, state)
    name = one.definition.head_class
    if name is None:
        return empty(
            f"{one.definition.title} makes no class, so there is nothing to ablate. Choose a score with a class."
        )
    check = next((check for check in run.checks() if check.head_class == name), None)
    if check is None:
        return empty(f"No intervention tested the {name} heads in this run. headscope score --checks {name} does.")
    row = key_row(check)
    if row is None:
        return cannot(f"The class is empty: {check.note}.")
    return Content(
        causal_figure(check),
        body=html.P(causal_sentence(check, row), className="hs-finding"),
        table=causal_table(run, check),
        summary=f"{check.metric} over the number of ablated heads. {causal_sentence(check, row)}",
        caption=f"{check.note[:1].upper()}{check.note[1:]}. Bands: 95 % interval of the change, paired over "
        f"n = {check.n} examples, and 2.5th to 97.5th percentile of the random draws. The class is that of the run's "
        "own threshold.",
        source=source_line(run),
    )
