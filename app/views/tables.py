"""Tables of a run as text: what the terminal shows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from app.views.causal import causal_decimals, causal_rows, causal_sentence, key_row
from app.views.classes import HeadClass, head_classes
from app.views.heads import HeadRow, top_groups, top_heads
from app.views.numbers import decimals_of, duration, fixed, interval, p_text
from headscope.card import CapabilityCard
from headscope.checks import CausalCheck
from headscope.errors import UnknownNameError
from headscope.heads import HeadScores
from headscope.runs.index import RunSummary
from headscope.runs.reading import Run

By = Literal["head", "kv"]


@dataclass(frozen=True)
class TextTable:
    """A table as it is printed.

    Attributes:
        title: what it shows.
        columns: heading of each column.
        rows: cells, as many as there are columns.
        numbers: columns to align at the right.
        note: a sentence below the table; may be empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str]
    note: str = ""


def run_table(runs: Sequence[RunSummary], root: str) -> TextTable:
    """A row per run, in the order given."""
    rows = ((run.id, run.model, run.kind, run.status, run.started, duration(run.seconds)) for run in runs)
    return TextTable(
        title=f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} in {root}",
        columns=("run", "model", "kind", "status", "started (UTC)", "time"),
        rows=tuple(rows),
        numbers=frozenset({"time"}),
    )


def card_table(card: CapabilityCard) -> TextTable:
    """What a model was seen to support, an entry per row."""
    marks = {True: "yes", False: "NO", None: ""}
    return TextTable(
        title=f"Capability card of {card.model}",
        columns=("", "checked", "seen"),
        rows=tuple((marks[entry.ok], entry.title, entry.value) for entry in card.entries),
        numbers=frozenset(),
    )


def score_table(scores: HeadScores, *, top: int, by: By = "head") -> TextTable:
    """The ``top`` strongest heads of a score, or key/value groups by their strongest head."""
    definition = scores.definition
    rows = top_heads(scores, top) if by == "head" else top_groups(scores, top)
    made = head_classes([scores])
    return TextTable(
        title=f"{definition.title} ({scores.name}, in {definition.unit})",
        columns=("head" if by == "head" else "group", "value", "95 % interval", "n", "class"),
        rows=tuple(_head_cells(row, decimals_of(scores.values), definition.head_class or "") for row in rows),
        numbers=frozenset({"value", "95 % interval", "n"}),
        note=_class_note(made[0]) if made else "",
    )


def class_tables(run: Run, *, top: int = 5, by: By = "head") -> list[TextTable]:
    """A `score_table` for each class of heads in the run."""
    scores = run.scores()
    return [score_table(scores[one.definition.name], top=top, by=by) for one in head_classes(scores.values())]


def check_tables(run: Run) -> list[TextTable]:
    """A table for each causal check: a row per number of ablated heads."""
    return [_check_table(check) for check in run.checks()]


def named_tables(run: Run, name: str, *, top: int = 10, by: By = "head") -> list[TextTable]:
    """The table of the score called ``name``, or of every score of the probe called so.

    Raises:
        UnknownNameError: if it names neither; suggests the nearest.
    """
    scores = run.scores()
    found = [scores[name]] if name in scores else [one for one in scores.values() if one.definition.probe == name]
    if not found:
        missing = ", ".join(run.missing_stages)
        advice = f"Not measured yet: {missing}." if missing else ""
        known = {*scores, *(one.definition.probe for one in scores.values())}
        raise UnknownNameError.of("score or probe of this run", name, known, advice)
    tables = [score_table(one, top=top, by=by) for one in found]
    others = [one.name for one in scores.values() if one.definition.probe == name and one.name != name]
    note = f"Other scores of this probe: {', '.join(others)}." if others and name in scores else ""
    return [*tables[:-1], replace(tables[-1], note=f"{tables[-1].note} {note}".strip())]


def _head_cells(row: HeadRow, decimals: int, head_class: str) -> tuple[str, ...]:
    value, ends = fixed(row.value, decimals), interval(row.low, row.high, decimals)
    return (row.label, value, ends, str(row.n), head_class if row.is_member else "")


def _class_note(made: HeadClass) -> str:
    return f"{made.count} of {made.n_heads} heads are {made.name} heads: {made.definition.name} {made.bound}."


def _check_table(check: CausalCheck) -> TextTable:
    digits = causal_decimals(check)
    base = f"{fixed(check.baseline, digits)} {interval(check.baseline_low, check.baseline_high, digits)}"
    rows = [
        (
            str(row.k),
            fixed(row.value, digits),
            interval(row.low, row.high, digits),
            fixed(row.random_mean, digits),
            interval(row.random_low, row.random_high, digits),
            p_text(row.p_value),
        )
        for row in causal_rows(check)
    ]
    key = key_row(check)
    columns = ("k", "class ablated", "95 % interval", "random heads", "95 % of draws", "p")
    return TextTable(
        title=f"{check.head_class} heads, {check.ablation} ablation, {check.rows} rows: "
        f"{check.metric} ({check.unit}), untouched {base}, n = {check.n}",
        columns=columns,
        rows=tuple(rows),
        numbers=frozenset(columns),
        note=causal_sentence(check, key) if key else "",
    )


def incomplete_banner(run: Run) -> str:
    """What an unfinished run lacks and how to go on, or nothing for a whole one."""
    if run.is_complete:
        return ""
    missing = ", ".join(run.missing_stages)
    lacks = f"these stages are missing: {missing}" if missing else "it was stopped before it was closed"
    command = f"headscope {run.manifest.kind} --resume {shlex.quote(str(run.path))}"
    return f"INCOMPLETE: {lacks}. Continue with: {command}"
