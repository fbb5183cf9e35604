"""The page Variants in a browser: a row gives a card, the steps of a training are walked, the address says it all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from headscope.runs import ModelRecord
from tests.browser.accessibility import assert_everybody_can_use
from tests.variant_runs import write_compare, write_train

pytestmark = pytest.mark.slow
Serve = Callable[[Path], tuple[str, Any]]


@pytest.fixture
def address(serve_folder: Serve, tmp_path: Path, tiny_model: ModelRecord) -> str:
    """The page over a train and a compare run."""
    write_train(tmp_path / "runs", tiny_model)
    write_compare(tmp_path / "runs", tiny_model)
    return f"{serve_folder(tmp_path / 'runs')[0]}/variants"


def test_a_variant_is_found_chosen_and_linked(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_label("Find").fill("gated delta")
    expect(page.locator("#variants-registry-caption")).not_to_contain_text("left out.")
    row = page.locator("#variants-table .ag-row").filter(has_text="gated-delta").first
    row.click()
    expect(page.locator("#variants-card-body")).to_contain_text("headscope train mqar --variants gated-delta")
    page.wait_for_url("**variant=gated-delta*")
    page.goto(f"{address}?variant=softmax")
    expect(page.locator("#variants-card-body")).to_contain_text("Softmax attention")


def test_arrow_keys_and_the_button_walk_the_steps(page: Page, address: str) -> None:
    page.goto(f"{address}?head=L1H0&step=0")
    said, graph = page.locator("#variants-step-said"), page.locator("#variants-matrices-graph")
    expect(said).to_have_text("step 0 of 100")
    expect(graph).to_contain_text("L1H0 · step 0")
    page.locator("#variants-walk").focus()
    page.keyboard.press("ArrowRight")
    expect(said).to_have_text("step 50 of 100")
    expect(graph).to_contain_text("L1H0 · step 50")
    page.wait_for_url("**step=50*")
    page.locator("#variants-play").click()
    expect(said).to_have_text("step 100 of 100")
    expect(page.locator("#variants-play")).to_have_text("Play")
    expect(page.locator("#variants-profiles-caption")).to_contain_text("at step 100")


def test_the_keys_go_to_the_page_and_the_compare_run_is_shown(page: Page, address: str) -> None:
    page.goto(address.replace("/variants", "/"))
    expect(page.locator("#page-runs")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("v")
    said = page.locator("#variants-verdict-body")
    expect(said).to_contain_text("Previous token (offset 1): 2 of 2 have such a head", timeout=15_000)
    page.get_by_text("Compare run", exact=True).first.click()
    expect(page.locator("#variants-matrices-graph")).to_contain_text("softmax, seed 0")
    expect(page.locator("#variants-scrub")).to_be_hidden()
    page.wait_for_url("**source=compare*")


def test_axe_finds_nothing_serious(page: Page, address: str) -> None:
    page.goto(address)
    for name in (
        "variants-table",
        "variants-rates-table",
        "variants-cells-table",
        "variants-roles-table",
        "variants-claims-table",
    ):
        page.locator(f"#{name}").scroll_into_view_if_needed()
        expect(page.locator(f"#{name} .ag-row").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert_everybody_can_use(page)
