"""The controls of the page Variants: which run, and what of it is shown."""

from __future__ import annotations

from collections.abc import Sequence

import dash_mantine_components as dmc
from dash import html

from app.frame.choices import run_select
from app.frame.page import Page
from app.frame.words import attributes
from app.pages.variants_choices import head_options, model_options, steps_text, width_options
from app.pages.variants_state import VariantsState, begun_training, is_training, quietly
from app.site import Site
from app.views.mixing import all_steps

_MEASURES = (("accuracy", "Accuracy"), ("loss", "Loss"))
_SOURCES = (("train", "Train run"), ("compare", "Compare run"))
_COLOURS = (("unit", "0 to 1"), ("fit", "To the largest"))


def training_controls(page: Page, site: Site, state: VariantsState) -> html.Div:
    """Which train run, and what of it is drawn."""
    found = quietly(lambda: begun_training(site, state))
    names = [{"value": name, "label": name} for name in (found.variants if found else ())]
    width = str(state.width) if state.width else (str(found.widths[-1]) if found else None)
    return html.Div(
        [
            run_select(page, site, state.run, label="Train run", suits=is_training),
            _segments(page, "measure", "Show", state.measure, _MEASURES, "What is drawn"),
            dmc.Select(
                id=page.id("width"), label="Width", data=width_options(found, state.width), value=width,
                allowDeselect=False, w=100,
            ),
            dmc.MultiSelect(
                id=page.id("shown"), label="Variants", data=names, value=list(state.shown), clearable=True,
                searchable=True, placeholder="" if state.shown else "all, or the best", className="hs-grow",
                comboboxProps={"withinPortal": True},
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def matrix_controls(page: Page, site: Site, state: VariantsState) -> html.Div:
    """Whose matrices, and how they are shown."""
    models, _ = model_options(site, state)
    heads = head_options(site, state)
    return html.Div(
        [
            _segments(page, "source", "Of", state.source, _SOURCES, "Which run"),
            dmc.MultiSelect(
                id=page.id("models"), label="Models", data=models, value=list(state.models), clearable=True,
                searchable=True, placeholder="" if state.models else "one of each variant", className="hs-grow",
                comboboxProps={"withinPortal": True},
            ),
            _segments(page, "view", "View", state.view, (("share", "Share"), ("moved", "Moved")), "Which view of M"),
            dmc.Select(
                id=page.id("head"), label="Head", data=heads, value=state.head or None, placeholder="all",
                clearable=True, w=110,
            ),
            _segments(page, "colours", "Colours", state.colours, _COLOURS, "Colours"),
        ],
        className="hs-controls",
    )  # fmt: skip


def scrub(page: Page, site: Site, state: VariantsState) -> html.Div:
    """The slider over the pictured steps, and the button that plays them."""
    steps = all_steps(model_options(site, state)[1])
    value = state.step if state.step is not None else (steps[-1] if steps else 0)
    slider = dmc.Slider(
        id=page.id("step"), min=0, max=max(steps, default=1) or 1, step=1, value=value, restrictToMarks=True,
        marks=[{"value": step} for step in steps], size="sm", thumbLabel="Step of the training", updatemode="drag",
        disabled=len(steps) < 2,
    )  # fmt: skip
    play = html.Button("Play", id="variants-play", type="button", className="hs-button", title="Walk through the steps")
    said = html.Span(steps_text(steps, value), id="variants-step-said", className="hs-soft")
    data = attributes(data_steps=",".join(map(str, steps)))
    return html.Div(
        [play, html.Div(slider, className="variants-slider"), said],
        id="variants-scrub", className="variants-scrub", hidden=len(steps) < 2, **data,
    )  # fmt: skip


def _segments(page: Page, name: str, label: str, value: str, options: Sequence[tuple[str, str]], said: str) -> html.Div:
    control = dmc.SegmentedControl(
        id=page.id(name), value=value, size="xs", data=[{"value": one, "label": text} for one, text in options]
    )
    return html.Div(
        [
            html.Span(label, className="mantine-InputWrapper-label"),
            html.Div(control, role="group", **attributes(aria_label=said)),
        ],
        className="variants-segments",
    )
