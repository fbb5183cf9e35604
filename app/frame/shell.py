"""The shell around every page: menu, theme, keyboard help, the window for numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash
import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from app.frame.exports import CLOSE, numbers_window, spec_of
from app.frame.page import Page
from app.frame.panels import TAB
from app.frame.words import attributes, notice_box
from app.settings import ServerSettings
from app.site import current_site
from headscope import __version__

KEYS = (
    ("← → ↑ ↓", "move through the heads of a map that has the focus"),
    ("Enter", "open the chosen head"),
    ("[ and ]", "previous and next head, or example"),
    ("Esc", "leave full screen, close a window"),
    ("/", "go to the first field of the page"),
    (
        "g, then a letter",
        "go to a page: r uns, h eads, d (head), l ab, p atterns, c ompare, i (circuit), o (codes), "
        "k (calibrate and policies), v ariants, j obs, u (guide)",
    ),
    ("?", "this list"),
)


def shell(pages: Sequence[Page], settings: ServerSettings) -> dmc.MantineProvider:
    """What is on screen whatever the page."""
    return dmc.MantineProvider(
        [
            dcc.Store(id=TAB),
            dmc.NotificationContainer(id="notices", position="bottom-right"),
            html.A("Skip to the content", href="#main", className="hs-skip"),
            html.Div(
                [_menu(pages, settings), html.Main(dash.page_container, id="main", tabIndex="-1")],
                className="hs-shell",
            ),
            *numbers_window(),
            _keys_window(),
        ],
        defaultColorScheme="auto",
        theme=_THEME,
    )


_BLUES = (
    "#eef5fa", "#dbe8f2", "#b9d2e5", "#93bad8", "#72a5cc", "#5a96c4", "#4a8cbf", "#1f6391", "#1a5680", "#0f4a73",
)  # fmt: skip


_THEME: Any = {"primaryColor": "hs", "colors": {"hs": [*_BLUES]}, "fontFamily": "var(--sans)", "primaryShade": 7}


def _menu(pages: Sequence[Page], settings: ServerSettings) -> html.Nav:
    links = [
        html.Li(html.A(page.title, href=page.path, className="hs-link hs-nav", **attributes(data_page=page.name)))
        for page in pages
    ]
    where = "demonstration runs" if settings.is_demo else str(settings.root)
    return html.Nav(
        [
            html.A("Headscope", href="/", className="hs-brand hs-link"),
            html.Ul(links),
            html.Div(
                [
                    dmc.ColorSchemeToggle(
                        lightIcon=html.Span("Theme: light"),
                        darkIcon=html.Span("Theme: dark"),
                        variant="subtle",
                        className="hs-theme",
                        **attributes(aria_label="Change between light and dark theme"),
                    ),
                    html.Button("Keys", type="button", className="hs-action", id="keys-open"),
                    html.P([html.Span("Runs: "), html.Span(where, title=where)], className="hs-where"),
                    html.P(f"Headscope {__version__}", className="hs-where"),
                ],
                className="hs-menu-foot",
            ),
        ],
        className="hs-menu",
        **attributes(aria_label="Pages"),
    )


def _keys_window() -> dmc.Modal:
    rows = [html.Tr([html.Th(html.Kbd(key), scope="row"), html.Td(text)]) for key, text in KEYS]
    return dmc.Modal(
        html.Table(html.Tbody(rows), className="hs-table"),
        id="keys-box",
        title="Keys",
        size="lg",
        closeButtonProps=CLOSE,
    )


def page_layout(page: Page) -> Any:
    """The layout function that Dash calls with what the address says."""

    def layout(**given: str | None) -> html.Div:
        state, refused = page.state.read(given)
        made = page.layout(current_site(), state)
        return html.Div(
            [
                html.Header([html.H1(page.title), html.P(page.summary)], className="hs-page-head"),
                *([html.Div([html.P(text) for text in refused], className="hs-refused", role="alert")] * bool(refused)),
                *(made if isinstance(made, list) else [made]),
                dcc.Store(id=page.id("spec"), data=spec_of(page)),
                *([dcc.Store(id=page.id("answer"))] if page.prepare else []),
                html.Div(id=page.id("mirror"), hidden=True),
            ],
            id=f"page-{page.name}",
            className="hs-page hs-wide" if page.is_wide else "hs-page",
            **attributes(data_page=page.name, data_spec=spec_of(page)),
        )

    return layout


def not_found(**_: str | None) -> html.Div:
    """The page for addresses that there are not."""
    return html.Div(
        [html.H1("No such page"), notice_box("empty", "The menu lists the pages there are.")], className="hs-page"
    )


def register_shell(app: Dash, pages: Mapping[str, Page]) -> None:
    """The mirror of each page's state in the address, and the name of the browser's tab."""
    app.clientside_callback(ClientsideFunction("headscope", "tab"), Output(TAB, "data"), Input(TAB, "id"))
    app.clientside_callback(
        ClientsideFunction("headscope", "openKeys"),
        Output("keys-box", "opened"),
        Input("keys-open", "n_clicks"),
        prevent_initial_call=True,
    )
    for page in pages.values():
        if page.fields:
            app.clientside_callback(
                ClientsideFunction("headscope", "mirror"),
                Output(page.id("mirror"), "title"),
                *[Input(page.id(name), page.prop(name)) for name in page.fields],
                State(page.id("spec"), "data"),
            )
