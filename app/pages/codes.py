"""Codes: what a discrete autoencoder says of the heads' outputs, code by code."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, html
from dash.development.base_component import Component

from app.frame.choices import run_select
from app.frame.head_choice import register_head_choice
from app.frame.page import Page, Panel
from app.frame.panels import panel_box, with_control
from app.frame.words import attributes
from app.pages import codes_one, codes_panels
from app.pages.codes_state import CodesState, guarded, newest_with_codes, quietly, suits
from app.site import Site, current_site
from app.views.circuit_words import title
from app.views.codes import FILTERS, ORDERS, Codes, code_methods
from headscope.errors import HeadscopeError

Option = dict[str, str]


def _methods(site: Site, run: str) -> tuple[str, ...]:
    try:
        return code_methods(site.run(run)) if run else ()
    except HeadscopeError:  # the panels say why
        return ()


def _start(site: Site, state: CodesState) -> CodesState:
    """The state with a run and a method filled in, where they are left open."""
    run = newest_with_codes(site, state.run)
    return state.model_copy(update={"run": run, "method": state.method or next(iter(_methods(site, run)), "")})


def _method_options(methods: tuple[str, ...], chosen: str) -> list[Option]:
    named = [*methods, *([chosen] if chosen and chosen not in methods else [])]
    return [{"value": name, "label": title(name)} for name in named]


def _slot_options(codes: Codes | None, chosen: str = "") -> list[Option]:
    slots = [*(codes.slots if codes else ())]
    slots += [chosen] if chosen and chosen not in slots else []
    return [{"value": "", "label": "any"}, *({"value": slot, "label": slot} for slot in slots)]


def _filter_options(codes: Codes | None, slot: str) -> list[Option]:
    counts = codes.counts(slot) if codes else {}
    return [
        {"value": name, "label": f"{label} ({counts[name]})" if codes else label} for name, label in FILTERS.items()
    ]


def _layout(site: Site, state: CodesState) -> list[Component]:
    state = _start(site, state)
    found = quietly(site, state)
    codes = found[1] if found else None
    layers, heads = codes.shape if codes else (0, 0)
    scatter_keys: dict[str, Any] = {"aria-label": "Codes: arrow keys walk through the list", "data-keys": "codes"}
    map_keys: dict[str, Any] = {
        "aria-label": "Heads that have the code: arrow keys choose a head",
        "data-keys": "heads",
        "data-layers": str(layers),
        "data-heads": str(heads),
    }
    scatter = html.Div(panel_box(PAGE, "density", tall=430), tabIndex="0", role="group", **scatter_keys)
    walk = html.Div(panel_box(PAGE, "use", tall=260), id="codes-walk", tabIndex="0", role="group", **map_keys)
    left = [panel_box(PAGE, "prompts", tall=380), panel_box(PAGE, "logits", tall=260)]
    boxes = [
        panel_box(PAGE, "short", tall=90),
        html.Div(scatter, className="hs-five"),
        html.Div(panel_box(PAGE, "list", tall=430), className="hs-seven"),
        with_control(panel_box(PAGE, "one", tall=60), _steps()),
        html.Div(left, className="hs-seven hs-stack"),
        html.Div([walk, panel_box(PAGE, "ofhead", tall=380)], className="hs-five hs-stack"),
        panel_box(PAGE, "dictionary", tall=420),
    ]
    return [_controls(site, state, codes), html.Div(boxes, className="hs-columns")]


def _controls(site: Site, state: CodesState, codes: Codes | None) -> html.Div:
    orders = [{"value": name, "label": label} for name, label in ORDERS.items()]
    return html.Div(
        [
            run_select(PAGE, site, state.run, suits=suits),
            dmc.Select(
                id=PAGE.id("method"), label="Method", data=_method_options(_methods(site, state.run), state.method),
                value=state.method or None, allowDeselect=False, w=230,
            ),
            dmc.NumberInput(
                id=PAGE.id("code"), label="Code", value="" if state.code is None else state.code, min=0, step=1,
                placeholder="first", debounce=300, w=90,
            ),
            dmc.Select(
                id=PAGE.id("sort"), label="Sorted by", data=orders, value=state.sort, allowDeselect=False, w=190
            ),
            dmc.Select(
                id=PAGE.id("slot"), label="Strongest at", data=_slot_options(codes, state.slot), value=state.slot,
                allowDeselect=False, w=120,
            ),
            dmc.TextInput(id=PAGE.id("head"), label="Head", value=state.head, placeholder="L5H1", debounce=300, w=90),
            _filters(state, codes),
        ],
        className="hs-controls",
    )  # fmt: skip


def _filters(state: CodesState, codes: Codes | None) -> html.Div:
    control = dmc.SegmentedControl(
        id=PAGE.id("filter"), value=state.filter, size="xs", data=_filter_options(codes, state.slot)
    )
    return html.Div(
        [
            html.Span("Codes listed", className="mantine-InputWrapper-label"),
            html.Div(control, role="group", **attributes(aria_label="Codes listed")),
        ],
        className="codes-segments",
    )


def _steps() -> html.Div:
    return html.Div(
        [
            html.Button(
                "\u2039 Previous code", type="button", className="hs-button", **attributes(data_code_step="-1")
            ),
            html.Button("Next code \u203a", type="button", className="hs-button", **attributes(data_code_step="1")),
        ],
        className="codes-steps",
    )


def _register(app: Dash, page: Page) -> None:
    register_head_choice(app, page, clicked=("use",), marked="use", walk="codes-walk")
    for component, prop, function in (
        (f"{page.id('density')}-graph", "clickData", "clicked"),
        (f"{page.id('ofhead')}-graph", "clickData", "clicked"),
        ("codes-grid", "selectedRows", "picked"),
    ):
        app.clientside_callback(
            ClientsideFunction("headscope_codes", function),
            Output(page.id("code"), "value", allow_duplicate=True),
            Input(component, prop),
            prevent_initial_call=True,
        )
    app.clientside_callback(
        ClientsideFunction("headscope_codes", "follow"),
        Output("codes-list-plot", "title"),
        Input(page.id("mirror"), "title"),
        Input("codes-list-body", "children"),
        Input("codes-one-body", "children"),
    )
    _register_run(app, page)


def _register_run(app: Dash, page: Page) -> None:
    """Another run brings its own methods; another dictionary its own codes, positions and counts."""

    @app.callback(
        Output(page.id("method"), "data"),
        Output(page.id("method"), "value"),
        Input(page.id("run"), "value"),
        State(page.id("method"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, method: str | None) -> Any:
        methods = _methods(current_site(), run or "")
        kept = method if method in methods else next(iter(methods), "")
        return _method_options(methods, kept), kept or None

    @app.callback(
        Output(page.id("code"), "value"),
        Output(page.id("slot"), "data"),
        Output(page.id("slot"), "value"),
        Output("codes-walk", "data-layers"),
        Output("codes-walk", "data-heads"),
        Input(page.id("run"), "value"),
        Input(page.id("method"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, method: str | None) -> Any:
        found = quietly(current_site(), CodesState(run=run or "", method=method or ""))
        codes = found[1] if found else None
        layers, heads = codes.shape if codes else (0, 0)
        return "", _slot_options(codes), "", str(layers), str(heads)

    @app.callback(
        Output(page.id("filter"), "data"),
        Input(page.id("run"), "value"),
        Input(page.id("method"), "value"),
        Input(page.id("slot"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, method: str | None, slot: str | None) -> Any:
        found = quietly(current_site(), CodesState(run=run or "", method=method or ""))
        return _filter_options(found[1] if found else None, slot or "")


_DICTIONARY = ("run", "method")
_LIST = (*_DICTIONARY, "sort", "filter", "slot")
_CODE = (*_LIST, "code")


def _panel(name: str, heading: str, uses: tuple[str, ...], build: Any, **options: Any) -> Panel:
    return Panel(name, heading, uses, guarded(build), **options)


PAGE = Page(
    name="codes",
    title="Codes",
    path="/codes",
    summary="What a discrete autoencoder says of the heads' outputs, code by code.",
    state=CodesState,
    layout=_layout,
    panels=(
        _panel("short", "In short", _DICTIONARY, codes_panels.short, has_figure=False, has_table=False),
        _panel(
            "density", "Density, clean against corrupted", _CODE, codes_panels.density,
            help="The share of all head outputs that have a code, among clean and among corrupted prompts.",
        ),
        _panel("list", "Codes", _LIST, codes_panels.code_list, has_figure=False),
        _panel("one", "One code", (*_CODE, "head"), codes_one.code, has_figure=False),
        _panel("prompts", "Top prompts, by source token", _CODE, codes_one.prompts, has_figure=False),
        _panel("use", "Heads that have the code", _CODE, codes_one.use),
        _panel("logits", "Logit effect", _CODE, codes_one.logits, has_figure=False),
        _panel("ofhead", "Codes of a head", (*_CODE, "head"), codes_one.head),
        _panel("dictionary", "The dictionary", _DICTIONARY, codes_panels.dictionary),
    ),
    register=_register,
    is_wide=True,
)  # fmt: skip
