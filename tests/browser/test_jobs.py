"""The page Jobs in a real browser: jobs are started, watched, stopped, resumed, seen after a restart.

One job is the real command; the others stand in for it, so that no test waits for torch (see stand_in.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from app.forms import COMMANDS, find_command, parse_form
from app.score_config import ScoreConfig
from app.site import Site
from headscope.runs import Run, list_runs
from tests.browser.conftest import serving
from tests.browser.stand_in import HOLD, PROGRAM

pytestmark = pytest.mark.slow

_FOR_A_RUN = 90_000
"""Milliseconds until a small run is done on a busy machine."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder of runs."""
    return tmp_path / "runs"


@pytest.fixture
def held(root: Path) -> Path:
    """A file in that folder: while it is there, a job that stands in does not come to its end."""
    root.mkdir()
    (root / HOLD).touch()
    return root / HOLD


def _pick(page: Page, command: str, field: str, *names: str) -> None:
    control = _field(page, command, field)
    control.click()
    for name in names:
        page.get_by_role("option", name=name, exact=True).click()
    page.keyboard.press("Escape")


def _field(page: Page, command: str, label: str) -> Locator:
    return page.locator(f"#jobs-form-{command}").get_by_label(re.compile(rf"^{label}( \*)?$")).first


def _more(page: Page, command: str) -> None:
    page.locator(f"#jobs-form-{command} .hs-more > summary").click()


def _fill_small(page: Page, address: str) -> None:
    page.goto(f"{address}/jobs?model=planted:induction")
    _pick(page, "score", "Probes", "induction")
    _pick(page, "score", "Checks", "none")
    expect(page.locator("#jobs-line")).to_contain_text("--checks none")


def _fill_two(page: Page, address: str) -> None:
    """Two stages: the stand-in ends the second when it is let go."""
    page.goto(f"{address}/jobs?model=planted:induction")
    _pick(page, "score", "Probes", "induction", "sink")
    _pick(page, "score", "Checks", "none")
    _more(page, "score")
    _field(page, "score", "Sink examples").fill("300")
    _field(page, "score", "Repeated examples").fill("4")
    expect(page.locator("#jobs-line")).to_contain_text("sink_examples=300")
    expect(page.locator("#jobs-line")).to_contain_text("repeated_examples=4")


def _submit_two(site: Site) -> None:
    """The same without the form, for tests of what comes after it."""
    given = {"model": "planted:induction", "probes": ["induction", "sink"], "checks": ["none"]}
    site.jobs.submit("score", find_command("score").words(parse_form(ScoreConfig, given), site.root), "two stages")


def _start(page: Page) -> None:
    page.get_by_role("button", name="Start", exact=True).click()


def _row(page: Page, at: int = 0) -> Locator:
    return page.locator(".hs-job").nth(at)


def test_a_started_job_is_seen_to_its_end_and_its_run_opens(
    root: Path, page: Page, serve_folder: Callable[[Path], tuple[str, Site]]
) -> None:
    address, site = serve_folder(root)
    _fill_small(page, address)
    line = page.locator("#jobs-line").inner_text()
    _start(page)
    expect(page.locator("#jobs-said")).to_contain_text("queue")
    expect(_row(page)).to_have_attribute("data-state", "running", timeout=_FOR_A_RUN)
    expect(_row(page).locator("progress")).to_be_visible()
    expect(_row(page)).to_have_attribute("data-state", "done", timeout=_FOR_A_RUN)
    assert shlex.split(line) == ["headscope", *site.jobs.list()[0].argv]
    expect(page.locator(".hs-job-log")).not_to_be_empty()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert not [url for url in asked if "_dash-update-component" in url], "it still polls"
    _row(page).get_by_role("link", name="Open run").click()
    (run,) = list_runs(root)
    expect(page.locator("#heads-map-source")).to_contain_text(run.id)
    page.goto(f"{address}/")
    expect(page.locator("#page-runs")).to_contain_text(run.id)


def test_a_job_cancelled_in_the_middle_leaves_a_run_that_resume_finishes(
    root: Path, held: Path, page: Page, serve_folder: Callable[..., tuple[str, Site]]
) -> None:
    address, site = serve_folder(root, program=PROGRAM)
    _submit_two(site)
    page.goto(f"{address}/jobs")
    expect(_row(page)).to_contain_text("stage 2 of", timeout=_FOR_A_RUN)
    _row(page).get_by_role("button", name="Cancel").click()
    expect(_row(page)).to_have_attribute("data-state", "cancelled", timeout=_FOR_A_RUN)
    expect(_row(page)).to_contain_text("Resume goes on")
    (run,) = list_runs(root)
    assert run.status.startswith("unfinished")
    expect(page.locator("#jobs-log-body")).to_contain_text(f"headscope score --resume {run.id}")
    held.unlink()
    _row(page).get_by_role("button", name="Resume").click()
    expect(page.locator(".hs-job")).to_have_count(2)
    expect(_row(page)).to_have_attribute("data-state", "done", timeout=_FOR_A_RUN)
    expect(_row(page, 1).get_by_role("button", name="Resume")).to_have_count(0)
    assert [each.id for each in list_runs(root)] == [run.id]
    assert set(Run.open(root / run.id).scores()) >= {"induction", "sink"}


def test_a_job_outlives_its_server_and_its_tab(root: Path, held: Path, page: Page) -> None:
    with serving(root, program=PROGRAM) as (address, site):
        _submit_two(site)
        page.goto(f"{address}/jobs")
        expect(_row(page)).to_have_attribute("data-state", "running", timeout=_FOR_A_RUN)
        page.goto("about:blank")
    with serving(root) as (address, _):
        page.goto(f"{address}/jobs")
        expect(_row(page)).to_have_attribute("data-state", "running")
        expect(_row(page).locator("progress")).to_be_visible()
        page.reload()
        expect(_row(page)).to_have_attribute("data-state", "running")
        held.unlink()
        expect(_row(page)).to_have_attribute("data-state", "done", timeout=_FOR_A_RUN)
    assert [run.status for run in list_runs(root)] == ["done"]


@pytest.mark.usefixtures("held")
def test_two_tabs_show_the_same_jobs(
    root: Path, new_context: Callable[..., BrowserContext], serve_folder: Callable[..., tuple[str, Site]]
) -> None:
    address, site = serve_folder(root, program=PROGRAM)
    context = new_context()
    first, second = context.new_page(), context.new_page()
    second.goto(f"{address}/jobs")
    expect(second.locator("#jobs-list-body")).to_contain_text("No job was started")
    first.bring_to_front()  # a tab that is not in front draws once in a second: it looks on, and hears the news
    _fill_two(first, address)
    _start(first)
    for tab in (first, second):
        expect(_row(tab)).to_have_attribute("data-state", "running", timeout=_FOR_A_RUN)
    second.bring_to_front()
    _row(second).get_by_role("button", name="Cancel").click()
    for tab in (second, first):
        expect(_row(tab)).to_have_attribute("data-state", "cancelled", timeout=_FOR_A_RUN)
    first.bring_to_front()
    _row(first).get_by_role("button", name="Remove").click()
    first.locator("#jobs-keep").click()
    expect(first.locator(".hs-job")).to_have_count(1)
    _row(first).get_by_role("button", name="Remove").click()
    first.locator("#jobs-remove").click()
    for tab in (first, second):
        expect(tab.locator(".hs-job")).to_have_count(0)
    assert site.jobs.list() == []


def test_wrong_values_are_sentences_and_nothing_is_lost(served: str, page: Page) -> None:
    page.goto(f"{served}/jobs?model=planted:all")
    _field(page, "score", "Draws").fill("0")
    _more(page, "score")
    _field(page, "score", "Depths").fill("0.5, middle")
    problem, form = page.locator("#jobs-problem"), page.locator("#jobs-form-score")
    wrong = form.locator(".mantine-InputWrapper-error")
    expect(wrong.filter(has_text="'draws' cannot be 0: it should be greater than or equal to 1")).to_be_visible()
    expect(wrong.filter(has_text="'depths' cannot hold 'middle'")).to_be_visible()
    expect(problem).to_contain_text("Draws")
    expect(page.locator("#jobs-line")).to_be_empty()
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_disabled()
    expect(page.locator(".hs-job")).to_have_count(0)
    page.get_by_text("Inspect heads", exact=True).click()
    expect(problem).to_be_empty()
    page.get_by_text("Score heads", exact=True).click()
    expect(_field(page, "score", "Draws")).to_have_value("0")
    expect(_field(page, "score", "Depths")).to_have_value("0.5, middle")
    expect(_field(page, "score", "Model")).to_have_value("planted:all")
    expect(problem).to_contain_text(re.compile("Draws.*Depths|Depths.*Draws"))
    _field(page, "score", "Draws").fill("7")
    expect(problem).to_have_text("Nothing can be started yet. See Depths above.")
    _field(page, "score", "Depths").fill("0.5")
    expect(page.locator("#jobs-line")).to_have_text(re.compile(r"headscope score planted:all .*--draws 7"))
    expect(problem).to_be_empty()
    expect(start).to_be_enabled()


def test_the_address_chooses_the_form(served: str, page: Page) -> None:
    """That every other command is chosen so too is in tests/test_page_jobs.py."""
    for command in ("inspect", COMMANDS[-1].name):
        page.goto(f"{served}/jobs?command={command}&model=planted:sink")
        _expect_form(page, command)
    for form in COMMANDS:
        page.locator("#jobs-command").get_by_text(form.title, exact=True).click()
        _expect_form(page, form.name)


def _expect_form(page: Page, command: str) -> None:
    expect(page.locator(f"#jobs-form-{command}")).to_be_visible()
    expect(page.locator(".hs-forms > div:visible")).to_have_count(1)
    expect(page.locator("#jobs-line")).to_contain_text(f"headscope {command} ")
    if command in ("score", "inspect", "lab"):
        expect(page.locator("#jobs-line")).to_contain_text("planted:sink")


@pytest.mark.usefixtures("held")
def test_the_buttons_keep_the_focus_while_the_list_changes(
    root: Path, page: Page, serve_folder: Callable[..., tuple[str, Site]]
) -> None:
    address, site = serve_folder(root, program=PROGRAM)
    _submit_two(site)
    page.goto(f"{address}/jobs")
    expect(_row(page)).to_contain_text("stage 2 of", timeout=_FOR_A_RUN)
    cancel = _row(page).get_by_role("button", name="Cancel")
    cancel.focus()
    times = _row(page).locator(".hs-job-times")
    for _ in range(2):
        expect(times).not_to_have_text(times.inner_text())
        assert cancel.evaluate("button => button === document.activeElement")
    page.keyboard.press("Enter")
    expect(_row(page)).to_have_attribute("data-state", "cancelled", timeout=_FOR_A_RUN)
