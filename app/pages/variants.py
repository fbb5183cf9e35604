"""Variants: the registry of attention variants, their trainings, and their heads side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import dash_mantine_components as dmc
from dash import Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from app.frame.choices import run_select
from app.frame.page import Page, Panel
from app.frame.panels import panel_box
from app.frame.words import attributes
from app.pages import variants_heads, variants_mixing, variants_registry, variants_training
from app.pages.variants_choices import head_options, model_options, register, steps_text, width_options
from app.pages.variants_state import (
    COMPARE_ONE,
    TRAIN_ONE,
    VariantsState,
    begun_training,
    guarded,
    is_comparison,
    is_training,
    quietly,
    start,
)
from app.site import Site
from app.views.mixing import all_steps

_PARTS = (
    ("registry", "Registry"),
    ("training", "Training"),
    ("matrices", "Mixing matrices"),
    ("heads", "Heads and claims"),
)


def _layout(site: Site, state: VariantsState) -> list[Component]:
    state = start(site, state)
    return [
        html.Nav(
            [html.A(title, href=f"#variants-part-{name}", className="variants-jump") for name, title in _PARTS],
            className="variants-jumps", **attributes(aria_label="Parts of this page"),
        ),
        _part("registry"),
        variants_registry.controls(PAGE, state),
        html.Div(
            [
                html.Div(_with_inside("registry", variants_registry.list_grid(state), 60), className="hs-seven"),
                html.Div(panel_box(PAGE, "card", tall=300), className="hs-five"),
            ],
            className="hs-columns",
        ),
        _part("training"),
        _training_controls(site, state),
        *_half("run", _training_boxes(), bool(state.run), "No train run is chosen, or here yet.", TRAIN_ONE),
        _part("matrices"),
        _matrix_controls(site, state),
        *_half(
            "matrices", _matrix_boxes(site, state), bool(state.run or state.comparison),
            "No run with mixing matrices is here yet.", TRAIN_ONE,
        ),
        _part("heads"),
        html.Div(
            run_select(PAGE, site, state.comparison, name="comparison", label="Compare run", suits=is_comparison),
            className="hs-controls",
        ),
        *_half(
            "comparison", _head_boxes(), bool(state.comparison), "No compare run is chosen, or here yet.", COMPARE_ONE
        ),
        dcc.Store(id=PAGE.id("variant"), data=state.variant),
    ]  # fmt: skip


def _part(name: str) -> html.H2:
    return html.H2(dict(_PARTS)[name], id=f"variants-part-{name}", className="variants-part")


def _training_boxes() -> list[Component]:
    return [
        panel_box(PAGE, "short", tall=60),
        html.Div(panel_box(PAGE, "curves", tall=430), className="hs-seven"),
        html.Div(panel_box(PAGE, "recall", tall=430), className="hs-five"),
        panel_box(PAGE, "rates", tall=220),
        panel_box(PAGE, "cells", tall=300),
    ]


def _matrix_boxes(site: Site, state: VariantsState) -> list[Component]:
    keys = attributes(
        aria_label="Mixing matrices: left and right arrow change the step of the training", data_keys="steps"
    )
    scrub = _with_inside("matrices", _scrub(site, state), 420)
    return [
        html.Div(scrub, id="variants-walk", tabIndex="0", role="group", **keys),
        panel_box(PAGE, "profiles", tall=220),
        panel_box(PAGE, "growth", tall=380),
    ]


def _head_boxes() -> list[Component]:
    return [
        panel_box(PAGE, "verdict", tall=120),
        panel_box(PAGE, "census", tall=420),
        panel_box(PAGE, "claims", tall=300),
        panel_box(PAGE, "lengths", tall=380),
    ]


def _half(field: str, boxes: Sequence[Component], is_there: bool, sentence: str, command: str) -> list[Component]:
    """The panels of a kind of run; as long as none is chosen one notice, and the panels wait out of sight."""
    notice = html.Div(
        [html.Strong(sentence), html.P(["One is made by: ", html.Code(command)])],
        className="hs-notice hs-empty", role="status",
    )  # fmt: skip
    return [
        html.Div(notice, id=f"{PAGE.id(field)}-none", hidden=is_there),
        html.Div(html.Div(list(boxes), className="hs-columns"), id=f"{PAGE.id(field)}-half", hidden=not is_there),
    ]


def _training_controls(site: Site, state: VariantsState) -> html.Div:
    found = quietly(lambda: begun_training(site, state))
    names = [{"value": name, "label": name} for name in (found.variants if found else ())]
    width = str(state.width) if state.width else (str(found.widths[-1]) if found else None)
    return html.Div(
        [
            run_select(PAGE, site, state.run, label="Train run", suits=is_training),
            _segments("measure", "Show", state.measure, (("accuracy", "Accuracy"), ("loss", "Loss")), "What is drawn"),
            dmc.Select(
                id=PAGE.id("width"), label="Width", data=width_options(found, state.width), value=width,
                allowDeselect=False, w=100,
            ),
            dmc.MultiSelect(
                id=PAGE.id("shown"), label="Variants", data=names, value=list(state.shown), clearable=True,
                searchable=True, placeholder="" if state.shown else "all, or the best", className="hs-grow",
                comboboxProps={"withinPortal": True},
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def _matrix_controls(site: Site, state: VariantsState) -> html.Div:
    models, _ = model_options(site, state)
    heads = head_options(site, state)
    return html.Div(
        [
            _segments("source", "Of", state.source, (("train", "Train run"), ("compare", "Compare run")), "Which run"),
            dmc.MultiSelect(
                id=PAGE.id("models"), label="Models", data=models, value=list(state.models), clearable=True,
                searchable=True, placeholder="" if state.models else "one of each variant", className="hs-grow",
                comboboxProps={"withinPortal": True},
            ),
            _segments("view", "View", state.view, (("share", "Share"), ("moved", "Moved")), "Which view of M"),
            dmc.Select(
                id=PAGE.id("head"), label="Head", data=heads, value=state.head or None, placeholder="all",
                clearable=True, w=110,
            ),
            _segments("colours", "Colours", state.colours, (("unit", "0 to 1"), ("fit", "To the largest")), "Colours"),
        ],
        className="hs-controls",
    )  # fmt: skip


def _scrub(site: Site, state: VariantsState) -> html.Div:
    """The slider over the pictured steps, and the button that plays them."""
    steps = all_steps(model_options(site, state)[1])
    value = state.step if state.step is not None else (steps[-1] if steps else 0)
    slider = dmc.Slider(
        id=PAGE.id("step"), min=0, max=max(steps, default=1) or 1, step=1, value=value, restrictToMarks=True,
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


def _segments(name: str, label: str, value: str, options: Sequence[tuple[str, str]], said: str) -> html.Div:
    control = dmc.SegmentedControl(
        id=PAGE.id(name), value=value, size="xs", data=[{"value": one, "label": text} for one, text in options]
    )
    return html.Div(
        [
            html.Span(label, className="mantine-InputWrapper-label"),
            html.Div(control, role="group", **attributes(aria_label=said)),
        ],
        className="variants-segments",
    )


def _with_inside(panel: str, control: Component, tall: int) -> html.Section:
    """The box of a panel with a part of its own below its heading."""
    box = panel_box(PAGE, panel, tall=tall)
    cast("list[Any]", box.children).insert(1, control)
    return box


def _register(app: Dash, page: Page) -> None:
    variants_registry.register(app, page)
    register(app, page)
    for field, chosen in (("run", ("run",)), ("comparison", ("comparison",)), ("matrices", ("run", "comparison"))):
        _register_half(app, page, field, chosen)


def _register_half(app: Dash, page: Page, field: str, chosen: Sequence[str]) -> None:
    @app.callback(
        Output(f"{page.id(field)}-none", "hidden"),
        Output(f"{page.id(field)}-half", "hidden"),
        *[Input(page.id(name), "value") for name in chosen],
        prevent_initial_call=True,
    )
    def _(*runs: str | None) -> Any:
        return any(runs), not any(runs)


_LIST = ("text", "family", "status")
_MATRICES = ("run", "comparison", "source", "models", "head", "step")


def _panel(name: str, heading: str, uses: tuple[str, ...], build: Callable[..., Any], **options: Any) -> Panel:
    return Panel(name, heading, uses, guarded(build), **options)


PAGE = Page(
    name="variants",
    title="Variants",
    path="/variants",
    summary="Attention variants: what each computes, whether it learns a task, and how its heads do it.",
    state=VariantsState,
    layout=_layout,
    panels=(
        _panel("registry", "All variants", _LIST, variants_registry.table, has_figure=False),
        _panel("card", "Chosen variant", (*_LIST, "variant"), variants_registry.card, has_figure=False),
        _panel("short", "In short", ("run",), variants_training.short, has_figure=False, has_table=False),
        _panel(
            "curves", "Learning", ("run", "measure", "width", "shown"), variants_training.curves,
            help="How fast each variant learns the task, at the best of its learning rates.",
        ),
        _panel(
            "recall", "Recall against state", ("run", "width", "shown"), variants_training.recall,
            help="What a variant gets right with so many numbers kept: up and to the left is better.",
        ),
        _panel("rates", "Best rates", ("run",), variants_training.rates, has_figure=False),
        _panel("cells", "All trainings", ("run",), variants_training.cells, has_figure=False),
        _panel(
            "matrices", "Mixing matrices", (*_MATRICES, "view", "colours"), variants_mixing.matrices,
            help="Every head is y = M v. Raw M of two variants cannot be compared: two views of it can.",
        ),
        _panel("profiles", "Heads at this step", _MATRICES, variants_mixing.profiles),
        _panel("growth", "Heads while they are trained", (*_MATRICES, "view"), variants_mixing.growth),
        _panel(
            "verdict", "In short, by variant", ("comparison",), variants_heads.verdict, has_figure=False,
            has_table=False,
        ),
        _panel("census", "Head census", ("comparison", "models", "head"), variants_heads.census),
        _panel("claims", "Claims, tested by cutting", ("comparison",), variants_heads.claims, has_figure=False),
        _panel("lengths", "Accuracy by length", ("comparison",), variants_heads.lengths),
    ),
    props={"variant": "data"},
    register=_register,
    is_wide=True,
    first="matrices",
)  # fmt: skip
