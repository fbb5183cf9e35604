"""The selected run of the page Runs: what it found, how to get it again, and what can be done with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from dash import html

from app.frame.elsewhere import VARIANT_RUNS, variants_address
from app.frame.page import Content, empty
from app.frame.words import link, notice_box
from app.lab_run import KIND, PinnedLab, load_lab
from app.site import View
from app.views import training, variant_comparison
from app.views.classes import head_classes
from app.views.lab import LabView, a_minus_b, intervention, where
from app.views.numbers import MISSING, duration, fixed
from app.views.provenance import Fact, Provenance, provenance
from app.views.source import isolated, source_line
from app.views.summary import summary
from app.views.table import Column, Table
from app.views.tokens import visible
from app.views.training import TrainRun
from app.views.training_tables import train_lead, training_finding
from app.views.variant_claims import verdicts
from app.views.variant_comparison import CompareRun
from headscope.errors import RunError, UnknownNameError
from headscope.runs.locking import is_being_written
from headscope.runs.reading import Run

_LONGEST_TEXT = 160


def details(view: View, state: Any) -> Content:
    """Content of the panel; a corrupt run gets its reason and the button that deletes it."""
    if not state.run:
        return empty("Select a run in the list to see what it found and how it was made.")
    try:
        run = view.site.run(state.run)
        sentences = _findings(run)
    except UnknownNameError as error:
        return empty(f"{str(error)[:1].upper()}{str(error)[1:]} A deleted run can be restored below the list.")
    except RunError as error:
        return Content(body=[notice_box("failed", str(error)), html.Div(_delete_button(), className="hs-row")])
    known = provenance(run)
    return Content(
        body=[
            html.P([html.Strong(isolated(run.manifest.model.name)), f" · {run.manifest.kind} · ", _status(run)]),
            *_resume(run),
            *[html.P(text, className="hs-finding") for text in sentences],
            html.Div(_actions(run), className="hs-row"),
            *_provenance(known),
        ],
        table=facts_table(run, known),
        source=source_line(run),
    )


def facts_table(run: Run, known: Provenance) -> Table:
    """Every fact of the run's provenance: group, name, value."""
    groups: tuple[tuple[str, Sequence[Fact]], ...] = (
        ("run", known.facts),
        ("model", known.model),
        ("machine", known.machine),
        ("versions", known.versions),
        ("command", (Fact("command", known.command),)),
        ("config", (Fact("config", known.config),)),
    )
    rows = [(group, fact.name, fact.value) for group, facts in groups for fact in facts]
    rows += [("stage", row.name, "missing" if row.seconds is None else f"{row.seconds:.3f} s") for row in known.stages]
    columns = (Column("group", "group"), Column("name", "name"), Column("value", "value"))
    return Table(f"The run {run.manifest.id}", columns, tuple(rows))


def _findings(run: Run) -> list[str]:
    """The headline sentences; of a run without scores, what it recorded instead."""
    if run.manifest.kind == KIND and run.is_complete:
        return lab_sentences(load_lab(run))
    if run.manifest.kind == training.KIND and run.records:
        return [text for text in (train_lead(run), training_finding(TrainRun(run))) if text]
    if run.manifest.kind == variant_comparison.KIND and run.records:
        return [f"{name}: {told}" for name, told in verdicts(CompareRun(run))]
    scores, checks = list(run.scores().values()), run.checks()
    if not scores and run.records:
        count = f"{len(run.records)} {'stage was' if len(run.records) == 1 else 'stages were'}"
        return [f"{count} recorded: {', '.join(run.records)}."]
    said = summary(isolated(run.manifest.model.name), scores, head_classes(scores), checks)
    return [text for text in (said.measured, said.counted) if text]


def lab_sentences(pinned: PinnedLab) -> list[str]:
    """What a kept lab answer holds: the text, what was done to which heads, and what became of A minus B."""
    request, result = pinned.request, pinned.result
    text = visible(request.text[: _LONGEST_TEXT + 1])
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    done = intervention(LabView(request, result, pinned))
    before = fixed(result.clean.logit_diff, 3)
    change = before if result.ablated is None else f"{before} -> {fixed(result.ablated.logit_diff, 3)}"
    n_sets = len(result.random_sets)
    sets = f" Compared with {n_sets} random {'set' if n_sets == 1 else 'sets'} of as many heads." if n_sets else ""
    return [
        f"Text ({result.n_tokens} tokens): “\u2068{text}\u2069”",
        done,
        f"{a_minus_b(result)} {where(result)}: {change} logits.{sets}",
    ]


def _status(run: Run) -> str:
    manifest = run.manifest
    if run.is_complete:
        return f"complete, {duration(manifest.seconds)}, all {len(manifest.planned)} stages"
    word = "RUNNING" if is_being_written(run.path) else "UNFINISHED"
    return f"{word}: {len(manifest.stages)} of {len(manifest.planned)} stages are in"


def _resume(run: Run) -> list[html.Div]:
    if run.is_complete:
        return []
    if is_being_written(run.path):
        said = "Its command is still running: the numbers so far are those of the stages that are in."
        return [html.Div(html.P(said), className="hs-resume")]
    if run.manifest.kind == KIND:
        return [html.Div(html.P("It was stopped before its answer was in: ask it again."), className="hs-resume")]
    missing = ", ".join(run.missing_stages) or "none; it was stopped before it was closed"
    command = f"headscope {run.manifest.kind} --resume {shlex.quote(str(run.path))}"
    return [
        html.Div(
            [
                html.P(f"Missing: {missing}."),
                html.P("Go on with it on the page Jobs, or in a terminal:"),
                html.Pre(command, className="hs-log"),
            ],
            className="hs-resume",
        )
    ]


def _actions(run: Run) -> list[Any]:
    run_id = run.manifest.id
    shown: list[Any] = []
    if run.manifest.definitions:
        shown += [link("Heads", "/heads", run=run_id), link("Compare", "/compare", a=run_id)]
    if run.manifest.kind == KIND:
        shown.append(link("Prompt lab", "/lab", pinned=run_id))
    elif run.manifest.kind in VARIANT_RUNS:
        shown.append(link("Variants", variants_address(run)))
    elif run.records:
        shown += [link("Head", "/head", run=run_id), link("Patterns", "/patterns", run=run_id)]
    if run.manifest.definitions or run.manifest.kind in VARIANT_RUNS:
        href = f"/report/{run_id}.html"
        shown.append(html.A("Report", href=href, target="_blank", title="One HTML file that opens offline"))
    for each in shown:
        each.className = f"{getattr(each, 'className', '')} hs-button".strip()
    pin = html.Button("Pin as baseline", id="runs-pin-this", type="button", className="hs-button")
    return [*shown, pin, _delete_button()]


def _delete_button() -> html.Button:
    return html.Button(
        "Delete", id="runs-delete", type="button", className="hs-button", title="Moves the run aside; can be undone"
    )


def _provenance(known: Provenance) -> list[Any]:
    return [
        _fold(
            "Command and settings",
            [html.Pre(known.command, className="hs-log"), html.Pre(known.config, className="hs-log")],
        ),
        _fold("Run and model", [_facts([*known.facts, *known.model])]),
        _fold("Machine and versions", [_facts([*known.machine, *known.versions])]),
        _fold(f"Stages ({len(known.stages)})", [_stages(known)]),
    ]


def _fold(title: str, body: list[Any]) -> html.Details:
    return html.Details([html.Summary(title), *body], className="hs-fold")


def _facts(facts: Sequence[Fact]) -> html.Dl:
    parts: list[Any] = []
    for fact in facts:
        parts += [html.Dt(fact.name), html.Dd(fact.value)]
    return html.Dl(parts, className="hs-facts")


def _stages(known: Provenance) -> html.Table:
    head = html.Tr([html.Th("stage", scope="col"), html.Th("time", scope="col"), html.Th("ended (UTC)", scope="col")])
    rows = [
        html.Tr(
            [
                html.Th(row.name, scope="row"),
                html.Td(duration(row.seconds) if row.is_done else "missing", className="hs-number"),
                html.Td(row.finished[:19].replace("T", " ") or MISSING),
            ]
        )
        for row in known.stages
    ]
    return html.Table([html.Thead(head), html.Tbody(rows)], className="hs-table")
