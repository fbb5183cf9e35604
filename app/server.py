"""The dashboard's server: an app made of pages, and waitress to serve it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import dash
from dash import Dash
from flask import Response, request
from waitress.server import create_server

from app.frame.exports import register_exports
from app.frame.page import Page
from app.frame.panels import register_panels
from app.frame.shell import not_found, page_layout, register_shell, shell
from app.pages import PAGES
from app.security import protect
from app.settings import ServerSettings
from app.site import Site, channels_of, current_site
from headscope.errors import ConfigError

_THREADS = 24  # more than questions that may wait for the model
_TAB = re.compile(r"[0-9a-zA-Z-]{1,64}")
_SOCKETS: Any = {"connection_limit": 1000, "channel_timeout": 60}  # each open tab of a browser keeps up to six
_INDEX = """<!DOCTYPE html>
<html lang="en">
  <head>
    {%metas%}
    <title>{%title%}</title>
    {%favicon%}
    <script src="/assets/theme.js"></script>
    {%css%}
  </head>
  <body>
    {%app_entry%}
    <footer>{%config%}{%scripts%}{%renderer%}</footer>
  </body>
</html>"""


def create_app(settings: ServerSettings, *, site: Site | None = None) -> Dash:
    """Make the dashboard; several can live in one process.

    Args:
        settings: how it is served.
        site: what the pages are given; made from ``settings`` by default.
    """
    import_module("pandas")  # whole, before threads: plotly uses one that another thread has only half imported
    app = Dash(
        "headscope",
        assets_folder=_assets(),
        assets_ignore=r"theme\.js",  # the page's head loads it, before anything is drawn
        use_pages=True,
        pages_folder="",
        include_pages_meta=False,
        index_string=_INDEX,
        title="Headscope",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
        add_log_handler=False,
    )
    pages = {page.name: page for page in PAGES}
    app.server.config["headscope.site"] = site or Site(settings)
    _register_pages(pages)
    app.layout = shell(PAGES, settings)
    register_shell(app, pages)
    register_exports(app, pages)
    for page in PAGES:
        register_panels(app, page)
        if page.register is not None:
            page.register(app, page)
    _register_status(app)
    _register_leave(app)
    protect(app, settings)
    return app


def _assets() -> str:
    from importlib.resources import files

    return str(files("app") / "assets")


def _register_pages(pages: dict[str, Page]) -> None:
    dash.page_registry.clear()
    for order, page in enumerate(pages.values()):
        dash.register_page(
            f"app.pages.{page.name}",
            path=page.path,
            title=f"{page.title} · Headscope",
            name=page.title,
            order=order,
            layout=page_layout(page),
        )
    dash.register_page("app.pages.not_found_404", path="/404", title="Headscope", layout=not_found)


def _register_status(app: Dash) -> None:
    """``/status.json``: what the model host is doing, for the line that pages show while they wait."""

    def status_json() -> Response:
        site = current_site()
        status = site.host.status() if "host" in site.__dict__ else None
        shown = {
            "state": status.state if status else "off",
            "model": (status.model or "") if status else "",
            "message": status.message if status else "",
        }
        answer = Response(json.dumps(shown), content_type="application/json")
        answer.headers["Cache-Control"] = "no-store"
        return answer

    app.server.add_url_rule("/status.json", view_func=status_json)


def _register_leave(app: Dash) -> None:
    """``/leave``: a browser's tab was closed or reloaded, and what it asked the model for is not wanted any more."""

    def leave() -> Response:
        tab = request.args.get("tab", "")
        if not _TAB.fullmatch(tab):
            return Response("there is no such tab.\n", 400, content_type="text/plain; charset=utf-8")
        site = current_site()
        if "host" in site.__dict__:
            for channel in channels_of(tab):
                site.host.release(channel)
        return Response(status=204)

    app.server.add_url_rule("/leave", view_func=leave, methods=["POST"])


def serve(settings: ServerSettings, *, ready: Callable[[str], None]) -> None:
    """Serve the dashboard until Ctrl-C.

    Args:
        settings: how.
        ready: called with the address as soon as the port is open.

    Raises:
        ConfigError: if the port or the address cannot be used.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    site = Site(settings)
    app = create_app(settings, site=site)
    try:
        server = create_server(app.server, host=settings.host, port=settings.port, threads=_THREADS, **_SOCKETS)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}. Choose another with --port."
        ) from None
    ready(settings.address)
    try:
        site.start()
        server.run()
    finally:
        site.close()
        server.close()
