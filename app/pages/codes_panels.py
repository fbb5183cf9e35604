"""The panels of the page Codes about the whole dictionary: how well it was learned, and all of its codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from dash import html

from app.figures.codes import code_figure
from app.figures.curves import Curve, curve_figure
from app.frame.exports import grid
from app.frame.page import Content, empty
from app.frame.words import attributes
from app.pages.codes_state import Chosen, CodesState, choose
from app.site import View
from app.views.circuit_words import title
from app.views.code_tables import code_table, dictionary_table
from app.views.codes import FILTERS, ORDERS, Codes
from app.views.numbers import duration, fixed, percent
from app.views.source import source_line
from app.views.table import Table
from app.views.tables import incomplete_banner
from headscope.runs.reading import Run

_ONE_ROW = {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True}
_FEW = 400
"""Dead codes that are written out; the exports have all."""


def source_of(chosen: Chosen) -> str:
    """Where the numbers of a panel come from."""
    codes = chosen.codes
    return (
        f"{codes.method}, {codes.task}: n = {codes.n} clean and {codes.n} corrupted prompts · {source_line(chosen.run)}"
    )


def short(view: View, state: CodesState) -> Content:
    chosen = choose(view.site, state)
    codes, counts = chosen.codes, chosen.codes.counts()
    banner = incomplete_banner(chosen.run)
    body = [html.P(banner, className="hs-refused")] if banner else []
    body.append(html.P(_headline(codes, counts), className="hs-finding"))
    body += [html.P(text, className="hs-soft") for text in _cautions(codes)]
    return Content(body=body, source=source_of(chosen))


def _headline(codes: Codes, counts: dict[Any, int]) -> str:
    report, dead = codes.report, counts["dead"]
    return (
        f"{title(codes.method)} learned {report.features} codes for {codes.task}: {counts['all']} are in use, {dead} "
        f"({percent(dead / report.features)}) are dead. Unique to clean prompts: {counts['clean']}; shared by "
        f"{codes.many} heads or more: {counts['shared']}; of one head alone: {counts['own']}."
    )


def _cautions(codes: Codes) -> list[str]:
    report = codes.report
    found: list[str] = []
    if report.explained_variance <= 0.5:
        worse = " It is worse than the mean output." if report.explained_variance < 0 else ""
        found.append(
            f"The dictionary explains {percent(report.explained_variance)} of the variance of held-out outputs: a code "
            f"is a label of an output, not what the output is made of.{worse}"
        )
    if report.empty > 0 and codes.empty == 0:
        found.append(
            f"{percent(report.empty)} of all outputs have no activation above 0. Without a symbol of their own they "
            "count as code 0, as in the released method: code 0 means mostly \u2018nothing\u2019."
        )
    elif codes.empty > 0:
        found.append(f"{percent(codes.empty)} of all outputs have no activation above 0 and get no code.")
    return found


def dictionary(view: View, state: CodesState) -> Content:
    chosen = choose(view.site, state)
    report = chosen.codes.report
    figure = curve_figure(
        [Curve("loss", report.loss)], x="epoch", y="training loss", first=1, log_y=bool((report.loss > 0).all()),
        height=200,
    )  # fmt: skip
    facts = _facts(chosen.run, chosen.codes)
    rows = [part for name, value in facts for part in (html.Dt(name), html.Dd(value))]
    ends = f"Loss {fixed(float(report.loss[0]), 4)} at first, {fixed(float(report.loss[-1]), 4)} at the end"
    return Content(
        figure,
        body=html.Dl(rows, className="hs-facts codes-facts"),
        table=dictionary_table(chosen.run, chosen.codes),
        summary=f"Training loss of the dictionary by epoch. {ends}.",
        caption=f"{ends}. Error, variance and L0 are those of outputs that did not train it.",
        source=source_of(chosen),
    )


def _facts(run: Run, codes: Codes) -> list[tuple[str, str]]:
    report = codes.report
    options = run.record(codes.method + "-parts").get("scores", {}).get("options", {}) if _has_parts(run, codes) else {}
    designs = [("Compared with", f"{options['negatives']} prompts")] if "negatives" in options else []
    return [
        ("Kind", report.kind),
        ("Codes", f"{report.features}; dead {len(report.dead)}"),
        ("Above 0 per output (L0)", fixed(report.l0, 2)),
        ("Explained variance", percent(report.explained_variance)),
        ("Mean squared error", f"{report.mse:.3g} per number"),
        ("Outputs", f"{report.outputs:,} of {len(report.prompts)} training prompts"),
        ("Trained on", training_text(codes)),
        ("Positions", ", ".join(codes.slots)),
        *designs,
        ("Training time", duration(report.seconds)),
    ]


def _has_parts(run: Run, codes: Codes) -> bool:
    return codes.method + "-parts" in run.records


def training_text(codes: Codes) -> str:
    """Which pairs trained it: ``clean prompts of the pairs 2, 4; corrupted ones of 16``."""
    halves = {
        "clean": [prompt for prompt in codes.report.prompts if prompt < codes.n],
        "corrupted": [prompt - codes.n for prompt in codes.report.prompts if prompt >= codes.n],
    }
    if halves["clean"] == halves["corrupted"]:
        return f"both prompts of the pairs {_numbers(halves['clean'])}"
    return "; ".join(f"{name} prompts of the pairs {_numbers(pairs)}" for name, pairs in halves.items() if pairs)


def _numbers(values: list[int]) -> str:
    return ", ".join(map(str, values))


def density(view: View, state: CodesState) -> Content:
    chosen = choose(view.site, state)
    if state.filter == "dead":
        return empty("Dead codes have no density: the list beside this gives their numbers.")
    if not chosen.listed:
        return empty(_nothing(state))
    place = _where(chosen)
    return Content(
        code_figure(chosen.codes, chosen.listed, chosen.code),
        table=code_table(chosen.run, chosen.codes, chosen.listed),
        summary=f"Density of {len(chosen.listed)} codes in clean against corrupted prompts. {place}",
        caption="Below the dotted line: commoner in clean prompts. Larger marks: more heads. A click chooses a code; "
        "with the focus here, the arrow keys walk through the list.",
        source=source_of(chosen),
    )


def _where(chosen: Chosen) -> str:
    if chosen.place is None:
        return f"Code {chosen.code} is not among them."
    return f"Chosen: code {chosen.code}, {chosen.place + 1} of {len(chosen.listed)}."


def _nothing(state: CodesState) -> str:
    at = f" with its strongest output at {state.slot}" if state.slot else ""
    return (
        f"No code of this dictionary is \u2018{FILTERS[state.filter].lower()}\u2019{at}. Choose another filter above."
    )


def code_list(view: View, state: CodesState) -> Content:
    chosen = choose(view.site, state)
    order = html.Div(id="codes-order", hidden=True, **attributes(data_codes=",".join(map(str, chosen.listed))))
    if state.filter == "dead":
        return _dead(chosen, order)
    if not chosen.listed:
        return empty(_nothing(state))
    table = code_table(chosen.run, chosen.codes, chosen.listed)
    return Content(
        body=[order, _grid(_without(table, "difference"))],
        table=table,
        caption=f"{len(chosen.listed)} codes by {ORDERS[state.sort].lower()}.{_detail(chosen, state)} Choose a row, by "
        "click or by arrow keys and Space, to look at the code.",
        source=source_of(chosen),
    )  # fmt: skip


def _grid(table: Table) -> Any:
    made: Any = grid(
        "codes-grid", table=table, height="430px", getRowId="params.data.row",
        options={"rowSelection": _ONE_ROW, "rowHeight": 34, "headerHeight": 36},
    )  # fmt: skip
    made.rowData = [{**row, "row": str(row["code"])} for row in table.records()]  # a row's id is text
    made.columnDefs = [
        {name: value for name, value in column.items() if name != "filter"} for column in made.columnDefs
    ]
    made.defaultColDef = {"sortable": True, "resizable": True, "minWidth": 56, "flex": 1}  # headings need the room
    return made


def _detail(chosen: Chosen, state: CodesState) -> str:
    """Which codes the run keeps in full."""
    kept = len(chosen.codes.records)
    if state.slot:
        return f" Position: that of a code's strongest output, known of the {kept} codes that are kept in full."
    if kept < len(chosen.codes.in_use):
        return f" The run keeps {kept} in full: the others have densities and heads only."
    return ""


def _dead(chosen: Chosen, order: html.Div) -> Content:
    dead = chosen.listed
    if not dead:
        return empty("No code is dead: each is the code of some output.")
    cut = f" The first {_FEW} are listed; CSV has all." if len(dead) > _FEW else ""
    return Content(
        body=[order, html.P(_numbers(list(dead[:_FEW])), className="codes-dead")],
        table=code_table(chosen.run, chosen.codes, dead),
        caption=f"{len(dead)} codes are the code of no output of any head in any prompt.{cut}",
        source=source_of(chosen),
    )


def _without(table: Table, *names: str) -> Table:
    """Fewer columns, so that those on screen can be read; the exports have all."""
    kept = [place for place, column in enumerate(table.columns) if column.name not in names]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def largest(values: Any) -> float:
    """The largest absolute value; 0 of none."""
    return float(np.abs(np.asarray(values, dtype=np.float64)).max()) if len(values) else 0.0
