"""The Prompt lab in a browser: typing, ticking, superseding, pinning, and a model process that dies."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from app.live.requests import LabRequest, ModelChoice
from app.site import Site
from headscope.runs.index import list_runs

pytest.importorskip("playwright")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

TEXT = "the old keeper said that the old"
Serve = Callable[[Path], tuple[str, Site]]
LOAD_MS = 60_000


def open_lab(page: Page, address: str, **query: Any) -> None:
    page.goto(f"{address}/lab?{urlencode({'model': 'planted:induction', **query})}")


def expect_source(page: Page, panel: str, said: str | re.Pattern[str]) -> None:
    expect(page.locator(f"#lab-{panel}-source")).to_contain_text(said, timeout=LOAD_MS)


def first_token(page: Page) -> str:
    return page.locator("#lab-next-body .lab-token").first.inner_text()


def test_typing_shows_the_prediction_and_the_last_text_wins(page: Page, served_site: tuple[str, Site]) -> None:
    address, site = served_site
    open_lab(page, address)
    expect(page.locator("#lab-strip-body")).to_contain_text("Write a text above")
    expect(page.locator("#lab-next")).to_be_hidden()
    page.locator("#lab-text").fill(TEXT)
    expect_source(page, "next", "LIVE, NOT SAVED")
    assert first_token(page) == "keeper"
    box = page.locator("#lab-text")
    for text in ("the old keeper", "the old keeper said that", "the river", "the river said that the"):
        box.fill(text)
        page.wait_for_timeout(430)  # just past the pause after which a text is asked about
    expect(page.locator("#lab-strip-caption")).to_contain_text("6 tokens", timeout=LOAD_MS)
    wanted = site.host.ask(
        LabRequest(choice=ModelChoice(model="planted:induction"), text="the river said that the"), channel="test"
    )
    expect(page.locator("#lab-next-body .lab-token").first).to_have_text(wanted.a.text.strip())
    expect(page.locator("#lab-results")).to_have_attribute("data-waiting", "no")
    page.wait_for_timeout(1500)
    expect(page.locator("#lab-strip-caption")).to_contain_text("6 tokens")
    expect(page.get_by_text("Something went wrong inside Headscope")).to_have_count(0)


def test_ticked_heads_are_ablated_compared_and_removed(page: Page, served: str) -> None:
    open_lab(page, served, text=TEXT)
    expect_source(page, "next", "LIVE, NOT SAVED")
    page.locator("#lab-heads").click()
    page.keyboard.type("L0H0,L1H0,")
    expect(page.locator("#lab-next-body h3")).to_have_count(2, timeout=LOAD_MS)
    expect(page.locator("#lab-strip-body")).to_contain_text("zero: its output z is set to 0): L0H0, L1H0")
    page.locator("#lab-compare").click()
    expect(page.locator("#lab-effect-body")).to_contain_text("random sets change it less", timeout=LOAD_MS)
    expect(page.locator("#lab-compare")).to_have_text(re.compile("Stop"))
    assert "heads=L0H0%2CL1H0" in page.url
    assert "random=20" in page.url
    page.locator("#lab-heads").press("Backspace")
    expect(page.locator("#lab-strip-body")).to_contain_text("z is set to 0): L0H0.", timeout=LOAD_MS)


def test_a_policy_brings_its_budget_and_is_kept_in_the_address(page: Page, served: str) -> None:
    open_lab(page, served, text=TEXT)
    expect_source(page, "next", "LIVE, NOT SAVED")
    expect(page.locator("#lab-kept-box")).to_be_hidden()
    page.locator("#lab-policy").click()
    page.get_by_role("option", name="StreamingLLM").click()
    expect(page.locator("#lab-strip-body")).to_contain_text("Under StreamingLLM", timeout=LOAD_MS)
    expect(page.locator("#lab-kept-box")).to_be_visible()
    page.locator("#lab-kept").fill("3")
    expect(page.locator("#lab-strip-body")).to_contain_text("sink 0, recent 3", timeout=LOAD_MS)
    assert "policy=streaming" in page.url
    assert "kept=3" in page.url
    page.locator("#lab-policy").click()
    page.get_by_role("option", name="DuoAttention").click()
    expect(page.locator("#lab-strip-body")).to_contain_text("No head is ticked, so all are cut", timeout=LOAD_MS)
    expect(page.locator("#lab-ablation")).to_be_disabled()
    expect(page.get_by_text("Heads that keep everything", exact=True)).to_be_visible()


def test_a_bad_question_is_one_sentence(page: Page, served: str) -> None:
    for wrong, said in (
        ({"heads": "L0H0,L99H3", "captures": 1}, "has no head L99H3"),
        ({"heads": "foo"}, "'foo' is not a head"),
        ({"a": "old keeper"}, "name exactly one token"),
    ):
        open_lab(page, served, text=TEXT, **wrong)
        expect(page.locator("#lab-strip-body")).to_contain_text(said, timeout=LOAD_MS)
        expect(page.locator("#lab-results")).to_have_attribute("data-refused", "yes")
        expect(page.locator("#lab-results .hs-notice:visible")).to_have_count(1)
        expect(page.locator("#lab-pin")).to_be_disabled()


def test_a_token_is_chosen_by_click_and_the_temperature_is_local(page: Page, served: str) -> None:
    open_lab(page, served, text=TEXT)
    expect_source(page, "next", "LIVE, NOT SAVED")
    page.locator("#lab-tokens button").nth(4).click()
    expect(page.locator("#lab-next-caption")).to_contain_text("after position 4", timeout=LOAD_MS)
    assert "position=4" in page.url
    expect(page.locator("#lab-lens-caption")).to_contain_text("after position 4")
    before = page.locator("#lab-lens-caption").inner_text()
    page.locator("#lab-temperature [role=slider]").press("End")
    expect(page.locator("#lab-next-caption")).to_contain_text("logits / 3")
    assert page.locator("#lab-lens-caption").inner_text() == before


def test_a_position_does_not_outlive_the_text_that_it_was_of(page: Page, served_site: tuple[str, Site]) -> None:
    open_lab(page, served_site[0], text=TEXT, position=7)
    expect(page.locator("#lab-next-caption")).to_contain_text("after position 7", timeout=LOAD_MS)
    assert "position=7" in page.url
    expect_source(page, "effect", "LIVE, NOT SAVED")
    page.wait_for_load_state("networkidle")
    for _ in range(4):  # a page that still loads may put back the text of its address
        page.locator("#lab-text").fill("the old")
        with suppress(AssertionError):
            expect(page.locator("#lab-next-caption")).to_contain_text("after position 2", timeout=LOAD_MS / 4)
            break
    expect(page.locator("#lab-next-caption")).to_contain_text("after position 2")
    expect(page.locator("#lab-strip-body .hs-notice")).to_have_count(0)
    assert "position" not in page.url


def test_leaving_the_page_takes_its_question_back(page: Page, served_site: tuple[str, Site]) -> None:
    address, site = served_site
    open_lab(page, address, text=TEXT)
    expect(page.locator("#lab-saved")).to_have_text("Live, not saved.", timeout=LOAD_MS)
    assert site.host.pid is not None
    os.kill(site.host.pid, signal.SIGSTOP)
    try:
        page.locator("#lab-text").fill("the old keeper said")
        expect(page.locator("#lab-waiting")).to_be_visible()
        expect(page.locator("#lab-saved")).to_be_hidden()
        expect(page.locator("#lab-saved")).to_be_attached()
        wait_for(page, lambda: site.host.status().state == "busy")
        page.goto(f"{address}/runs-that-are-not")
        wait_for(page, lambda: site.host.status().state == "ready")
    finally:
        os.kill(site.host.pid, signal.SIGCONT)


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


def test_a_pinned_answer_opens_again_without_a_model(page: Page, serve_folder: Serve, tmp_path: Path) -> None:
    address, site = serve_folder(tmp_path)
    open_lab(page, address, text=TEXT, heads="L0H0", ablation="uniform")
    expect(page.locator("#lab-saved")).to_have_text("Live, not saved.", timeout=LOAD_MS)
    expect_source(page, "next", "LIVE, NOT SAVED")
    shown = page.locator("#lab-next-body").inner_text()
    page.locator("#lab-pin").click()
    expect(page.locator("#lab-saved")).to_contain_text("Saved as")
    (run,) = list_runs(site.root)
    assert run.kind == "lab"
    assert f"pinned={run.id}" in page.url
    expect_source(page, "next", run.id)
    again, other = serve_folder(site.root)
    page.goto(f"{again}/lab?pinned={run.id}")
    for panel in ("effect", "next"):
        expect_source(page, panel, run.id)
    assert page.locator("#lab-next-body").inner_text() == shown
    assert page.locator("#lab-text").input_value() == TEXT
    assert "host" not in other.__dict__ or other.host.pid is None
    page.locator("#lab-text").fill("the old keeper")
    expect_source(page, "next", "LIVE, NOT SAVED")


def test_asking_again_works_after_the_process_was_killed(page: Page, served_site: tuple[str, Site]) -> None:
    address, site = served_site
    open_lab(page, address, text=TEXT)
    expect_source(page, "next", "LIVE, NOT SAVED")
    assert site.host.pid is not None
    os.kill(site.host.pid, signal.SIGSTOP)
    page.locator("#lab-text").fill("the old keeper said")
    expect(page.locator("#lab-results")).to_have_attribute("data-waiting", "yes")
    deadline = time.monotonic() + 10
    while site.host.status().state != "busy" and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    os.kill(site.host.pid, signal.SIGKILL)
    page.wait_for_timeout(300)
    with page.expect_request(lambda request: "lab-answer.data" in (request.post_data or "")):
        page.locator("#lab-again").click()
    expect(page.locator("#lab-strip-caption")).to_contain_text("5 tokens", timeout=LOAD_MS)
    expect_source(page, "next", "LIVE, NOT SAVED")


def test_a_click_on_the_attribution_shows_where_the_head_looks(page: Page, served_site: tuple[str, Site]) -> None:
    open_lab(page, served_site[0], text=TEXT, captures=1)
    expect_source(page, "clean", "LIVE, NOT SAVED")
    page.locator("#lab-attribution-graph").scroll_into_view_if_needed()
    box = page.locator("#lab-attribution-graph .heatmaplayer").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 2.5 / 4, box["y"] + box["height"] * 0.25)
    expect(page.locator("#lab-head")).to_have_value("L0H2")
    expect(page.locator("#lab-clean-caption")).to_contain_text("L0H2, clean run")
    page.locator("#lab-captures").uncheck(force=True)
    expect(page.locator("#lab-clean")).to_be_hidden()


def test_two_tabs_keep_their_own_answers(page: Page, served: str, new_context: Callable[..., Any]) -> None:
    other = new_context().new_page()
    open_lab(page, served, text=TEXT)
    open_lab(other, served, text="the river said that")
    expect(page.locator("#lab-strip-caption")).to_contain_text("8 tokens", timeout=LOAD_MS)
    expect(other.locator("#lab-strip-caption")).to_contain_text("5 tokens", timeout=LOAD_MS)
    page.locator("#lab-text").fill("the old keeper")
    other.locator("#lab-text").fill("the river said")
    expect(page.locator("#lab-strip-caption")).to_contain_text("4 tokens", timeout=LOAD_MS)
    expect(other.locator("#lab-strip-caption")).to_contain_text("4 tokens", timeout=LOAD_MS)
    assert page.locator("#lab-tokens button").nth(2).inner_text() == "old"
    assert other.locator("#lab-tokens button").nth(2).inner_text() == "river"


def test_a_class_ticks_its_strongest_heads_and_a_hand_made_change_leaves_it(
    page: Page, serve_folder: Serve, tiny_run: Path
) -> None:
    address, _ = serve_folder(tiny_run.parent)
    page.goto(f"{address}/lab?{urlencode({'model': 'made-up', 'group': 'retrieval', 'k': 2})}")
    tags = page.locator("#page-lab .mantine-TagsInput-pill")
    expect(tags).to_have_count(2)
    page.locator("#lab-k").fill("1")
    expect(tags).to_have_count(1)
    assert "group=retrieval" in page.url
    page.locator("#lab-heads").click()
    page.keyboard.type("L0H0,")
    expect(tags).to_have_count(2)
    expect(page.locator("#lab-group")).to_have_value("")
    page.wait_for_timeout(300)
    assert "group=" not in page.url
