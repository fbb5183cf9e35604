"""The frame in a real browser: links that restore a view, exports, keys, themes, and what a page may not do."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from app.demo import shipped_runs
from headscope.runs import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def score_run(demo_runs: Path) -> Run:
    """The newest shipped score run of smollm2."""
    return Run.open(demo_runs / [name for name in shipped_runs() if "-score-smollm2-" in name][-1])


_WATCH_THEME = """
window.themes = [];
new MutationObserver(() => {
  const theme = document.documentElement && document.documentElement.dataset.mantineColorScheme;
  if (theme) window.themes.push(theme);
}).observe(document, {attributes: true, subtree: true, childList: true});
"""


def _shown_heads(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#heads-map-graph .main-svg").first).to_be_visible()
    expect(page.locator("#heads-map-caption")).to_contain_text("heads")


def _url(page: Page) -> str:
    return str(page.evaluate("() => location.href"))


def test_a_copied_link_restores_the_view_in_a_fresh_profile(
    served: str, page: Page, new_context: Callable[..., BrowserContext], score_run: Run
) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}")
    page.locator("#heads-head").fill("L17H3")
    page.get_by_role("textbox", name="Score", exact=True).click()
    page.get_by_role("option", name="Induction", exact=True).click()
    expect(page.locator("#heads-chosen-body")).to_contain_text("L17H3")
    expect(page.locator("#heads-map-source")).to_contain_text("induction: n")
    page.wait_for_timeout(300)
    link = _url(page)
    assert "score=induction" in link
    assert "head=L17H3" in link
    other = new_context().new_page()
    _shown_heads(other, link)
    expect(other.locator("#heads-chosen-body")).to_contain_text("L17H3")
    for part in ("heads-map-caption", "heads-map-source", "heads-chosen-body", "heads-causal-body"):
        assert other.locator(f"#{part}").inner_text() == page.locator(f"#{part}").inner_text(), part
    assert _url(other) == link


def test_csv_json_and_the_table_say_what_the_run_says(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}&score=retrieval")
    page.locator("#heads-map summary").click()
    with page.expect_download() as saved:
        page.locator("#heads-map button[data-action=csv]").click()
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
    scores = score_run.score("retrieval")
    assert [row["label"] for row in rows] == [str(head) for head in scores.ranked()]
    assert [float(row["value"]) for row in rows] == [float(scores.values[head]) for head in scores.ranked()]
    page.locator("#heads-map summary").click()
    with page.expect_download() as saved:
        page.locator("#heads-map button[data-action=json]").click()
    told = json.loads(Path(saved.value.path()).read_text())
    assert [row["value"] for row in told["rows"]] == [float(row["value"]) for row in rows]
    assert told["meta"]["run"] == score_run.manifest.id
    page.locator("#heads-map button[data-action=numbers]").click()
    first = page.locator("#numbers-grid .ag-row[row-index='0']")
    expect(first).to_contain_text(rows[0]["label"])
    expect(first).to_contain_text(f"{float(rows[0]['value']):.3f}")


def test_the_heads_are_walked_by_keyboard_alone(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}&head=L3H4")
    page.locator("#heads-walk").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#heads-head")).to_have_value("L4H4")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#heads-head")).to_have_value("L4H5")
    page.keyboard.press("[")
    expect(page.locator("#heads-head")).to_have_value("L4H4")
    expect(page.locator("#heads-chosen-body")).to_contain_text("L4H4")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/head\?.*head=L4H4"))


def test_the_keys_go_on_from_the_head_that_the_page_chose_itself(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}&score=retrieval")
    best = score_run.score("retrieval").ranked()[0]
    field = page.locator("#heads-head")
    expect(field).to_have_value(str(best))
    expect(page.locator("#heads-map-graph .shapelayer path").first).to_be_attached()
    marked = page.evaluate(
        "() => document.querySelector('#heads-map .js-plotly-plot').layout.shapes.filter((s) => s.name === 'chosen')"
        ".map((s) => [s.y0 + 0.5, s.x0 + 0.5])"
    )
    assert set(map(tuple, marked)) == {(best.layer, best.head)}
    page.get_by_role("textbox", name="Score", exact=True).click()
    page.get_by_role("option", name="Sink", exact=True).click()
    expect(page.locator("#heads-map-source")).to_contain_text("sink: n")
    expect(field).to_have_value(str(best))
    page.locator("#heads-walk").focus()
    page.keyboard.press("ArrowDown")
    expect(field).to_have_value(f"L{best.layer + 1}H{best.head}")
    field.fill("")
    sink = score_run.score("sink").ranked()[0]
    expect(page.locator("#heads-chosen-body strong")).to_have_text(str(sink))
    page.locator("#heads-walk").focus()
    page.keyboard.press("ArrowRight")
    expect(field).to_have_value(f"L{sink.layer}H{min(sink.head + 1, 8)}")


def test_enter_opens_the_head_that_the_page_chose_itself(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}&score=retrieval")
    page.locator("#heads-walk").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"/head\?.*head={score_run.score('retrieval').ranked()[0]}"))


def test_a_figure_keeps_its_height_when_the_window_changes(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}")
    page.wait_for_timeout(300)
    size = "() => { const b = document.querySelector('#heads-map-graph .main-svg').getBoundingClientRect(); return b; }"
    box = "() => document.querySelector('#heads-map-plot').getBoundingClientRect()"
    before = page.evaluate(size)
    page.set_viewport_size({"width": 1024, "height": 700})
    page.wait_for_timeout(500)
    after, around = page.evaluate(size), page.evaluate(box)
    assert after["height"] == before["height"] == around["height"]
    assert after["width"] == pytest.approx(around["width"], abs=2)
    assert after["width"] != before["width"]


def test_a_silent_server_is_said_on_every_page_until_it_answers(
    served: str, page: Page, forgive: Callable[[Any], None]
) -> None:
    page.clock.install()
    page.goto(f"{served}/guide")
    expect(page.locator("#page-guide")).to_be_visible()
    page.wait_for_load_state("networkidle")  # an answer that is still on its way would show that the server lives
    page.route("**/status.json", lambda route: route.abort())
    page.clock.run_for(11_000)
    expect(page.get_by_role("alert")).to_have_text("The server does not answer. What is on screen is its last answer.")
    page.unroute("**/status.json")
    page.clock.run_for(11_000)
    expect(page.get_by_role("alert")).to_have_count(0)
    forgive(page)


def test_keys_do_nothing_while_one_types(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}&head=L3H4")
    page.locator("#heads-head").click()
    page.keyboard.press("]")
    page.keyboard.press("?")
    assert page.locator("#heads-head").input_value() == "L3H4]?"
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_click_on_the_map_chooses_the_head_that_the_tooltip_names(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}")
    box = page.locator(
        "#heads-map-graph .plot .heatmaplayer image, #heads-map-graph .heatmaplayer"
    ).first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 4.5 / 9, box["y"] + box["height"] * 17.5 / 30)
    tip = page.locator("#heads-map-graph .hoverlayer .hovertext")
    expect(tip).to_contain_text("L17H4")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#heads-head")).to_have_value("L17H4")
    expect(page.locator("#heads-chosen-body")).to_contain_text("L17H4")


def test_going_to_another_page_keeps_the_run_and_back_returns(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}&score=sink")
    page.locator(".hs-nav[data-page=compare]").click()
    expect(page.locator("#page-compare")).to_be_visible()
    page.go_back()
    expect(page.locator("#heads-map-source")).to_contain_text("sink: n")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_flashes_in_the_other_theme(
    served: str, new_context: Callable[..., BrowserContext], scheme: Any
) -> None:
    page = new_context(color_scheme=scheme).new_page()
    page.add_init_script(_WATCH_THEME)
    page.goto(f"{served}/guide")
    expect(page.locator("#page-guide")).to_be_visible()
    assert page.evaluate("() => [...new Set(window.themes)]") == [scheme]
    other = "dark" if scheme == "light" else "light"
    page.locator(".hs-theme").click()
    assert page.evaluate("() => document.documentElement.dataset.mantineColorScheme") == other
    page.reload()
    expect(page.locator("#page-guide")).to_be_visible()
    assert page.evaluate("() => [...new Set(window.themes)]") == [other]


def test_plotly_offers_no_upload(served: str, page: Page, score_run: Run) -> None:
    _shown_heads(page, f"{served}/heads?run={score_run.manifest.id}")
    page.locator("#heads-map-graph").hover()
    titles = page.locator("#heads-map-graph .modebar-btn").evaluate_all("all => all.map(b => b.dataset.title || '')")
    assert any("PNG" in title or "png" in title for title in titles), titles
    assert not [title for title in titles if "hare" in title or "loud" in title]


@pytest.mark.parametrize(
    "query",
    [
        "run=../../etc/passwd",
        "run=%2e%2e%2f&score=%00",
        "run=%3Cscript%3Ealert(1)%3C/script%3E",
        "score=nope",
        "head=L999H999",
        "head=<b>",
        "bar=NaN",
        "bar=one",
        "run=" + "x" * 5000,
    ],
)
def test_a_bad_address_becomes_a_sentence(served: str, page: Page, query: str) -> None:
    page.goto(f"{served}/heads?{query}")
    expect(page.locator("#page-heads")).to_be_visible()
    said = page.locator(".hs-refused, .hs-notice, #heads-map-graph .main-svg").filter(visible=True)
    expect(said.first).to_be_visible()
    expect(page.get_by_text("Something went wrong inside Headscope")).to_have_count(0)
    page.wait_for_timeout(250)  # the frame around the chosen head is drawn a little later
