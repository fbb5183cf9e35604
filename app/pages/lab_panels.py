"""The panels of the Prompt lab: each shows one part of one answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from dash import html

from app.figures.attribution import attribution_figure
from app.figures.lens import lens_figure
from app.figures.pattern import pattern_figure
from app.figures.random_sets import random_sets_figure
from app.frame.page import Content, Panel, cannot, empty
from app.frame.token_strip import token_strip
from app.live.policy_choice import keeps_heads
from app.pages.lab_state import NO_TEXT, QUESTION, LabState, find_answer, is_asking, resolved
from app.site import View
from app.views.lab import LabView, a_minus_b, intervention, token_losses, token_table, where
from app.views.lab_effect import Effect, effect_table, effects
from app.views.lab_parts import attribution_sentence, attribution_table, lens_table, strongest_head
from app.views.lab_words import CHANGED, CHANGES, random_words, refusal, refusal_of_captures, refusal_of_change
from app.views.next_tokens import NextToken, next_token_table, next_tokens
from app.views.numbers import fixed, signed
from app.views.table import Column, Table
from app.views.tokens import token_labels, visible
from headscope.captures import CapturedText
from headscope.heads import Head

ANSWER = ("pinned", *QUESTION)
"""Fields that change what the panels show."""

_ROWS = 15
_HEADINGS = {"ablation": "Heads ablated", "calibration": "Heads calibrated", "policy": "Under the policy"}
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


def _effect(view: LabView, _: LabState) -> Content:
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


def _next(view: LabView, state: LabState) -> Content:
    found = next_tokens(view.result, state.temperature)
    clean = html.Div([html.H3("Untouched"), _next_rows(found[:_ROWS], ablated=False)])
    tables: list[Any] = [clean]
    if view.result.ablated is not None:
        best = sorted(found, key=lambda one: one.rank_ablated)[:_ROWS]
        tables.append(html.Div([html.H3(_HEADINGS[view.request.change]), _next_rows(best, ablated=True)]))
    return Content(
        body=html.Div(tables, className="lab-pair"),
        table=next_token_table(view, state.temperature),
        summary=f"Likeliest next token {where(view.result)}: '{visible(found[0].text, found[0].id)}' with "
        f"p = {fixed(found[0].p)}",
        caption=f"Next token {where(view.result)}. p = softmax(logits / {state.temperature:g}) over all tokens; "
        f"the temperature acts on this table only. {intervention(view)}",
    )


def _next_rows(rows: list[NextToken] | tuple[NextToken, ...], *, ablated: bool) -> html.Table:
    titles = ["", "token", "id", "p", "logit", *(["change", "was"] if ablated else [])]
    body: list[Any] = []
    for number, one in enumerate(rows, 1):
        p, logit = (one.p_ablated, one.logit_ablated) if ablated else (one.p, one.logit)
        cells = [
            str(one.id),
            fixed(p, 4),
            fixed(logit, 2),
            *([signed(one.change, 4), f"{one.rank}."] if ablated else []),
        ]
        bar = {"--lab-share": f"{100 * p:.2f}%"}
        body.append(
            html.Tr(
                [
                    html.Td(f"{number}.", className="hs-number hs-soft"),
                    html.Th(html.Bdi(visible(one.text, one.id)), scope="row", className="hs-mono lab-token", style=bar),
                    *(html.Td(cell, className="hs-number") for cell in cells),
                ]
            )
        )
    head = [html.Th(text, scope="col", className="" if text in ("", "token") else "hs-number") for text in titles]
    return html.Table([html.Thead(html.Tr(head)), html.Tbody(body)], className="hs-table lab-next")


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


def _pattern(which: Literal["clean", "ablated"]) -> Build:
    def build(view: LabView, state: LabState) -> Content:
        result = view.result
        found = result.captured_clean if which == "clean" else result.captured_ablated
        if found is None:
            return _no_pattern(view, which)
        head = Head.parse(state.head or (view.request.heads[0] if view.request.heads else "L0H0"))
        if not found.has(head):
            facts = result.facts
            return cannot(f"{result.model} has {facts.n_layers} layers of {facts.n_heads} heads: there is no {head}.")
        values = found.pattern(head).rows()
        called = "clean run" if which == "clean" else view.request.changed_run
        return Content(
            pattern_figure(
                values,
                token_labels(result.text),
                height=500,
                zmax=_top(result.captured_clean, result.captured_ablated, head),
            ),
            table=_pattern_table(view, values, f"Attention of {head}, {called}"),
            summary=f"Attention of {head}, {called}: {_looks(view, values)}",
            caption=f"{head}, {called}: {_looks(view, values)} Both maps share one colour range. "
            f"{_inside(view, head, which)}",
        )

    return build


def _no_pattern(view: LabView, which: str) -> Content:
    result = view.result
    reason = refusal_of_captures(result, changed=which == "ablated")
    if reason:
        return cannot(reason)
    if which == "ablated" and result.captured_clean is not None:
        return empty("Tick heads or choose a policy to see how attention changes.")
    return empty("Switch on Read attention above.")


def _inside(view: LabView, head: Head, which: str) -> str:
    request = view.request
    if which == "clean":
        return ""
    said = list[str]()
    if request.policy:
        said.append("Drawn as the policy weighs the tokens; a row need not sum to 1.")
    if str(head) in request.heads and request.change == "calibration":
        said.append("This head is calibrated itself: what is drawn is its calibrated attention.")
    elif str(head) in request.heads and not keeps_heads(request.policy):
        said.append(
            "This head is ablated itself: what is drawn is where it would look; it is not what its output is made of."
        )
    return " ".join(said)


def _top(clean: CapturedText | None, ablated: CapturedText | None, head: Head) -> float:
    return max(float(one.pattern(head).rows().max()) for one in (clean, ablated) if one is not None and one.has(head))


def _looks(view: LabView, values: np.ndarray) -> str:
    row = values[view.result.position]
    key = int(row.argmax())
    token = visible(view.result.text.pieces[key], view.result.text.ids[key])
    return f"from position {view.result.position} most to {key} '{token}' ({fixed(float(row[key]))})."


def _pattern_table(view: LabView, values: np.ndarray, title: str) -> Table:
    columns = (Column("query", "Query"), Column("key", "Key"), Column("attention", "Attention", 4, "share of the row"))
    rows = tuple((i, j, float(values[i, j])) for i in range(len(values)) for j in range(i + 1))
    return Table(title, columns, rows, view.meta)


PANELS: tuple[Panel, ...] = (
    _live("strip", "Text", _strip, uses=("shade",), has_figure=False),
    _live("effect", "What the change does", _effect),
    _live("next", "Next token", _next, uses=("temperature",), has_figure=False),
    _live(
        "attribution", "Direct logit attribution", _attribution,
        help="What each part writes directly towards A rather than B; effects through later parts are not in it.",
    ),
    _live("lens", "Logit lens", _lens, help="What the model would predict if it stopped at each layer."),
    _live("clean", "Attention, untouched", _pattern("clean"), uses=("head",)),
    _live("ablated", "Attention, changed", _pattern("ablated"), uses=("head",)),
)  # fmt: skip
