"""What is shown of train and compare runs: every number is that of the records, counted anew here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app as cli
from app.figures.mixing import mixing_figure
from app.figures.training import curves_figure, length_figure, recall_figure
from app.figures.variant_heads import growth_figure, strips_figure
from app.report.build import render_report
from app.views import variant_choice as registry
from app.views.boards import board_tables
from app.views.mixing import (
    Board,
    Pictured,
    Tile,
    all_steps,
    board,
    chosen_models,
    first_models,
    pictured_models,
    pooled,
)
from app.views.training import TrainRun, cell_from, cell_label
from app.views.training_curves import mean_curve
from app.views.training_tables import best_table, best_text, cell_table, length_table, training_finding
from app.views.variant_census import role_counts, role_table, shown_roles, variant_accuracies
from app.views.variant_claims import cautions, finding, verdicts
from app.views.variant_comparison import CompareRun
from app.views.variant_cuts import claim_table, claims_of, shown_claims
from app.views.variant_export import rows_of
from app.views.variant_profiles import (
    MATCH_OFFSETS,
    OFFSETS,
    compared_rows,
    number_table,
    profile_table,
    trained_rows,
    uniform_first,
)
from headscope.errors import ConfigError, RunError, UnknownNameError, UnsupportedError
from headscope.mixers.registry import variants
from headscope.runs import ModelRecord, Run, RunWriter
from headscope.statistics import Interval
from headscope.training.sweep import Cell
from tests.variant_runs import (
    CLAIMS,
    LENGTH,
    REPORTS,
    STEPS,
    SWEEP,
    UNREAD,
    accuracy,
    claim,
    curve,
    held_out,
    profile,
    report,
    write_compare,
    write_train,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord) -> TrainRun:
    return TrainRun(Run.open(write_train(tmp_path_factory.mktemp("train"), tiny_model)))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord) -> CompareRun:
    return CompareRun(Run.open(write_compare(tmp_path_factory.mktemp("compare"), tiny_model)))


def test_the_views_load_no_torch() -> None:
    code = "import sys, app.views.boards, app.views.variant_export, app.pages.variants; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_cells_are_those_that_the_probes_measure() -> None:
    from probes.mixing_profile import MATCH_OFFSETS as MATCHES
    from probes.mixing_profile import OFFSETS as PLACES
    from probes.mixing_profile import uniform_first_token

    assert (OFFSETS, MATCH_OFFSETS) == (PLACES, MATCHES)
    assert uniform_first(LENGTH) == pytest.approx(uniform_first_token(LENGTH))


def test_what_claims_are_made_of_is_what_is_said() -> None:
    from app.pages.variants_mixing import _PICTURED_EXAMPLES
    from app.train_cells import _PICTURED
    from app.views.variant_cuts import RULE
    from circuits.comparison_results import CLAIMED

    assert _PICTURED_EXAMPLES == _PICTURED
    assert f"puts {CLAIMED} or more" in RULE


def test_every_variant_is_listed_filtered_and_counted() -> None:
    every = registry.registry()
    assert len(every) == len(variants())
    assert len(registry.registry_table(every).rows) == len(every)
    built = [one for one in every if one.status == "built"]
    assert registry.registry(status="built") == tuple(built)
    assert f"{len(every)} variants: {len(built)} built" in registry.count_text(every)
    family = registry.families()[0]
    assert {one.family for one in registry.registry(family=family)} == {family}
    assert "softmax" in [one.name for one in registry.registry("SOFTMAX 1706.03762")]
    assert registry.registry("no such words at all") == ()
    assert registry.count_text(()) == "No variant is like that."


def test_every_card_can_be_made_and_only_built_variants_have_a_command() -> None:
    for one in registry.registry():
        facts = dict(registry.card_facts(one))
        assert facts["Name"] == one.name
        assert bool(registry.train_command(one)) == (one.status == "built")
        assert ("M" in facts) == (one.status == "built")


@pytest.mark.parametrize("cell", [*SWEEP.cells[:3], Cell("log-linear-mamba2", 64, 1e-5, 12)], ids=lambda c: c.stage)
def test_a_stage_names_its_cell(cell: Cell) -> None:
    assert cell_from(cell.stage) == cell


def test_best_rates_are_those_of_the_held_out_examples(trained: TrainRun) -> None:
    rows = {(row["variant"], row["width"]): row for row in best_table(trained).records()}
    assert len(rows) == 4
    for (name, width), row in rows.items():
        rate = 0.01 if name == "softmax" else 0.001
        cells = [c for c in SWEEP.cells if (c.variant, c.width, c.rate) == (name, width, rate)]
        assert row["rate"] == rate
        assert row["accuracy"] == pytest.approx(np.mean([accuracy(cell) for cell in cells]))
        assert row[f"rate_{rate:g}"] == pytest.approx(np.mean([held_out(cell) for cell in cells]))
        assert (row["seeds"], row["solved"]) == (2, 2 if name == "softmax" else 0)
        assert row["steps"] == (50 if name == "softmax" else None)


def test_every_training_is_a_row(trained: TrainRun) -> None:
    rows = cell_table(trained).records()
    assert [row["training"] for row in rows] == [cell.stage for cell in SWEEP.cells]
    assert [row["accuracy"] for row in rows] == [accuracy(cell) for cell in SWEEP.cells]
    evaluations = rows_of(trained.run, "curves").records()
    assert len(evaluations) == sum(len(curve(cell)) for cell in SWEEP.cells)


def test_the_finding_says_who_solved_it_with_how_many_seeds(trained: TrainRun) -> None:
    said = training_finding(trained)
    assert "mqar, width 16" in said
    assert "solved with every seed: softmax" in said
    assert "with no seed within 100 steps: linear" in said
    assert best_text(trained.best[0]).endswith("2 of 2 seeds solved")


def test_the_mean_keeps_the_last_value_of_a_training_that_ended(trained: TrainRun) -> None:
    linear = next(one for one in trained.best if (one.variant, one.width) == ("linear", 16))
    own = mean_curve(trained, linear)
    assert own.steps == STEPS
    whole = own.trained[0]
    short = replace(whole, curve=whole.curve[:2])
    trained_again = TrainRun(trained.run)
    trained_again.__dict__["trained"] = tuple(short if one is whole else one for one in trained.trained)
    mean = mean_curve(trained_again, linear)
    second = own.trained[1].curve
    assert mean.accuracy[2] == pytest.approx((short.curve[1].accuracy + second[2].accuracy) / 2)


def test_the_figures_draw_the_same_numbers(trained: TrainRun) -> None:
    curves = [mean_curve(trained, one) for one in trained.best if one.width == 16]
    figure = curves_figure(curves, order=trained.variants, solved=0.9)
    named = {trace.name: trace for trace in figure.data if trace.name}
    assert list(named["linear"].y) == list(curves[1].accuracy)
    seeds = [trace for trace in figure.data if trace.name is None and trace.fill is None]
    assert len(seeds) == 4
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 2
    linear = [list(trace.y) for trace in seeds[2:]]
    steps = len(curves[1].steps)
    assert list(bands[1].y)[:steps] == pytest.approx(np.max(linear, axis=0)), (
        "two seeds: the band goes from one to the other"
    )
    assert list(bands[1].y)[steps:] == pytest.approx(np.min(linear, axis=0)[::-1])
    nothing = (float("nan"),) * len(curves[0].steps)
    alone = replace(curves[0], ends={"accuracy": (nothing, nothing)})
    assert not curves_figure([alone], order=trained.variants).data[0].y, "one seed has no band"
    recall = recall_figure(trained.best, order=trained.variants)
    points = {trace.name: trace for trace in recall.data}
    assert list(points["softmax"].x) == [512 * 8, 512 * 16]
    assert "n = 2 seeds" in points["softmax"].text[0]
    assert recall.layout.xaxis.type == "log"


def test_labels_leave_out_what_trainings_have_in_common() -> None:
    cells = [Cell("a", 8, 0.1, 0), Cell("b", 8, 0.1, 1)]
    assert cell_label(cells[0], cells) == "a, seed 0"
    assert cell_label(cells[0], [*cells, Cell("a", 16, 0.1, 0)]) == "a, width 8, seed 0"
    assert cell_label(cells[0], [*cells, Cell("a", 8, 0.2, 0)]) == "a, rate 0.1, seed 0"


def test_matrices_are_those_of_the_step(trained: TrainRun) -> None:
    models = pictured_models(trained)
    assert len(models) == len(SWEEP.cells)
    shown = chosen_models(models, first_models(models))
    assert [one.variant for one in shown] == ["softmax", "linear"]
    assert all_steps(shown) == (0, 50, 100)
    for step, places in ((None, (1, 1)), (60, (1, 0)), (0, (0, 0))):
        made = board(trained.run, shown, head="L1H0", view="moved", step=step)
        for tile, model, place in zip(made.tiles, shown, places, strict=True):
            kept = trained.run.tensor(model.name, "moved")[place, 1, 0]
            np.testing.assert_array_equal(tile.weights, kept.astype(np.float32))
            assert tile.step == model.steps[place]
    assert made.tokens == tuple(str(token + 10) for token in range(LENGTH))
    with pytest.raises(UnknownNameError, match="head of these models"):
        board(trained.run, shown, head="L9H0", view="share", step=None)
    with pytest.raises(UnknownNameError, match="model with mixing matrices"):
        chosen_models(models, ["softmax.9"])


def test_all_tiles_share_their_colours_and_hide_what_no_row_sees(compared: CompareRun) -> None:
    models = pictured_models(compared)
    made = board(compared.run, models, head="", view="share", step=None)
    assert [tile.title for tile in made.tiles[:2]] == ["softmax, seed 0 · L0H0", "softmax, seed 0 · L0H1"]
    figure = mixing_figure(made, top=0.5)
    assert {(trace.zmin, trace.zmax) for trace in figure.data} == {(0.0, 0.5)}
    assert np.isnan(figure.data[0].z[0][1])
    assert figure.data[0].z[1][0] == pytest.approx(float(made.tiles[0].weights[1, 0]), abs=1e-4)
    assert "row 1 (11) → column 0 (10)" in figure.data[0].text[1][0]


@pytest.mark.parametrize(("size", "texted"), [(12, True), (60, False)], ids=["small", "large"])
def test_many_tiles_wrap_with_the_same_colours_and_hover_never_calls_a_token_a_place(size: int, texted: bool) -> None:
    model = Pictured("a", "a variant with a long name, seed 0", "a", ())
    weights = np.tril(np.full((size, size), 0.5, dtype=np.float32))
    tiles = tuple(Tile(model, f"L{place}H0", None, weights) for place in range(20))
    figure = mixing_figure(Board(tiles, ("L0H0",), tuple(str(place % 7) for place in range(size)), 0), top=0.5)
    assert len(figure.data) == 20
    assert {(trace.zmin, trace.zmax) for trace in figure.data} == {(0.0, 0.5)}
    lefts = {round(figure.layout[f"xaxis{mark}"].domain[0], 3) for mark in ("", *map(str, range(2, 21)))}
    assert len(lefts) == 6, "six in a row"
    titles = [note.text.split("<br>") for note in figure.layout.annotations]
    assert {len(name) for name, _ in titles} == {20}
    assert [place for _, place in titles] == [f"L{place}H0" for place in range(20)]
    hover = figure.data[3].hovertemplate
    assert "a variant with a long name, seed 0" in hover
    if texted:
        assert figure.data[3].text[8][1] == "row 8 (1) → column 1 (1)"
        assert figure.data[3].text[1][8] == "", "no row sees it"
    else:
        assert "row %{y:d} → column %{x:d}" in hover


def test_pooling_keeps_a_single_strong_cell() -> None:
    weights = np.zeros((5, 5), dtype=np.float32)
    weights[4, 2] = 0.9
    assert pooled(weights, 2).tolist() == [[0, 0, 0], [0, 0, 0], [0, pytest.approx(0.9), 0]]


def test_profiles_of_a_training_are_its_probes(trained: TrainRun) -> None:
    stage = SWEEP.cells[0].stage
    shot = trained.snapshots(stage)[-1]
    rows = trained_rows(stage, "softmax, seed 0", shot, LENGTH)
    assert [row.head for row in rows] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert list(rows[1].cells["share"])[:3] == ["offset 0", "offset 1", "offset 2"]
    assert rows[1].cells["share"]["offset 1"] == pytest.approx(0.9)
    assert rows[3].cells["moved"]["match +1"] == pytest.approx(0.95)
    assert rows[0].numbers["first_uniform"] == pytest.approx(uniform_first(LENGTH))
    figure = growth_figure({"softmax": rows}, view="moved", order=["softmax"], step=50)
    assert len(figure.data) == 4 * 3


def test_profiles_of_a_comparison_are_its_records(compared: CompareRun) -> None:
    rows = compared_rows(compared)
    assert len(rows) == sum(len(one.heads) for one in REPORTS)
    table = profile_table(rows).records()
    head = REPORTS[1].heads[2]
    found = next(row for row in table if (row["name"], row["head"]) == (REPORTS[1].name, "L1H0"))
    assert [found[f"share_offset_{d}"] for d in range(9)] == list(head.offsets["share"])
    assert found["moved_match_minus_1"] == head.matches["moved"][0]
    assert (found["null_mass"], found["first_uniform"]) == (0.1, 0.29)
    assert number_table(rows).records()[0]["null_mass"] is None
    figure = strips_figure(rows)
    assert figure.data[0].z[6][3] == pytest.approx(head.offsets["share"][3])
    assert compared_rows(compared, [REPORTS[2].name]) == rows[8:]


def test_claims_say_what_counts(compared: CompareRun) -> None:
    rows = claim_table(compared).records()
    assert [row["counts"] for row in rows] == [True, False, False]
    assert [row["exceeds"] for row in rows] == [True, None, None]
    assert rows[0]["drop"] == pytest.approx(0.4)
    assert rows[0]["random_most"] == pytest.approx(0.02)
    assert rows[0]["random_p"] == pytest.approx(1 / 41)
    assert rows[0]["random_p_holm"] == pytest.approx(2 / 41), "the model has two claims"
    assert rows[0]["equal_p_holm"] == pytest.approx(1 / 41), "of one of them there are cells of equal weight"
    assert (rows[0]["equal_drop"], rows[0]["equal_weight"]) == (pytest.approx(0.3), 0.74)
    assert (rows[1]["equal_draws"], rows[1]["equal_drop"], rows[1]["equal_p"]) == (0, None, None)
    assert "0.20 of what they move" in str(rows[1]["equal_note"])
    said = [row["counts"] for row in shown_claims(compared).records()]
    assert said == ["both", "neither", "neither"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cut": 0.5, "low": -0.1, "high": 0.5}, "neither"),
        ({"cut": 0.5, "low": 0.3, "high": 0.5, "draws": 18}, "neither"),
        ({"cut": 0.5, "low": 0.3, "high": 0.5}, "random (no equal)"),
        ({"cut": 0.5, "low": 0.3, "high": 0.5, "equal": 0.5}, "random"),
        ({"cut": 0.5, "low": 0.3, "high": 0.5, "equal": 0.1}, "both"),
    ],
    ids=["interval reaches 0", "p above 0.05", "no equal weight", "equal weight costs as much", "both"],
)
def test_a_claim_counts_by_its_interval_and_its_controls(given: dict[str, Any], said: str) -> None:
    model = replace(REPORTS[0], claims=(claim("L0H0", "offset 1", **given),))
    assert [one.verdict for one in claims_of(model)] == [said]


def test_p_is_corrected_by_holm_within_a_model() -> None:
    cuts = (0.5, 0.8875, 0.8845)  # p = 1/41, 16/41, 10/41
    claims = tuple(claim("L0H0", f"offset {d}", cut=cut, low=0.1, high=0.5) for d, cut in enumerate(cuts, 1))
    found = claims_of(replace(REPORTS[0], claims=claims))
    raw = [one.claim.check.control("random").p_value for one in found]
    order = sorted(range(3), key=lambda place: raw[place])
    least = 0.0
    for rank, place in enumerate(order):
        least = max(least, (3 - rank) * raw[place])
        assert found[place].p["random"] == pytest.approx(min(least, 1.0))
    assert [round(41 * p) for p in raw] == [1, 16, 10]


def test_roles_are_counted_over_the_trainings_of_a_variant(compared: CompareRun) -> None:
    roles = {(row.variant, row.cells): row for row in role_counts(compared)}
    assert {cells for name, cells in roles if name == "linear"} == {
        "offset 1",
        "carry 1",
        "match +0",
        "match +1",
        "first token",
    }
    assert {row.found for (name, _), row in roles.items() if name == "linear"} == {0}
    first = roles["softmax", "offset 1"]
    assert (first.role, first.seeds, first.found, first.heads, first.layers) == ("previous token", 2, 2, 2, (0,))
    assert (first.moved, first.share) == (0.8, 0.7)
    drops = [0.9 - 0.5, 0.9 - 0.89]
    assert first.drop.mean == pytest.approx(np.mean(drops))
    assert (first.drop.low, first.drop.high) == pytest.approx((min(drops), max(drops))), "two trainings"
    assert first.median_drop == pytest.approx(np.median(drops))
    assert (first.cut, first.counts, first.equals, first.exceeds) == (2, 1, 1, 1)
    found = roles["softmax", "match +1"]
    assert (found.role, found.found, found.counts, found.equals) == ("retrieval", 1, 0, 0)
    assert np.isnan(found.drop.low), "one training has no interval"
    row = role_table(compared).records()[0]
    assert (row["found"], row["found_share"], row["layers"], row["low"]) == (2, 1.0, "0", pytest.approx(0.01))


def test_of_several_heads_the_one_with_most_weight_stands_for_its_training(
    tmp_path: Path, tiny_model: ModelRecord
) -> None:
    weak, strong = (claim(head, "offset 1", cut=cut, low=0.1, high=0.9) for head, cut in (("L0H0", 0.1), ("L1H1", 0.6)))
    claims = (replace(weak, weight=0.4), replace(strong, weight=0.9))
    heads = tuple(profile(layer, head, 0, claims) for layer in range(2) for head in range(2))
    one = replace(REPORTS[0], claims=claims, heads=heads)
    found = CompareRun(Run.open(write_compare(tmp_path, tiny_model, reports=[one])))
    row = next(row for row in role_counts(found) if row.cells == "offset 1")
    assert (row.heads, row.found, row.layers, row.moved) == (2, 1, (1,), 0.9)
    assert row.drop.mean == pytest.approx(0.9 - 0.6)


def test_a_head_that_needs_its_cells_is_told_of_where_another_has_more_weight(
    tmp_path: Path, tiny_model: ModelRecord
) -> None:
    needed, idle = (
        claim(head, "offset 1", cut=cut, low=low, high=0.9)
        for head, cut, low in (("L0H0", 0.1, 0.5), ("L1H1", 0.9, -0.1))
    )
    claims = (replace(needed, weight=0.4), replace(idle, weight=0.9))
    heads = tuple(profile(layer, head, 0, claims) for layer in range(2) for head in range(2))
    found = CompareRun(
        Run.open(write_compare(tmp_path, tiny_model, reports=[replace(REPORTS[0], claims=claims, heads=heads)]))
    )
    row = next(row for row in role_counts(found) if row.cells == "offset 1")
    assert (row.counts, row.any_counts) == (0, 1)
    shown = next(one for one in shown_roles(found).records() if one["cells"] == "offset 1")
    assert shown["more_random"] == "0 of 1, any head: 1"


def test_the_run_keeps_the_census_that_is_shown(compared: CompareRun) -> None:
    record = compared.run.record("summary")
    assert [row["variant"] for row in record["variants"]] == ["softmax", "linear"]
    assert len(record["roles"]) == 10
    for kept, shown in zip(record["roles"], role_table(compared).records(), strict=True):
        names = ("variant", "role", "cells", "seeds", "found", "heads", "cut", "counts", "equals", "exceeds")
        assert [kept[name] for name in names] == [shown[name] for name in names]
        weight = float(kept["moved"])
        assert shown["moved"] == (None if np.isnan(weight) else weight)
    assert compared.planned == len(REPORTS), "the summary is no model"


def test_accuracies_of_a_variant_are_over_its_trainings(tmp_path: Path, tiny_model: ModelRecord) -> None:
    reports = [replace(one, accuracy=Interval(mean, 0, 1)) for one, mean in zip(REPORTS, (0.5, 0.7, 0.2), strict=True)]
    found = CompareRun(Run.open(write_compare(tmp_path, tiny_model, reports=reports)))
    first, second = variant_accuracies(found)
    assert (first.accuracies, first.accuracy) == ((0.5, 0.7), pytest.approx((0.6, 0.5, 0.7)))
    assert second.accuracy.mean == 0.2
    assert np.isnan(second.accuracy.low)
    said = dict(verdicts(found))
    assert "2 trainings, accuracy mean 0.600 [0.500, 0.700] over trainings: 0.500, 0.700." in said["softmax"]


def test_verdicts_count_trainings_and_say_where_nothing_is_read(compared: CompareRun) -> None:
    said = dict(verdicts(compared))
    assert (
        "Previous token (offset 1): 2 of 2 have such a head, in layer 0; cutting it drops accuracy by 0.205 "
        "[0.010, 0.400], more than random cells in 1 of 2, more than cells of equal weight in 1 of 1."
    ) in said["softmax"]
    assert (
        "Retrieval (match +1): 1 of 2 have such a head, in layer 1; cutting it drops accuracy by 0.005 (1 training, no "
        "interval), more than random cells in 0 of 1, no cells of equal weight to compare with."
    ) in said["softmax"]
    assert said["linear"].startswith("1 training, accuracy 0.900. No head puts 0.25")
    assert finding(compared).endswith("random cuts: softmax 1 of 2, linear 0 of 1.")
    assert cautions(compared).startswith("3 claims were tested; p is corrected for the claims of one model (Holm)")
    assert "never below 0.024." in cautions(compared)


def test_few_draws_and_mixers_without_cells_are_said(tmp_path: Path, tiny_model: ModelRecord) -> None:
    few = replace(REPORTS[0], claims=(claim("L0H1", "offset 1", cut=0.5, low=0.3, high=0.5, draws=5),))
    bent = replace(report("linear", 3, 1, kind="jacobian"), heads=REPORTS[0].heads)
    found = CompareRun(Run.open(write_compare(tmp_path, tiny_model, reports=[few, bent])))
    assert "never below 0.167 (in some 0.167: no cut of such a model can count, give more --draws)." in cautions(found)
    said = dict(verdicts(found))["linear"]
    assert "Heads: previous token (offset 1) in 1 of 1; retrieval (match +1) in 1 of 1." in said
    assert "no cells can be cut" in said


def test_runs_of_the_first_version_stay_readable(tmp_path: Path, tiny_model: ModelRecord) -> None:
    new = REPORTS[0]
    old = asdict(new)
    for given, claimed in zip(old["claims"], new.claims, strict=True):
        check = claimed.check
        del given["check"]
        given |= {name: getattr(check, name) for name in ("accuracy", "cut", "low", "high", "n")}
        random = check.control("random")
        given |= {"random": random.accuracies, "p_value": random.p_value}
    old["lengths"] = {length: score.accuracy for length, score in new.lengths.items()}
    with RunWriter.create(
        tmp_path, kind="compare", model=tiny_model, config={}, command="x", seed=0, planned=[new.name], card=None
    ) as writer:
        writer.save_record(new.name, old, seconds=0.0)
    found = CompareRun(Run.open(next(tmp_path.glob("*"))))
    read = found.models[0].claims[0]
    assert read.check.drop == pytest.approx(new.claims[0].check.drop)
    first, kept = new.claims[0].check.controls[0], read.check.control("random")
    assert (kept.accuracies, kept.p_value) == (first.accuracies, first.p_value)
    row = claim_table(found).records()[0]
    assert (row["random_p_holm"], row["equal_draws"], row["cells_cut"]) == (pytest.approx(2 / 41), 0, None)
    assert found.models[0].lengths[12].reason == "this run does not say why"
    assert found.models[0].lengths[4] == new.lengths[4]
    assert role_counts(found)[0].found == 1


def test_lengths_have_the_one_of_the_training_among_them(compared: CompareRun) -> None:
    rows = [row for row in length_table(compared).records() if row["model"] == "softmax, seed 0"]
    assert [(row["length"], row["trained"]) for row in rows] == [(4, False), (LENGTH, True), (12, False)]
    assert (rows[2]["accuracy"], rows[2]["n"], rows[2]["reason"]) == (None, None, UNREAD)
    assert [row["reason"] for row in rows[:2]] == ["", ""]
    figure = length_figure(compared)
    assert list(figure.data[0].y) == [0.95, 0.9, None]


def test_other_kinds_and_damaged_records_are_refused(
    trained: TrainRun, compared: CompareRun, tmp_path: Path, tiny_model: ModelRecord
) -> None:
    with pytest.raises(UnsupportedError, match="of kind compare, not train"):
        TrainRun(compared.run)
    with pytest.raises(UnsupportedError, match="of kind train, not compare"):
        CompareRun(trained.run)
    with RunWriter.create(
        tmp_path, kind="train", model=tiny_model, config={}, command="x", seed=0, planned=["a.8.0.1.0"], card=None
    ) as writer:
        writer.save_record("a.8.0.1.0", {"accuracy": 1.0}, seconds=0.0)
    path = next(tmp_path.glob("*"))
    with pytest.raises(RunError, match=r"the record 'a\.8\.0\.1\.0'"):
        _ = TrainRun(Run.open(path)).trained


@pytest.mark.parametrize(
    ("kind", "what", "n"),
    [
        ("train", "cells", 16), ("train", "rates", 4), ("train", "curves", 44), ("train", "profiles", 176),
        ("compare", "claims", 3), ("compare", "census", 10),
        ("compare", "profiles", 12), ("compare", "models", 3), ("compare", "lengths", 9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_rows_leave_by_the_export(
    trained: TrainRun, compared: CompareRun, tmp_path: Path, kind: str, what: str, n: int, form: str
) -> None:
    run = trained.run if kind == "train" else compared.run
    file = tmp_path / f"rows.{form}"
    words = ["export", str(run.path), "--what", what, "--format", form, "--out", str(file)]
    assert CliRunner().invoke(cli, words).exit_code == 0
    if form == "json":
        told = json.loads(file.read_text())
        assert (len(told[what]), told["run"]) == (n, run.manifest.id)
    elif form == "csv":
        assert len(file.read_text().splitlines()) == n + 1
        assert json.loads(Path(f"{file}.meta.json").read_text())["columns"]


def test_export_says_which_rows_a_run_has(trained: TrainRun, compared: CompareRun) -> None:
    assert rows_of(trained.run, "cells").rows
    with pytest.raises(ConfigError, match="has no claims; it has cells, rates, curves, profiles"):
        rows_of(trained.run, "claims")
    with pytest.raises(ConfigError, match="has no cells; it has claims"):
        rows_of(compared.run, "cells")


def test_report_and_terminal_show_them(trained: TrainRun, compared: CompareRun) -> None:
    first, second = render_report(trained.run), render_report(compared.run)
    assert "2 attention variants trained on mqar: 2 widths, 2 learning rates, 2 seeds" in first
    assert all(name in first for name in ("Best rates", "Learning", "Recall against state", "Mixing matrices"))
    assert "3 trained models of 2 attention variants side by side" in second
    assert all(name in second for name in ("Head census", "Claims, tested by cutting", "Accuracy by length"))
    assert "0.400 [0.350, 0.450]" in second
    assert "Census by variant" in second
    assert UNREAD in second
    assert [table.title for table in board_tables(trained.run)] == ["mqar: 16 of 16 trainings"]
    titles = [table.title for table in board_tables(compared.run)]
    assert titles == [
        "3 of 3 models",
        "In short",
        "Census by variant",
        "Claims, tested by cutting",
        "Heads",
        "Accuracy by length",
    ]
    for run in (trained.run, compared.run):
        assert CliRunner().invoke(cli, ["show", str(run.path)]).exit_code == 0


@pytest.mark.parametrize("most", [0, 3])
def test_unfinished_runs_have_reports_of_what_is_in(tmp_path: Path, tiny_model: ModelRecord, most: int) -> None:
    run = Run.open(write_train(tmp_path / "a", tiny_model, most=most, pictures=False))
    assert ("No training is in yet." in render_report(run)) == (most == 0)
    assert len(board_tables(run)) == (most > 0)
    run = Run.open(write_compare(tmp_path / "b", tiny_model, most=min(most, 1)))
    assert ("No model is in yet." in render_report(run)) == (most == 0)
    assert CLAIMS[("softmax", 0)][0].head in render_report(run) or most == 0
