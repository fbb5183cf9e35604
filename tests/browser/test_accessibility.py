"""Every page for everybody: axe finds nothing serious in either theme, and nothing is wider than the window.

Pages whose own tests ask the same, of a run that fills every part of them, are left to those.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from app.pages import PAGES
from tests.browser.accessibility import assert_everybody_can_use

pytestmark = pytest.mark.slow
FILLED = {"circuit", "codes", "policies", "variants"}


@pytest.mark.parametrize("name", [page.name for page in PAGES if page.name not in FILLED])
def test_axe_finds_nothing_serious_light_and_wide_or_dark_and_narrow(served: str, page: Page, name: str) -> None:
    shown = next(page for page in PAGES if page.name == name)
    page.goto(f"{served}{shown.path}")
    expect(page.locator(f"#page-{name}")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert_everybody_can_use(page)
