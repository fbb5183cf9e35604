"""Variants: the registry of attention variants, their trainings, and their heads side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dash import Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from app.frame.choices import run_select
from app.frame.page import Page, Panel
from app.frame.panels import panel_box, with_control
from app.frame.words import attributes
from app.pages import variants_heads, variants_measures, variants_mixing, variants_registry, variants_training
from app.pages.variants_choices import register
from app.pages.variants_controls import matrix_controls, scrub, training_controls
from app.pages.variants_state import (
    COMPARE_ONE,
    TRAIN_ONE,
    VariantsState,
    guarded,
    is_comparison,
    start,
)
from app.site import Site

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
                html.Div(_inside("registry", variants_registry.list_grid(state), 60), className="hs-seven"),
                html.Div(panel_box(PAGE, "card", tall=300), className="hs-five"),
            ],
            className="hs-columns",
        ),
        _part("training"),
        training_controls(PAGE, site, state),
        *_half("run", _training_boxes(site, state), bool(state.run), "No train run is chosen, or here yet.", TRAIN_ONE),
        _part("matrices"),
        matrix_controls(PAGE, site, state),
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


def _training_boxes(site: Site, state: VariantsState) -> list[Component]:
    rates = variants_measures.rate_controls(PAGE, site, state)
    measures = variants_measures.measure_controls(PAGE, site, state)
    has_measures = bool(variants_measures.measure_options(site, state))
    return [
        panel_box(PAGE, "short", tall=60),
        html.Div(panel_box(PAGE, "curves", tall=430), className="hs-seven"),
        html.Div(panel_box(PAGE, "recall", tall=430), className="hs-five"),
        html.Div(_inside("measures", measures, 360), id=f"{PAGE.id('measures')}-half", hidden=not has_measures),
        panel_box(PAGE, "rates", tall=220),
        _inside("every_rate", rates, 380),
        panel_box(PAGE, "cells", tall=300),
    ]


def _matrix_boxes(site: Site, state: VariantsState) -> list[Component]:
    keys = attributes(
        aria_label="Mixing matrices: left and right arrow change the step of the training", data_keys="steps"
    )
    walked = _inside("matrices", scrub(PAGE, site, state), 420)
    return [
        html.Div(walked, id="variants-walk", tabIndex="0", role="group", **keys),
        panel_box(PAGE, "profiles", tall=220),
        panel_box(PAGE, "growth", tall=380),
    ]


def _head_boxes() -> list[Component]:
    return [
        panel_box(PAGE, "verdict", tall=120),
        panel_box(PAGE, "roles", tall=260),
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


def _inside(panel: str, control: Component, tall: int) -> html.Section:
    return with_control(panel_box(PAGE, panel, tall=tall), control)


def _register(app: Dash, page: Page) -> None:
    variants_registry.register(app, page)
    register(app, page)
    variants_measures.register(app, page)
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
        _panel(
            "measures", "Measures of the task", ("run", "width", "shown", "task_measure", "place"),
            variants_measures.measures, help="What the task's own probe measured at every evaluation of a training.",
        ),
        _panel("rates", "Best rates", ("run",), variants_training.rates, has_figure=False),
        _panel(
            "every_rate", "Every rate of one variant", ("run", "measure", "width", "rated"),
            variants_measures.every_rate, help="Whether the best rate is one among several or the only one that works.",
        ),
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
        _panel("roles", "Census by variant", ("comparison",), variants_heads.roles, has_figure=False),
        _panel("census", "Head census", ("comparison", "models", "head"), variants_heads.census),
        _panel("claims", "Claims, tested by cutting", ("comparison",), variants_heads.claims, has_figure=False),
        _panel("lengths", "Accuracy by length", ("comparison",), variants_heads.lengths),
    ),
    props={"variant": "data"},
    register=_register,
    is_wide=True,
    first="matrices",
)  # fmt: skip
