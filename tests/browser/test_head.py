"""The page of one head in a real browser: three views of one state, keys, odd tokens, links that restore."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, expect
from typer.testing import CliRunner

from app.cli import app as command
from app.demo import shipped_runs
from headscope.captures import CapturedText, TokenText
from headscope.heads import Head
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.runs.captures import CAPTURE, captured_to_record, load_head_pattern

pytestmark = pytest.mark.slow

_ORDER = (".hs-controls", "#head-pattern", "#head-own-text", "#head-map", "#head-profile", "#head-offsets")
SMALL = ("--stages", "prompts,weights", "--set", "ablation_examples=2")
ODD = ("<s>", " the", " the", "\n", "\ufffd", "שלום", "👋", "<b>x</b>", "<img src=x onerror=alert(1)>")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A folder with an inspect run of the planted model and the shipped score run of it; the inspect run."""
    from importlib.resources import files

    root = tmp_path_factory.mktemp("head")
    result = CliRunner().invoke(command, ["inspect", "planted:all", *SMALL, "--out", str(root)])
    assert result.exit_code == 0, result.output
    run = Run.open(next(root.iterdir()))
    name = next(name for name in shipped_runs() if "-score-planted-all-" in name)
    shutil.copytree(str(files("app.demo") / "runs" / name), root / name)
    return root, run


@pytest.fixture(scope="module")
def odd_runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord) -> Path:
    """A folder with one inspect run of a made-up model on a text of odd tokens."""
    root = tmp_path_factory.mktemp("odd")
    query, key = np.random.default_rng(0).normal(size=(2, 1, len(ODD), 8)).astype(np.float32)
    captured = CapturedText(
        "odd", "Odd tokens", TokenText(tuple(range(len(ODD))), ODD), (Head(0, 0),), query, key, (0,), (0.35,), (0,),
        (0.0,),
    )  # fmt: skip
    record, tensors = captured_to_record(captured)
    with RunWriter.create(
        root, kind="inspect", model=tiny_model, config={}, command="", seed=0, planned=("prompt_odd",), card=None
    ) as writer:
        writer.save_record("prompt_odd", {"reason": "odd", CAPTURE: record}, tensors=tensors, seconds=0.0)
        writer.finish(peak_memory_bytes=0)
    return root


def opened(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#head-pattern-caption")).to_contain_text("queries" if "view=" not in address else "token")


def drawn_cells(page: Page) -> list[Any]:
    """The values of the heatmap on screen."""
    expect(page.locator("#head-pattern-graph .heatmaplayer image").first).to_be_attached()
    return page.evaluate(
        "() => Array.from(document.querySelector('#head-pattern-graph .js-plotly-plot').calcdata[0][0].z[5])"
    )


def test_bracket_keys_show_the_next_head_and_its_own_numbers(
    serve_folder: Callable[[Path], Any], page: Page, runs: tuple[Path, Run]
) -> None:
    address, _ = serve_folder(runs[0])
    opened(page, f"{address}/head?head=L1H6")
    expect(page.locator("#head-pattern-graph .main-svg").first).to_be_visible()
    page.keyboard.press("]")
    expect(page.locator("#head-pattern-plot")).to_have_attribute("aria-label", re.compile("Pattern of L1H7 on"))
    expect(page).to_have_url(re.compile("head=L1H7"))
    page.wait_for_timeout(500)
    row = load_head_pattern(runs[1], "prompt_repeated", Head(1, 7)).rows()[5]
    assert drawn_cells(page)[:6] == pytest.approx([float(value) for value in row[:6]])
    page.get_by_role("button", name="Previous head").click()
    expect(page).to_have_url(re.compile("head=L1H6"))
    page.locator("#head-walk").focus()
    page.keyboard.press("ArrowUp")
    expect(page).to_have_url(re.compile("head=L0H6"))


def test_fast_presses_lose_none(serve_folder: Callable[[Path], Any], page: Page, runs: tuple[Path, Run]) -> None:
    address, _ = serve_folder(runs[0])
    opened(page, f"{address}/head?head=L1H0")
    page.evaluate("""() => ["]", "]", "]", "]", "["].forEach((key) =>
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })))""")
    expect(page.locator("#head-head")).to_have_value("L1H3")
    expect(page).to_have_url(re.compile("head=L1H3"))
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile("head=L1H4"))


def test_full_screen_gives_the_pattern_the_screen_and_leaving_its_own_height(
    serve_folder: Callable[[Path], Any], page: Page, runs: tuple[Path, Run]
) -> None:
    address, _ = serve_folder(runs[0])
    opened(page, f"{address}/head?head=L1H7")
    picture, caption = page.locator("#head-pattern-graph .main-svg").first, page.locator("#head-pattern-caption")
    expect(picture).to_be_visible()
    before = picture.bounding_box()
    page.locator("#head-pattern [data-action=full]").click()
    page.wait_for_timeout(600)
    for _ in range(2):
        large, words = picture.bounding_box(), caption.bounding_box()
        assert large
        assert words
        assert large["height"] > 0.6 * 900
        assert large["y"] + large["height"] <= words["y"]
        assert words["y"] + words["height"] <= 900
        page.keyboard.press("]")  # a new figure, with its own height, arrives
        page.wait_for_timeout(700)
    page.evaluate("() => document.exitFullscreen()")
    page.wait_for_timeout(500)
    after = picture.bounding_box()
    assert before
    assert after
    assert after["height"] == before["height"]
    assert after["width"] == pytest.approx(before["width"], abs=1)


@pytest.mark.parametrize("query", ["head=L99H99", "head=L99H99&view=lines"])
def test_a_head_that_is_not_there_is_a_sentence(
    serve_folder: Callable[[Path], Any], page: Page, runs: tuple[Path, Run], query: str
) -> None:
    address, _ = serve_folder(runs[0])
    page.goto(f"{address}/head?{query}")
    expect(page.locator("#head-pattern-body")).to_contain_text("there is no L99H99")
    page.wait_for_timeout(300)


def test_a_narrow_page_has_the_pattern_its_text_and_the_map_first(
    serve_folder: Callable[[Path], Any], new_context: Callable[..., BrowserContext], runs: tuple[Path, Run]
) -> None:
    address, _ = serve_folder(runs[0])
    page = new_context(viewport={"width": 1024, "height": 800}).new_page()
    opened(page, f"{address}/head?head=L1H7")
    tops = [page.locator(one).evaluate("box => box.getBoundingClientRect().top") for one in _ORDER]
    assert tops == sorted(tops)
    assert len(set(tops)) == len(_ORDER)


def test_a_token_chosen_in_one_view_is_that_of_the_others_and_of_the_link(
    serve_folder: Callable[[Path], Any],
    page: Page,
    new_context: Callable[..., BrowserContext],
    runs: tuple[Path, Run],
) -> None:
    address, _ = serve_folder(runs[0])
    opened(page, f"{address}/head?head=L1H7&view=tokens")
    page.locator("#head-pattern-tokens .hs-token[data-token='6']").click()
    expect(page.locator("#head-pattern-tokens .hs-token-chosen")).to_have_attribute("data-token", "6")
    expect(page).to_have_url(re.compile("token=6"))
    page.get_by_text("Lines", exact=True).click()
    kept = page.locator("#head-pattern-lines .hs-kept")
    expect(kept).to_have_attribute("data-place", "6")
    expect(page.locator("#head-pattern-lines .hs-lines-said")).to_contain_text("query 6")
    other = new_context().new_page()
    opened(other, page.evaluate("() => location.href"))
    expect(other.locator("#head-pattern-lines .hs-kept")).to_have_attribute("data-place", "6")


def test_lines_follow_the_pointer_and_a_kept_focus_lets_go(
    serve_folder: Callable[[Path], Any], page: Page, runs: tuple[Path, Run]
) -> None:
    address, _ = serve_folder(runs[0])
    opened(page, f"{address}/head?head=L1H7&view=lines")
    lines = page.locator("#head-pattern-lines line")
    expect(lines.first).to_be_attached()
    every = lines.count()
    faded = page.locator("#head-pattern-lines line.hs-faded")
    query = page.locator("#head-pattern-lines .hs-line-token[data-side=query][data-place='9']")
    query.hover()
    own = page.locator("#head-pattern-lines line[data-query='9']").count()
    expect(faded).to_have_count(every - own)
    query.click()
    expect(page).to_have_url(re.compile("token=9"))
    page.mouse.move(5, 5)
    expect(faded).to_have_count(every - own)
    page.locator("#head-pattern-lines .hs-kept").focus()
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("token="))
    page.mouse.move(5, 5)
    page.locator("#head-head").focus()
    expect(faded).to_have_count(0)
    query.focus()
    expect(faded).to_have_count(every - own)
    page.locator("#head-head").focus()
    expect(faded).to_have_count(0)


@pytest.mark.parametrize("view", ["map", "lines", "tokens"])
def test_odd_tokens_are_seen_as_they_are_and_never_as_markup(
    serve_folder: Callable[[Path], Any], page: Page, odd_runs: Path, view: str
) -> None:
    address, _ = serve_folder(odd_runs)
    page.goto(f"{address}/head?head=L0H0&view={view}")
    place = {
        "map": "#head-pattern-graph .xaxislayer-above .x2tick text, #head-pattern-graph .x2tick text",
        "lines": "#head-pattern-lines .hs-line-token[data-side=key] text",
        "tokens": "#head-pattern-tokens .hs-token",
    }[view]
    expect(page.locator(place).first).to_be_attached()
    shown = list(dict.fromkeys(enumerate(page.locator(place).all_text_contents())))
    words = [word.strip() for _, word in shown]
    assert words[:4] == ["<s>", "·the", "·the", "↵"]
    assert words[4:8] == ["\ufffd#4", "שלום", "👋", "<b>x</b>"]
    assert page.locator("#head-pattern img").count() == 0


def test_a_click_on_the_map_of_heads_opens_that_head(
    serve_folder: Callable[[Path], Any], page: Page, runs: tuple[Path, Run]
) -> None:
    address, _ = serve_folder(runs[0])
    opened(page, f"{address}/head?head=L0H0")
    plot = page.locator("#head-map-graph .nsewdrag").last
    box = plot.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 2.5 / 8, box["y"] + box["height"] * 1.5 / 3)
    expect(page).to_have_url(re.compile("head=L1H2"))
    expect(page.locator("#head-profile-body strong")).to_have_text("L1H2")


def test_another_run_brings_its_own_texts_and_a_head_it_has(
    serve_folder: Callable[[Path], Any], page: Page, runs: tuple[Path, Run], odd_runs: Path, tmp_path: Path
) -> None:
    for folder in (runs[1].path, next(odd_runs.iterdir())):
        shutil.copytree(folder, tmp_path / "mixed" / folder.name)
    address, _ = serve_folder(tmp_path / "mixed")
    opened(page, f"{address}/head?run={runs[1].manifest.id}&head=L1H7&prompt=prompt_needle")
    page.get_by_role("textbox", name="Run", exact=True).click()
    page.get_by_role("option").filter(has_text="made-up").click()
    expect(page).to_have_url(re.compile("prompt=prompt_odd"))
    expect(page).to_have_url(re.compile("head=L0H0"))
    expect(page.locator("#head-pattern-caption")).to_contain_text("Odd tokens")
