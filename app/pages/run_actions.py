"""What can be done on the page Runs: select, pin, delete, take a deletion back, open the report."""

from __future__ import annotations

import html as markup
import re
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update
from flask import Response, g, request

from app.frame.choices import run_label
from app.frame.page import Page
from app.frame.panels import triggered
from app.pages.run_list import count_text, current_runs, run_columns
from app.site import current_site
from app.views.run_table import folder_stamp, matching_runs, run_table
from headscope.errors import HeadscopeError
from headscope.runs.trash import empty_trash, list_trash, restore_run, trash_run

_POLICY = re.compile(r'http-equiv="Content-Security-Policy" content="([^"]*)"')
_SHOWN_TRASH = 20


def register_run_actions(app: Dash, page: Page) -> None:
    """The page's callbacks, and the route of the report."""
    _register_list(app, page)
    _register_selection(app, page)
    _register_deletion(app, page)
    _register_restoring(app, page)
    _register_emptying(app)
    _register_report(app)


def _register_list(app: Dash, page: Page) -> None:
    @app.callback(
        Output("runs-grid", "columnDefs"),
        Output("runs-grid", "rowData"),
        Output(page.id("pin"), "data"),
        Output("runs-trash", "children"),
        Input("runs-stamp", "data"),
        Input(page.id("q"), "value"),
        State(page.id("pin"), "value"),
    )
    def _(_stamp: int, words: str | None, pin: str | None) -> Any:
        site = current_site()
        runs = current_runs(site)
        options = [{"value": run.id, "label": run_label(run)} for run in runs if run.is_readable or run.id == pin]
        rows = run_table(matching_runs(runs, words or "")).records()
        return run_columns(), rows, options, trash_line(site.root)

    @app.callback(
        Output("runs-stamp", "data"),
        Input("runs-clock", "n_intervals"),
        Input("runs-refresh", "n_clicks"),
        State("runs-stamp", "data"),
        prevent_initial_call=True,
    )
    def _(_ticks: int, _clicks: int, before: int) -> Any:
        now = folder_stamp(current_site().root)
        return no_update if now == before and triggered() != "runs-refresh" else now

    @app.callback(
        Output(f"{page.id('list')}-caption", "children", allow_duplicate=True),
        Input("runs-stamp", "data"),
        State(page.id("q"), "value"),
        prevent_initial_call=True,
    )
    def _(_stamp: int, words: str | None) -> str:
        runs = current_runs(current_site())
        return count_text(matching_runs(runs, words or ""), len(runs))


def _register_selection(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("run"), "data"),
        Input("runs-grid", "selectedRows"),
        prevent_initial_call=True,
    )
    def _(rows: list[dict[str, Any]] | dict[str, Any] | None) -> Any:
        return rows[0]["id"] if rows and isinstance(rows, list) else no_update  # a mapping: set by the page itself

    @app.callback(
        Output("runs-grid", "selectedRows"),
        Input("runs-grid", "rowData"),
        State(page.id("run"), "data"),
    )
    def _(rows: list[dict[str, Any]] | None, run: str | None) -> Any:
        return {"ids": [run]} if run and any(row["id"] == run for row in rows or ()) else no_update

    @app.callback(
        Output(page.id("pin"), "value", allow_duplicate=True),
        Input("runs-pin-this", "n_clicks"),
        State(page.id("run"), "data"),
        prevent_initial_call=True,
    )
    def _(clicks: int | None, run: str) -> Any:
        return run if clicks else no_update


def _told() -> tuple[Output, Output]:
    """What every change of the folder says, and the list that it renews."""
    notices = Output("notices", "sendNotifications", allow_duplicate=True)
    return notices, Output("runs-stamp", "data", allow_duplicate=True)


def _register_deletion(app: Dash, page: Page) -> None:
    @app.callback(
        *_told(),
        Output(page.id("run"), "data", allow_duplicate=True),
        Output(page.id("pin"), "value", allow_duplicate=True),
        Input("runs-delete", "n_clicks"),
        State(page.id("run"), "data"),
        State(page.id("pin"), "value"),
        prevent_initial_call=True,
    )
    def _(clicks: int | None, run: str, pin: str | None) -> Any:
        if not clicks or not run:
            return (no_update,) * 4
        site = current_site()
        try:
            gone = trash_run(site.root, run)
        except HeadscopeError as error:
            return [_notice("Not deleted", str(error), lasts=12000)], folder_stamp(site.root), no_update, no_update
        said = ["Moved aside. ", _restore_button("Undo", gone.key)]
        return [_notice(f"Deleted {run}", said)], folder_stamp(site.root), "", None if pin == run else no_update


def _register_restoring(app: Dash, page: Page) -> None:
    @app.callback(
        *_told(),
        Output(page.id("run"), "data", allow_duplicate=True),
        Input("runs-restore", "data"),
        prevent_initial_call=True,
    )
    def _(asked: dict[str, Any] | None) -> Any:
        if not asked:
            return (no_update,) * 3
        site = current_site()
        try:
            back = restore_run(site.root, str(asked["key"]))
        except HeadscopeError as error:
            return [_notice("Not restored", str(error), lasts=12000)], folder_stamp(site.root), no_update
        return [_notice("Restored", back)], folder_stamp(site.root), back


def _register_emptying(app: Dash) -> None:
    @app.callback(*_told(), Input("runs-empty", "submit_n_clicks"), prevent_initial_call=True)
    def _(clicks: int | None) -> Any:
        if not clicks:
            return (no_update,) * 2
        site = current_site()
        try:
            said = f"{empty_trash(site.root)} deleted for good."
        except HeadscopeError as error:
            said = str(error)
        return [_notice("Trash", said)], folder_stamp(site.root) + 1


def _notice(title: str, said: Any, *, lasts: int = 8000) -> dict[str, Any]:
    return {"action": "show", "title": title, "message": html.Div(said), "autoClose": lasts, "withBorder": True}


def _restore_button(text: str, key: str) -> html.Button:
    extra: dict[str, Any] = {"data-restore": key}
    return html.Button(text, type="button", className="hs-button", **extra)


def trash_line(root: Any) -> Any:
    """The line below the list: how many runs were deleted, and a button that restores each."""
    runs = list_trash(root)
    if not runs:
        return None
    rows = [html.Li([_restore_button("Restore", run.key), " ", run.key]) for run in runs[:_SHOWN_TRASH]]
    if len(runs) > len(rows):
        rows.append(html.Li(f"and {len(runs) - len(rows)} older ones"))
    forever = dcc.ConfirmDialogProvider(
        html.Button("Delete for good", type="button", className="hs-button"),
        id="runs-empty",
        message=f"Delete {len(runs)} {'run' if len(runs) == 1 else 'runs'} for good? This cannot be undone.",
    )
    title = f"{len(runs)} deleted {'run' if len(runs) == 1 else 'runs'}"
    return html.Details([html.Summary(title), html.Ul(rows), forever], className="hs-fold hs-trash")


def _register_report(app: Dash) -> None:
    """``/report/<run id>.html``: the self-contained report, under its own content security policy."""

    def report(run_id: str) -> Response:
        from app.report.build import render_report

        try:
            text = render_report(current_site().run(run_id))
        except HeadscopeError as error:
            return Response(f"{error}\n", 404, content_type="text/plain; charset=utf-8")
        found = _POLICY.search(text)
        g.report_policy = markup.unescape(found.group(1)) if found else "default-src 'none'"
        answer = Response(text, content_type="text/html; charset=utf-8")
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["Content-Disposition"] = f'inline; filename="headscope-{run_id}.html"'
        return answer

    def keep_policy(response: Response) -> Response:
        """Flask calls this after the server's own headers are set: the report's scripts are not the server's."""
        if request.endpoint == "report" and "report_policy" in g:
            response.headers["Content-Security-Policy"] = f"{g.report_policy}; frame-ancestors 'none'"
        return response

    app.server.add_url_rule("/report/<run_id>.html", endpoint="report", view_func=report)
    app.server.after_request(keep_policy)
