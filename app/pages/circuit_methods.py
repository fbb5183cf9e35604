"""The panels of the page Circuit about all methods of the run: two against each other, ROC curves, the scoreboard."""

from __future__ import annotations

from typing import Any

from dash import html

from app.figures.circuit_curves import roc_figure
from app.figures.circuit_pairs import method_pair_figure
from app.frame.page import Content, cannot, empty
from app.frame.words import link
from app.pages.circuit_state import Chosen, CircuitState, choose
from app.site import View
from app.views.circuit_tables import best_sentence, pair_sentence, pair_table, ranked_by, roc_table, scoreboard
from app.views.circuit_words import title
from app.views.numbers import MISSING, fixed
from app.views.source import source_line
from app.views.table import Cell, Table
from circuits.evaluation import Truth
from headscope.errors import UnknownNameError


def against(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    if not chosen.other:
        return empty("This run has one method. Run headscope circuit with several to compare them.")
    found = chosen.found
    first, second = chosen.scores, found.scores(chosen.other)
    k = min(found.k, first.heads.size)
    said = pair_sentence(found, chosen.method, chosen.other, state.ranking)
    return Content(
        method_pair_figure(first, second, k=k, absolute=state.ranking == "absolute", chosen=state.head),
        table=pair_table(found, chosen.method, chosen.other),
        summary=f"{title(chosen.method)} against {title(chosen.other)} for every head. {said}",
        caption=f"{said} A mark is a head; its shape says in whose {k} best it is. Click one to choose it.",
        source=source_line(found.run),
    )


def truth_of(chosen: Chosen) -> tuple[str, Truth] | None:
    """The truth of the state, or None where the run has none (yet).

    Raises:
        UnknownNameError: if the state names one that the run does not have.
    """
    truths = chosen.found.truths
    if not truths:
        return None
    key = chosen.state.truth or next(iter(truths))
    if key not in truths:
        raise UnknownNameError.of("truth of this run", key, truths)
    return key, truths[key]


def roc(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    found = chosen.found
    if not found.has("agreement"):
        return empty(found.missing("agreement"))
    named = truth_of(chosen)
    if named is None:
        return cannot(
            "Nothing is known of this circuit: no list was published for the model, and neither patching nor path "
            "patching ran. Add patching to the methods for a measured truth."
        )
    truth = named[1]
    rows = [one for method in found.methods if (one := found.agreement(method, truth, truth.ranking)) is not None]
    if not rows:
        return empty(f"No method of this run scores {truth.unit}s.")
    n_true, n_all = int(truth.members.sum()), int(truth.possible.sum())
    said = f"{n_true} of {n_all:,} {truth.unit}s are in the truth ({truth.rule}). {best_sentence(rows)}"
    why = "; the truth counts parts that work against the answer too" if truth.ranking == "absolute" else ""
    order = f" Methods are {ranked_by(truth)}{why}."
    circular = " Patching is compared with itself here." if "in this run" in truth.name else ""
    return Content(
        roc_figure(rows, chosen=chosen.method, other=chosen.other),
        table=roc_table(found, truth, rows),
        summary=f"ROC curves of {len(rows)} methods against {truth.name}. {said}",
        caption=f"Truth: {truth.name}. {said}{circular}{order} Equal scores make slopes and count half.",
        source=source_line(found.run),
    )


def board(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    table = scoreboard(chosen.found, chosen.state.unit, chosen.state.ranking)
    names = [column.name for column in table.columns]
    shown = [name for name in names if name != "method" and not name.endswith(("_low", "_high"))]
    head = [html.Th(_heading(table, name), scope="col", className="" if name == "title" else "hs-number circuit-wrap",
                    title=_meaning(table, name)) for name in shown]  # fmt: skip
    rows = [_board_row(table, record, shown, chosen) for record in table.records()]
    body = html.Div(
        html.Table([html.Thead(html.Tr(head)), html.Tbody(rows)], className="hs-table"), className="circuit-wide"
    )
    return Content(
        body=body,
        table=table,
        caption=f"Circuits of {state.unit}s for CPR, CMD and log area. {_orders(chosen)}One run, one seed: "
        "intervals in brackets are over prompts. n/a: the method has no such scores, or the stage is not in.",
        source=source_line(chosen.found.run),
    )


def _orders(chosen: Chosen) -> str:
    """How methods are ranked for AUC and AP, truth by truth."""
    said = "; ".join(f"{ranked_by(truth)} against {truth.name}" for truth in chosen.found.truths.values())
    return f"AUC and AP: {said}. " if said else ""


def _heading(table: Table, name: str) -> str:
    return "Method" if name == "title" else next(column.title for column in table.columns if column.name == name)


def _meaning(table: Table, name: str) -> str:
    return next(column.meaning for column in table.columns if column.name == name)


def _board_row(table: Table, record: dict[str, Cell], shown: list[str], chosen: Chosen) -> html.Tr:
    cells: list[Any] = []
    for column in table.columns:
        if column.name not in shown or column.name == "title":
            continue
        value = record[column.name]
        text = (
            MISSING
            if value is None
            else fixed(float(value), column.decimals)
            if column.decimals is not None
            else str(value)
        )
        low, high = record.get(f"{column.name}_low"), record.get(f"{column.name}_high")
        ends = "" if low is None or high is None else f" [{fixed(float(low), 2)}, {fixed(float(high), 2)}]"
        cells.append(html.Td([text, html.Span(ends, className="hs-soft circuit-ends")], className="hs-number"))
    method = str(record["method"])
    name = link(str(record["title"]), "/circuit", **_kept(chosen, method))
    mark = " (shown)" if method == chosen.method else ""
    return html.Tr([html.Th([name, mark], scope="row"), *cells])


def _kept(chosen: Chosen, method: str) -> dict[str, str | int]:
    """The address of the same view of another method."""
    state = chosen.state
    found: dict[str, str | int] = {"run": state.run, "method": method, "ranking": state.ranking}
    has_edges = chosen.found.scores(method).edges is not None
    return {**found, "unit": state.unit if has_edges else "head", "pair": state.pair, "off": ",".join(state.off)}
