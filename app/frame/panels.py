"""Panels: a box with a heading, its exports, a figure or other content, and where the numbers come from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component
from flask import Response, after_this_request

from app.figures.style import CONFIG
from app.frame.page import Content, Page, Panel
from app.frame.state import PageState
from app.frame.words import attributes, notice_box
from app.live.status import Superseded
from app.site import View, current_site
from headscope.errors import HeadscopeError, UnsupportedError

_log = logging.getLogger(__name__)
TAB = "tab"
_CONFIG: Any = CONFIG


def panel_box(page: Page, name: str, *, tall: int = 320, class_name: str = "") -> html.Section:
    """The box of a panel, still without content.

    Args:
        page: its page.
        name: its name.
        tall: pixels kept free for its content while it loads.
        class_name: further CSS classes.
    """
    panel = page.panel(name)
    assert panel is not None, f"the page {page.name} has no panel {name}"
    whole = page.id(name)
    return html.Section(
        [
            html.Header([_heading(panel, whole), _actions(page, panel)], className="hs-panel-head"),
            html.Div(
                [_graph(whole)] if panel.has_figure else [],
                id=f"{whole}-plot",
                role="figure" if panel.has_figure else "presentation",
                className="hs-plot",
                style={"display": "none"} if not panel.has_figure else {},
            ),
            html.Div(id=f"{whole}-body", className="hs-panel-body"),
            html.P(id=f"{whole}-caption", className="hs-caption"),
            html.Footer(id=f"{whole}-source", className="hs-source"),
        ],
        id=whole,
        className=f"hs-panel {class_name}".strip(),
        style={"--hs-tall": f"{tall}px"},
        **attributes(aria_labelledby=f"{whole}-title"),
    )


def with_control(box: html.Section, control: Component) -> html.Section:
    """The box of a panel with a control of its own below its heading."""
    cast("list[Any]", box.children).insert(1, control)
    return box


def _heading(panel: Panel, whole: str) -> html.Div:
    parts: list[Any] = [html.H2(panel.title, id=f"{whole}-title")]
    if panel.help:
        parts.append(
            html.Span("?", className="hs-help", title=panel.help, tabIndex="0", **attributes(aria_label=panel.help))
        )
    return html.Div(parts, className="hs-panel-title")


def _graph(whole: str) -> dcc.Graph:
    return dcc.Graph(id=f"{whole}-graph", config=_CONFIG, figure={"layout": {"height": 100}}, className="hs-graph")


def _actions(page: Page, panel: Panel) -> html.Div:
    whole = page.id(panel.name)

    def button(action: str, text: str, hint: str) -> html.Button:
        extra = attributes(data_action=action, data_page=page.name, data_panel=panel.name)
        return html.Button(text, type="button", title=hint, className="hs-action", **extra)

    exports: list[Any] = []
    if panel.has_table:
        exports += [button("csv", "CSV", "Every digit, as CSV"), button("json", "JSON", "Numbers and meaning as JSON")]
    if panel.has_figure:
        exports += [button("png", "PNG", "The picture as PNG"), button("svg", "SVG", "The picture as SVG")]
    shown: list[Any] = [button("numbers", "Numbers", "The same numbers as a table")] if panel.has_table else []
    if exports:
        menu = [html.Summary("Export", className="hs-action"), html.Div(exports, className="hs-export")]
        shown.append(html.Details(menu, className="hs-export-menu"))
    shown += [
        button("link", "Link", "Copy the address of exactly this view"),
        button("full", "Full screen", "This panel alone; Esc leaves"),
    ]
    return html.Div(shown, className="hs-actions", role="group", id=f"{whole}-actions")


def register_panels(app: Dash, page: Page) -> None:
    """One callback per panel, one for the page's live answer, and the mirror of the state in the address."""
    for panel in page.panels:
        _register_panel(app, page, panel)
    if page.prepare is not None:
        _register_prepare(app, page)


def _inputs(page: Page, names: tuple[str, ...]) -> dict[str, Input]:
    return {name: Input(page.id(name), page.prop(name)) for name in names}


def _register_panel(app: Dash, page: Page, panel: Panel) -> None:
    whole = page.id(panel.name)
    waits = {"answer": Input(page.id("answer"), "data")} if panel.is_live else {}
    uses = tuple(name for name in panel.uses if not (panel.is_live and name in page.prepare_uses))
    rest = {name: State(page.id(name), page.prop(name)) for name in page.fields if name not in uses}

    @app.callback(
        output={
            "figure": Output(f"{whole}-graph", "figure") if panel.has_figure else Output(whole, "data-shown"),
            "style": Output(f"{whole}-plot", "style"),
            "label": Output(f"{whole}-plot", "aria-label"),
            "body": Output(f"{whole}-body", "children"),
            "caption": Output(f"{whole}-caption", "children"),
            "source": Output(f"{whole}-source", "children"),
        },
        inputs={"values": {**_inputs(page, uses), **rest}, "waits": waits, "tab": State(TAB, "data")},
    )
    def _(values: Mapping[str, Any], waits: Mapping[str, Any], tab: str | None) -> dict[str, Any]:
        answer = waits.get("answer") if panel.is_live else {}
        if answer is None:
            return _shown(panel, Content(notice=("loading", "Waiting for the model.")))
        if answer.get("error"):
            return _shown(panel, Content(notice=(answer["kind"], answer["error"])))
        # a live panel shows the question that was answered, whatever has been typed since
        state, _ = page.state.read({**values, **(answer or {}).get("values", {})})
        _take_turn(page, panel, state, tab or "")
        return _shown(panel, content_of(panel, View(current_site(), tab or ""), state))


def _take_turn(page: Page, panel: Panel, state: PageState, tab: str) -> None:
    """The page's first panel tells the others when its answer is ready to be sent; they wait for it."""
    first = page.panel(page.first)
    if first is None:
        return
    turns = current_site().turns
    view = (tab, page.name, *(getattr(state, name) for name in first.uses))
    if panel is not first:
        turns.wait(view)
        return

    turns.begin(view)

    def tell(response: Response) -> Response:
        turns.done(view)
        return response

    after_this_request(tell)


def _register_prepare(app: Dash, page: Page) -> None:
    prepare = page.prepare
    assert prepare is not None
    rest = {name: State(page.id(name), page.prop(name)) for name in page.fields if name not in page.prepare_uses}

    @app.callback(
        Output(page.id("answer"), "data"),
        inputs={"values": {**_inputs(page, page.prepare_uses), **rest}, "tab": State(TAB, "data")},
    )
    def _(values: Mapping[str, Any], tab: str | None) -> Any:
        state, _ = page.state.read(values)
        try:
            prepare(View(current_site(), tab or ""), state)
        except Superseded:
            return no_update
        except HeadscopeError as error:
            return {"error": str(error), "kind": "failed"}
        except Exception:
            _log.exception("the page %s could not get its answer", page.name)
            return {"error": _INTERNAL, "kind": "failed"}
        return {"values": {name: values[name] for name in page.prepare_uses}}


_INTERNAL = "Something went wrong inside Headscope; the terminal that runs it shows where. Please report it."


def content_of(panel: Panel, view: View, state: Any) -> Content:
    """The panel's content; what goes wrong becomes its notice."""
    try:
        return panel.build(view, state)
    except Superseded:
        return Content(notice=("loading", "Waiting for the model."))
    except UnsupportedError as error:
        return Content(notice=("cannot", f"This model cannot do that, because: {error}"))
    except HeadscopeError as error:
        return Content(notice=("failed", str(error)))
    except Exception:
        _log.exception("the panel %s failed", panel.name)
        return Content(notice=("failed", _INTERNAL))


def _shown(panel: Panel, content: Content) -> dict[str, Any]:
    has_figure = panel.has_figure and content.figure is not None and content.notice is None
    body = content.body if content.notice is None else notice_box(*content.notice)
    # a figure that is not shown stays as it is: plotly cannot lay axes out in a box that is hidden
    return {
        "figure": (content.figure if has_figure else no_update) if panel.has_figure else "1",
        "style": {} if has_figure else {"display": "none"},
        "label": content.summary,
        "body": body,
        "caption": content.caption if content.notice is None else "",
        "source": content.source,
    }


def triggered() -> str | None:
    """Id of the component that started the running callback."""
    return ctx.triggered_id if isinstance(ctx.triggered_id, str) else None
