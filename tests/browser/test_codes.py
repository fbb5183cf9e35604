"""The page Codes in a browser: buttons, arrow keys, rows and marks choose a code, and the address says which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from headscope.runs import ModelRecord
from tests.browser.accessibility import assert_everybody_can_use
from tests.test_page_codes import SCRIPT, Kept, arrays, codes_record, write_run

Serve = Callable[[Path], tuple[str, Any]]


@pytest.fixture
def address(serve_folder: Serve, tmp_path: Path, tiny_model: ModelRecord) -> str:
    """The page over one run, whose codes in order are 0, 1, 2, 3; the first that is ever active is 1."""
    write_run(tmp_path / "runs", tiny_model, Kept(codes_record(), arrays()))
    return f"{serve_folder(tmp_path / 'runs')[0]}/codes"


def said(page: Page, text: str) -> None:
    expect(page.locator("#codes-one-body .hs-finding")).to_contain_text(text)


def click_at(page: Page, place: str, across: float) -> None:
    """Click halfway up: plotly answers where the mouse has moved to."""
    found = page.locator(place).first
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * across, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.click(x, y)


def test_codes_are_walked_by_buttons_keys_and_rows(page: Page, address: str) -> None:
    page.goto(address)
    said(page, "Code 0:" if "code=0" in page.url else "Code 1:")
    order = page.locator("#codes-order").get_attribute("data-codes")
    assert order is not None
    codes = order.split(",")
    place = codes.index("1")
    page.get_by_role("button", name="Next code").click()
    said(page, f"Code {codes[place + 1]}:")
    page.get_by_role("button", name="Previous code").focus()
    page.keyboard.press("Enter")
    said(page, "Code 1:")
    page.locator("[data-keys=codes]").focus()
    for _ in codes:
        page.keyboard.press("ArrowDown")
    said(page, f"Code {codes[-1]}:")
    expect(page.locator(f'#codes-grid .ag-row-selected[row-id="{codes[-1]}"]').first).to_be_visible()
    page.locator('#codes-grid .ag-row[row-id="2"] .ag-cell').first.click()
    said(page, "Code 2:")
    page.wait_for_url("**code=2*")
    expect(page.locator('#codes-grid .ag-row-selected[row-id="2"]').first).to_be_visible()


def test_a_link_opens_the_same_view(page: Page, new_context: Callable[..., BrowserContext], address: str) -> None:
    page.goto(f"{address}?code=3&filter=own&sort=heads&head=L2H3")
    said(page, "Code 3:")
    page.wait_for_url("**run=*")
    again = new_context().new_page()
    again.goto(page.url)
    said(again, "Code 3:")
    for one in (page, again):
        expect(one.get_by_label("Head", exact=True)).to_have_value("L2H3")
        expect(one.locator("#codes-list-caption")).to_contain_text("1 codes by number of heads")
        expect(one.locator("#codes-ofhead-caption")).to_contain_text("L2H3 has 2 codes")


def test_a_filter_shows_its_count_and_keeps_its_codes(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_text("Dead (2)").click()
    expect(page.locator("#codes-list-body")).to_contain_text("4, 5")
    page.get_by_text("Unique to clean (1)").click()
    expect(page.locator("#codes-order")).to_have_attribute("data-codes", "1")
    page.get_by_role("textbox", name="Strongest at").click()
    page.get_by_role("option", name="S2", exact=True).click()
    expect(page.get_by_text("Unique to clean (0)")).to_be_visible()


def test_a_click_on_the_map_chooses_the_head_and_on_a_mark_the_code(page: Page, address: str) -> None:
    page.goto(f"{address}?code=3")
    expect(page.locator("#codes-dictionary-caption")).to_contain_text("Loss")
    click_at(page, "#codes-use-graph .nsewdrag", 0.6)
    expect(page.get_by_label("Head", exact=True)).to_have_value("L1H2")
    page.locator("#codes-walk").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Head", exact=True)).to_have_value("L1H3")
    click_at(page, "#codes-density-graph .scatterlayer .point >> nth=2", 0.5)
    said(page, "Code 1:")


def test_a_token_that_looks_like_markup_is_text(page: Page, address: str) -> None:
    page.goto(f"{address}?code=1")
    expect(page.locator("#codes-prompts-body")).to_contain_text(SCRIPT)
    expect(page.locator("#codes-logits-body tbody th").first).to_contain_text("<img src=x")
    assert page.locator("#page-codes img").count() == 0


@pytest.mark.slow
def test_axe_finds_nothing_serious_where_there_are_codes(page: Page, address: str) -> None:
    page.goto(f"{address}?code=1")
    expect(page.locator("#codes-dictionary-caption")).to_contain_text("Loss")
    page.wait_for_load_state("networkidle")
    expect(page.locator("#codes-grid .ag-row-selected").first).to_be_visible()
    assert_everybody_can_use(page)
