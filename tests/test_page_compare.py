"""The page Compare: differences are those of the stored values, and heads of different models are never matched."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from app.figures.comparison import depth_figure, difference_figure, paired_maps_figure, run_scatter_figure
from app.frame.panels import content_of
from app.pages.compare import PAGE, _pair
from app.pages.compare_panels import CompareState
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site, View
from app.views.comparison import compare, comparison_table
from app.views.depth import depth_shares
from headscope.errors import UnsupportedError
from headscope.heads import Head, HeadScores
from headscope.runs import ModelRecord, Run, RunWriter


@pytest.fixture
def induction(tiny_run: Path) -> HeadScores:
    return Run.open(tiny_run).score("induction")


@pytest.fixture
def moved(induction: HeadScores) -> HeadScores:
    """Three heads moved: one into the class, one out of it, one without touching its interval's neighbour."""
    shift = np.zeros((3, 4))
    strongest, weakest = induction.ranked()[0], induction.ranked()[-1]
    shift[strongest] = -induction.values[strongest]
    shift[weakest] = 0.9
    parts = {name: getattr(induction, name) + shift for name in ("values", "low", "high")}
    return replace(induction, **parts)


def _other_run(root: Path, model: ModelRecord, scores: list[HeadScores], seed: int) -> str:
    with RunWriter.create(
        root, kind="score", model=model, config={"seed": seed}, command="x", seed=seed, planned=["all"], card=None
    ) as writer:
        writer.save_scores("all", scores, samples={}, seconds=1.0)
        return writer.finish(peak_memory_bytes=1).name


@pytest.fixture
def two_runs(tiny_run: Path, tiny_model: ModelRecord, moved: HeadScores) -> tuple[Path, str, str]:
    return tiny_run.parent, tiny_run.name, _other_run(tiny_run.parent, tiny_model, [moved], 9)


@pytest.fixture
def other_shape(tiny_run: Path, tiny_model: ModelRecord, induction: HeadScores) -> tuple[Path, str, str]:
    smaller = {name: getattr(induction, name)[:2] for name in ("values", "low", "high", "n")}
    model = tiny_model.model_copy(update={"name": "smaller", "n_layers": 2})
    scores = replace(induction, model="smaller", **smaller)
    return tiny_run.parent, tiny_run.name, _other_run(tiny_run.parent, model, [scores], 9)


def _show(folder: tuple[Path, str, str], name: str, **more: Any) -> Any:
    root, a, b = folder
    panel = PAGE.panel(name)
    assert panel is not None
    state = CompareState(a=a, b=b, **{"score": "induction", **more})
    return content_of(panel, View(Site(ServerSettings(root=root))), state)


def test_differences_are_b_minus_a(induction: HeadScores, moved: HeadScores) -> None:
    found = compare(induction, moved)
    np.testing.assert_array_equal(found.difference, moved.values - induction.values)
    sizes = [abs(row.difference) for row in found.heads]
    assert sizes == sorted(sizes, reverse=True)
    for row in found.heads:
        assert row.difference == moved.values[row.head] - induction.values[row.head]


def test_apart_means_that_the_intervals_do_not_overlap(induction: HeadScores) -> None:
    width = induction.high - induction.low
    for factor, is_apart in ((0.9, False), (1.1, True)):
        parts = {name: getattr(induction, name) + factor * width for name in ("values", "low", "high")}
        assert (compare(induction, replace(induction, **parts)).apart == is_apart).all()


def test_without_an_interval_nothing_is_apart(tiny_run: Path) -> None:
    exact = Run.open(tiny_run).score("copying")
    found = compare(exact, replace(exact, values=exact.values + 1))
    assert not found.apart.any()
    assert {row["apart"] for row in comparison_table(found).records()} == {"no interval"}
    assert not [trace for trace in difference_figure(found).data if trace.type == "scatter" and len(trace.x or ())]


def test_a_comparison_of_exact_values_does_not_speak_of_overlap(tiny_run: Path) -> None:
    folder = (tiny_run.parent, tiny_run.name, tiny_run.name)
    assert _show(folder, "difference", score="copying").caption.startswith("Nothing is outlined")
    body = str(_show(folder, "movers", score="copying").body)
    assert "no interval" in body
    assert "overlap" not in body
    assert _show(folder, "difference").caption.startswith("Outlined: 0 of the 12 heads")


def test_an_unfinished_run_is_not_picked_where_there_are_two_whole_ones(two_runs: tuple[Path, str, str]) -> None:
    root, a, b = two_runs
    copy = Path(shutil.copytree(root / a, root / "20990101t000000z-score-new.tmp"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest |= {"id": copy.stem, "status": "running", "started": "2099-01-01T00:00:00+00:00"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    site = Site(ServerSettings(root=root))
    assert site.runs()[0].id == copy.stem
    assert set(_pair(site, "", "")) == {a, b}
    assert _pair(site, a, "") == (a, b)


def test_who_entered_and_who_left(induction: HeadScores, moved: HeadScores) -> None:
    found = compare(induction, moved)
    before, after = set(induction.members()), set(moved.members())
    assert {row.head for row in found.heads if row.change == "entered"} == after - before
    assert {row.head for row in found.heads if row.change == "left"} == before - after
    assert {row.head for row in found.heads if row.change == "stayed"} == before & after
    assert found.overlap == len(before & after) / len(before | after)
    assert found.count("left") == 1


def test_the_agreement_is_spearmans(induction: HeadScores, moved: HeadScores) -> None:
    expected = spearmanr(induction.values.ravel(), moved.values.ravel()).statistic
    found = compare(induction, moved).agreement
    assert found.mean == pytest.approx(expected)
    assert found.low <= found.mean <= found.high


def test_heads_without_a_value_are_left_out(tiny_run: Path) -> None:
    entropy = Run.open(tiny_run).score("entropy")
    found = compare(entropy, entropy)
    assert Head(0, 3) not in {row.head for row in found.heads}
    assert len(found.heads) == 11


def test_heads_of_other_shapes_are_not_matched(induction: HeadScores) -> None:
    smaller = replace(induction, **{name: getattr(induction, name)[:2] for name in ("values", "low", "high", "n")})
    with pytest.raises(UnsupportedError, match="no common index"):
        compare(induction, smaller)


def test_maps_share_one_colour_range(induction: HeadScores, moved: HeadScores) -> None:
    figure = paired_maps_figure({"A": induction, "B": moved})
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert {trace.coloraxis for trace in maps} == {"coloraxis"}
    assert figure.layout.coloraxis.cmax == max(induction.values.max(), moved.values.max())
    for trace, scores in zip(maps, (induction, moved), strict=True):
        np.testing.assert_array_equal(trace.z, scores.values.astype(np.float32))


def test_the_difference_map_is_centred_and_outlined(induction: HeadScores, moved: HeadScores) -> None:
    found = compare(induction, moved)
    figure = difference_figure(found)
    assert figure.data[0].zmin == -figure.data[0].zmax
    np.testing.assert_array_equal(figure.data[0].z, found.difference.astype(np.float32))
    corners = sum(value is None for value in figure.data[1].x)
    assert corners == found.apart.sum() == 2


def test_the_scatter_has_every_head_once(induction: HeadScores, moved: HeadScores) -> None:
    figure = run_scatter_figure(compare(induction, moved), ("a", "b"))
    drawn = [each for trace in figure.data for each in zip(trace.customdata, trace.x, trace.y, strict=True)]
    marks = {label: (x, y) for label, x, y in drawn}
    assert len(drawn) == len(marks)
    assert marks == {
        str(head): (induction.values[head], moved.values[head]) for head in map(Head._make, np.ndindex(3, 4))
    }


def test_depth_counts_every_member_once(induction: HeadScores) -> None:
    rows = depth_shares(induction)
    assert sum(row.count for row in rows) == len(induction.members())
    assert [row.depth for row in rows] == [0, 1 / 3, 2 / 3]
    trace = depth_figure({"A": induction}).data[0]
    assert list(trace.y) == [row.count / 4 for row in rows]


def test_csv_json_and_library_agree(two_runs: tuple[Path, str, str], induction: HeadScores, moved: HeadScores) -> None:
    root, a, b = two_runs
    client = create_app(ServerSettings(root=root)).server.test_client()
    answer = client.get(f"/data/compare/difference.json?a={a}&b={b}&score=induction").get_json()
    lines = client.get(f"/data/compare/difference.csv?a={a}&b={b}&score=induction").text.splitlines()
    found = compare(induction, moved)
    assert [row["difference"] for row in answer["rows"]] == [row.difference for row in found.heads]
    assert [float(line.split(",")[9]) for line in lines[1:]] == [row.difference for row in found.heads]


def test_the_threshold_of_the_state_is_used_for_both(two_runs: tuple[Path, str, str], moved: HeadScores) -> None:
    table = _show(two_runs, "maps", threshold=0.02).table
    inside = [row for row in table.records() if row["is_member"] and str(row["run"]).startswith("B")]
    assert len(inside) == (moved.values >= 0.02).sum()


def test_the_same_run_twice_is_said(tiny_run: Path) -> None:
    folder = (tiny_run.parent, tiny_run.name, tiny_run.name)
    assert "same run" in str(_show(folder, "short").body)
    assert all(row["difference"] == 0 for row in _show(folder, "difference").table.records())


def test_other_settings_are_said(two_runs: tuple[Path, str, str]) -> None:
    assert "seed (7 and 9)" in str(_show(two_runs, "short").body)


def test_a_score_of_one_run_only_is_said(two_runs: tuple[Path, str, str]) -> None:
    for name in ("maps", "difference", "movers", "scatter", "depth"):
        kind, said = _show(two_runs, name, score="sink").notice
        assert kind == "cannot"
        assert said == f"Run B ({two_runs[2]}) holds no score 'sink'. Scores of both: induction."


def test_other_shapes_keep_the_maps_and_the_depth(other_shape: tuple[Path, str, str]) -> None:
    for name in ("difference", "movers", "scatter"):
        kind, said = _show(other_shape, name).notice
        assert kind == "cannot"
        assert said.startswith("Heads of different models have no common index")
    assert len(_show(other_shape, "maps").table.rows) == 12 + 8
    assert len(_show(other_shape, "depth").table.rows) == 3 + 2
    assert "no head is compared" in str(_show(other_shape, "short").body)


def test_a_score_without_a_class_has_no_depth(tiny_run: Path) -> None:
    folder = (tiny_run.parent, tiny_run.name, tiny_run.name)
    assert _show(folder, "depth", score="entropy").notice[0] == "empty"
    assert _show(folder, "difference", score="entropy").figure is not None


@pytest.mark.parametrize("state", [{"a": "", "b": ""}, {"a": "../x", "b": "y"}], ids=["none", "unknown"])
def test_without_runs_the_panels_say_so(tmp_path: Path, state: dict[str, str]) -> None:
    for panel in PAGE.panels:
        content = content_of(panel, View(Site(ServerSettings(root=tmp_path))), CompareState(**state))
        assert content.notice is not None


def test_the_page_picks_two_runs_of_one_model(two_runs: tuple[Path, str, str]) -> None:
    made = json.dumps([str(part) for part in PAGE.layout(Site(ServerSettings(root=two_runs[0])), CompareState())])
    assert two_runs[1] in made
    assert two_runs[2] in made
