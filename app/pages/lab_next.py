"""The panel of the Prompt lab about the next token."""

from __future__ import annotations

from typing import Any

from dash import html

from app.frame.page import Content
from app.pages.lab_state import LabState
from app.views.lab import LabView, intervention, where
from app.views.next_tokens import NextToken, next_token_table, next_tokens
from app.views.numbers import fixed, signed
from app.views.tokens import visible

_ROWS = 15
_HEADINGS = {"ablation": "Heads ablated", "calibration": "Heads calibrated", "policy": "Under the policy"}


def next_token(view: LabView, state: LabState) -> Content:
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
