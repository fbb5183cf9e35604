"""The panel of the Prompt lab that says what the change does, beside random heads."""

from __future__ import annotations

from dash import html

from app.figures.random_sets import random_sets_figure
from app.frame.page import Content, cannot, empty
from app.pages.lab_state import LabState
from app.views.lab import LabView, a_minus_b, intervention
from app.views.lab_effect import Effect, effect_table, effects
from app.views.lab_words import CHANGES, random_words, refusal_of_change
from app.views.numbers import fixed, signed


def effect(view: LabView, _: LabState) -> Content:
    found = effects(view)
    if not found:
        reason = refusal_of_change(view.request, view.result)
        difference = f"{a_minus_b(view.result)} = {fixed(view.result.clean.logit_diff)} logits"
        return (
            cannot(reason)
            if reason
            else empty(f"Untouched: {difference}. Tick heads or choose a policy and see the change.")
        )
    first = found[0]
    shared = f"{a_minus_b(view.result)}: {fixed(first.clean)} → {fixed(first.ablated)} ({signed(first.change)})."
    said = f"{shared} {first.sentence}".strip()
    return Content(
        random_sets_figure(found) if first.random else None,
        body=[html.P(said, className="hs-finding"), _effect_rows(found)],
        table=effect_table(view),
        summary=f"The {CHANGES[view.request.change]} among random sets: {said}",
        caption=f"{intervention(view)} " + _about_random(view, first),
    )


def _about_random(view: LabView, first: Effect) -> str:
    if not view.request.heads:
        return "No head is ticked, so there are no random ones to compare with."
    if not view.request.random_sets:
        return "Compare with random heads before you read anything into these numbers."
    return f"A random set: {random_words(view.request)} (n = {len(first.random)}, seed {view.request.seed})."


_SHORT = {"logit_diff": "A minus B", "kl": "KL", "loss": "loss"}


def _effect_rows(found: tuple[Effect, ...]) -> html.Table:
    titles = ("", "untouched", found[0].changed, "change", "smaller with random")
    head = html.Tr([html.Th(text, scope="col", className="hs-number lab-wrap" if text else "") for text in titles])
    rows = [
        html.Tr(
            [
                html.Th(_SHORT[one.name], scope="row", title=f"{one.title}, {one.unit}"),
                *(
                    html.Td(text, className="hs-number")
                    for text in (fixed(one.clean), fixed(one.ablated), signed(one.change))
                ),
                html.Td(
                    f"{one.changed_less} of {len(one.random)}" if one.random else "not drawn", className="hs-number"
                ),
            ]
        )
        for one in found
    ]
    return html.Table([html.Thead(head), html.Tbody(rows)], className="hs-table lab-effects")
