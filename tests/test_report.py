"""The report: whole, true to the run, and unable to load or run anything that is not its own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from app.report.build import render_report, write_report
from app.views.numbers import decimals_of, fixed, interval, p_text, percent
from headscope.card import CapabilityCard, CardEntry
from headscope.checks import CausalCheck
from headscope.errors import RunError
from headscope.heads import HeadScores
from headscope.runs import ModelRecord, RunWriter
from headscope.runs.reading import Run

Start = Callable[[Path], RunWriter]
_VOID = {"meta", "br", "hr", "img", "input", "link", "base"}


@dataclass
class Page(HTMLParser):
    """A parsed report: its elements, tables by id, scripts and visible text."""

    html: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    scripts: list[tuple[dict[str, str], str]] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(given["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "script":
            self.scripts.append((given, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self.open and self.open[-1] != "style":
            self.text += f" {data}"
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] = f"{self.rows[-1][-1]} {data}".strip()

    def body(self, table: str) -> list[list[str]]:
        """Rows of a table without its head."""
        return self.tables[table][1:]


@pytest.fixture
def run(tiny_run: Path) -> Run:
    return Run.open(tiny_run)


@pytest.fixture
def page(run: Run) -> Page:
    return Page(render_report(run))


def _slug(name: str) -> str:
    return name.replace("_", "-")


def _class_scores(run: Run) -> list[HeadScores]:
    return [scores for scores in run.scores().values() if scores.definition.threshold is not None]


def test_every_value_of_every_score_is_in_its_table_as_in_the_run(run: Run, page: Page) -> None:
    for scores in run.scores().values():
        rows = page.body(f"all-score-{_slug(scores.name)}")
        digits = decimals_of(scores.values)
        assert rows == [
            [f"L{layer}", *(fixed(float(value), digits) for value in values)]
            for layer, values in enumerate(scores.values)
        ]


def test_top_tables_hold_the_strongest_heads_with_interval_and_n(run: Run, page: Page) -> None:
    for scores in _class_scores(run):
        frame = scores.top(10)
        digits = decimals_of(scores.values)
        assert page.body(f"top-score-{_slug(scores.name)}") == [
            [
                row.label,
                str(row.kv_head),
                fixed(row.value, digits),
                interval(row.low, row.high, digits),
                str(row.n),
                "yes" if row.value >= scores.definition.threshold else "no",
            ]
            for row in frame.itertuples()
        ]


def test_group_tables_hold_the_key_value_view(run: Run, page: Page) -> None:
    for scores in _class_scores(run):
        groups = scores.by_kv_head("max")
        digits = decimals_of(scores.values)
        shown = page.body(f"groups-score-{_slug(scores.name)}")
        best = groups.ranked()[:10]
        assert [row[0] for row in shown] == [f"L{head.layer}KV{head.head}" for head in best]
        assert [row[1] for row in shown] == [fixed(float(groups.values[head]), digits) for head in best]


def test_scores_without_sampling_error_read_exact(page: Page) -> None:
    assert {row[3] for row in page.body("top-score-copying")} == {"exact"}


def test_the_class_table_counts_members_and_quotes_the_check(run: Run, page: Page) -> None:
    rows = {row[0]: row for row in page.body("table-classes")}
    checks = {check.head_class: check for check in run.checks()}
    assert len(rows) == len(_class_scores(run))
    for scores in _class_scores(run):
        name = scores.definition.head_class or ""
        count = int((scores.values >= scores.definition.threshold).sum())
        valued = int((~np.isnan(scores.values)).sum())
        assert rows[name][3:5] == [str(count), percent(count / valued)]
        if name not in checks:
            assert rows[name][6:] == ["not tested by intervention"]
            continue
        check, point = checks[name], checks[name].points[1]
        numbers = [fixed(number, 3) for number in (check.baseline, point.value, point.random_mean)]
        assert rows[name][6:] == [check.metric, str(point.k), *numbers, p_text(point.p_value)]


def test_check_tables_hold_every_point(run: Run, page: Page) -> None:
    for check in run.checks():
        shown = page.body(f"check-{check.head_class}")
        assert len(shown) == len(check.points)
        for row, point in zip(shown, check.points, strict=True):
            assert row[0] == str(point.k)
            assert row[1:3] == [fixed(point.value), interval(point.low, point.high)]
            assert float(row[3]) == pytest.approx(point.value - check.baseline, abs=5e-4)
            assert row[4:6] == [fixed(point.random_mean), interval(point.random_low, point.random_high)]
            assert row[8] == p_text(point.p_value)


def test_figures_hold_the_numbers_of_the_run(run: Run, page: Page) -> None:
    drawn = _figures(page)
    for scores in run.scores().values():
        heat = drawn[f"map-{_slug(scores.name)}"]["data"][0]
        z = np.frombuffer(base64.b64decode(heat["z"]["bdata"]), dtype=np.float32)
        assert np.array_equal(z.reshape(scores.values.shape), scores.values.astype(np.float32), equal_nan=True)
        assert heat["text"][2][1].startswith("L2H1  ")


def _figures(page: Page) -> dict[str, dict]:
    names = [given["id"] for tag, given in page.elements if tag == "figure"]
    data = [json.loads(text) for given, text in page.scripts if given.get("class") == "data"]
    return dict(zip(names, data, strict=True))


def test_the_report_lists_definitions_card_stages_files_and_command(run: Run, page: Page) -> None:
    for scores in run.scores().values():
        assert scores.definition.formula in page.text
    assert [row[0] for row in page.body("table-card")] == [entry.title for entry in run.card.entries]
    assert [row[0] for row in page.body("table-stages")] == list(run.manifest.planned)
    files = {row[0]: row[2] for row in page.body("table-files")}
    assert files == {name: record.sha256 for name, record in run.manifest.files.items()}
    for said in (run.manifest.command, run.manifest.id, "Seed 7", *run.manifest.versions.values()):
        assert said in page.text


def test_the_report_carries_its_reservations(page: Page) -> None:
    for said in ("12 heads are compared on 20 scores", "not simultaneous", "cannot fall below", "0.048"):
        assert said in page.text


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    loading = {"src", "srcset", "action", "formaction", "poster", "data", "background", "ping", "manifest"}
    for tag, given in page.elements:
        assert not loading & set(given), f"<{tag}> loads something"
        assert tag not in {"link", "base", "iframe", "object", "embed", "img", "form"}
        if "href" in given:
            assert tag == "a"
        assert "url(" not in given.get("style", "")
    style = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_plotly_is_inlined_exactly_once(page: Page) -> None:
    assert page.html.count("* plotly.js v") == 1
    assert [len(text) > 1_000_000 for given, text in page.scripts if "type" not in given].count(True) == 1
    assert "cdn.plot.ly/plotly" not in page.html


def test_the_policy_allows_exactly_the_scripts_of_the_report_and_no_request(page: Page) -> None:
    policy = next(
        given["content"]
        for tag, given in page.elements
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    code = [text for given, text in page.scripts if "type" not in given]
    digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == digests
    script_rule = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe" not in script_rule
    assert "http" not in policy


def test_no_inline_handler_needs_the_policy_to_be_lax(page: Page) -> None:
    assert not [given for _, given in page.elements if any(name.startswith("on") for name in given)]


def test_ids_are_unique_and_every_link_of_the_contents_leads_somewhere(page: Page) -> None:
    ids = [given["id"] for _, given in page.elements if "id" in given]
    assert len(ids) == len(set(ids))
    inner = {given["href"][1:] for _, given in page.elements if given.get("href", "").startswith("#")}
    assert inner <= set(ids)
    assert {"summary", "glance", "definitions", "limits", "provenance"} <= inner


def test_every_figure_says_in_words_what_it_shows(run: Run, page: Page) -> None:
    figures = [given for tag, given in page.elements if tag == "figure"]
    n_classes, n_checks = len(_class_scores(run)), len(run.checks())
    assert len(figures) == len(run.scores()) + n_classes + n_checks + 2
    assert all(given["aria-label"] for given in figures)
    best = run.score("retrieval").ranked()[0]
    label = next(given["aria-label"] for given in figures if given["id"] == "map-retrieval")
    assert f"strongest {best} at {fixed(float(run.score('retrieval').values[best]))}" in label


def test_the_report_stays_below_seven_megabytes(run: Run, tmp_path: Path) -> None:
    assert write_report(run, tmp_path / "report.html").stat().st_size < 7_000_000


def test_the_same_run_gives_the_same_file(run: Run) -> None:
    assert render_report(run) == render_report(run)


def test_a_finished_run_has_no_banner(page: Page) -> None:
    assert "INCOMPLETE" not in page.text


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'{{ 7*7 }}</textarea>"


def _hostile_run(
    root: Path, tiny_scores: dict[str, list[HeadScores]], tiny_checks: list[CausalCheck], model: ModelRecord
) -> Run:
    hostile = model.model_copy(update={"name": EVIL, "source": EVIL, "revision": EVIL})
    card = CapabilityCard(EVIL, (CardEntry("x", EVIL, EVIL, True),))
    planned = ["all", "check"]
    with RunWriter.create(
        root,
        kind="score",
        model=hostile,
        config={EVIL: EVIL},
        command=EVIL,
        seed=0,
        planned=planned,
        card=card,
    ) as writer:
        first, second = tiny_scores["retrieval"]
        fields = ("title", "unit", "formula", "source", "reading", "caveats", "probe", "head_class")
        words = replace(first.definition, **dict.fromkeys(fields, EVIL))
        scores = [replace(first, model=EVIL, definition=words), replace(second, model=EVIL)]
        writer.save_scores("all", scores, seconds=1.0)
        check = replace(tiny_checks[1], head_class=EVIL, metric=EVIL, unit=EVIL, note=EVIL, ablation=EVIL)
        writer.save_checks("check", [check], seconds=1.0)
        return Run.open(writer.finish(peak_memory_bytes=None))


def test_text_from_models_and_definitions_stays_text(
    tmp_path: Path,
    tiny_scores: dict[str, list[HeadScores]],
    tiny_checks: list[CausalCheck],
    tiny_model: ModelRecord,
) -> None:
    page = Page(render_report(_hostile_run(tmp_path, tiny_scores, tiny_checks, tiny_model)))
    assert not [tag for tag, _ in page.elements if tag in ("img", "textarea")]
    assert len([given for given, _ in page.scripts if "type" not in given]) == 3
    assert EVIL in page.text
    for figure in _figures(page).values():
        assert not re.search(r"<(?!br>|extra>|/extra>)", json.dumps(figure))


def test_no_data_block_can_end_its_script(page: Page) -> None:
    assert not [text for given, text in page.scripts if given.get("class") == "data" and "<" in text]


def test_an_unfinished_run_says_so_loudly_and_lists_what_is_missing(
    tmp_path: Path, start_tiny_run: Start, tiny_scores: dict[str, list[HeadScores]]
) -> None:
    with start_tiny_run(tmp_path) as writer:
        for stage in ("induction", "sink"):
            writer.save_scores(stage, tiny_scores[stage], seconds=1.0)
    run = Run.open(writer.path)
    page = Page(render_report(run))
    assert any(given.get("class") == "banner" for _, given in page.elements)
    assert f"Missing stages: {', '.join(run.missing_stages)}." in page.text
    assert "<title>INCOMPLETE: " in page.html
    missing = [row[0] for row in page.body("table-stages") if row[1] == "MISSING"]
    assert missing == list(run.missing_stages)
    assert {row[0] for row in page.body("table-classes")} == {"induction", "sink"}


def test_a_run_without_checks_says_that_its_classes_are_observations(
    tmp_path: Path, start_tiny_run: Start, tiny_scores: dict[str, list[HeadScores]]
) -> None:
    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("sink", tiny_scores["sink"], seconds=1.0)
    page = Page(render_report(Run.open(writer.path)))
    assert "No causal check was run" in page.text
    assert page.body("table-classes")[0][6:] == ["not tested by intervention"]


def test_a_run_stopped_before_its_first_stage_still_has_a_report(tmp_path: Path, start_tiny_run: Start) -> None:
    with start_tiny_run(tmp_path) as writer:
        pass
    page = Page(render_report(Run.open(writer.path)))
    assert "No score of made-up has been measured yet." in page.text
    assert "INCOMPLETE" in page.text


def test_a_check_of_a_class_that_no_score_makes_is_still_shown(
    tmp_path: Path,
    start_tiny_run: Start,
    tiny_scores: dict[str, list[HeadScores]],
    tiny_checks: list[CausalCheck],
) -> None:
    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("entropy", tiny_scores["entropy"], seconds=1.0)
        writer.save_checks("check_sink", [tiny_checks[2]], seconds=1.0)
    page = Page(render_report(Run.open(writer.path)))
    assert "Further causal checks" in page.text
    assert len(page.body("check-sink")) == 2


def test_a_check_of_an_empty_class_says_that_nothing_was_ablated(
    tmp_path: Path,
    start_tiny_run: Start,
    tiny_scores: dict[str, list[HeadScores]],
    tiny_checks: list[CausalCheck],
) -> None:
    empty = replace(tiny_checks[2], points=(), note="no head reaches the threshold 0.3")
    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("sink", tiny_scores["sink"], seconds=1.0)
        writer.save_checks("check_sink", [empty], seconds=1.0)
    page = Page(render_report(Run.open(writer.path)))
    assert "Nothing was ablated: no head reaches the threshold 0.3." in page.text
    assert "No intervention tested sink:" in page.text
    assert page.body("table-classes")[0][6:] == ["not tested by intervention"]


def test_an_unwritable_place_is_one_error_and_leaves_the_old_report(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old.html"
    old.write_text("old")
    with pytest.raises(RunError, match="cannot write"):
        write_report(run, old / "report.html")
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_writing_a_report_loads_no_torch(tiny_run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from app.report.build import write_report; "
        "from headscope.runs.reading import Run; "
        f"write_report(Run.open(Path({str(tiny_run)!r})), Path({str(tmp_path / 'r.html')!r})); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
