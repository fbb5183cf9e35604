"""The panels of the page Circuit about trust: would other prompts give the same circuit, and does it do the task?"""

from __future__ import annotations

from typing import Any

import numpy as np
from dash import html

from app.figures.circuit_pairs import inclusion_figure
from app.frame.page import Content, cannot, empty
from app.pages.circuit_state import Chosen, CircuitState, choose
from app.site import View
from app.views.circuit_tables import meta
from app.views.circuit_words import title
from app.views.numbers import fixed, interval, signed
from app.views.record_numbers import number, spread
from app.views.source import source_line
from app.views.table import Column, Table
from headscope.heads import Head

_SHOWN_HEADS, _SHOWN_BACKUPS = 20, 8


def stability(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    found = chosen.found
    if not found.has("stability"):
        return empty(found.missing("stability"))
    record = found.run.record("stability")
    verdicts = [_verdict(row, chosen) for row in (*record["rows"], *record.get("edge_rows", []))]
    body: list[Any] = [html.Ul(verdicts, className="circuit-verdicts")] if verdicts else []
    body += _sensitivity(record["ablations"], str(record.get("ablations_note") or ""))
    if chosen.method not in [row["method"] for row in record["rows"]]:
        why = f"{title(chosen.method)} gives no scores per prompt, so its stability over prompts is not known."
        return Content(body=[html.P(why), *body], source=source_line(found.run)) if body else cannot(why)
    shares = found.run.tensor("stability", f"{chosen.method}.inclusion")
    order = np.argsort(-shares.ravel(), kind="stable")[:_SHOWN_HEADS]
    places = [(int(index) // shares.shape[1], int(index) % shares.shape[1]) for index in order]
    places = [place for place in places if shares[place] > 0]
    labels = [f"L{layer}H{head}" for layer, head in places]
    best = {str(head) for head in chosen.scores.ranked()[: record["k"]]}
    mine = next(row for row in record["rows"] if row["method"] == chosen.method)
    return Content(
        inclusion_figure(
            labels, [float(shares[place]) for place in places], in_circuit=[one in best for one in labels]
        ),
        body=body,
        table=_inclusion_table(chosen, shares, best),
        summary=f"How often each head is among the {record['k']} best. {title(chosen.method)}. {mine['verdict']}",
        caption=f"{title(chosen.method)}: share of the resampled prompt sets in whose {record['k']} best heads each "
        f"head is; heads of the circuit of all prompts are plain, others hatched.",
        source=source_line(found.run),
    )


def _verdict(row: dict[str, Any], chosen: Chosen) -> html.Li:
    name: Any = title(row["method"])
    name = html.Strong(name) if row["method"] == chosen.method else name
    return html.Li([name, ": ", row["verdict"]])


def _sensitivity(rows: list[dict[str, Any]], note: str) -> list[Any]:
    title_ = html.H3("Patching by another kind of ablation")
    said = [html.P(note)] if note else []
    if not rows:
        return [title_, *said] if note else []
    items = [
        html.Li(
            f"{row['first']} against {row['second']}: rank correlation {fixed(number(row['rank'][0]), 2)} "
            f"{interval(number(row['rank'][1]), number(row['rank'][2]), 2)}, overlap of the {row['k']} best "
            f"{fixed(number(row['overlap']), 2)}"
        )
        for row in rows
    ]
    return [title_, html.Ul(items, className="circuit-verdicts"), *said]


def _inclusion_table(chosen: Chosen, shares: np.ndarray, best: set[str]) -> Table:
    rows = [
        (f"L{layer}H{head}", float(shares[layer, head]), "yes" if f"L{layer}H{head}" in best else "no")
        for layer, head in np.ndindex(shares.shape)
    ]
    rows.sort(key=lambda row: -row[1])
    columns = (
        Column("head", "Head"),
        Column("inclusion", "Inclusion", 3, "share of the resampled circuits that have it"),
        Column("in_circuit", "In the circuit of all prompts"),
    )
    return Table("Inclusion probabilities", columns, tuple(rows), meta(chosen.found, method=chosen.method))


def check(view: View, state: CircuitState) -> Content:
    chosen = choose(view.site, state)
    found = chosen.found
    if not found.has("check"):
        return empty(found.missing("check"))
    record = found.run.record("check")
    row = next((row for row in record["rows"] if row["method"] == chosen.method), None)
    if row is None:
        return cannot(f"The run checked no circuit of {title(chosen.method)}.")
    return Content(
        body=[*_sentences(row), _drops(row), *_backup(record["backup"], chosen)],
        table=_check_table(chosen, row),
        caption=f"The {record['k']} best heads of {title(chosen.method)} by signed score, MLPs kept, "
        f"{row['check']['ablation']} ablation, on pairs that no method saw.",
        source=source_line(found.run),
    )


def _sentences(row: dict[str, Any]) -> list[Any]:
    made = row["check"]
    alone, left = spread(made["faithfulness"]), spread(made["left"])
    random = [number(value) for value in made["random_faithfulness"]]
    beyond = sum(value >= alone.value for value in random)
    faithful = (
        f"alone it keeps {fixed(alone.value)} {interval(alone.low, alone.high)} of the effect (1 is best); {beyond} of "
        f"{len(random)} random sets of as many heads keep as much"
    )
    complete = (
        f"without it {fixed(left.value)} {interval(left.low, left.high)} of the effect is left (0 is best); largest "
        f"gap over {made['subsets']} random parts {fixed(number(made['incompleteness']))}"
    )
    drops = [spread(drop) for drop in made["drops"]]
    needed = sum(drop.low > 0 for drop in drops)
    minimal = f"for {needed} of {len(drops)} heads the circuit is worse without them, beyond the interval"
    texts = (("Faithful", faithful), ("Complete", complete), ("Minimal", minimal))
    parts = [part for name, text in texts for part in (html.Dt(name), html.Dd(text))]
    return [html.Dl(parts, className="hs-facts")]


def _drops(row: dict[str, Any]) -> html.Details:
    drops = [spread(drop) for drop in row["check"]["drops"]]
    head = html.Tr(
        [html.Th("head", scope="col"), html.Th("what the circuit loses without it", scope="col", className="hs-number")]
    )
    rows = [
        html.Tr(
            [
                html.Th(label, scope="row"),
                html.Td(f"{fixed(drop.value)} {interval(drop.low, drop.high)}", className="hs-number"),
            ]
        )
        for label, drop in zip(row["heads"], drops, strict=True)
    ]
    table = html.Table([html.Thead(head), html.Tbody(rows)], className="hs-table")
    return html.Details([html.Summary("Head by head (minimality)"), table], open=len(rows) <= 6)


def _backup(found: dict[str, Any] | None, chosen: Chosen) -> list[Any]:
    title_ = html.H3("Backup heads")
    if found is None:
        return [title_, html.P("Not checked: the model has too many heads for joint ablation of all of them.")]
    joint, excess = spread(found["joint"]), spread(found["excess"])
    gain = chosen.found.run.tensor("check", "gain")
    more = "more" if excess.value >= 0 else "less"
    why = (
        ": they cover for each other"
        if excess.low > 0
        else ": each alone already breaks what the others do, or they saturate the same thing"
        if excess.high < 0
        else "; the interval holds 0, so neither is seen"
    )
    ends = (excess.low, excess.high) if excess.value >= 0 else (-excess.high, -excess.low)
    return [
        title_,
        html.P(
            f"{', '.join(found['movers'])} ablated together cost {fixed(joint.value)} "
            f"{interval(joint.low, joint.high)}, {fixed(abs(excess.value))} {interval(*ends)} {more} than one by one "
            f"added up{why}. Heads that matter more once they are gone, beyond the interval, and by how much: "
            f"{_backups(found['backups'], gain)} (n = {found['n']}; uncorrected for "
            f"{int(np.isfinite(gain).sum())} heads)."
        ),
    ]


def _backups(labels: list[str], gain: np.ndarray) -> str:
    """The backup heads that gain most, with what they gain."""
    heads = sorted((Head.parse(label) for label in labels), key=lambda head: -gain[head])
    shown = ", ".join(f"{head} {signed(float(gain[head]))}" for head in heads[:_SHOWN_BACKUPS])
    return shown + (f" and {len(heads) - _SHOWN_BACKUPS} more" if len(heads) > _SHOWN_BACKUPS else "") or "none"


def _check_table(chosen: Chosen, row: dict[str, Any]) -> Table:
    made = row["check"]
    rows = [(name, spread(made[key])) for name, key in (("faithfulness", "faithfulness"), ("left", "left"))]
    rows += [(f"drop {label}", spread(drop)) for label, drop in zip(row["heads"], made["drops"], strict=True)]
    columns = (
        Column("figure", "Figure"),
        *(Column(name, name.title(), 4) for name in ("value", "low", "high")),
        Column("n", "n"),
    )
    cells = tuple((name, one.value, one.low, one.high, one.n) for name, one in rows)
    return Table("Faithful, complete, minimal", columns, cells, meta(chosen.found, method=chosen.method))
