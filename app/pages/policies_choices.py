"""What the controls of the page Calibrate and policies offer, and how one changes another."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State

from app.frame.page import Page
from app.pages import calibrate_panels
from app.pages.policies_state import PoliciesState, chosen_arm, quietly, rule_key
from app.site import current_site
from app.views.policies import PolicyRun
from app.views.policy_words import rule_text
from headscope.errors import HeadscopeError

Option = dict[str, str]


def task_options(found: PolicyRun | None) -> list[Option]:
    """Tasks with any outcome."""
    return [{"value": task, "label": task} for task in (found.tasks if found else ())]


def length_options(found: PolicyRun | None, task: str) -> list[Option]:
    """Prompt lengths of a task."""
    lengths = found.lengths(task) if found else ()
    return [{"value": str(length), "label": f"{length:,} tokens"} for length in lengths]


def curve_options(found: PolicyRun | None) -> list[Option]:
    """Curves of the run but the full cache."""
    return [{"value": curve, "label": found.title(curve)} for curve in found.curves] if found else []


def rule_options(found: PolicyRun | None) -> list[Option]:
    """Rules by which heads were chosen."""
    arms = found.assignments if found else ()
    named = {rule_key(arm): rule_text(arm) for arm in arms}
    return [{"value": key, "label": f"{text[:1].upper()}{text[1:]}"} for key, text in named.items()]


def share_options(found: PolicyRun | None) -> list[Option]:
    """Shares of heads that kept everything."""
    shares = dict.fromkeys(arm.share for arm in (found.assignments if found else ()))
    return [{"value": str(share), "label": f"{100 * share:g} %"} for share in shares]


def shown_map(found: PolicyRun | None, state: PoliciesState) -> tuple[str | None, str | None]:
    """Rule and share of the map that is shown, as their controls have them."""
    try:
        arm = chosen_arm(found, state) if found else None
    except HeadscopeError:  # the panel says why
        return state.rule or None, None if state.share is None else str(state.share)
    return (rule_key(arm), str(arm.share)) if arm else (None, None)


def register(app: Dash, page: Page) -> None:
    """Another run brings its own tasks, curves, rules and shares; another task its own lengths."""
    calibrate_panels.register(app, page)
    _register_half(app, page, "run")
    _register_half(app, page, "calibration")
    _register_run(app, page)
    _register_length(app, page)


def _register_run(app: Dash, page: Page) -> None:
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
        rule, share = shown_map(found, PoliciesState(run=run or ""))
        return (
            task_options(found),
            kept,
            curve_options(found),
            drawn,
            rule_options(found),
            rule,
            share_options(found),
            share,
        )


def _register_length(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("length"), "data"),
        Output(page.id("length"), "value"),
        Input(page.id("run"), "value"),
        Input(page.id("task"), "value"),
        State(page.id("length"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, task: str | None, length: str | None) -> Any:
        lengths = length_options(quietly(current_site(), run or ""), task or "")
        known = [option["value"] for option in lengths]
        return lengths, length if length in known else (known[-1] if known else None)


def _register_half(app: Dash, page: Page, field: str) -> None:
    """The panels of a kind of run are in sight as soon as one is chosen."""

    @app.callback(
        Output(f"{page.id(field)}-none", "hidden"),
        Output(f"{page.id(field)}-half", "hidden"),
        Input(page.id(field), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None) -> Any:
        return bool(run), not run
