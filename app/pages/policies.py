"""Calibrate and policies: what a model still does when its heads may keep or look at less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html
from dash.development.base_component import Component

from app.frame.choices import newest
from app.frame.page import Page, Panel
from app.frame.panels import panel_box, with_control
from app.pages import calibrate_panels, policies_panels
from app.pages.policies_choices import register
from app.pages.policies_controls import controls, map_controls
from app.pages.policies_state import MAKE_ONE, PoliciesState, guarded, quietly, suits
from app.site import Site


def _start(site: Site, state: PoliciesState) -> PoliciesState:
    """The state with runs, a task and a length filled in, where they are left open."""
    runs = {
        "run": newest(site, state.run, suits),
        "calibration": newest(site, state.calibration, calibrate_panels.suits),
    }
    found = quietly(site, runs["run"])
    task = state.task or (found.tasks[0] if found else "")
    lengths = found.lengths(task) if found else ()
    length = state.length or (lengths[-1] if lengths else None)
    return state.model_copy(update={**runs, "task": task, "length": length})


def _layout(site: Site, state: PoliciesState) -> list[Component]:
    state = _start(site, state)
    found = quietly(site, state.run)
    heads = with_control(panel_box(PAGE, "heads", tall=420), map_controls(PAGE, found, state))
    boxes = [
        panel_box(PAGE, "short", tall=60),
        panel_box(PAGE, "pareto", tall=560),
        html.Div(panel_box(PAGE, "smallest"), className="hs-seven"),
        html.Div(heads, className="hs-five"),
        panel_box(PAGE, "arms", tall=480),
        panel_box(PAGE, "kinds", tall=240),
    ]
    policies = [
        controls(PAGE, site, state, found),
        *_half("run", boxes, state.run, "No policies run is chosen, or here yet.", MAKE_ONE),
    ]
    calibration = [
        html.H2("Attention calibration (ACT)", className="policies-part"),
        calibrate_panels.controls(PAGE, site, state),
        *_half(
            "calibration",
            calibrate_panels.boxes(PAGE),
            state.calibration,
            "No calibrate run is chosen, or here yet.",
            calibrate_panels.MAKE_ONE,
        ),
    ]
    if state.calibration and not state.run:
        return [*calibration, html.H2("Cache policies", className="policies-part"), *policies]
    return [*policies, *calibration]


def _half(field: str, boxes: Sequence[Component], run: str, sentence: str, command: str) -> list[Component]:
    """The panels of a kind of run; as long as none is chosen one notice, and the panels wait out of sight."""
    code = html.Code(command, style={"whiteSpace": "nowrap"})
    notice = html.Div(
        [html.Strong(sentence), html.P(["One is made by: ", code])], className="hs-notice hs-empty", role="status"
    )
    columns = html.Div(list(boxes), className="hs-columns")
    return [
        html.Div(notice, id=f"{PAGE.id(field)}-none", hidden=bool(run)),
        html.Div(columns, id=f"{PAGE.id(field)}-half", hidden=not run),
    ]


_TASK = ("run", "task", "length")
_MAP = ("run", "rule", "share")


def _panel(name: str, heading: str, uses: tuple[str, ...], build: Any, **options: Any) -> Panel:
    return Panel(name, heading, uses, guarded(build), **options)


PAGE = Page(
    name="policies",
    title="Calibrate and policies",
    path="/policies",
    summary="What a model still does when its heads may keep, or look at, less.",
    state=PoliciesState,
    layout=_layout,
    panels=(
        _panel("short", "In short", (*_TASK, "axis"), policies_panels.short, has_figure=False, has_table=False),
        _panel(
            "pareto", "Cost against accuracy", (*_TASK, "axis", "curves"), policies_panels.pareto,
            help="Every setting of every policy: what it takes, and how well the model then does. Upper left is best; "
            "for a loss lower left.",
        ),
        _panel(
            "smallest", "Smallest setting that still works", (*_TASK, "axis"), policies_panels.smallest,
            has_figure=False,
            help="The fewest bytes, keys or operations with which a policy does nearly as well as the full cache.",
        ),
        _panel("heads", "Heads with a full cache", _MAP, policies_panels.heads),
        _panel("kinds", "What each policy is", ("run",), policies_panels.kinds, has_figure=False),
        _panel("arms", "All arms", _TASK, policies_panels.arms, has_figure=False),
        *calibrate_panels.PANELS,
    ),
    register=register,
    is_wide=True,
    first="pareto",
)  # fmt: skip
