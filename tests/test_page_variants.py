"""The page Variants: panels, exports and controls agree with the runs; what is missing is a sentence."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from app.frame.page import Content
from app.frame.panels import content_of
from app.pages import PAGES
from app.pages.variants import PAGE, _layout
from app.pages.variants_choices import head_options, model_options, steps_text
from app.pages.variants_measures import measure_options, place_options
from app.pages.variants_state import VariantsState, drawn, start
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site, View
from app.views.training import TrainRun
from headscope.mixers.registry import variants
from headscope.runs import ModelRecord
from tests.variant_runs import HEADS, LAYERS, SWEEP, write_compare, write_train

PANELS = [panel.name for panel in PAGE.panels]
OF_TRAIN = (
    "short", "curves", "recall", "measures", "rates", "every_rate", "cells", "matrices", "profiles", "growth",
)  # fmt: skip
OF_COMPARE = ("verdict", "roles", "census", "claims", "lengths")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord) -> Path:
    """A finished train run and a finished compare run, for reading only."""
    root = tmp_path_factory.mktemp("variants")
    write_train(root, tiny_model)
    write_compare(root, tiny_model)
    return root


@pytest.fixture
def site(folder: Path) -> Site:
    return Site(ServerSettings(root=folder))


def show(site: Site, name: str, **state: Any) -> Content:
    panel = PAGE.panel(name)
    assert panel is not None
    return content_of(panel, View(site, "tab"), start(site, VariantsState(**state)))


def records(content: Content) -> list[dict[str, Any]]:
    assert content.notice is None, content.notice
    assert content.table is not None
    return content.table.records()


@pytest.mark.parametrize("name", PANELS)
def test_every_panel_shows_whole_runs(site: Site, name: str) -> None:
    content = show(site, name)
    assert content.notice is None, content.notice
    assert name in ("registry", "card") or "Run " in content.source
    assert name in ("short", "verdict") or records(content)


def test_the_registry_is_filtered_by_text_family_and_status(site: Site) -> None:
    assert len(records(show(site, "registry"))) == len(variants())
    rows = records(show(site, "registry", status="policy"))
    assert {row["status"] for row in rows} == {"policy"}
    assert f"{len(rows)} polic" in show(site, "registry", status="policy").caption
    rows = records(show(site, "registry", text="softmax 1706.03762", status="built"))
    assert [row["name"] for row in rows] == ["softmax"]


def test_the_card_is_that_of_the_address_or_the_first_that_is_listed(site: Site) -> None:
    assert "headscope train mqar --variants linear" in str(show(site, "card", variant="linear").body)
    assert "Softmax attention" in str(show(site, "card").body)
    notice = show(site, "card", variant="lineal").notice
    assert notice is not None
    assert "There is no variant 'lineal'" in notice[1]
    assert "headscope variants" in notice[1]


def test_the_picture_the_table_and_the_csv_have_the_same_numbers(site: Site) -> None:
    content = show(site, "recall")
    assert content.figure is not None
    drawn_points = {(trace.name, x): y for trace in content.figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    rows = records(content)
    assert drawn_points == {(row["variant"], row["state_size"]): row["accuracy"] for row in rows}
    state = start(site, VariantsState())
    client = create_app(site.settings, site=site).server.test_client()
    text = client.get(f"/data/variants/recall.csv?run={state.run}").get_data(as_text=True)
    assert [float(row["accuracy"]) for row in csv.DictReader(StringIO(text))] == [row["accuracy"] for row in rows]


def test_curves_are_those_of_the_width_and_the_variants_asked_for(site: Site) -> None:
    content = show(site, "curves", width=8, shown=("linear",), measure="loss")
    assert content.figure is not None
    assert [trace.name for trace in content.figure.data if trace.name] == ["linear"]
    assert "Width 8" in content.caption
    assert "Drawn: 1 of 2 variants" in content.caption
    assert content.figure.layout.yaxis.title.text == "held-out loss, nats per answer"
    notice = show(site, "curves", width=9).notice
    assert notice is not None
    assert "widths of this run: 8, 16" in notice[1]


def test_a_measure_of_the_task_is_chosen_by_name_and_place(site: Site) -> None:
    state = start(site, VariantsState())
    assert [one["value"] for one in measure_options(site, state)] == [
        "share.first.other", "residual_norm.first", "risk.markov", "made_up.number",
    ]  # fmt: skip
    assert [one["value"] for one in place_options(site, state)] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    content = show(site, "measures", task_measure="residual_norm.first", place="L0", width=8, shown=("linear",))
    rows = records(content)
    assert {(row["variant"], row["place"]) for row in rows} == {("linear", "L0")}
    assert [(row["step"], row["mean"]) for row in rows] == [
        (step, pytest.approx(1.2 + step / 1000)) for step in (0, 50, 100)
    ]
    assert "Width 8" in content.caption
    assert "Drawn: 1 of 2 variants" in content.caption
    for wrong in ({"task_measure": "risk.markof"}, {"place": "L7"}):
        assert show(site, "measures", **wrong).notice is not None


def test_without_measures_of_the_task_the_panel_is_hidden(tmp_path: Path, tiny_model: ModelRecord) -> None:
    write_train(tmp_path, tiny_model, pictures=False)
    site = Site(ServerSettings(root=tmp_path))
    notice = show(site, "measures").notice
    assert notice is not None
    assert "--pictures" in notice[1]
    assert "id='variants-measures-half', hidden=True" in str(_layout(site, VariantsState()))


def test_with_measures_of_the_task_the_panel_is_shown(site: Site) -> None:
    assert "id='variants-measures-half', hidden=False" in str(_layout(site, VariantsState()))


def test_every_rate_of_a_variant_is_drawn(site: Site) -> None:
    content = show(site, "every_rate", rated="linear", width=8)
    assert content.figure is not None
    drawn_means = {trace.name: list(trace.y) for trace in content.figure.data if trace.name}
    assert drawn_means == {
        "0.001 (best)": pytest.approx([0.0, 0.2025, 0.405]), "0.01": pytest.approx([0.0, 0.1025, 0.205]),
    }  # fmt: skip
    assert len([trace for trace in content.figure.data if not trace.name]) == 2 * SWEEP.seeds
    assert "0.001: 0.405, 0.01: 0.205" in content.caption
    assert "softmax, width 16" in show(site, "every_rate").caption
    assert show(site, "every_rate", rated="delta").notice is not None


def test_matrices_follow_step_head_view_and_colours(site: Site) -> None:
    content = show(site, "matrices", head="L1H0", step=0, colours="fit")
    assert content.figure is not None
    assert len(content.figure.data) == 2
    assert "step 0" in str(content.figure.layout.annotations[0].text)
    tops = {trace.zmax for trace in content.figure.data}
    assert len(tops) == 1
    assert "data-step" in str(content.body.to_plotly_json())
    other = show(site, "matrices", head="L1H0", step=100, view="moved")
    assert other.figure is not None
    assert {trace.zmax for trace in other.figure.data} == {1.0}
    assert (other.figure.data[0].z[1:] != content.figure.data[0].z[1:]).any()
    assert len(records(show(site, "profiles", head="L1H0", step=0))) == 2


def test_a_comparison_shows_its_matrices_and_says_where_the_steps_are(site: Site) -> None:
    content = show(site, "matrices", source="compare")
    assert content.figure is not None
    assert len(content.figure.data) == 2 * LAYERS * HEADS  # one of each variant
    for name in ("profiles", "growth"):
        notice = show(site, name, source="compare").notice
        assert notice is not None
        assert notice[0] == "empty"


def test_the_controls_offer_what_the_run_has(site: Site) -> None:
    state = start(site, VariantsState())
    assert state.source == "train"
    options, shown = model_options(site, state)
    assert len(options) == len(SWEEP.cells)
    assert len(shown) == 2
    assert [one["value"] for one in head_options(site, state)] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert steps_text((0, 50, 100), 50) == "step 50 of 100"
    layout = str(_layout(site, VariantsState()))
    assert all(f"variants-{field}" in layout for field in PAGE.fields)
    best, here = drawn(TrainRun(site.run(state.run)), state)
    assert (len(best), here) == (2, 2)


def test_a_run_that_the_menu_brings_from_another_page_gives_way(site: Site) -> None:
    train, compare = (next(run.id for run in site.runs() if run.kind == kind) for kind in ("train", "compare"))
    state = start(site, VariantsState(run=compare))
    assert (state.run, state.comparison) == (train, compare)


@pytest.mark.parametrize("page", ["heads", "head", "patterns"])
@pytest.mark.parametrize("kind", ["train", "compare"])
def test_other_pages_say_where_to_look(site: Site, page: str, kind: str) -> None:
    shown = next(one for one in PAGES if one.name == page)
    run = next(run.id for run in site.runs() if run.kind == kind)
    for panel in shown.panels:
        notice = content_of(panel, View(site, "tab"), shown.state(run=run)).notice  # type: ignore[call-arg]
        assert notice is not None
        assert "The page Variants shows it: /variants?" in notice[1]


def test_the_page_runs_tells_their_findings_and_links_to_the_page(site: Site) -> None:
    runs = PAGES[0]
    details = runs.panel("details")
    assert details is not None
    said = {}
    for run in site.runs():
        said[run.kind] = str(content_of(details, View(site, "tab"), runs.state(run=run.id)).body)  # type: ignore[call-arg]
        assert f"/report/{run.id}.html" in said[run.kind]
    assert "solved with every seed: softmax" in said["train"]
    assert "/variants?run=" in said["train"]
    assert "Previous token (offset 1): 2 of 2 have such a head" in said["compare"]
    assert "/variants?comparison=" in said["compare"]


def test_without_runs_every_panel_says_which_command_makes_one(tmp_path: Path) -> None:
    site = Site(ServerSettings(root=tmp_path))
    for name in (*OF_TRAIN, *OF_COMPARE):
        notice = show(site, name).notice
        assert notice is not None
        assert notice[0] == "empty"
        command = "headscope compare" if name in OF_COMPARE else "headscope train"
        assert command in notice[1]
    layout = str(_layout(site, VariantsState()))
    assert "id='variants-run-half', hidden=True" in layout
    assert "id='variants-comparison-half', hidden=True" in layout


def test_another_kind_of_run_cannot_be_shown(tiny_run: Path) -> None:
    site = Site(ServerSettings(root=tiny_run.parent))
    for name, field in (("curves", "run"), ("claims", "comparison")):
        notice = show(site, name, **{field: tiny_run.name}).notice
        assert notice is not None
        assert notice[0] == "cannot"
        assert "One is made by: headscope" in notice[1]


def test_unfinished_runs_show_what_is_in(tmp_path: Path, tiny_model: ModelRecord) -> None:
    write_train(tmp_path, tiny_model, most=3, pictures=False)
    write_compare(tmp_path, tiny_model, most=1)
    site = Site(ServerSettings(root=tmp_path))
    assert "INCOMPLETE" in str(show(site, "short").body)
    assert "3 of 16 trainings" in show(site, "rates").source
    assert "INCOMPLETE" in str(show(site, "verdict").body)
    notice = show(site, "matrices", source="train").notice
    assert notice is not None
    assert "--pictures 12" in notice[1]
    assert show(site, "matrices").notice is None  # the comparison has some


def test_runs_that_have_nothing_yet_say_how_to_go_on(tmp_path: Path, tiny_model: ModelRecord) -> None:
    write_train(tmp_path, tiny_model, most=0)
    write_compare(tmp_path, tiny_model, most=0)
    site = Site(ServerSettings(root=tmp_path))
    for name, command in (("curves", "train"), ("census", "compare")):
        notice = show(site, name).notice
        assert notice is not None
        assert f"headscope {command} --resume" in notice[1]
