"""What axe finds in a page that stands: in the light theme and a wide window, then in the dark one and a narrow one.

The page is loaded once; the theme is changed by its own button.
"""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

WIDE, NARROW, HEIGHT = 1440, 1024, 900
_TRIES, _PAUSE_MS = 12, 700


def assert_everybody_can_use(page: Page) -> None:
    """Axe finds nothing serious in either theme, and nothing is wider than the window.

    Args:
        page: the page, loaded in the light theme, its content drawn.
    """
    for scheme, width in (("light", WIDE), ("dark", NARROW)):
        page.set_viewport_size({"width": width, "height": HEIGHT})
        if scheme == "dark":
            page.locator(".hs-theme").click()
        expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", scheme)
        _draw_grids(page)
        serious = _serious(page)
        for _ in range(_TRIES):  # a theme fades in, a grid draws its header first; what is really wrong stays wrong
            if not serious:
                break
            page.wait_for_timeout(_PAUSE_MS)
            _draw_grids(page)
            serious = _serious(page)
        assert not serious, "\n".join([f"{scheme}, {width} pixels:", *map(str, serious)])
        overflow = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{scheme}: the page is {overflow} pixels wider than the window of {width}"


def _draw_grids(page: Page) -> None:
    for grid in page.locator(".ag-root-wrapper").all():  # a grid draws its cells when it comes into view
        grid.scroll_into_view_if_needed()
        expect(grid.locator(".ag-header-cell").first).to_be_visible()


def _serious(page: Page) -> list[tuple[str, str, list[str]]]:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (one["id"], one["help"], [node["html"][:160] for node in one["nodes"][:4]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
