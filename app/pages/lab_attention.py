"""The panels of the Prompt lab that show where one head looks, before and after the change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from app.figures.pattern import pattern_figure
from app.frame.page import Content, cannot, empty
from app.live.policy_choice import keeps_heads
from app.pages.lab_state import LabState
from app.views.lab import LabView
from app.views.lab_words import refusal_of_captures
from app.views.numbers import fixed
from app.views.table import Column, Table
from app.views.tokens import token_labels, visible
from headscope.captures import CapturedText
from headscope.heads import Head


def attention(which: Literal["clean", "ablated"]) -> Callable[[LabView, LabState], Content]:
    """The panel of the untouched run, or of the changed one."""

    def build(view: LabView, state: LabState) -> Content:
        result = view.result
        found = result.captured_clean if which == "clean" else result.captured_ablated
        if found is None:
            return _no_pattern(view, which)
        head = Head.parse(state.head or (view.request.heads[0] if view.request.heads else "L0H0"))
        if not found.has(head):
            facts = result.facts
            return cannot(f"{result.model} has {facts.n_layers} layers of {facts.n_heads} heads: there is no {head}.")
        values = found.pattern(head).rows()
        called = "clean run" if which == "clean" else view.request.changed_run
        return Content(
            pattern_figure(
                values,
                token_labels(result.text),
                height=500,
                zmax=_top(result.captured_clean, result.captured_ablated, head),
            ),
            table=_pattern_table(view, values, f"Attention of {head}, {called}"),
            summary=f"Attention of {head}, {called}: {_looks(view, values)}",
            caption=f"{head}, {called}: {_looks(view, values)} Both maps share one colour range. "
            f"{_inside(view, head, which)}",
        )

    return build


def _no_pattern(view: LabView, which: str) -> Content:
    result = view.result
    reason = refusal_of_captures(result, changed=which == "ablated")
    if reason:
        return cannot(reason)
    if which == "ablated" and result.captured_clean is not None:
        return empty("Tick heads or choose a policy to see how attention changes.")
    return empty("Switch on Read attention above.")


def _inside(view: LabView, head: Head, which: str) -> str:
    request = view.request
    if which == "clean":
        return ""
    said = list[str]()
    if request.policy:
        said.append("Drawn as the policy weighs the tokens; a row need not sum to 1.")
    if str(head) in request.heads and request.change == "calibration":
        said.append("This head is calibrated itself: what is drawn is its calibrated attention.")
    elif str(head) in request.heads and not keeps_heads(request.policy):
        said.append(
            "This head is ablated itself: what is drawn is where it would look; it is not what its output is made of."
        )
    return " ".join(said)


def _top(clean: CapturedText | None, ablated: CapturedText | None, head: Head) -> float:
    return max(float(one.pattern(head).rows().max()) for one in (clean, ablated) if one is not None and one.has(head))


def _looks(view: LabView, values: np.ndarray) -> str:
    row = values[view.result.position]
    key = int(row.argmax())
    token = visible(view.result.text.pieces[key], view.result.text.ids[key])
    return f"from position {view.result.position} most to {key} '{token}' ({fixed(float(row[key]))})."


def _pattern_table(view: LabView, values: np.ndarray, title: str) -> Table:
    columns = (Column("query", "Query"), Column("key", "Key"), Column("attention", "Attention", 4, "share of the row"))
    rows = tuple((i, j, float(values[i, j])) for i in range(len(values)) for j in range(i + 1))
    return Table(title, columns, rows, view.meta)
