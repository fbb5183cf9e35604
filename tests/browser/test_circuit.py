"""The page Circuit in a browser: clicks and keys choose a head, Space ablates it live, the address says it all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from app.circuit_config import CircuitConfig
from app.circuit_run import run_circuit
from headscope.runs import Run
from tests.browser.accessibility import assert_everybody_can_use

pytestmark = pytest.mark.slow
Serve = Callable[[Path], tuple[str, Any]]


class Silent:
    """Hears nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CircuitConfig(model="trained:ioi", methods=("eap", "patching"), pairs=4, judged=3, resamples=20)
    return run_circuit(config, root=tmp_path_factory.mktemp("circuits"), command="x", listener=Silent())


def test_keys_choose_a_head_and_space_ablates_it_live(page: Page, serve_folder: Serve, folder: Path) -> None:
    address, site = serve_folder(folder.parent)
    page.goto(f"{address}/circuit?head=L1H1&step=9")
    expect(page.locator("#circuit-graph-graph .main-svg").first).to_be_visible()
    expect(page.locator("#circuit-live-body")).to_contain_text("No head is ablated")
    assert "host" not in site.__dict__ or site.host.pid is None
    page.locator("#circuit-walk").focus()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Head", exact=True)).to_have_value("L2H1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Head", exact=True)).to_have_value("L2H3")
    expect(page.locator("#circuit-toggle")).to_have_text("Ablate L2H3")
    page.keyboard.press("Space")
    expect(page.locator("#circuit-toggle")).to_have_text("Restore L2H3")
    expect(page.locator("#circuit-live-body")).to_contain_text("Without L2H3: logit difference", timeout=60_000)
    assert "off=L2H3" in page.url
    before = page.locator("#circuit-live-body .hs-finding").inner_text()
    page.reload()  # the link shows the same
    expect(page.locator("#circuit-live-body .hs-finding")).to_have_text(before, timeout=60_000)
    page.locator("#circuit-toggle").click()
    expect(page.locator("#circuit-live-body")).to_contain_text("No head is ablated")
    assert "off=" not in page.url


def test_a_click_on_the_graph_chooses_the_head(page: Page, serve_folder: Serve, folder: Path) -> None:
    address, _ = serve_folder(folder.parent)
    page.goto(f"{address}/circuit?method=patching&step=9")
    mark = page.locator("#circuit-graph-graph .scatterlayer .point").first
    expect(mark).to_be_visible()
    box = mark.bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.click(*middle)
    expect(page.get_by_label("Head", exact=True)).to_have_value(re.compile(r"L\dH\d"))
    expect(page.locator("#circuit-toggle")).to_be_enabled()


def test_the_slider_and_the_unit_change_the_circuit(page: Page, serve_folder: Serve, folder: Path) -> None:
    address, _ = serve_folder(folder.parent)
    page.goto(f"{address}/circuit?method=eap&step=7")
    said = page.locator("#circuit-short-body")
    expect(said).to_contain_text("the best 3 of 16 heads")
    page.locator("#circuit-slider [role=slider]").press("ArrowRight")
    expect(said).to_contain_text("the best 8 of 16 heads")
    page.wait_for_url("**step=8**")
    page.locator("#circuit-unit").get_by_text("Edges").click()  # opens anew where the circuit keeps enough
    expect(said).to_contain_text("of 479 edges")
    page.wait_for_url(lambda address: "unit=edge" in address and "step=" not in address)
    page.locator("#circuit-slider [role=slider]").press("End")
    expect(said).to_contain_text("the best 479 of 479 edges")
    page.wait_for_url("**step=9**")
    page.locator("#circuit-method").click()
    page.get_by_role("option", name="Activation patching", exact=True).first.click()
    expect(page.locator("#circuit-graph-body")).to_contain_text("scores heads, not edges")
    expect(page.locator("#circuit-other")).to_have_value("EAP")  # not patching with itself


def test_keys_walk_drawn_heads_only_from_the_strongest(page: Page, serve_folder: Serve, folder: Path) -> None:
    address, _ = serve_folder(folder.parent)
    page.goto(f"{address}/circuit?method=patching&step=7")
    scores = Run.open(folder).score("circuit_patching").values
    drawn = [f"L{place // 4}H{place % 4}" for place in np.argsort(-scores.ravel(), kind="stable")[:3]]
    strongest = max(drawn, key=lambda label: abs(scores[int(label[1]), int(label[3])]))
    expect(page.locator("#circuit-graph-graph .main-svg").first).to_be_visible()
    head = page.get_by_label("Head", exact=True)
    page.locator("#circuit-walk").focus()
    page.keyboard.press("ArrowUp")
    expect(head).to_have_value(strongest)
    for key in ("ArrowUp", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
        expect(head).to_have_value(re.compile("|".join(drawn)))
    expect(head).not_to_have_value(strongest)
    head.fill("L9H9")
    expect(page.locator("#circuit-toggle")).to_have_text("There is no L9H9")
    expect(page.locator("#circuit-graph-body")).to_contain_text("there is no L9H9")


def test_everybody_can_use_it(serve_folder: Serve, page: Page, folder: Path) -> None:
    address, _ = serve_folder(folder.parent)
    page.goto(f"{address}/circuit?unit=edge&head=L1H1&off=L1H1")
    expect(page.locator("#circuit-live-body")).to_contain_text("Without L1H1", timeout=60_000)
    expect(page.locator("#circuit-check-body")).to_contain_text("Backup heads")
    expect(page.locator("#circuit-stability-graph .main-svg").first).to_be_visible()
    for grid in ("nodes", "edges"):  # drawn in two steps; between them axe sees headers without rows
        page.locator(f"#circuit-{grid}-table").scroll_into_view_if_needed()
        expect(page.locator(f"#circuit-{grid}-table .ag-row").first).to_be_visible()
        expect(page.locator(f"#circuit-{grid}-table .ag-header-cell").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert_everybody_can_use(page)
