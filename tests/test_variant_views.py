"""What is shown of train and compare runs: every number is that of the records, counted anew here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
from app.views.mixing import all_steps, board, chosen_models, first_models, pictured_models, pooled
from app.views.training import TrainRun, cell_from, cell_label
from app.views.training_tables import best_table, best_text, cell_table, length_table, training_finding
from app.views.variant_claims import cautions, claim_table, counts, finding, verdicts
from app.views.variant_comparison import CompareRun
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
from headscope.training.sweep import Cell
from tests.variant_runs import (
    CLAIMS,
    LENGTH,
    REPORTS,
    STEPS,
    SWEEP,
    accuracy,
    claim,
    curve,
    held_out,
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
    from app.train_run import _PICTURED
    from app.views.variant_claims import CLAIMED
    from circuits.comparison import CLAIMED as MADE

    assert (CLAIMED, _PICTURED_EXAMPLES) == (MADE, _PICTURED)


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
    assert "with none in at most 100 steps: linear" in said
    assert best_text(trained.best[0]).endswith("2 of 2 seeds solved")


def test_the_mean_keeps_the_last_value_of_a_training_that_ended(trained: TrainRun) -> None:
    linear = next(one for one in trained.best if (one.variant, one.width) == ("linear", 16))
    own = trained.curve(linear)
    assert own.steps == STEPS
    whole = own.trained[0]
    short = replace(whole, curve=whole.curve[:2])
    trained_again = TrainRun(trained.run)
    trained_again.__dict__["trained"] = tuple(short if one is whole else one for one in trained.trained)
    mean = trained_again.curve(linear)
    second = own.trained[1].curve
    assert mean.accuracy[2] == pytest.approx((short.curve[1].accuracy + second[2].accuracy) / 2)


def test_the_figures_draw_the_same_numbers(trained: TrainRun) -> None:
    curves = [trained.curve(one) for one in trained.best if one.width == 16]
    figure = curves_figure(curves, order=trained.variants, solved=0.9)
    named = {trace.name: trace for trace in figure.data if trace.name}
    assert list(named["linear"].y) == list(curves[1].accuracy)
    assert sum(trace.name is None for trace in figure.data) == 4
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
    assert rows[0]["drop"] == pytest.approx(0.4)
    assert rows[0]["random_most"] == pytest.approx(0.02)
    assert rows[0]["p"] == pytest.approx(1 / 21)
    weak = claim("L0H0", "offset 1", cut=0.5, low=-0.1, high=0.5)
    assert not counts(weak)


def test_verdicts_count_trainings_and_say_where_nothing_is_read(compared: CompareRun) -> None:
    said = dict(verdicts(compared))
    assert "2 trainings, accuracy 0.900, 0.900." in said["softmax"]
    assert "Offset 1: read by a head in 2 of 2; cutting it costs more than random cuts in 1 of 2" in said["softmax"]
    assert "0.400 [0.350, 0.450] (L0H1 of seed 0" in said["softmax"]
    assert "Match +1: read by a head in 1 of 2, but no cut costs more" in said["softmax"]
    assert said["linear"].startswith("1 training, accuracy 0.900. No head puts 0.25")
    assert finding(compared).endswith("random cuts: softmax 1 of 2, linear 0 of 1.")
    assert cautions(compared).startswith("3 claims were tested, without correction.")


def test_few_draws_and_mixers_without_cells_are_said(tmp_path: Path, tiny_model: ModelRecord) -> None:
    few = replace(REPORTS[0], claims=(claim("L0H1", "offset 1", cut=0.5, low=0.3, high=0.5, draws=5),))
    bent = report("linear", 3, 1, kind="jacobian")
    found = CompareRun(Run.open(write_compare(tmp_path, tiny_model, reports=[few, bent])))
    assert "With 5 random cuts p is never below 0.167: no cut can count." in cautions(found)
    assert "no cells can be cut" in dict(verdicts(found))["linear"]


def test_lengths_have_the_one_of_the_training_among_them(compared: CompareRun) -> None:
    rows = [row for row in length_table(compared).records() if row["model"] == "softmax, seed 0"]
    assert [(row["length"], row["trained"]) for row in rows] == [(4, False), (LENGTH, True), (12, False)]
    assert rows[2]["accuracy"] is None
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
        ("compare", "claims", 3), ("compare", "profiles", 12), ("compare", "models", 3), ("compare", "lengths", 9),
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
    assert [table.title for table in board_tables(trained.run)] == ["mqar: 16 of 16 trainings"]
    titles = [table.title for table in board_tables(compared.run)]
    assert titles == ["3 of 3 models", "In short", "Claims, tested by cutting", "Heads", "Accuracy by length"]
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
