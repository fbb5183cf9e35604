"""The page Calibrate and policies: panels, exports and report agree with the run; what is missing is a sentence."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from app.frame.page import Content
from app.frame.panels import content_of
from app.pages.policies import PAGE, _layout
from app.pages.policies_choices import shown_map
from app.pages.policies_state import PoliciesState, choose, chosen_arm
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site, View
from app.views.policies import PolicyRun
from headscope.heads import HeadScores
from headscope.runs import ModelRecord, Run
from tests.test_calibration_views import write as write_calibration
from tests.test_policy_views import GOOD, HEADS, STAGES, write_run

PANELS = [panel.name for panel in PAGE.panels if "run" in panel.uses]


@pytest.fixture(scope="module")
def scores(tiny_scores: dict[str, list[HeadScores]]) -> list[HeadScores]:
    return [one for found in tiny_scores.values() for one in found if one.name == "retrieval"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord, scores: list[HeadScores]) -> Path:
    """One finished run, for reading only."""
    return write_run(tmp_path_factory.mktemp("policies"), tiny_model, scores)


@pytest.fixture
def site(folder: Path) -> Site:
    return Site(ServerSettings(root=folder.parent))


def show(site: Site, name: str, **state: Any) -> Content:
    panel = PAGE.panel(name)
    assert panel is not None
    given = {"run": next(run.id for run in site.runs()), **state}
    return content_of(panel, View(site, "tab"), PoliciesState(**given))


def records(content: Content) -> list[dict[str, Any]]:
    assert content.notice is None, content.notice
    assert content.table is not None
    return content.table.records()


@pytest.mark.parametrize("axis", ["bytes", "keys", "flops"])
@pytest.mark.parametrize("task", ["needle", "text"])
@pytest.mark.parametrize("name", PANELS)
def test_every_panel_shows_a_whole_run(site: Site, name: str, task: str, axis: str) -> None:
    content = show(site, name, task=task, axis=axis)
    assert content.notice is None, content.notice
    assert "Run " in content.source
    assert name == "short" or records(content)


def test_the_picture_the_table_and_the_csv_have_the_same_numbers(site: Site, folder: Path) -> None:
    content = show(site, "pareto", axis="keys")
    by_name = {trace.name: trace for trace in content.figure.data} if content.figure else {}
    drawn = by_name["StreamingLLM"]
    rows = [row for row in records(content) if row["curve"] == "StreamingLLM"]
    assert [(row["keys_share"], row["value"]) for row in rows] == list(zip(drawn.x, drawn.y, strict=True))
    ring = by_name["saves, and no other is better and as small"]
    front = [(row["keys_share"], row["value"]) for row in records(content) if row["on_front"]]
    assert list(zip(ring.x, ring.y, strict=True)) == front == [(0.25, 5 / 6), (0.25, 1.0)]
    client = create_app(site.settings, site=site).server.test_client()
    text = client.get(f"/data/policies/pareto.csv?run={folder.name}&axis=keys").get_data(as_text=True)
    told = [row for row in csv.DictReader(StringIO(text)) if row["curve"] == "StreamingLLM"]
    assert [(float(row["keys_share"]), float(row["value"])) for row in told] == [
        (row["keys_share"], row["value"]) for row in rows
    ]


def test_every_arm_is_a_row(site: Site) -> None:
    rows = records(show(site, "arms"))
    assert len(rows) == len(GOOD)
    assert [row["bytes_share"] for row in rows] == [kept for _, kept, _, _ in GOOD.values()]
    content = show(site, "arms")
    assert f"{len(GOOD)} arms" in content.caption
    seen = content.body.rowData  # type: ignore[union-attr]
    assert [row["bytes_share"] for row in seen] == [f"{100 * kept:.1f}\u00a0%" for _, kept, _, _ in GOOD.values()]
    assert [row["value"].split(" [")[0] for row in seen] == [f"{row['value']:.3f}" for row in rows]
    assert all(f"[{row['low']:.3f}, {row['high']:.3f}]" in told["value"] for row, told in zip(rows, seen, strict=True))


def test_curves_and_axis_are_those_asked_for(site: Site) -> None:
    figure = show(site, "pareto", curves=("duo/random", "snapkv"), axis="flops").figure
    assert figure is not None
    names = [trace.name for trace in figure.data]
    assert "StreamingLLM" not in names
    assert "DuoAttention, random heads" in names
    assert figure.layout.xaxis.title.text == "share of attention's operations"
    assert "Drawn: 2 of 5 curves" in show(site, "pareto", curves=("duo/random", "snapkv")).caption


def test_the_least_follows_the_axis(site: Site) -> None:
    rows = {
        axis: {row["curve"]: row for row in records(show(site, "smallest", axis=axis))} for axis in ("bytes", "keys")
    }
    assert "Top keys (IceFormer)" not in rows["bytes"]
    assert "Top keys (IceFormer)" in show(site, "smallest").caption
    assert rows["keys"]["Top keys (IceFormer)"]["keys_share"] == 0.25


@pytest.mark.parametrize(("rule", "kept"), [("retrieval", "retrieval"), ("random 2", "random")])
def test_the_map_shows_the_heads_of_the_rule(site: Site, rule: str, kept: str) -> None:
    content = show(site, "heads", rule=rule, share=0.5)
    shown = {(row["layer"], row["kv_head"]): row["full"] for row in records(content)}
    assert shown == {(layer, head): bool(HEADS[kept][layer, head]) for layer in range(3) for head in range(2)}
    assert "3 of 6 key/value heads" in content.caption
    assert ("draw 2" in content.caption) == (rule == "random 2")


def test_a_state_left_open_is_filled_in(site: Site, folder: Path) -> None:
    chosen = choose(site, PoliciesState(run=folder.name))
    assert (chosen.task, chosen.length) == ("needle", 64)
    found = PolicyRun(Run.open(folder))
    arm = chosen_arm(found, PoliciesState())
    assert arm is not None
    assert (arm.rule, arm.share) == ("retrieval", 0.5)
    assert shown_map(found, PoliciesState(rule="random 1")) == ("random 1", "0.5")
    layout = str(_layout(site, PoliciesState()))
    assert all(f"policies-{field}" in layout for field in PAGE.fields)


@pytest.mark.parametrize(
    ("panel", "state", "said"),
    [
        ("pareto", {"task": "needles"}, "task of this run"),
        ("pareto", {"length": 128}, "lengths of this run: 64"),
        ("pareto", {"curves": ("duo/razor",)}, "curve of this run"),
        ("heads", {"rule": "razor"}, "rule of this run"),
        ("heads", {"share": 0.3}, "shares of this run: 0.5"),
        ("short", {"run": "none"}, "run"),
    ],
    ids=["task", "length", "curve", "rule", "share", "run"],
)
def test_what_a_run_does_not_have_is_said(site: Site, panel: str, state: dict[str, Any], said: str) -> None:
    notice = show(site, panel, **state).notice
    assert notice is not None
    assert notice[0] == "failed"
    assert said in notice[1]


def test_another_kind_of_run_cannot_be_shown(tiny_run: Path) -> None:
    notice = show(Site(ServerSettings(root=tiny_run.parent)), "pareto").notice
    assert notice is not None
    assert notice[0] == "cannot"
    assert "headscope policies smollm2" in notice[1]


def test_without_a_run_the_page_says_how_to_make_one(tmp_path: Path) -> None:
    site = Site(ServerSettings(root=tmp_path))
    assert "headscope policies smollm2" in (show_empty := content_of_pareto(site)).notice[1]  # type: ignore[index]
    assert show_empty.figure is None
    assert "policies-run" in str(_layout(site, PoliciesState()))


def test_the_half_that_has_a_run_comes_first_and_the_other_says_how_to_make_one(
    folder: Path, tmp_path: Path, tiny_model: ModelRecord
) -> None:
    with_policies = str(_layout(Site(ServerSettings(root=folder.parent)), PoliciesState()))
    assert "id='policies-run-half', hidden=False" in with_policies
    assert "id='policies-calibration-half', hidden=True" in with_policies
    assert with_policies.count("headscope calibrate smollm2") == 1
    write_calibration(tmp_path, tiny_model)
    layout = str(_layout(Site(ServerSettings(root=tmp_path)), PoliciesState()))
    assert layout.index("policies-act-short") < layout.index("Cache policies") < layout.index("policies-pareto")
    assert layout.count("headscope policies smollm2") == 1
    assert "id='policies-calibration-none', hidden=True" in layout


def test_the_map_opens_on_the_arm_of_the_verdict(folder: Path) -> None:
    found = PolicyRun(Run.open(folder))
    late = replace(found.outcomes("needle", 64)[3].arm, rule="razor", share=0.9, curve="duo, heads by razor")
    better = replace(found.outcomes("needle", 64)[3], arm=late, kv_bytes=100.0)
    found._stages["needle", 64].append(better)
    arm = chosen_arm(found, PoliciesState(task="needle", length=64))
    assert arm is not None
    assert (arm.rule, arm.share) == ("razor", 0.9)


def content_of_pareto(site: Site) -> Content:
    panel = PAGE.panel("pareto")
    assert panel is not None
    return content_of(panel, View(site, "tab"), PoliciesState())


@pytest.mark.parametrize("policies", [(), ("full",), tuple(STAGES)[:2]], ids=["nothing", "full", "streaming"])
def test_an_unfinished_run_shows_what_is_in(
    tmp_path: Path, tiny_model: ModelRecord, scores: list[HeadScores], policies: tuple[str, ...]
) -> None:
    path = write_run(tmp_path, tiny_model, scores, policies=policies)
    site = Site(ServerSettings(root=path.parent))
    notices = {name: show(site, name).notice for name in PANELS}
    if not policies:
        assert all(notice and "--resume" in notice[1] for notice in notices.values())
        return
    assert notices["pareto"] is None
    assert notices["heads"] is not None
    assert notices["heads"][0] == "empty"
    assert "INCOMPLETE" in str(show(site, "short").body)
