"""What is shown of a calibrate run: the numbers of its trials, pooled as said, with sentences that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.figures.calibration import change_figure, sink_bars_figure
from app.figures.calibration_maps import before_after_figure, head_maps_figure
from app.frame.page import Content
from app.frame.panels import content_of
from app.live.plain_data import pack
from app.pages.calibrate_panels import PANELS, set_options
from app.pages.policies_state import PoliciesState
from app.report.build import render_report
from app.settings import ServerSettings
from app.site import Site, View
from app.views.boards import board_tables
from app.views.calibration import SINKS, CalibrationRun, Key
from app.views.calibration_arms import ARMS, CHANGED, Effect, mean_change, outcome_of, p_among_random
from app.views.calibration_heads import expected_jaccard, head_agreements, pooled_agreement, times_chosen
from app.views.calibration_maps import chosen_maps, sink_maps
from app.views.calibration_sinks import PLACES, class_rows, sink_tokens
from app.views.calibration_tables import arms_text, effect_table
from app.views.calibration_words import SAID, _said, before_after_text, means_over_sets, overall, set_verdict
from circuits.calibration.results import (
    Answers,
    Arm,
    ArmResult,
    BeforeAfter,
    ClassSinks,
    Selection,
    SinkMap,
    SinkToken,
    TrialResult,
)
from headscope.errors import UnknownNameError, UnsupportedError
from headscope.heads import Head
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.statistics import Interval, holm, mcnemar_p

N, SEEDS = 40, (3, 4)
HEADS = {
    ("sentiment", 3): (Head(0, 1), Head(2, 3)),
    ("sentiment", 4): (Head(0, 1), Head(1, 0)),
    ("topic", 3): (Head(2, 2),),
    ("topic", 4): (),
}
CANDIDATES = tuple(Head(layer, head) for layer in range(3) for head in range(4))
# right answers of each arm: the baseline, chosen heads, two draws, all heads, opposite
RIGHT = {
    ("sentiment", 3): (20, 32, 21, 20, 10, 18),
    ("sentiment", 4): (22, 34, 20, 24, 12, 18),
    ("topic", 3): (30, 28, 30, 31, 20, 30),
    ("topic", 4): (28, 28, 28, 28, 8, 28),
}


def answers(right: int, *, labels: int) -> Answers:
    """The first ``right`` answers are right."""
    truth = np.arange(N) % labels
    given = np.where(np.arange(N) < right, truth, (truth + 1) % labels)
    return Answers(given, np.where(given == truth, 1.0, -0.5) + 0.01 * right, truth)


def trial(name: str, seed: int) -> TrialResult:
    heads, labels = HEADS[name, seed], 2 if name == "sentiment" else 4
    found = [answers(right, labels=labels) for right in RIGHT[name, seed]]
    drawn = [
        Arm(f"random heads {i + 1}", "random", tuple(Head(head.layer, i) for head in heads), 0.4) for i in range(2)
    ]
    arms = [
        Arm("baseline", "baseline", (), 1.0),
        Arm("selected heads", "selected", heads, 0.4),
        *drawn,
        Arm("all heads", "all", CANDIDATES, 0.4),
        Arm("opposite", "opposite", heads, 1.6),
    ]
    nothing = Interval(0.0, float("nan"), 0.0)
    results = [
        ArmResult(arm, own, nothing, nothing, nothing, 0, 0, 1.0)
        for arm, own in zip(arms, found, strict=True)
        if arm.kind != "random" or heads
    ]
    chosen = Selection("first-order", heads, CANDIDATES, found[0], (), (), 3)
    return TrialResult("made-up", name, chosen, tuple(results), 0.5)


def sinks_of(shift: float) -> tuple[SinkMap, tuple[ClassSinks, ...], BeforeAfter, tuple[SinkToken, ...]]:
    generator = np.random.default_rng(int(10 * shift))
    mass, counts = generator.uniform(0, 0.2, (3, 4, 4)), generator.integers(0, 3, (3, 4, 4)).astype(float)
    tokens = (SinkToken(".", "punctuation", 3, 0.1),)
    classes = tuple(
        ClassSinks(name, size, np.full(4, size + shift), np.array([0.5, 0.1, 0.0, 0.05]) + shift)
        for name, size in (("induction", 2), ("all", 12))
    )
    before = np.tril(np.full((4, 4), 0.25))
    before[:, 0] += 1 - before.sum(1)
    after, sink = before.copy(), np.zeros((4, 4), dtype=bool)
    sink[2:, 2] = True
    after[2:, 2] *= 0.4
    after[2:, 0] += 0.15
    shown = BeforeAfter(Head(0, 1), ("The", " <b>cat", ".", "\n"), before, after, sink)
    return SinkMap("made-up", counts, mass, 2, ()), classes, shown, tokens


def save(writer: RunWriter, stage: str, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    writer.save_record(stage, record, tensors=arrays, seconds=0.1)


def write(root: Path, model: ModelRecord, *, stop_before: str = "") -> Path:
    """A calibrate run, written as the command does; ``stop_before`` leaves out a stage and all behind it."""
    keys = [Key(name, seed, part) for name in ("sentiment", "topic") for seed in SEEDS for part in ("select", "test")]
    stages = [*map(str, keys), SINKS]
    writer = RunWriter.create(
        root, kind="calibrate", model=model, command="x", seed=SEEDS[0], planned=stages, card=None,
        config={"sets": ["sentiment", "topic"], "select": 8, "test": N, "shots": 2, "seeds": 2, "texts": 2,
                "act": {"beta": 0.4, "alpha": 5.0}, "selection": {"method": "first-order", "top": 2}},
    )  # fmt: skip
    with writer:
        for stage in stages[: stages.index(stop_before) if stop_before else None]:
            arrays = dict[str, np.ndarray]()
            if stage == SINKS:
                made = [sinks_of(shift) for shift in (0.0, 0.2)]
                packed = {
                    column: [pack(one, arrays, f"{column}{i}") for i, one in enumerate(parts)]
                    for column, parts in zip(
                        ("maps", "classes", "shown", "tokens"), zip(*made, strict=True), strict=True
                    )
                }
                save(writer, stage, {"kind": "act_sinks", "sets": ["sentiment", "topic"], **packed}, arrays)
                continue
            key = Key.read(stage)
            result = trial(key.name, key.seed)
            part = result.selection if key.part == "select" else result
            save(writer, stage, {"kind": "x", "result": pack(part, arrays)}, arrays)
        return writer.path if stop_before else writer.finish(peak_memory_bytes=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord) -> Path:
    return write(tmp_path_factory.mktemp("calibrations"), tiny_model)


@pytest.fixture(scope="module")
def found(folder: Path) -> CalibrationRun:
    return CalibrationRun(Run.open(folder))


def of(found: CalibrationRun, name: str, kind: Any) -> Effect:
    return found.by_kind(name)[kind]


@pytest.mark.parametrize("name", ["sentiment", "topic"])
def test_items_of_all_seeds_are_taken_together(found: CalibrationRun, name: str) -> None:
    """Each arm is right on the first so many items of each seed: what it gains and loses are differences."""
    right = np.array([RIGHT[name, seed] for seed in SEEDS])
    n = N * len(SEEDS)
    for place, kind in ((0, "baseline"), (1, "selected"), (4, "all"), (5, "opposite")):
        one, apart = of(found, name, kind), right[:, place] - right[:, 0]
        assert one.n == n
        assert one.accuracy.mean == pytest.approx(right[:, place].sum() / n)
        assert one.change.mean == pytest.approx(apart.sum() / n)
        assert (one.gained, one.lost) == (apart[apart > 0].sum(), -apart[apart < 0].sum())
        assert one.change.low <= one.change.mean <= one.change.high
        if kind != "baseline":
            assert one.p_value == mcnemar_p(int(apart[apart > 0].sum()), int(-apart[apart < 0].sum()))
    assert of(found, name, "selected").heads == tuple(len(HEADS[name, seed]) for seed in SEEDS)


def test_a_draw_is_the_same_draw_of_every_seed_and_none_where_no_head_was_chosen(found: CalibrationRun) -> None:
    random, n = of(found, "sentiment", "random"), N * len(SEEDS)
    drawn = [sum(RIGHT["sentiment", seed][2 + i] - RIGHT["sentiment", seed][0] for seed in SEEDS) / n for i in (0, 1)]
    assert random.draws == pytest.approx(drawn)
    assert random.change.mean == pytest.approx(np.mean(drawn))
    assert (random.gained, math.isnan(random.p_value)) == (None, True)
    assert p_among_random(of(found, "sentiment", "selected"), random) == pytest.approx(1 / 3)
    assert of(found, "topic", "random").draws == pytest.approx((0.0, 1 / n))
    assert p_among_random(of(found, "topic", "selected"), of(found, "topic", "random")) == 1


def effect(kind: Any, low: float, mean: float, high: float, p: float, draws: tuple[float, ...] = ()) -> Effect:
    gained, lost = (int(100 * max(mean, 0)), int(100 * max(-mean, 0)))
    there = Interval(mean, low, high)
    return Effect(kind, (4,), 0.4, 100, there, there, there, gained, lost, p, draws)


@pytest.mark.parametrize(
    ("selected", "draws", "said"),
    [
        ((0.02, 0.1, 0.2, 0.01), (0.0, 0.05), "helps"),
        ((0.02, 0.1, 0.2, 0.01), (), "helps, no control"),
        ((-0.2, -0.1, -0.02, 0.01), (), "harms, no control"),
        ((0.02, 0.1, 0.2, 0.01), (0.0, 0.1), "helps as random heads do"),
        ((0.0, 0.1, 0.2, 0.01), (0.0,), "unclear"),
        ((0.02, 0.1, 0.2, 0.06), (0.0,), "unclear"),
        ((-0.2, -0.1, -0.02, 0.01), (0.0, -0.05), "harms"),
        ((-0.2, -0.1, -0.02, 0.01), (0.0, -0.1), "harms as random heads do"),
    ],
    ids=[
        "helps",
        "helps without draws",
        "harms without draws",
        "a draw does as well",
        "interval holds 0",
        "p above 0.05",
        "harms",
        "a draw does as badly",
    ],
)
def test_the_verdict_follows_from_interval_p_and_draws(
    selected: tuple[float, float, float, float], draws: tuple[float, ...], said: str
) -> None:
    random = effect("random", 0, 0, 0, float("nan"), draws)
    assert outcome_of(effect("selected", *selected), random) == said


def test_what_random_heads_are_said_to_do_follows_from_their_number() -> None:
    few, many = (effect("random", 0, 0, 0, float("nan"), (0.0,) * draws) for draws in (1, 19))
    assert "none of 1 draw of random heads does as well (the least possible p is 0.500)" in _said("helps", few)
    assert _said("helps", many) == SAID["helps"]
    assert "random heads were not tried" in _said("helps, no control", None)


def test_a_run_without_counts_of_tokens_shows_all_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Run.record
    monkeypatch.setattr(
        Run, "record", lambda self, stage: {k: v for k, v in whole(self, stage).items() if k != "tokens"}
    )
    old = CalibrationRun(Run.open(folder))
    assert set(old.sinks) == {"sentiment", "topic"}
    assert len(board_tables(old.run)) == 4
    assert "<h2>Where sinks sit</h2>" in render_report(old.run)
    assert "no counts of single tokens" in show(folder, "act-sinks").caption
    monkeypatch.undo()
    assert "no counts of single tokens" not in show(folder, "act-sinks").caption


def test_a_mean_over_one_data_set_is_that_data_set_and_over_four_alike_half_as_wide() -> None:
    one = Interval(0.1, 0.0, 0.3)
    assert mean_change([one]) == pytest.approx(one)
    assert mean_change([one] * 4) == pytest.approx((0.1, 0.05, 0.2))


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)


def test_sentences_hold_the_numbers(found: CalibrationRun) -> None:
    said = set_verdict(found, "sentiment")
    one = of(found, "sentiment", "selected")
    for part in (
        "accuracy 0.525, a guess 0.500, n = 80",
        f"on 2 heads changes it by +0.300 [{one.change.low:.3f}, {one.change.high:.3f}], p 1e-07",
        "as many random heads +0.006 (2 draws, -0.013 to +0.025; p 0.333)",
        "All heads -0.250",
        "ACT helps here, and none of 2 draws of random heads does as well (the least possible p is 0.333).",
    ):
        assert part in said
    assert "No change that can be told from chance" in set_verdict(found, "topic")
    whole = overall(found)
    assert "Of 2 data sets, after Holm's correction: on 1 ACT helps, and none of 2 draws of random heads" in whole
    assert "; on 1 ACT changes nothing" in whole
    assert "p is below 0.05 on 1 of 2 after Holm's correction, on 1 before it" in whole
    assert whole.startswith("Mean change of accuracy over 2 data sets: chosen heads +")
    assert "which can be told from 0; random heads" in whole
    means = means_over_sets(found)
    assert means is not None
    assert means["selected"].mean == pytest.approx((24 / 80 - 2 / 80) / 2)
    assert f"chosen heads +{means['selected'].mean:.3f}" in whole


@pytest.mark.parametrize(("first", "second", "total"), [(1, 1, 5), (2, 3, 6), (0, 2, 5), (4, 4, 4)])
def test_expected_agreement_is_the_mean_over_all_sets(first: int, second: int, total: int) -> None:
    a = set(range(first))
    every = [len(a & {*b}) / len(a | {*b}) for b in combinations(range(total), second)]
    assert expected_jaccard(first, second, total) == pytest.approx(np.mean(every))


def test_chosen_heads_are_counted_and_compared(found: CalibrationRun) -> None:
    counts = times_chosen(found, "sentiment")
    assert (counts[0, 1], counts[2, 3], counts[1, 0], counts.sum()) == (2, 1, 1, 4)
    np.testing.assert_array_equal(chosen_maps(found)[0].values, counts / 2)
    rows = {(one.first, one.second): one for one in head_agreements(found)}
    assert rows["sentiment", "sentiment"].jaccard == pytest.approx(1 / 3)
    assert rows["topic", "topic"].jaccard == 0
    between = rows["sentiment", "topic"]
    assert (between.n_pairs, between.jaccard) == (4, 0)
    assert between.expected == pytest.approx(expected_jaccard(2, 1, 12) / 2)
    pooled = pooled_agreement([*rows.values()], within=True)
    assert pooled is not None
    assert (pooled.n_pairs, pooled.jaccard) == (2, pytest.approx(1 / 6))


def test_sinks_are_means_over_data_sets(found: CalibrationRun) -> None:
    made = [sinks_of(shift)[0] for shift in (0.0, 0.2)]
    both, one = sink_maps(found), sink_maps(found, "topic")
    for place in range(4):
        np.testing.assert_allclose(both[place].values, (made[0].mass + made[1].mass)[..., place] / 2)
        np.testing.assert_array_equal(one[place].values, made[1].mass[..., place])
    rows = class_rows(found)
    assert [row.head_class for row in rows] == ["all", "induction"]
    np.testing.assert_allclose(rows[0].mass, np.array([0.5, 0.1, 0.0, 0.05]) + 0.1)
    (token,) = sink_tokens(found)
    assert (token.token, token.count, token.mass) == (".", 6, pytest.approx(0.1))
    assert "the 1 sink marked ▾ hold 25.0" in before_after_text(found, "topic").replace("\u00a0", " ")


def test_the_table_has_a_row_for_each_arm_pooled_and_by_seed(found: CalibrationRun) -> None:
    rows = effect_table(found).records()
    assert len(rows) == 2 * 5 + 3 * 5 + 4
    pooled = next(row for row in rows if (row["data_set"], row["seed"], row["arm"])
                  == ("topic", None, "chosen heads"))  # fmt: skip
    assert (pooled["heads"], pooled["gained"], pooled["lost"], pooled["chance"]) == ("0 to 1", 0, 2, 0.25)
    single = [row for row in rows if row["seed"] == 4 and row["data_set"] == "sentiment"]
    assert [row["accuracy"] for row in single] == pytest.approx([22 / N, 34 / N, 22 / N, 12 / N, 18 / N])
    assert "sentiment (n = 80, guess 0.50)" in {row[0] for row in arms_text(found).rows}


def test_terminal_and_report_show_every_part(found: CalibrationRun) -> None:
    titles = [table.title for table in board_tables(found.run)]
    assert titles == [
        "Does calibration help?", "What came of it", "Are the same heads chosen?", "Where sinks sit: all data sets",
        "Tokens that are sinks most often",
    ]  # fmt: skip
    page = render_report(found.run)
    for heading in ("Did it help?", "Which heads were chosen", "Where sinks sit", "Attention before and after"):
        assert f"<h2>{heading}</h2>" in page
    assert set_verdict(found, "sentiment") in page
    assert page.index("Mean change of accuracy over") < page.index("were calibrated")
    assert "No causal check was run" not in page
    assert "<b>cat" not in page


@pytest.mark.parametrize(
    ("stage", "sets"), [("sentiment.3.select", ()), ("topic.3.test", ("sentiment",)), (SINKS, ("sentiment", "topic"))]
)
def test_an_unfinished_run_shows_what_is_in(
    tmp_path: Path, tiny_model: ModelRecord, stage: str, sets: Sequence[str]
) -> None:
    found = CalibrationRun(Run.open(write(tmp_path, tiny_model, stop_before=stage)))
    assert found.sets == tuple(sets)
    assert not found.sinks
    assert len(board_tables(found.run)) == (3 if sets else 0)
    assert "Did it help?" in render_report(found.run)


def test_what_is_not_there_is_said(found: CalibrationRun, tiny_run: Path) -> None:
    with pytest.raises(UnsupportedError, match="not calibrate"):
        CalibrationRun(Run.open(tiny_run))
    with pytest.raises(UnknownNameError, match="'topics'"):
        found.known_set("topics")
    assert found.known_set("") == "sentiment"


def test_dots_stand_at_the_changes_and_ticks_at_the_draws(found: CalibrationRun) -> None:
    means = means_over_sets(found)
    figure = change_figure({name: found.effects(name) for name in found.sets}, means)
    traces = {trace.name: trace for trace in figure.data}
    assert means is not None
    for kind in CHANGED:
        changes = [of(found, name, kind).change for name in found.sets] + [means[kind]]
        trace = traces[ARMS[kind]]
        assert list(trace.x) == [one.mean for one in changes]
        np.testing.assert_allclose(np.add(trace.x, trace.error_x.array), [one.high for one in changes])
        np.testing.assert_allclose(np.subtract(trace.x, trace.error_x.arrayminus), [one.low for one in changes])
        assert [round(y) for y in trace.y] == [0, 1, 2]
    ticks = [draw for name in found.sets for draw in of(found, name, "random").draws]
    assert list(traces["each random draw"].x) == ticks
    assert (figure.layout.yaxis.range[0], figure.layout.yaxis.range[1]) == (2.5, -0.5)


def test_bars_are_stacked_by_place(found: CalibrationRun) -> None:
    rows = class_rows(found)
    figure = sink_bars_figure(rows)
    assert [trace.name for trace in figure.data[::2]] == [*PLACES.values()]
    np.testing.assert_allclose([trace.x for trace in figure.data[::2]], np.transpose([row.mass for row in rows]))
    np.testing.assert_allclose([trace.x for trace in figure.data[1::2]], np.transpose([row.counts for row in rows]))


def test_each_map_has_its_own_range_and_names_its_heads(found: CalibrationRun) -> None:
    maps = sink_maps(found)
    figure = head_maps_figure(maps)
    for trace, one in zip(figure.data, maps, strict=True):
        np.testing.assert_allclose(trace.z, one.values, rtol=1e-6)
        assert (trace.zmin, trace.zmax) == (0, one.values.max())
        assert trace.text[2][3].startswith("L2H3: ")
    assert [note.text for note in figure.layout.annotations] == [" ".join(one.title.split()) for one in maps]


def test_before_and_after_share_their_colours_and_mark_the_sinks(found: CalibrationRun) -> None:
    shown = found.sinks["topic"].shown
    figure = before_after_figure(shown)
    before, after = figure.data
    assert (before.zmin, before.zmax) == (after.zmin, after.zmax) == (0, 0.25)
    lower = np.tril(np.ones((4, 4), dtype=bool))
    for trace, pattern in ((before, shown.before), (after, shown.after)):
        np.testing.assert_allclose(np.asarray(trace.z)[lower], pattern[lower], rtol=1e-6)
        assert np.isnan(np.asarray(trace.z)[~lower]).all()
    marks = [(note.x, note.xref) for note in figure.layout.annotations if note.name == "sink"]
    assert marks == [(2, "x"), (2, "x2")]
    assert figure.layout.xaxis.ticktext[1] == "1 ·&lt;b&gt;cat"


def show(folder: Path, name: str, **state: Any) -> Content:
    """A panel's content for a state."""
    panel = next(one for one in PANELS if one.name == name)
    site = Site(ServerSettings(root=folder.parent))
    run = folder.name.removesuffix(".tmp")
    return content_of(panel, View(site, "tab"), PoliciesState.parse({"calibration": run, **state}))


@pytest.mark.parametrize("chosen", ["", "topic"])
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_every_panel_shows_the_run(folder: Path, panel: Any, chosen: str) -> None:
    content = show(folder, panel.name, set=chosen)
    assert content.notice is None, content.notice
    assert (content.figure is not None) == panel.has_figure
    assert (content.table is not None and len(content.table.rows) > 0) == panel.has_table
    assert folder.name in content.source
    assert set(panel.uses) == {"calibration", "set"} <= set(PoliciesState.model_fields)


def test_a_panel_has_the_table_of_the_run(folder: Path, found: CalibrationRun) -> None:
    table = show(folder, "act-change").table
    assert table is not None
    assert table.records() == effect_table(found).records()
    assert set_verdict(found, "topic") in str(show(folder, "act-short", set="topic").body)
    assert set_verdict(found, "sentiment") not in str(show(folder, "act-short", set="topic").body)
    options = set_options(Site(ServerSettings(root=folder.parent)), folder.name)
    assert [option["value"] for option in options] == ["sentiment", "topic"]


def test_panels_say_what_they_cannot_show(folder: Path, tmp_path: Path, tiny_model: ModelRecord) -> None:
    unfinished = write(tmp_path, tiny_model, stop_before="topic.3.test")
    for panel in PANELS:
        assert (show(folder, panel.name, calibration="").notice or ("",))[0] == "empty"
        kind, said = show(folder, panel.name, set="topics").notice or ("", "")
        assert (kind, "'topics'" in said) == ("failed", True)
        notice = show(unfinished, panel.name).notice
        is_sinks = panel.name in ("act-sinks", "act-places", "act-pattern")
        assert (notice is not None) == is_sinks
        if notice:
            assert notice[0] == "empty"
            assert "--resume" in notice[1]
