"""The panels of the page Circuit about one pair of prompts: its tokens, and the model run live with heads ablated."""

from __future__ import annotations

from typing import Any

import numpy as np
from dash import html

from app.frame.page import Content, empty
from app.live.kept import kept_answer
from app.live.results import PairOutcome, PairResult
from app.pages.circuit_state import CircuitState, circuit_run, pair_request, shown_pair
from app.site import View
from app.views.circuit import CircuitRun
from app.views.circuit_tables import meta
from app.views.numbers import fixed, signed
from app.views.record_numbers import number
from app.views.source import isolated, source_line
from app.views.table import Cell, Column, Table
from app.views.tokens import visible

LIVE = ("run", "pair", "off")
"""Fields that change the live answer."""

_RUNS = (("clean", "Clean"), ("ablated", "Ablated"), ("corrupted", "Corrupted"))


def task(view: View, state: CircuitState) -> Content:
    found = circuit_run(view.site, state.run)
    record, pair, shown = shown_pair(found, state.pair)
    pieces, told = record["pieces"], record["performance"]
    names = dict[int, list[str]]()
    for name, place in pair["positions"].items():
        names.setdefault(int(place), []).append(name)
    columns = [
        _column(place, names.get(place, []), *(_token(pieces, pair[side][place]) for side in ("clean", "corrupted")))
        for place in range(len(pair["clean"]))
    ]
    changed = sum(a != b for a, b in zip(pair["clean"], pair["corrupted"], strict=True))
    right, wrong = (_answers(pair[side]) for side in ("right", "wrong"))
    verdict = "" if told["passes"] else " The model is below the bar: a circuit of a task it cannot do means little."
    return Content(
        body=[
            html.P(f"{told['one_line']}.{verdict}", className="hs-finding"),
            html.Div(columns, className="circuit-pair", role="list"),
            *_differences(pair),
            html.P(
                ["Right: ", html.Bdi(right, className="hs-mono"), " · wrong: ", html.Bdi(wrong, className="hs-mono")]
            ),
        ],
        table=_token_table(found, shown, pair, names, pieces),
        caption=f"Pair {shown} of {len(record['pairs'])} kept ({record['n']} seen by the methods, {record['judged']} "
        f"others judged). Above: names of positions; then the clean token, below it the corrupted one; {changed} "
        "differ (framed). The prediction after the last token is judged.",
        source=source_line(found.run),
    )


def difference_text(pair: dict[str, Any]) -> str:
    """What the model does with a pair: ``clean 4.21, corrupted -1.10``, marked where it gets the pair wrong."""
    if "clean_difference" not in pair:
        return ""
    clean = number(pair["clean_difference"])
    said = f"clean {fixed(clean, 2)}, corrupted {fixed(number(pair['corrupted_difference']), 2)}"
    return said if clean > 0 else f"{said}, WRONG"


def _differences(pair: dict[str, Any]) -> list[Any]:
    if not (said := difference_text(pair)):
        return []
    is_wrong = said.endswith("WRONG")
    said = said.removesuffix(", WRONG")
    more = ": the model gets this pair wrong" if is_wrong else ""
    return [html.P(f"Logit difference of this pair: {said}{more}.", className="hs-bad" if is_wrong else "")]


def _token(pieces: dict[str, str], token: int) -> str:
    return visible(pieces.get(str(token), ""), token)


def _answers(texts: list[str]) -> str:
    shown = ", ".join(visible(text) for text in texts[:8])
    return shown + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


def _column(place: int, names: list[str], clean: str, corrupted: str) -> html.Div:
    differs = " circuit-differs" if clean != corrupted else ""
    label = ", ".join(names)
    return html.Div(
        [
            html.Span(label or "\u00a0", className="circuit-name"),
            html.Bdi(clean, className="circuit-token"),
            html.Bdi(corrupted, className="circuit-token circuit-below"),
        ],
        className=f"circuit-column{differs}{' circuit-named' if names else ''}",
        title=f"position {place}{f': {label}' if label else ''}",
        role="listitem",
    )


def _token_table(
    found: CircuitRun, pair_number: int, pair: dict[str, Any], names: dict[int, list[str]], pieces: dict[str, str]
) -> Table:
    rows = list[tuple[Cell, ...]]()
    for place, (one, other) in enumerate(zip(pair["clean"], pair["corrupted"], strict=True)):
        texts = (pieces.get(str(token), "") for token in (one, other))
        rows.append((place, ", ".join(names.get(place, [])), one, *texts, other))
    columns = (
        Column("position", "Position"), Column("names", "Names"), Column("clean_id", "Clean id"),
        Column("clean", "Clean"), Column("corrupted", "Corrupted"), Column("corrupted_id", "Corrupted id"),
    )  # fmt: skip
    return Table(f"Pair {pair_number}", columns, tuple(rows), meta(found, right=pair["right"], wrong=pair["wrong"]))


def prepare(view: View, state: CircuitState) -> None:
    """Ask the model, if any head is ablated; opening the page loads none."""
    if state.run and state.off:
        request = pair_request(circuit_run(view.site, state.run), state)
        channel = f"{view.tab}-circuit" if view.tab else f"unnamed-{hash(request.key)}"
        view.site.host.ask(request, channel=channel)


def live(view: View, state: CircuitState) -> Content:
    if not state.run:
        return empty("Choose a run of kind circuit above.")
    found = circuit_run(view.site, state.run)
    place = shown_pair(found, state.pair)[2]
    if not state.off:
        return empty(
            "No head is ablated. Click a head of the graph, then Ablate (Space on the graph does the same): the model "
            "runs pair by pair, live."
        )
    result = kept_answer(view.site.host, pair_request(found, state), tab=view.tab)
    heads = ", ".join(pair_request(found, state).heads)
    change = result.ablated.logit_difference - result.clean.logit_difference
    said = (
        f"Without {heads}: logit difference {fixed(result.clean.logit_difference)} → "
        f"{fixed(result.ablated.logit_difference)} ({signed(change)}); {_share(result)}"
    )
    return Content(
        body=[html.P(said, className="hs-finding"), _outcomes(result), *_warning(found, result)],
        table=_live_table(found, result, place, heads),
        summary=said,
        caption=f"One prompt, pair {place}: no average, no interval. Resample ablation: the heads write what they "
        "wrote in the corrupted twin, at every position; all else is computed on from that.",
        source=f"LIVE, NOT SAVED · {isolated(result.model)} ({(result.facts.revision or 'unknown')[:12]}) · pair "
        f"{place} of {found.run.manifest.id} · {result.seconds:.2f} s",
    )


def _share(result: PairResult) -> str:
    clean, corrupted = result.clean.logit_difference, result.corrupted.logit_difference
    if clean - corrupted < 1e-6:
        said = f"The corrupted twin has {fixed(corrupted)}, no less: on this prompt there is no effect to keep."
        return said[:1].lower() + said[1:]
    kept = (result.ablated.logit_difference - corrupted) / (clean - corrupted)
    return f"{fixed(kept, 2)} of this prompt's effect is kept (1: clean, 0: corrupted, {fixed(corrupted)})."


def _outcomes(result: PairResult) -> html.Div:
    tables = [_outcome(text, getattr(result, name)) for name, text in _RUNS]
    return html.Div(tables, className="circuit-outcomes")


def _outcome(text: str, outcome: PairOutcome) -> html.Div:
    rows = [
        html.Tr(
            [
                html.Th(html.Bdi(visible(one.text, one.id)), scope="row", className="hs-mono"),
                html.Td(fixed(float(p), 3), className="hs-number"),
            ]
        )
        for one, p in zip(outcome.likeliest[:5], outcome.probability, strict=False)
    ]
    head = html.Tr([html.Th("next", scope="col"), html.Th("p", scope="col", className="hs-number")])
    return html.Div(
        [
            html.H3(f"{text} {fixed(outcome.logit_difference, 2)}"),
            html.Table([html.Thead(head), html.Tbody(rows)], className="hs-table"),
        ]
    )


def _warning(found: CircuitRun, result: PairResult) -> list[Any]:
    revision = found.run.manifest.model.revision
    if revision == result.facts.revision:
        return []
    return [
        html.P(
            f"Other weights than the run's: the run is of {(revision or 'unknown')[:40]}, the live model of "
            f"{(result.facts.revision or 'unknown')[:40]}.",
            className="hs-bad",
        )
    ]


def _live_table(found: CircuitRun, result: PairResult, pair: int, heads: str) -> Table:
    columns = (
        Column("run", "Run"), Column("logit_difference", "Logit difference", 4, "nats"), Column("rank", "#"),
        Column("id", "id"), Column("token", "Next token"), Column("p", "p", 5),
    )  # fmt: skip
    rows = tuple(
        (name, one.logit_difference, place, token.id, token.text, float(p))
        for name, _ in _RUNS
        for one in [getattr(result, name)]
        for place, (token, p) in enumerate(zip(one.likeliest, np.asarray(one.probability), strict=True), 1)
    )
    return Table(
        f"Pair {pair} without {heads}", columns, rows, meta(found, pair=pair, heads=heads, ablation="resample")
    )
