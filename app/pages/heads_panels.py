"""The panels of the page Heads about single heads: map, table, two scores, the scores of one head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from dash import html

from app.figures.head_map import head_map_figure
from app.figures.score_pair import score_pair_figure
from app.figures.small_maps import small_maps_figure
from app.frame.exports import grid
from app.frame.page import Content, cannot
from app.frame.words import attributes, link
from app.pages.heads_state import HeadsState, chosen, second_score, strongest
from app.site import View
from app.views.classes import bound_text, head_classes
from app.views.heads import top_heads
from app.views.numbers import decimals_of, fixed, interval
from app.views.score_table import head_rows_table, pair_table, score_rows_table
from app.views.source import source_line
from headscope.heads import Head, HeadScores

_SHOWN_COLUMNS = ("label", "value", "low", "high", "n", "kv_head")
_ONE_ROW = {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True}


def score_map(view: View, state: HeadsState) -> Content:
    run, scores, one = chosen(view, state)
    table, source = score_rows_table(run, one), source_line(run, one)
    if state.maps == "all":
        return Content(
            small_maps_figure(list(scores.values())),
            table=table,
            summary=f"Small maps of all {len(scores)} scores of {run.manifest.model.name}, on one selection.",
            caption="Each map has its own colour range. Layer 0 is on top. Click a cell to choose the head.",
            source=source_line(run),
        )
    return Content(
        head_map_figure(one),
        body=link(f"How {one.definition.title} is defined", f"/guide#{one.name}"),
        table=table,
        summary=_map_summary(one),
        caption=f"{_count_text(one)} Outlined: at or beyond the threshold. Layer 0 is on top; each cell is one head.",
        source=source,
    )


def score_rows(view: View, state: HeadsState) -> Content:
    run, _, one = chosen(view, state)
    table = score_rows_table(run, one)
    shown = replace(
        table,
        columns=tuple(column for column in table.columns if column.name in _SHOWN_COLUMNS),
        rows=tuple(
            tuple(cell for cell, column in zip(row, table.columns, strict=True) if column.name in _SHOWN_COLUMNS)
            for row in table.rows
        ),
    )
    return Content(
        body=grid(
            "heads-table", table=shown, height="330px", columnSize="responsiveSizeToFit",
            options={"rowSelection": _ONE_ROW},
        ),
        table=table,
        caption="Choose a row to choose the head.",
        source=source_line(run, one),
    )  # fmt: skip


def _map_summary(scores: HeadScores) -> str:
    best = top_heads(scores, 1)
    if not best:
        return f"{scores.definition.title} by layer and head: no head has a value."
    strongest = f"strongest {best[0].label} at {fixed(best[0].value, decimals_of(scores.values))}"
    return f"{scores.definition.title} by layer and head: {strongest}. {_count_text(scores)}"


def _count_text(scores: HeadScores) -> str:
    if scores.definition.threshold is None:
        return "This score makes no class."
    count, valued = len(scores.members()), int(np.isfinite(scores.values).sum())
    return f"{count} of {valued} heads {bound_text(scores.definition)}."


def score_pair(view: View, state: HeadsState) -> Content:
    run, scores, one = chosen(view, state)
    other = run.score(state.against or second_score(scores, one.name))
    figure, rho = score_pair_figure(one, other)
    return Content(
        figure,
        table=pair_table(run, one, other),
        summary=f"{one.definition.title} against {other.definition.title} for every head: {rho}",
        caption=f"{rho} Dotted: the thresholds. A mark is a head; click one to choose it.",
        source=source_line(run, one),
    )


def one_head(view: View, state: HeadsState) -> Content:
    run, scores, one = chosen(view, state)
    label = state.head or strongest(one)
    head = Head.parse(label)
    if head.layer >= one.n_layers or head.head >= one.n_heads:
        return cannot(
            f"{run.manifest.model.name} has {one.n_layers} layers of {one.n_heads} heads: there is no {label}."
        )
    rows = [_score_row(each, head) for each in scores.values()]
    titles = [html.Th("score", scope="col"), *(html.Th(t, scope="col", className="hs-number") for t in _NUMBERS)]
    return Content(
        body=[
            html.P(
                [html.Strong(label), f", key/value head {one.kv_head(head.head)}. ", _belongs(scores, head), " ",
                 link("Open this head", "/head", run=state.run, head=label)],
                **attributes(data_effective=label),
            ),
            html.Table([html.Thead(html.Tr(titles)), html.Tbody(rows)], className="hs-table"),
        ],
        table=head_rows_table(run, scores, head),
        source=source_line(run),
    )  # fmt: skip


_NUMBERS = ("value", "95 % interval", "rank", "n")


def _score_row(scores: HeadScores, head: Head) -> html.Tr:
    digits = decimals_of(scores.values)
    value, rank = float(scores.values[head]), scores.ranked().index(head) + 1
    cells = (
        fixed(value, digits),
        interval(float(scores.low[head]), float(scores.high[head]), digits),
        f"{rank}" if np.isfinite(value) else "n/a",
        str(int(scores.n[head])),
    )
    return html.Tr(
        [
            html.Th(scores.definition.title, scope="row", title=scores.definition.formula),
            *(html.Td(cell, className="hs-number") for cell in cells),
        ]
    )


def _belongs(scores: dict[str, HeadScores], head: Head) -> str:
    names = [one.name for one in head_classes(scores.values()) if str(head) in {row.label for row in one.members}]
    return f"Classes: {', '.join(names)}." if names else "In no class."
