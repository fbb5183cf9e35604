"""A lab answer for the terminal: what was done to the model, and what that changed."""

from __future__ import annotations

from app.lab_run import load_lab
from app.views.lab import LabView, a_minus_b, intervention, where
from app.views.lab_effect import Effect, effects
from app.views.numbers import fixed, signed
from app.views.tables import TextTable
from headscope.runs.reading import Run


def lab_tables(run: Run) -> list[TextTable]:
    """What was changed, as the title; loss, KL and logit difference before and after; none before there is an answer.

    Raises:
        RunError: if the run is damaged.
    """
    if not run.is_complete:
        return []
    pinned = load_lab(run)
    view = LabView(pinned.request, pinned.result, pinned)
    columns = ("measure", "unit", "untouched", view.changed or "changed", "change", "random sets")
    rows = tuple(_row(one) for one in effects(view)) or _untouched(view)
    note = f"Logit difference and KL {where(view.result)}: {a_minus_b(view.result)}."
    return [TextTable(intervention(view), columns, rows, frozenset(columns[2:5]), note)]


def _row(one: Effect) -> tuple[str, ...]:
    after, change = fixed(one.ablated, 4), signed(one.change, 4)
    return one.title, one.unit, fixed(one.clean, 4), after, change, one.sentence


def _untouched(view: LabView) -> tuple[tuple[str, ...], ...]:
    """Of the model as it is, where nothing was changed."""
    clean = view.result.clean
    loss = ("Mean loss", "nats per token", fixed(clean.mean_loss, 4), "", "", "")
    return (("Logit of A minus B", "logits", fixed(clean.logit_diff, 4), "", "", ""), loss)
