"""What is said of the answer in view of the Prompt lab, and how it is kept as a run."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, html, no_update

from app.frame.page import Page
from app.frame.panels import TAB
from app.frame.words import link, notice_box
from app.lab_run import save_lab
from app.pages.lab_state import LabState, find_answer, is_asking, resolved
from app.site import View, current_site
from headscope.errors import HeadscopeError


def register_pin(app: Dash, page: Page) -> None:
    """What is said of the answer in view, and kept: never of a question that is being typed."""
    _register_said(app, page)
    _register_keeping(app, page)


def _register_said(app: Dash, page: Page) -> None:
    @app.callback(
        Output("lab-saved", "children"),
        Output("lab-pin", "disabled"),
        inputs={"answer": Input(page.id("answer"), "data"), "tab": State(TAB, "data")},
    )
    def _(answer: dict[str, Any] | None, tab: str | None) -> Any:
        state = _answered(answer)
        if state is None:
            return "", True
        try:
            found = find_answer(View(current_site(), tab or ""), state)
        except HeadscopeError:
            return "", True
        if found.pinned is None:
            return html.Strong("Live, not saved."), False
        run = found.pinned.run.manifest.id
        return ["Saved as ", link(run, "/", run=run)], True


def _register_keeping(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("pinned"), "data"),
        Output("lab-saved", "children", allow_duplicate=True),
        inputs={
            "clicks": Input("lab-pin", "n_clicks"),
            "answer": State(page.id("answer"), "data"),
            "tab": State(TAB, "data"),
        },
        prevent_initial_call=True,
    )
    def _(clicks: int | None, answer: dict[str, Any] | None, tab: str | None) -> Any:
        state, site = _answered(answer), current_site()
        if not clicks or state is None:
            return no_update, no_update
        try:
            found = find_answer(View(site, tab or ""), state)
            if found.pinned is not None:
                return no_update, no_update
            return save_lab(found.request, found.result, root=site.root).name, no_update
        except HeadscopeError as error:
            return no_update, notice_box("failed", str(error))


def _answered(answer: dict[str, Any] | None) -> LabState | None:
    """The question that was answered; None if there was none, or it could not be."""
    if not answer or answer.get("error"):
        return None
    state = resolved(current_site(), LabState.read(answer["values"])[0])
    return state if is_asking(state) else None
