"""The page Calibrate and policies in a browser: controls change what is drawn, and the address says it all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from headscope.heads import HeadScores
from headscope.runs import ModelRecord
from tests.browser.accessibility import assert_everybody_can_use
from tests.test_policy_views import write_run

pytestmark = pytest.mark.slow
Serve = Callable[[Path], tuple[str, Any]]


@pytest.fixture
def address(
    serve_folder: Serve, tmp_path: Path, tiny_model: ModelRecord, tiny_scores: dict[str, list[HeadScores]]
) -> str:
    """The page over one run."""
    scores = [one for found in tiny_scores.values() for one in found if one.name == "retrieval"]
    write_run(tmp_path / "runs", tiny_model, scores)
    return f"{serve_folder(tmp_path / 'runs')[0]}/policies"


def test_task_axis_and_heads_are_chosen_and_linked(
    page: Page, new_context: Callable[..., BrowserContext], address: str
) -> None:
    page.goto(address)
    expect(page.locator("#policies-short-body")).to_contain_text("On needle, 64 tokens")
    expect(page.locator("#policies-pareto-graph")).to_contain_text("share of the cache's bytes kept")
    page.get_by_role("textbox", name="Task").click()
    page.get_by_role("option", name="text", exact=True).click()
    expect(page.locator("#policies-short-body")).to_contain_text("On text, 64 tokens")
    page.get_by_text("Keys attended", exact=True).first.click()
    expect(page.locator("#policies-pareto-graph")).to_contain_text("share of the keys attended")
    page.get_by_role("textbox", name="Chosen by").click()
    page.get_by_role("option", name="Random heads, draw 2").click()
    expect(page.locator("#policies-heads-caption")).to_contain_text("random heads, draw 2")
    page.wait_for_url("**rule=random+2*")
    again = new_context().new_page()
    again.goto(page.url)
    expect(again.locator("#policies-short-body")).to_contain_text("On text, 64 tokens")
    expect(again.locator("#policies-heads-caption")).to_contain_text("random heads, draw 2")
    expect(again.locator("#policies-pareto-graph")).to_contain_text("share of the keys attended")


def test_a_curve_can_be_drawn_alone(page: Page, address: str) -> None:
    page.goto(f"{address}?curves=duo/random")
    expect(page.locator("#policies-pareto-caption")).to_contain_text("Drawn: 1 of 5 curves")
    expect(page.locator("#policies-pareto-graph")).not_to_contain_text("StreamingLLM")
    page.wait_for_url("**curves=duo%2Frandom*")


def test_axe_finds_nothing_serious(page: Page, address: str) -> None:
    page.goto(address)
    page.locator("#policies-arms-table").scroll_into_view_if_needed()
    expect(page.locator("#policies-arms-table .ag-row").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert_everybody_can_use(page)


def test_the_half_without_a_run_is_one_notice(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#policies-short-body")).to_contain_text("On needle, 64 tokens")
    expect(page.get_by_text("headscope calibrate smollm2 --sets sentiment,topic").first).to_be_visible()
    expect(page.locator("#policies-act-short-body")).to_be_hidden()
