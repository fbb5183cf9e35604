"""The panels of the page Circuit about one method: the graph, what it keeps, and its lists of parts and edges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from dash import html

from app.figures.circuit_curves import faithfulness_figure
from app.figures.circuit_graph import circuit_figure
from app.frame.exports import grid
from app.frame.page import Content, cannot, empty
from app.pages.circuit_state import Chosen, CircuitState, choose, no_such_head
from app.site import View
from app.views.circuit import CircuitRun, Curve
from app.views.circuit_graph import MOST_EDGES, CircuitPicture, picture
from app.views.circuit_tables import curve_table, edge_table, node_table
from app.views.circuit_words import no_edges, title, unit_text
from app.views.numbers import fixed, interval, percent
from app.views.source import source_line
from app.views.table import Column, Table
from app.views.tables import incomplete_banner

_SHOWN_EDGES = 400
_ONE_ROW = {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True}


def kept_text(chosen: Chosen) -> str:
    """Which circuit the slider shows: ``EAP, the best 3 of 16 heads (18.8 %)``."""
    state, scores = chosen.state, chosen.scores
    graph = scores.graph
    parts = graph.n_edges if state.unit == "edge" else graph.n_layers * graph.n_heads
    order = "by magnitude" if state.ranking == "absolute" else "by signed score"
    share = percent(chosen.size / parts)
    text = f"{title(chosen.method)}: the best {chosen.size:,} of {parts:,} {state.unit}s ({share}) {order}"
    if state.unit == "edge":
        text += f", {int(chosen.kept.sum()):,} of them after pruning those that lead nowhere"
    return text


def effect_sentence(chosen: Chosen) -> str:
    """What the circuit of the slider keeps of the effect, beside random circuits and the worst prompt."""
    shown = chosen.curve
    if shown is None:
        return "What it keeps of the effect is not measured yet."
    curve, ends, step = shown.curve, shown.ends, chosen.state.step
    said = f"It keeps {fixed(float(curve.faithfulness[step]))} of the effect"
    low, high = float(ends[0, step]), float(ends[1, step])
    said += "" if np.isnan(low) else f" {interval(low, high)}"
    said += f" (n = {curve.n} other pairs), {fixed(float(curve.worst[step]))} on the worst of them "
    said += "(the one pair on which it keeps least)"
    if (random := curve.random_faithfulness) is not None:
        said += f"; random circuits of that size keep {fixed(float(random[:, step].mean()))}"
    above = float(curve.faithfulness[step]) > 1 + 5e-4
    return f"{said}.{' Above 1: heads left out work against the answer.' if above else ''}"


def short(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    found = chosen.found
    said: list[Any] = [html.P(f"{kept_text(chosen)}. {effect_sentence(chosen)}", className="hs-finding")]
    notes = [*chosen.scores.notes, *([banner] if (banner := incomplete_banner(found.run)) else [])]
    if notes:
        said.append(html.Ul([html.Li(note) for note in notes], className="hs-soft circuit-notes"))
    return Content(
        body=said,
        table=curve_table(found, (chosen.method,), chosen.state.unit, chosen.state.ranking),
        source=source_line(found.run),
    )


def graph(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    scores = chosen.scores
    shown = picture(scores, chosen.kept, unit=state.unit, ranking=state.ranking)
    table = _drawn_table(chosen, shown)
    if not shown.nodes:
        return Content(notice=("empty", f"{kept_text(chosen)}: nothing is left. Move the slider to keep more."))
    figure = circuit_figure(
        shown, signed=scores.signed, unit=unit_text(chosen.scores), chosen=state.head, off=state.off,
    )  # fmt: skip
    signs = (
        "Circle, solid: for the right answer; diamond, dashed: against it. "
        if scores.signed
        else "The method gives no sign: all scores are magnitudes. "
    )
    unknown = no_such_head(chosen.found, chosen.method, state.head)
    return Content(
        figure,
        body=html.P(unknown, className="hs-bad") if unknown else None,
        table=table,
        summary=f"Layered graph of the circuit. {kept_text(chosen)}. {_edges_text(shown)}",
        caption=f"{_edges_text(shown)} {signs}A key or value input belongs to a group of heads; its edge is drawn to "
        "each of them that is kept. Click a head to choose it, or walk the drawn heads with the arrow "
        "keys; its edges then stand out.",
        source=source_line(chosen.found.run),
    )


def _edges_text(shown: CircuitPicture) -> str:
    heads = f"{shown.n_heads} heads."
    if not shown.has_edges:
        return f"{heads} The method scores no edges, so none is drawn; MLPs are always kept."
    if shown.unit == "edge":
        cut = (
            f"the strongest {MOST_EDGES} of {shown.n_edges:,}"
            if shown.n_edges > MOST_EDGES
            else f"all {shown.n_edges:,}"
        )
        rest = "; parts that none of these touches are not drawn" if shown.n_edges > MOST_EDGES else ""
        return f"{heads} Edges drawn: {cut} of the circuit{rest}."
    return (
        f"{heads} A circuit of heads keeps every MLP and every edge between its parts; {len(shown.edges)} of "
        f"{shown.n_edges:,} are drawn: the strongest into and out of each head, and the strongest others."
    )


def _drawn_table(chosen: Chosen, shown: CircuitPicture) -> Table:
    columns = (Column("kind", "Kind"), Column("part", "Part"), Column("score", title(chosen.method), 5))
    rows = [(node.kind, node.label, node.score) for node in shown.nodes]
    rows += [("edge", edge.label, edge.score) for edge in shown.edges]
    return Table(kept_text(chosen), columns, tuple(rows), {"run": chosen.found.run.manifest.id})


def curve(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    shown = chosen.curve
    if shown is None:
        return empty(_no_curve(chosen))
    second = _second(chosen.found, chosen)
    areas = "; ".join(
        f"{_AREAS[name]} {fixed(area.value)} {interval(area.low, area.high)}" for name, area in shown.areas.items()
    )
    beside = f" {title(chosen.other)} has no such curve." if chosen.other and second is None else ""
    return Content(
        faithfulness_figure(shown, step=chosen.state.step, other=second),
        table=curve_table(chosen.found, (chosen.method, chosen.other), state.unit, state.ranking),
        summary=f"Effect kept against circuit size. {kept_text(chosen)}. {effect_sentence(chosen)}",
        caption=f"{effect_sentence(chosen)} {areas}.{beside} All else is ablated ({shown.curve.ablation}); 1: the "
        f"whole model, 0: everything ablated{', MLPs kept' if state.unit == 'head' else ''}. Band: 95 % over prompts.",
        source=source_line(chosen.found.run),
    )


_AREAS = {"cpr": "CPR", "cmd": "CMD", "log_area": "area over the logarithm of the size"}


def _no_curve(chosen: Chosen) -> str:
    stage = f"{chosen.method}-curves"
    if not chosen.found.has(stage):
        return chosen.found.missing(stage)
    return f"This run judged no circuits of {chosen.state.unit}s. Choose the other unit above."


def _second(found: CircuitRun, chosen: Chosen) -> Curve | None:
    if not chosen.other:
        return None
    return found.curve(chosen.other, chosen.state.unit, chosen.state.ranking)


def nodes(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    table = node_table(
        chosen.found, chosen.method, chosen.other, unit=state.unit, ranking=state.ranking, alive=chosen.alive
    )
    return Content(
        body=_listed(
            "circuit-nodes-table", _without(table, "low", "high"), options={"rowSelection": _ONE_ROW}
        ),
        table=table,
        caption=f"{len(table.rows)} parts, strongest first. {chosen.scores.meaning[:1].upper()}"
        f"{chosen.scores.meaning[1:]} ({unit_text(chosen.scores)}). Choose a row to choose the head.",
        source=source_line(chosen.found.run),
    )  # fmt: skip


def edges(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    if chosen.scores.edges is None:
        return cannot(no_edges(chosen.method))
    kept = chosen.kept if state.unit == "edge" else None
    table = edge_table(chosen.found, chosen.method, state.ranking, kept)
    shown = replace(table, rows=table.rows[:_SHOWN_EDGES])
    if kept is None:
        shown = _without(shown, "in_circuit")
    cut = f" The first {_SHOWN_EDGES} are listed; CSV has all." if len(table.rows) > _SHOWN_EDGES else ""
    return Content(
        body=_listed("circuit-edges-table", shown),
        table=table,
        caption=f"{len(table.rows):,} edges, strongest first.{cut} Q belongs to a head (H), K and V to a group (KV).",
        source=source_line(chosen.found.run),
    )


def _without(table: Table, *names: str) -> Table:
    """Fewer columns, so that those on screen can be read; the exports have all."""
    left = [place for place, column in enumerate(table.columns) if column.name not in names]
    rows = tuple(tuple(row[place] for place in left) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in left), rows=rows)


def _listed(grid_id: str, table: Table, **options: Any) -> Any:
    """The rows as a grid: a narrow first column, a wide second one."""
    made: Any = grid(grid_id, table=table, height="360px", **options)
    for column, found in zip(table.columns, made.columnDefs, strict=True):
        found |= {"wrapHeaderText": True, "autoHeaderHeight": True, "minWidth": 100}
        found |= {"headerTooltip": column.meaning or column.title, "filter": False}
    made.columnDefs[0] |= {"flex": 0, "width": 58, "minWidth": 58, "filter": False}
    made.columnDefs[1] |= {"flex": 1.5}
    return made
