"""The controls of the page Calibrate and policies: run, task, length, axis, curves, and which heads are mapped."""

from __future__ import annotations

import dash_mantine_components as dmc
from dash import html

from app.frame.choices import run_select
from app.frame.page import Page
from app.frame.words import attributes
from app.pages.policies_choices import (
    Option,
    curve_options,
    length_options,
    rule_options,
    share_options,
    shown_map,
    task_options,
)
from app.pages.policies_state import PoliciesState, suits
from app.site import Site
from app.views.policies import PolicyRun


def controls(page: Page, site: Site, state: PoliciesState, found: PolicyRun | None) -> html.Div:
    """What is above the panels of a policies run; ``state`` is filled in."""
    length = "" if state.length is None else str(state.length)
    return html.Div(
        [
            run_select(page, site, state.run, suits=suits),
            dmc.Select(
                id=page.id("task"), label="Task", data=_kept(task_options(found), state.task), value=state.task or None,
                allowDeselect=False, w=170,
            ),
            dmc.Select(
                id=page.id("length"), label="Length", data=_kept(length_options(found, state.task), length),
                value=length or None, allowDeselect=False, w=130,
            ),
            _axes(page, state),
            dmc.MultiSelect(
                id=page.id("curves"), label="Curves", data=curve_options(found), value=list(state.curves),
                clearable=True, searchable=True, placeholder="" if state.curves else "all, or the best",
                className="hs-grow", comboboxProps={"withinPortal": True},
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def _axes(page: Page, state: PoliciesState) -> html.Div:
    options = [
        {"value": "bytes", "label": "Bytes kept"},
        {"value": "keys", "label": "Keys attended"},
        {"value": "flops", "label": "Operations"},
    ]
    control = dmc.SegmentedControl(id=page.id("axis"), value=state.axis, size="xs", data=options)
    return html.Div(
        [
            html.Span("Against", className="mantine-InputWrapper-label"),
            html.Div(control, role="group", **attributes(aria_label="What the horizontal axis is")),
        ],
        className="policies-segments",
    )


def map_controls(page: Page, found: PolicyRun | None, state: PoliciesState) -> html.Div:
    """Which rule and which share of heads the map is of."""
    rule, share = shown_map(found, state)
    return html.Div(
        [
            dmc.Select(
                id=page.id("rule"), label="Chosen by", data=_kept(rule_options(found), rule or ""), value=rule,
                allowDeselect=False, className="hs-grow",
            ),
            dmc.Select(
                id=page.id("share"), label="Heads with a full cache", data=_kept(share_options(found), share or ""),
                value=share, allowDeselect=False, w=180,
            ),
        ],
        className="policies-switches",
    )  # fmt: skip


def _kept(options: list[Option], chosen: str) -> list[Option]:
    """The options, and what the address asks for although the run has none such."""
    known = [option["value"] for option in options]
    return [*options, *([{"value": chosen, "label": chosen[:60]}] if chosen and chosen not in known else [])]
