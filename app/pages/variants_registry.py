"""The panels about the registry: every variant in a table, and one on a card."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html, no_update
from dash.development.base_component import Component

from app.frame.exports import grid
from app.frame.page import Content, Page, empty
from app.frame.words import link
from app.pages.variants_state import VariantsState
from app.site import View
from app.views import variant_choice as registry
from app.views.table import Table
from headscope.mixers.registry import Variant

GRID = "variants-table"
_SHOWN = ("name", "title", "family", "kind", "rows", "state", "status", "source")
_WIDTHS = {
    "name": 170,
    "title": 220,
    "family": 190,
    "kind": 104,
    "rows": 118,
    "state": 130,
    "status": 84,
    "source": 130,
}
_ONE_ROW = {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True}
_STATUSES = (("", "any"), ("built", "built"), ("policy", "policy"), ("left out", "left out"))


def listed(state: VariantsState) -> tuple[Variant, ...]:
    """The variants that the filters let through."""
    return registry.registry(state.text, state.family, state.status)


def chosen(state: VariantsState) -> Variant | None:
    """The variant on the card; the first that is listed where the state leaves it open."""
    return registry.find(state.variant) if state.variant else next(iter(listed(state)), None)


def table(view: View, state: VariantsState) -> Content:  # noqa: ARG001 - every panel takes the view
    entries = listed(state)
    return Content(
        table=registry.registry_table(entries),
        caption=f"{registry.count_text(entries)} Built: trained here, its mixing matrix read and cut. Policy: runs on "
        "a model trained with softmax. Left out: the card says why. Choose a row for its card.",
    )


def card(view: View, state: VariantsState) -> Content:  # noqa: ARG001 - every panel takes the view
    one = chosen(state)
    if one is None:
        known = f"There is no variant {state.variant!r}. " if state.variant else "No variant is like that. "
        return empty(f"{known}All are listed by: headscope variants")
    facts = registry.card_facts(one)
    rows = [part for name, text in facts for part in (html.Dt(name), html.Dd(text))]
    body: list[Any] = [
        html.P([html.Strong(one.title), " ", html.Span(one.source, className="hs-soft")]),
        html.Pre(one.equation, className="hs-formula"),
        html.Dl(rows, className="hs-facts"),
    ]
    if command := registry.train_command(one):
        body += [html.P("Train it:", className="variants-train"), html.Pre(command, className="hs-log"),
                 html.P(link("Start it on the page Jobs", "/jobs", command="train"))]  # fmt: skip
    return Content(body=body, table=_card_table(one))


def controls(page: Page, state: VariantsState) -> html.Div:
    """The filters of the table."""
    return html.Div(
        [
            dmc.TextInput(
                id=page.id("text"), label="Find", value=state.text, debounce=300, className="hs-grow",
                placeholder="name, title, equation, arXiv id",
            ),
            dmc.Select(
                id=page.id("family"), label="Family", value=state.family or None, clearable=True, w=250,
                placeholder="all", data=[*registry.families()],
            ),
            dmc.Select(
                id=page.id("status"), label="Status", value=state.status, allowDeselect=False, w=120,
                data=[{"value": value, "label": label} for value, label in _STATUSES],
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def list_grid(state: VariantsState) -> Component:
    """The table's grid, with the rows of the state."""
    made: Any = grid(
        GRID,
        table=_seen(listed(state)),
        height="430px",
        options={"rowSelection": _ONE_ROW, "rowHeight": 32, "tooltipShowDelay": 300},
        getRowId="params.data.name",
    )
    for column in made.columnDefs:
        column |= {"filter": False, "minWidth": _WIDTHS[column["field"]], "tooltipField": column["field"]}
    made.columnDefs[0] |= {"pinned": "left"}
    return made


def register(app: Dash, page: Page) -> None:
    """The filters fill the grid; a chosen row is the card's."""

    @app.callback(
        Output(GRID, "rowData"),
        Input(page.id("text"), "value"),
        Input(page.id("family"), "value"),
        Input(page.id("status"), "value"),
        prevent_initial_call=True,
    )
    def _(text: str | None, family: str | None, status: str | None) -> Any:
        state, _ = VariantsState.read({"text": text or "", "family": family or "", "status": status or ""})
        return _seen(listed(state)).records()

    @app.callback(
        Output(page.id("variant"), "data"),
        Input(GRID, "selectedRows"),
        State(page.id("variant"), "data"),
        prevent_initial_call=True,
    )
    def _(rows: list[dict[str, Any]] | None, now: str | None) -> Any:
        name = rows[0]["name"] if rows else now
        return no_update if name == now else name


def _seen(entries: tuple[Variant, ...]) -> Table:
    """The columns that the grid has room for."""
    whole = registry.registry_table(entries)
    places = [place for place, column in enumerate(whole.columns) if column.name in _SHOWN]
    rows = tuple(tuple(row[place] for place in places) for row in whole.rows)
    return Table(whole.title, tuple(whole.columns[place] for place in places), rows)


def _card_table(one: Variant) -> Table:
    from app.views.table import Column

    rows = (("Equation", one.equation), *registry.card_facts(one))
    return Table(one.title, (Column("name", "What"), Column("value", "Value")), rows)
