"""The controls of the page Circuit: run, methods, slider, switches, pair and truth."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from app.frame.choices import run_select
from app.frame.page import Page
from app.pages.circuit_choices import (
    OPENS,
    SLIDER,
    Option,
    method_options,
    other_options,
    pair_options,
    slider_of,
    truth_options,
)
from app.pages.circuit_state import CircuitState, suits
from app.site import Site
from app.views.circuit import CircuitRun


def controls(page: Page, site: Site, state: CircuitState, found: CircuitRun | None) -> html.Div:
    """What is above the panels; ``state`` is filled in."""
    slider = slider_of(site, state)
    units = [{"value": "head", "label": "Heads"}, {"value": "edge", "label": "Edges"}]
    rankings = [{"value": "signed", "label": "Signed"}, {"value": "absolute", "label": "Magnitude"}]
    return html.Div(
        [
            run_select(page, site, state.run, suits=suits),
            dmc.Select(
                id=page.id("method"), label="Method", data=method_options(found), value=state.method or None,
                allowDeselect=False, searchable=True, w=210,
            ),
            dmc.Select(
                id=page.id("other"), label="Compared with", data=other_options(found, state.method),
                value=state.other or None, allowDeselect=False, searchable=True, w=210,
            ),
            _segments(page, "unit", "Circuit of", units, state.unit),
            _segments(page, "ranking", "Ranked by", rankings, state.ranking),
            dmc.TextInput(id=page.id("head"), label="Head", value=state.head, placeholder="L5H1", debounce=300, w=90),
            html.Div(
                [
                    html.Label("Kept", className="mantine-InputWrapper-label"),
                    dmc.Slider(
                        id=SLIDER, min=slider.ends[0], max=slider.ends[1], step=1, size="sm", marks=slider.marks,
                        value=slider.value, restrictToMarks=True, disabled=len(slider.marks) < 2, label=None,
                        thumbLabel="Share of the parts that the circuit keeps: one of the sizes that were measured",
                        updatemode="mouseup",
                    ),
                    dcc.Store(id=page.id("step"), data=state.step),
                    dcc.Store(id=OPENS, data=slider.opens),
                ],
                className="circuit-slider",
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def _segments(page: Page, name: str, label: str, options: list[Option], value: str) -> html.Div:
    named: dict[str, Any] = {"aria-label": label}
    control = dmc.SegmentedControl(id=page.id(name), value=value, size="xs", data=options)
    return html.Div(
        [html.Span(label, className="mantine-InputWrapper-label"), html.Div(control, role="group", **named)],
        className="circuit-segments",
    )


def switches(page: Page, state: CircuitState) -> html.Div:
    """Which heads are ablated in the live run."""
    return html.Div(
        [
            dmc.TagsInput(
                id=page.id("off"), label="Ablated heads", value=list(state.off), splitChars=[",", " ", ";"],
                acceptValueOnBlur=True, clearable=True, placeholder="L5H1, L17H3 ...", className="hs-grow",
            ),
            html.Button("Ablate", id="circuit-toggle", type="button", className="hs-button hs-main"),
            html.Button("None", id="circuit-none", type="button", className="hs-button"),
            html.P(className="hs-live"),
        ],
        className="circuit-switches",
    )  # fmt: skip


def pair_choice(page: Page, state: CircuitState, found: CircuitRun | None) -> html.Div:
    """Which pair of prompts is shown."""
    options, value = pair_options(found, state.pair)
    pair = dmc.Select(
        id=page.id("pair"), label="Pair, and its logit differences", data=options, value=value, allowDeselect=False,
        searchable=True, w=320,
    )  # fmt: skip
    return html.Div(pair, className="circuit-switches")


def truth_choice(page: Page, state: CircuitState, found: CircuitRun | None) -> html.Div:
    """Which truth the methods are set against."""
    options = truth_options(found)
    value = state.truth or next((one["value"] for one in options), None)
    select = dmc.Select(
        id=page.id("truth"), label="Truth", data=options, value=value, allowDeselect=False, className="hs-grow"
    )
    return html.Div(select, className="circuit-switches")
