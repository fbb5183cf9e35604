"""Heads: every head of a run by one score, as a map and as a table, with classes, a second score and ablations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from pydantic import Field

from app.figures.causal import causal_figure
from app.figures.head_map import head_map_figure
from app.figures.score_pair import score_pair_figure
from app.figures.small_maps import small_maps_figure
from app.frame.choices import has_scores, newest_scores, open_quietly, run_select, score_options, scores_quietly
from app.frame.elsewhere import unless_variants
from app.frame.exports import grid
from app.frame.head_choice import register_head_choice
from app.frame.page import Content, Page, Panel, cannot, empty
from app.frame.panels import panel_box
from app.frame.state import PageState
from app.frame.words import attributes, link
from app.site import Site, View
from app.views.causal import causal_decimals, causal_sentence, key_row
from app.views.causal_table import causal_table
from app.views.classes import HeadClass, bound_text, head_classes
from app.views.heads import top_heads
from app.views.numbers import decimals_of, fixed, interval, percent
from app.views.score_table import (
    class_table,
    head_rows_table,
    moved_bar,
    pair_table,
    score_rows_table,
)
from app.views.source import source_line
from headscope.errors import UnknownNameError
from headscope.heads import Head, HeadScores
from headscope.runs.reading import Run

_SHOWN_MEMBERS = 14
_SHOWN_COLUMNS = ("label", "value", "low", "high", "n", "kv_head")
_ONE_ROW = {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True}


class HeadsState(PageState):
    """What the page shows.

    Attributes:
        run: id of the run.
        score: score on the map; empty means the first of the run that makes a class.
        bar: threshold; None means the score's own.
        against: second score, for the scatter.
        head: chosen head.
        maps: one score, or all of them small.
    """

    run: str = Field(default="", max_length=100)
    score: str = Field(default="", max_length=100)
    bar: float | None = None
    against: str = Field(default="", max_length=100)
    head: str = Field(default="", max_length=12, pattern=r"^(L\d{1,4}H\d{1,4})?$")
    maps: str = Field(default="one", pattern="^(one|all)$")


def _first_class(scores: dict[str, HeadScores]) -> str:
    made = head_classes(scores.values())
    wanted = [one.definition.name for one in made if one.name == "retrieval"]
    return next(iter([*wanted, *(one.definition.name for one in made), *scores]), "")


def _second(scores: dict[str, HeadScores], first: str) -> str:
    made = [one.definition.name for one in head_classes(scores.values()) if one.definition.name != first]
    wanted = [name for name in made if name == "induction"]
    return next(iter([*wanted, *made, *(name for name in scores if name != first)]), first)


def _chosen(view: View, state: HeadsState) -> tuple[Run, dict[str, HeadScores], HeadScores]:
    """The run, its scores and the one on the map, with the threshold of the state."""
    run = view.site.run(state.run)
    scores = run.scores()
    if not scores:
        raise UnknownNameError(f"the run {state.run} holds no scores of heads. Choose a score run.")
    name = state.score or _first_class(scores)
    return run, scores, moved_bar(run.score(name), state.bar)


def _map(view: View, state: HeadsState) -> Content:
    run, scores, one = _chosen(view, state)
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


def _rows(view: View, state: HeadsState) -> Content:
    run, _, one = _chosen(view, state)
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


def _pair(view: View, state: HeadsState) -> Content:
    run, scores, one = _chosen(view, state)
    other = run.score(state.against or _second(scores, one.name))
    figure, rho = score_pair_figure(one, other)
    return Content(
        figure,
        table=pair_table(run, one, other),
        summary=f"{one.definition.title} against {other.definition.title} for every head: {rho}",
        caption=f"{rho} Dotted: the thresholds. A mark is a head; click one to choose it.",
        source=source_line(run, one),
    )


def _classes(view: View, state: HeadsState) -> Content:
    run, scores, one = _chosen(view, state)
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


def _causal(view: View, state: HeadsState) -> Content:
    run, _, one = _chosen(view, state)
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


def _strongest(scores: HeadScores | None) -> str:
    """The head that is chosen where none is named."""
    best = top_heads(scores, 1) if scores is not None else ()
    return best[0].label if best else "L0H0"


def _head_kept(scores: HeadScores, head: str | None) -> str:
    """The head, where the model has it, else the strongest."""
    state, refused = HeadsState.read({"head": head})
    if refused or not state.head:
        return _strongest(scores)
    found = Head.parse(state.head)
    return state.head if found.layer < scores.n_layers and found.head < scores.n_heads else _strongest(scores)


def _head(view: View, state: HeadsState) -> Content:
    run, scores, one = _chosen(view, state)
    label = state.head or _strongest(one)
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


def _layout(site: Site, state: HeadsState) -> list[Component]:
    state = state.model_copy(update={"run": newest_scores(site, state.run)})
    scores = scores_quietly(open_quietly(site, state.run))
    if not state.score and scores:
        state = state.model_copy(update={"score": _first_class(scores)})
    options = score_options(scores.values())
    one = scores.get(state.score)
    if not state.head and one is not None:
        state = state.model_copy(update={"head": _strongest(one)})
    low, high, step = _bar_range(one)
    controls = html.Div(
        [
            run_select(PAGE, site, state.run, suits=has_scores),
            dmc.Select(
                id=PAGE.id("score"), label="Score", data=options, value=state.score or None, allowDeselect=False,
                searchable=True, w=190,
            ),
            html.Div(
                [
                    html.Label("Threshold", className="mantine-InputWrapper-label", id=PAGE.id("bar-label")),
                    dmc.Slider(
                        id=PAGE.id("bar"), disabled=one is None or one.definition.threshold is None,
                        min=low, max=high, step=step, value=_bar(state, one), w=210, size="sm",
                        labelAlwaysOn=False, updatemode="drag", thumbLabel="Threshold of the class",
                    ),
                ]
            ),
            dmc.Select(
                id=PAGE.id("against"), label="Against", data=options, allowDeselect=False, searchable=True, w=190,
                value=state.against or (_second(scores, state.score) if scores else None),
            ),
            dmc.SegmentedControl(
                id=PAGE.id("maps"), value=state.maps, size="xs",
                data=[{"value": "one", "label": "One map"}, {"value": "all", "label": "All scores"}],
            ),
            dmc.TextInput(id=PAGE.id("head"), label="Head", value=state.head, placeholder="L5H1", debounce=300, w=90),
        ],
        className="hs-controls",
    )  # fmt: skip
    shape = (one.n_layers, one.n_heads) if one else (0, 0)
    keys = {"data_keys": "heads", "data_layers": str(shape[0]), "data_heads": str(shape[1])}
    walk = html.Div(
        panel_box(PAGE, "map", tall=620), id="heads-walk", tabIndex="0", role="group",
        **attributes(aria_label="Map of heads: arrow keys choose a head, Enter opens it", **keys),
    )  # fmt: skip
    panels = [
        html.Div([walk, panel_box(PAGE, "chosen")], className="hs-five hs-stack"),
        html.Div([panel_box(PAGE, name) for name in ("classes", "causal", "rows")], className="hs-seven hs-stack"),
        panel_box(PAGE, "pair", tall=420),
    ]
    return [
        controls,
        html.Div(panels, className="hs-columns"),
        dcc.Store(id="heads-for", data=state.run),
    ]


def _bar_range(one: HeadScores | None) -> tuple[float, float, float]:
    """Ends and step of the threshold's slider: the values there are, on round numbers."""
    finite = one.values[np.isfinite(one.values)] if one is not None else np.zeros(1)
    bar = one.definition.threshold if one is not None else None
    ends = np.array([*finite, *([] if bar is None else [bar]), 0.0])
    low, high = float(ends.min()), float(ends.max())
    step = 10.0 ** np.floor(np.log10(max(high - low, 1e-6) / 50))
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step), float(step)


def _bar(state: HeadsState, one: HeadScores | None) -> float:
    if state.bar is not None:
        return state.bar
    return 0.0 if one is None or one.definition.threshold is None else one.definition.threshold


def _register(app: Dash, page: Page) -> None:
    register_head_choice(app, page, clicked=("map", "pair"), marked="map", walk="heads-walk")
    app.clientside_callback(
        ClientsideFunction("headscope", "sayThreshold"),
        Output(page.id("bar-label"), "children"),
        Input(page.id("bar"), "value"),
        Input(page.id("bar"), "disabled"),
    )

    @app.callback(
        Output(page.id("score"), "data"),
        Output(page.id("score"), "value"),
        Output(page.id("against"), "data"),
        Output(page.id("against"), "value"),
        Output("heads-walk", "data-layers"),
        Output("heads-walk", "data-heads"),
        Output(page.id("head"), "value", allow_duplicate=True),
        Input(page.id("run"), "value"),
        State(page.id("score"), "value"),
        State(page.id("against"), "value"),
        State(page.id("head"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, score: str | None, against: str | None, head: str | None) -> Any:
        from app.site import current_site

        scores = scores_quietly(open_quietly(current_site(), run or ""))
        if not scores:
            return [], None, [], None, "0", "0", no_update
        options, one = score_options(scores.values()), next(iter(scores.values()))
        first = score if score in scores else _first_class(scores)
        second = against if against in scores else _second(scores, str(first))
        kept = _head_kept(scores[str(first)], head)
        return options, first, options, second, str(one.n_layers), str(one.n_heads), kept

    @app.callback(
        Output(page.id("bar"), "min"),
        Output(page.id("bar"), "max"),
        Output(page.id("bar"), "step"),
        Output(page.id("bar"), "value"),
        Output(page.id("bar"), "disabled"),
        Input(page.id("score"), "value"),
        Input(page.id("run"), "value"),
        State("heads-for", "data"),
        prevent_initial_call=True,
    )
    def _(score: str | None, run: str | None, _before: str) -> Any:
        from app.site import current_site

        one = scores_quietly(open_quietly(current_site(), run or "")).get(score or "")
        if one is None:
            return no_update, no_update, no_update, no_update, True
        return *_bar_range(one), _bar(HeadsState(), one), one.definition.threshold is None

    @app.callback(
        Output(page.id("head"), "value", allow_duplicate=True),
        Input("heads-table", "selectedRows"),
        prevent_initial_call=True,
    )
    def _(rows: list[dict[str, Any]] | None) -> Any:
        return rows[0]["label"] if rows else no_update


PAGE = Page(
    name="heads",
    first="chosen",
    title="Heads",
    path="/heads",
    summary="Every head of a run by one score, and what the model loses without the strongest.",
    state=HeadsState,
    layout=_layout,
    panels=unless_variants(
        (
            Panel("map", "Map", ("run", "score", "bar", "maps"), _map),
            Panel("classes", "Classes", ("run", "score", "bar"), _classes, has_figure=False),
            Panel("chosen", "Chosen head", ("run", "score", "head"), _head, has_figure=False),
            Panel("causal", "What ablating the class does", ("run", "score"), _causal),
            Panel("rows", "All heads by this score", ("run", "score"), _rows, has_figure=False),
            Panel("pair", "Score against score", ("run", "score", "bar", "against"), _pair),
        )
    ),
    register=_register,
    is_wide=True,
)
