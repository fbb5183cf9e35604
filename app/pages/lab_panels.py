"""The panels of the Prompt lab: each shows one part of one answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dash import html

from app.figures.attribution import attribution_figure
from app.figures.lens import lens_figure
from app.frame.page import Content, Panel, cannot, empty
from app.frame.token_strip import token_strip
from app.pages.lab_attention import attention
from app.pages.lab_effect import effect
from app.pages.lab_next import next_token
from app.pages.lab_state import NO_TEXT, QUESTION, LabState, find_answer, is_asking, resolved
from app.site import View
from app.views.lab import LabView, a_minus_b, intervention, token_losses, token_table, where
from app.views.lab_parts import attribution_sentence, attribution_table, lens_table, strongest_head
from app.views.lab_words import CHANGED, CHANGES, refusal
from app.views.numbers import signed
from app.views.tokens import visible

ANSWER = ("pinned", *QUESTION)
"""Fields that change what the panels show."""
Build = Callable[[LabView, LabState], Content]


def _live(name: str, title: str, build: Build, *, uses: tuple[str, ...] = (), **options: Any) -> Panel:
    """A panel of the answer, which names its source."""

    def whole(view: View, state: LabState) -> Content:
        state = resolved(view.site, state)
        if not is_asking(state):
            return empty(NO_TEXT)
        found = find_answer(view, state)
        return replace(build(found, state), source=found.source)

    return Panel(name, title, (*ANSWER, *uses), whole, is_live=True, **options)


def _strip(view: LabView, state: LabState) -> Content:
    result = view.result
    clean, ablated = token_losses(result)
    values, said = clean, "Colour: loss of each token in nats, untouched model; darkest is 0."
    if state.shade != "clean" and ablated is None:
        said += " Nothing is changed, so there is no other loss yet."
    elif state.shade == "ablated" and ablated is not None:
        values, said = ablated, f"Colour: loss of each token in nats, {view.changed}; darkest is 0."
    elif state.shade == "change" and ablated is not None:
        values, said = (
            ablated - clean,
            f"Colour: change of each token's loss by the {CHANGES[view.request.change]} in nats; purple is more, "
            "white 0.",
        )
    strip = token_strip(
        "lab-tokens", result.text, values, chosen=result.position, unit="nats", target="lab-position", prop="data",
    )  # fmt: skip
    notes = [html.Li(note) for note in (*_refusals(view), *result.reservations)]
    return Content(
        body=[
            html.P(f"{intervention(view)} Looking at the prediction {where(result)}.", className="hs-finding"),
            strip,
            *([html.Ul(notes, className="hs-soft lab-notes")] if notes else []),
        ],
        table=token_table(view),
        caption=f"{result.n_tokens} tokens. {said} Click a token to look at the prediction after it.",
    )


def _refusals(view: LabView) -> list[str]:
    return [f"{one.part}: {one.reason}" for one in view.result.refusals if one.part not in CHANGED]


def _attribution(view: LabView, _: LabState) -> Content:
    parts = view.result.attribution
    if parts is None:
        return cannot(refusal(view.result, "attribution") or "The answer holds no attribution.")
    label, value = strongest_head(parts)
    return Content(
        attribution_figure(parts),
        table=attribution_table(view, parts),
        summary=f"Direct contributions to {a_minus_b(view.result)}: most by {label}, {signed(value)} logits.",
        caption=f"Contributions to {a_minus_b(view.result)} {where(view.result)}. {attribution_sentence(parts)} "
        f"Strongest head: {label}, {signed(value)}. With Read attention on, a click on a head shows where it looks.",
    )


def _lens(view: LabView, _: LabState) -> Content:
    lens, result = view.result.lens, view.result
    if lens is None:
        return cannot(refusal(result, "lens") or "The answer holds no lens.")
    last = len(lens.top_ids) - 1
    leads = next((stage for stage in range(last + 1) if (lens.top_ids[stage:, 0] == lens.top_ids[-1, 0]).all()), last)
    stays = f"'{visible(lens.top_text[-1][0], int(lens.top_ids[-1][0]))}' is first from stage {leads} of {last} on."
    return Content(
        lens_figure(lens, result.a.text, result.b.text),
        table=lens_table(view, lens),
        summary=f"Logit lens by layer: {stays}",
        caption=f"{stays} Final norm and unembedding of what enters each block (out: what leaves the last) "
        f"{where(result)}; clean run. Cells darker to brighter: probability 0 to 1. "
        "Early layers were never trained to be read so.",
    )


PANELS: tuple[Panel, ...] = (
    _live("strip", "Text", _strip, uses=("shade",), has_figure=False),
    _live("effect", "What the change does", effect),
    _live("next", "Next token", next_token, uses=("temperature",), has_figure=False),
    _live(
        "attribution", "Direct logit attribution", _attribution,
        help="What each part writes directly towards A rather than B; effects through later parts are not in it.",
    ),
    _live("lens", "Logit lens", _lens, help="What the model would predict if it stopped at each layer."),
    _live("clean", "Attention, untouched", attention("clean"), uses=("head",)),
    _live("ablated", "Attention, changed", attention("ablated"), uses=("head",)),
)  # fmt: skip
