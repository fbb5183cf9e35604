"""Runs that another page shows: what the pages about a language model's heads say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from app.frame.choices import open_quietly
from app.frame.page import Content, Panel, cannot
from app.frame.words import address
from app.site import View
from app.views import training, variant_comparison
from headscope.runs.reading import Run

VARIANT_RUNS = {training.KIND: "run", variant_comparison.KIND: "comparison"}
"""Kinds of run that the page Variants shows, and its field for each."""
_HOLDS = {training.KIND: "trainings of attention variants", variant_comparison.KIND: "compared attention variants"}


def variants_address(run: Run) -> str:
    """Where such a run is shown."""
    return address("/variants", **{VARIANT_RUNS[run.manifest.kind]: run.manifest.id})


def unless_variants(panels: Sequence[Panel], fields: Sequence[str] = ("run",)) -> tuple[Panel, ...]:
    """The panels; where a field names a train or compare run, they say on which page it is shown."""
    return tuple(replace(panel, build=_guarded(panel.build, fields)) for panel in panels)


def _guarded(build: Callable[[View, Any], Content], fields: Sequence[str]) -> Callable[[View, Any], Content]:
    def whole(view: View, state: Any) -> Content:
        named = [open_quietly(view.site, getattr(state, field, "")) for field in fields]
        found = next((run for run in named if run is not None and run.manifest.kind in VARIANT_RUNS), None)
        return build(view, state) if found is None else _said(found)

    return whole


def _said(run: Run) -> Content:
    kind = run.manifest.kind
    return cannot(
        f"The run {run.manifest.id} is of kind {kind}: it holds {_HOLDS[kind]}. The page Variants shows it: "
        f"{variants_address(run)}"
    )
