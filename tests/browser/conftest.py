"""A browser for the tests of pages: Debian's Chromium, the dashboard on a free port, and nothing else on the network.

Every page fails its test on a request that leaves the machine, an error in the console, or an exception in the page.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from werkzeug.serving import make_server

from app.jobs.store import HEADSCOPE, JobStore
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

# without windows of its own the first takes two thirds of what the others take for a page
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # no other is found
]
_PATIENCE_MS = 15_000  # as long as for an action: other tests keep the machine busy
_ADVICE = "no Chromium on this machine: apt-get install chromium, or name one in HEADSCOPE_CHROMIUM"


def _chromium() -> str | None:
    given = os.environ.get("HEADSCOPE_CHROMIUM")
    return given or next((path for name in _NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a worker; only outside CI may it be missing."""
    path = _chromium()
    if path is None:
        assert not os.environ.get("CI"), _ADVICE
        pytest.skip(_ADVICE)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield opened
        opened.close()


@contextmanager
def serving(root: Path, *, program: Sequence[str] = HEADSCOPE) -> Generator[tuple[str, Site], None, None]:
    """The dashboard over ``root`` on a free port of this machine, and its site; jobs are run by ``program``."""
    site = Site(ServerSettings(root=root))
    site.jobs = JobStore(root, program=program)
    app = create_app(site.settings, site=site)
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", site
    finally:
        server.shutdown()
        server.server_close()
        site.close()
        thread.join(5)


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped runs: for reading only."""
    from importlib.resources import files

    return Path(shutil.copytree(str(files("app.demo") / "runs"), tmp_path_factory.mktemp("demo") / "runs"))


@pytest.fixture(scope="session")
def served_site(demo_runs: Path) -> Iterator[tuple[str, Site]]:
    """A dashboard over the shipped runs and its site, shared by all tests that save nothing in it.

    So one model process, which takes seconds to start, answers the questions of all of them.
    """
    with serving(demo_runs) as opened:
        yield opened


@pytest.fixture(scope="session")
def served(served_site: tuple[str, Site]) -> str:
    """Address of that dashboard."""
    return served_site[0]


@pytest.fixture
def serve_folder() -> Iterator[Callable[..., tuple[str, Site]]]:
    """A function that serves a folder of one's own until the test ends; gives the address and the site."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda root, **options: stack.enter_context(serving(root, **options))


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """A function that opens a fresh browser profile in which only this machine can be reached."""
    opened: list[BrowserContext] = []
    strangers: list[str] = []

    def open_context(**options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(_PATIENCE_MS)

        def guard(request: Any) -> None:
            address = urlsplit(request.url)
            if address.hostname not in (None, "127.0.0.1", "localhost"):  # none: data and blobs
                strangers.append(request.url)

        context.on("request", guard)
        context.on("page", _watch)
        opened.append(context)
        return context

    yield open_context
    troubles = [trouble for context in opened for page in context.pages for trouble in _TROUBLES.pop(page, [])]
    for context in opened:
        context.close()
    assert not strangers, f"the page asked for {strangers}"
    assert not troubles, "\n".join(troubles)


_TROUBLES: dict[Any, list[str]] = {}


def _watch(page: Page) -> None:
    found = _TROUBLES.setdefault(page, [])
    page.on("pageerror", lambda error: found.append(f"exception: {error}"))
    page.on("console", lambda message: found.append(f"console: {message.text}") if message.type == "error" else None)


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    """A page in a fresh profile at 1440 x 900."""
    return new_context().new_page()


@pytest.fixture(scope="session")
def forgive() -> Callable[[Any], None]:
    """A function that forgets what the console of a page has said: for tests that provoke an error on purpose."""
    return lambda page: _TROUBLES[page].clear()
