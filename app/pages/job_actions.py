"""What happens on the page Jobs: the command line while one fills in a form, start, cancel, resume, remove, polling."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update

from app.forms import COMMANDS
from app.frame.page import Content, Page
from app.frame.panels import content_of
from app.frame.words import notice_box
from app.pages.job_form import FIELD, Filled, read_form, values_given
from app.pages.job_list import (
    LOG,
    TICKING,
    TOOK,
    act,
    bar,
    lines_now,
    log_text,
    stamp,
    times_text,
    without_progress,
)
from app.site import View, current_site
from app.views.jobs import JobLine
from headscope.errors import HeadscopeError

_EVERY_FIELD = {"type": FIELD, "command": ALL, "name": ALL}


def register_job_actions(app: Dash, page: Page) -> None:
    """The page's callbacks."""
    _register_form(app, page)
    _register_start(app, page)
    _register_orders(app)
    _register_refresh(app, page)
    for function, output, given in (
        ("tell", Output("jobs-changed", "title"), Input("jobs-changed", "data-at")),
        ("follow", Output("jobs-log-body", "data-followed"), Input("jobs-log-body", "children")),
        ("follow", Output("jobs-log-body", "title"), Input({"type": LOG, "job": ALL}, "children")),
        ("refocus", Output("jobs-list-body", "data-focused"), Input("jobs-list-body", "children")),
    ):
        app.clientside_callback(ClientsideFunction("headscope_jobs", function), output, given)
    app.clientside_callback(
        ClientsideFunction("headscope_jobs", "showForm"),
        *[Output(f"jobs-form-{form.name}", "hidden") for form in COMMANDS],
        Input(page.id("command"), "value"),
    )


def _register_form(app: Dash, page: Page) -> None:
    @app.callback(
        Output("jobs-line", "children"),
        Output("jobs-problem", "children"),
        Output(_EVERY_FIELD, "error"),
        Output("jobs-start", "disabled"),
        Output(page.id("model"), "data"),
        Output(page.id("run"), "data"),
        Input(page.id("command"), "value"),
        Input(_EVERY_FIELD, "value"),
        State(_EVERY_FIELD, "error"),
    )
    def _(command: str, _values: list[Any], shown: list[Any]) -> Any:
        site, given = current_site(), ctx.inputs_list[1]
        values = values_given(given, command)
        filled = read_form(command, values, site.root)
        wrong = [one["id"]["command"] == command and filled.wrong.get(one["id"]["name"], False) for one in given]
        model = values.get("model", no_update)
        is_usual = model == site.settings.model
        return (
            filled.line,
            _elsewhere(filled),
            _changed(wrong, shown),
            not filled.words,
            "" if is_usual else model,
            values.get("run", no_update),
        )


def _changed(wrong: list[Any], shown: list[Any]) -> list[Any]:
    """What to write at each field: only what is new, since drawing all fields of all forms again takes a second."""
    return [no_update if (now or None) == (before or None) else now for now, before in zip(wrong, shown, strict=True)]


def _elsewhere(filled: Filled) -> str:
    """What the box below the form says: which fields are wrong, or what is wrong with the form as a whole."""
    if not filled.wrong:
        return filled.problem
    named = ", ".join(name.replace("_", " ").capitalize() for name in filled.wrong)
    return f"Nothing can be started yet. See {named} above."


def _register_start(app: Dash, page: Page) -> None:
    @app.callback(
        Output("jobs-said", "children"),
        Output("jobs-changed", "data-at"),
        Output(page.id("job"), "data"),
        Input("jobs-start", "n_clicks"),
        State(page.id("command"), "value"),
        State(_EVERY_FIELD, "value"),
        running=[(Output("jobs-start", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def _(clicks: int | None, command: str, _values: list[Any]) -> Any:
        if not clicks:
            return no_update, no_update, no_update
        site = current_site()
        filled = read_form(command, values_given(ctx.states_list[1], command), site.root)
        if not filled.words:
            return "Nothing was started: see what is wrong above.", no_update, no_update
        try:
            job = site.jobs.submit(command, filled.words, filled.title)
        except HeadscopeError as error:
            return notice_box("failed", str(error)), no_update, no_update
        return f"“{job.title}” was put into the queue.", time.time(), job.id


def _register_orders(app: Dash) -> None:
    @app.callback(
        Output("jobs-told", "children"),
        Output("jobs-changed", "data-at", allow_duplicate=True),
        Output("jobs-job", "data", allow_duplicate=True),
        Input("jobs-order", "data"),
        State("jobs-job", "data"),
        prevent_initial_call=True,
    )
    def _(order: Mapping[str, Any] | None, chosen: str | None) -> Any:
        if not order:
            return no_update, no_update, no_update
        try:
            said, show = act(current_site(), str(order.get("act", "")), str(order.get("job", "")))
        except HeadscopeError as error:
            return html.Span(str(error), className="hs-bad", role="alert"), time.time(), no_update
        keeps = show == chosen or (not show and order.get("job") != chosen)
        return said, time.time(), no_update if keeps else show


def _register_refresh(app: Dash, page: Page) -> None:
    listed, logged = page.panel("list"), page.panel("log")
    assert listed is not None
    assert logged is not None

    @app.callback(
        Output("jobs-list-body", "children", allow_duplicate=True),
        Output("jobs-list-caption", "children", allow_duplicate=True),
        Output("jobs-log-body", "children", allow_duplicate=True),
        Output({"type": TICKING, "job": ALL}, "children"),
        Output({"type": TOOK, "job": ALL}, "children"),
        Output({"type": LOG, "job": ALL}, "children"),
        Output("jobs-clock", "disabled"),
        Output("jobs-seen", "data"),
        Input("jobs-clock", "n_intervals"),
        Input("jobs-wake", "data"),
        Input("jobs-changed", "data-at"),
        State("jobs-seen", "data"),
        State(page.id("job"), "data"),
        prevent_initial_call=True,
    )
    def _(_ticks: int, _woken: Any, _changed: Any, seen: str | None, chosen: str | None) -> Any:
        site = current_site()
        lines = lines_now(site)
        by_id, is_idle = {line.id: line for line in lines}, not any(line.is_live for line in lines)
        now = stamp(without_progress(lines), chosen)
        if now != seen:
            view, state = View(site), page.state.read({"job": chosen or ""})[0]
            content, log = content_of(listed, view, state), content_of(logged, view, state)
            same = [[no_update] * len(part) for part in ctx.outputs_list[3:6]]
            return _body(content), content.caption, _body(log), *same, is_idle, now
        ids = [[one["id"]["job"] for one in part] for part in ctx.outputs_list[3:6]]
        bars = [_if_live(by_id.get(job), bar) for job in ids[0]]
        times = [_if_live(by_id.get(job), times_text) for job in ids[1]]
        logs = [_if_live(by_id.get(job), lambda line: log_text(site, line)) for job in ids[2]]
        return no_update, no_update, no_update, bars, times, logs, is_idle, now


def _if_live(line: JobLine | None, make: Callable[[JobLine], Any]) -> Any:
    return make(line) if line is not None and line.is_live else no_update


def _body(content: Content) -> Any:
    return content.body if content.notice is None else notice_box(*content.notice)
