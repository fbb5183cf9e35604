"""Calibrate and policies: what a model still does when its heads may keep or look at less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html
from dash.development.base_component import Component

from app.frame.choices import newest, run_select
from app.frame.page import Page, Panel
from app.frame.panels import panel_box
from app.frame.words import attributes
from app.pages import calibrate_panels, policies_panels
from app.pages.policies_state import MAKE_ONE, PoliciesState, chosen_arm, guarded, quietly, rule_key, suits
from app.site import Site, current_site
from app.views.policies import PolicyRun
from app.views.policy_words import rule_text
from headscope.errors import HeadscopeError

Option = dict[str, str]


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


def _tasks(found: PolicyRun | None) -> list[Option]:
    return [{"value": task, "label": task} for task in (found.tasks if found else ())]


def _lengths(found: PolicyRun | None, task: str) -> list[Option]:
    lengths = found.lengths(task) if found else ()
    return [{"value": str(length), "label": f"{length:,} tokens"} for length in lengths]


def _curves(found: PolicyRun | None) -> list[Option]:
    return [{"value": curve, "label": found.title(curve)} for curve in found.curves] if found else []


def _rules(found: PolicyRun | None) -> list[Option]:
    arms = found.assignments if found else ()
    named = {rule_key(arm): rule_text(arm) for arm in arms}
    return [{"value": key, "label": f"{text[:1].upper()}{text[1:]}"} for key, text in named.items()]


def _shares(found: PolicyRun | None) -> list[Option]:
    shares = dict.fromkeys(arm.share for arm in (found.assignments if found else ()))
    return [{"value": str(share), "label": f"{100 * share:g} %"} for share in shares]


def _map_of(found: PolicyRun | None, state: PoliciesState) -> tuple[str | None, str | None]:
    """Rule and share of the map that is shown, as their controls have them."""
    try:
        arm = chosen_arm(found, state) if found else None
    except HeadscopeError:  # the panel says why
        return state.rule or None, None if state.share is None else str(state.share)
    return (rule_key(arm), str(arm.share)) if arm else (None, None)


def _layout(site: Site, state: PoliciesState) -> list[Component]:
    state = _start(site, state)
    found = quietly(site, state.run)
    heads = _with_control(panel_box(PAGE, "heads", tall=420), _map_controls(found, state))
    boxes = [
        panel_box(PAGE, "short", tall=60),
        panel_box(PAGE, "pareto", tall=560),
        html.Div(panel_box(PAGE, "smallest"), className="hs-seven"),
        html.Div(heads, className="hs-five"),
        panel_box(PAGE, "arms", tall=480),
        panel_box(PAGE, "kinds", tall=240),
    ]
    policies = [
        _controls(site, state, found),
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


def _controls(site: Site, state: PoliciesState, found: PolicyRun | None) -> html.Div:
    return html.Div(
        [
            run_select(PAGE, site, state.run, suits=suits),
            dmc.Select(
                id=PAGE.id("task"), label="Task", data=_kept(_tasks(found), state.task), value=state.task or None,
                allowDeselect=False, w=170,
            ),
            dmc.Select(
                id=PAGE.id("length"), label="Length", data=_kept(_lengths(found, state.task), _number(state.length)),
                value=_number(state.length) or None, allowDeselect=False, w=130,
            ),
            _axes(state),
            dmc.MultiSelect(
                id=PAGE.id("curves"), label="Curves", data=_curves(found), value=list(state.curves), clearable=True,
                searchable=True, placeholder="" if state.curves else "all, or the best", className="hs-grow",
                comboboxProps={"withinPortal": True},
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def _axes(state: PoliciesState) -> html.Div:
    options = [
        {"value": "bytes", "label": "Bytes kept"},
        {"value": "keys", "label": "Keys attended"},
        {"value": "flops", "label": "Operations"},
    ]
    control = dmc.SegmentedControl(id=PAGE.id("axis"), value=state.axis, size="xs", data=options)
    return html.Div(
        [
            html.Span("Against", className="mantine-InputWrapper-label"),
            html.Div(control, role="group", **attributes(aria_label="What the horizontal axis is")),
        ],
        className="policies-segments",
    )


def _map_controls(found: PolicyRun | None, state: PoliciesState) -> html.Div:
    rule, share = _map_of(found, state)
    return html.Div(
        [
            dmc.Select(
                id=PAGE.id("rule"), label="Chosen by", data=_kept(_rules(found), rule or ""), value=rule,
                allowDeselect=False, className="hs-grow",
            ),
            dmc.Select(
                id=PAGE.id("share"), label="Heads with a full cache", data=_kept(_shares(found), share or ""),
                value=share, allowDeselect=False, w=180,
            ),
        ],
        className="policies-switches",
    )  # fmt: skip


def _kept(options: list[Option], chosen: str) -> list[Option]:
    """The options, and what the address asks for although the run has none such."""
    known = [option["value"] for option in options]
    return [*options, *([{"value": chosen, "label": chosen[:60]}] if chosen and chosen not in known else [])]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _with_control(box: html.Section, control: Component) -> html.Section:
    """The box of a panel with a control of its own below its heading."""
    cast("list[Any]", box.children).insert(1, control)
    return box


def _register_half(app: Dash, page: Page, field: str) -> None:
    @app.callback(
        Output(f"{page.id(field)}-none", "hidden"),
        Output(f"{page.id(field)}-half", "hidden"),
        Input(page.id(field), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None) -> Any:
        return bool(run), not run


def _register(app: Dash, page: Page) -> None:
    """Another run brings its own tasks, curves, rules and shares; another task its own lengths."""
    calibrate_panels.register(app, page)
    _register_half(app, page, "run")
    _register_half(app, page, "calibration")

    @app.callback(
        Output(page.id("task"), "data"),
        Output(page.id("task"), "value"),
        Output(page.id("curves"), "data"),
        Output(page.id("curves"), "value"),
        Output(page.id("rule"), "data"),
        Output(page.id("rule"), "value"),
        Output(page.id("share"), "data"),
        Output(page.id("share"), "value"),
        Input(page.id("run"), "value"),
        State(page.id("task"), "value"),
        State(page.id("curves"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, task: str | None, curves: list[str] | None) -> Any:
        found = quietly(current_site(), run or "")
        tasks = found.tasks if found else ()
        kept = task if task in tasks else next(iter(tasks), None)
        drawn = [curve for curve in curves or () if found and curve in found.curves]
        rule, share = _map_of(found, PoliciesState(run=run or ""))
        return _tasks(found), kept, _curves(found), drawn, _rules(found), rule, _shares(found), share

    @app.callback(
        Output(page.id("length"), "data"),
        Output(page.id("length"), "value"),
        Input(page.id("run"), "value"),
        Input(page.id("task"), "value"),
        State(page.id("length"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, task: str | None, length: str | None) -> Any:
        lengths = _lengths(quietly(current_site(), run or ""), task or "")
        known = [option["value"] for option in lengths]
        return lengths, length if length in known else (known[-1] if known else None)


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
    register=_register,
    is_wide=True,
    first="pareto",
)  # fmt: skip
