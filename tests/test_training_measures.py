"""A task's own measures over a training: what is drawn, tabled and exported is what the records hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.figures.training_measures import MOST_FACETS, measures_figure
from app.report.variant_sections import train_sections
from app.views.measure_meanings import KNOWN, beside_title, measure_of, offered
from app.views.rate_curves import rate_curves
from app.views.training import TrainRun
from app.views.training_curves import held
from app.views.training_measures import Facet, MeasuredRun, parted, places_of, shown_table
from app.views.variant_export import rows_of
from headscope.models.decoder.config import DecoderConfig
from headscope.runs import ModelRecord, Run
from headscope.training.settings import TaskChoice, TrainingConfig
from headscope.training.trainer import Trainer
from probes.training_probe import TrainingProbe
from tests.variant_runs import write_train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelRecord) -> Path:
    return write_train(tmp_path_factory.mktemp("measures"), tiny_model)


@pytest.fixture
def found(folder: Path) -> TrainRun:
    return TrainRun(Run.open(folder))


def recorded(folder: Path, stage: str) -> dict[int, dict[str, float]]:
    """The probe's numbers at each step, read from the file itself."""
    record = json.loads((folder / "records" / f"{stage}.json").read_text())
    return {point["step"]: point["probes"] for point in record["curve"]}


@pytest.mark.parametrize(
    ("name", "measure", "place"),
    [
        ("share.first.other.L0H1", "share.first.other", "L0H1"),
        ("residual_norm.first.embed", "residual_norm.first", "embed"),
        ("zero_sum.L12", "zero_sum", "L12"),
        ("rate.gradient_step", "rate.gradient_step", ""),
        ("rate.L0", "rate", "L0"),
        ("L0H1", "L0H1", ""),
    ],
)
def test_a_name_is_a_measure_and_a_place(name: str, measure: str, place: str) -> None:
    assert parted(name) == (measure, place)


def test_places_are_in_the_order_of_the_model() -> None:
    names = ["a.L10H0", "a.L2H11", "a.L2H3", "a.embed", "b.L0", "a.b.L1"]
    assert places_of(names, "a") == ("embed", "L2H3", "L2H11", "L10H0")


def test_known_measures_come_first_and_what_is_beside_another_is_not_offered() -> None:
    names = ["new", "risk.markov_floor", "risk.backcopy", "risk.markov", "uniform.first.other", "share.first.other"]
    assert [one.name for one in offered(names)] == ["share.first.other", "risk.markov", "risk.backcopy", "new"]
    assert [one.name for one in offered(["context_chance"])] == ["context_chance"]
    assert (measure_of("new").title, measure_of("new").beside) == ("new", ())


TASKS = ("bigram-backcopy", "in-context-classification", "linear-regression")


def measured_names(task: str) -> set[str]:
    """What the probe of a training gives for a small softmax model, without heads and layers."""
    trainer = Trainer(
        TrainingConfig(task=TaskChoice(kind=task), decoder=DecoderConfig(n_layers=1, n_heads=2, d_model=16)),
        device="cpu",
    )
    probe = TrainingProbe.of(trainer.task, n=2, seed=0, device=torch.device("cpu"))
    assert probe.own is not None
    return {parted(name)[0] for name in probe.own(trainer.model, 0)}


def test_every_measure_of_the_probes_is_known_and_every_known_one_is_measured() -> None:
    names = {name for task in TASKS for name in measured_names(task)}
    beside = {name for one in KNOWN.values() for name in one.beside}
    assert names - set(KNOWN) - beside == set()
    assert set(KNOWN) - names == {"null_mass.other", "null_mass.trigger"}, "softmax has no null column"
    assert beside <= names
    assert all(beside_title(name) != name for name in beside)
    assert all(one.meaning.endswith(".") and one.title != one.name for one in KNOWN.values())


def test_a_training_that_ended_early_keeps_its_last_value() -> None:
    values = held({10: 1.0, 20: float("nan"), 30: 3.0}, (0, 10, 20, 30, 40))
    assert np.isnan(values).tolist() == [True, False, True, False, False]
    assert values[[1, 3, 4]].tolist() == [1.0, 3.0, 3.0]


def test_curves_are_means_and_ends_of_the_recorded_numbers(folder: Path, found: TrainRun) -> None:
    run, best = MeasuredRun(found), [one for one in found.best if one.width == 8]
    assert [(one.variant, one.rate) for one in best] == [("softmax", 0.01), ("linear", 0.001)]
    curves = run.curves("share.first.other", best)
    assert [(one.best.variant, one.place) for one in curves] == [
        (variant, f"L{layer}H{head}") for variant in ("softmax", "linear") for layer in (0, 1) for head in (0, 1)
    ]
    for one in curves:
        stages = [f"{one.best.variant}.8.{one.best.rate:g}.{seed}" for seed in (0, 1)]
        points = [recorded(folder, stage) for stage in stages]
        assert one.steps == ((0, 50) if one.best.variant == "softmax" else (0, 50, 100))
        values = np.array([[own[step][f"{one.measure}.{one.place}"] for step in one.steps] for own in points])
        assert one.seeds == (0, 1)
        assert one.values == tuple(map(tuple, values))
        assert one.mean == pytest.approx(values.mean(0), abs=1e-12)
        assert (one.low, one.high) == (tuple(values[0]), tuple(values[1]))


def test_dashed_lines_are_the_recorded_ones(found: TrainRun) -> None:
    (dashed,) = MeasuredRun(found).beside("risk.markov", found.best)
    assert (dashed.title, dashed.steps, dashed.mean) == ("the chain itself", (0, 50, 100), (1.5, 1.5, 1.5))
    assert MeasuredRun(found).beside("made_up.number", found.best) == ()


def test_the_figure_draws_the_table(found: TrainRun) -> None:
    best = [one for one in found.best if one.width == 8]
    facets = MeasuredRun(found).by_place("share.first.other", best)
    figure = measures_figure(facets, order=found.variants)
    rows = shown_table(facets, "made up").records()
    lines = [trace for trace in figure.data if trace.customdata is not None]
    assert len(lines) == 2 * 4
    drawn = {
        (trace.name, where["title"], x): (y, *ends)
        for trace in lines
        for where in [_titled(figure, trace)]
        for x, y, ends in zip(trace.x, trace.y, trace.customdata, strict=True)
    }
    assert drawn == {
        (row["variant"], row["place"], row["step"]): (row["mean"], row["low"], row["high"])
        for row in rows
        if row["seeds"] is not None
    }
    dashed = [trace for trace in figure.data if trace.name == "even rows"]
    assert [list(trace.y) for trace in dashed] == [[0.07] * 3] * 4
    ends = lines[0].customdata
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(bands[0].y) == [*(high for _, high in ends), *(low for low, _ in reversed(ends))]
    assert sum(bool(trace.showlegend) for trace in figure.data) == 3, "two variants and the dashed line, once each"


def _titled(figure: Any, trace: Any) -> dict[str, str]:
    """The picture that a line lies in, by the left end and the top of its axes."""
    x, y = (figure.layout[f"{axis[0]}axis{axis[1:]}"].domain for axis in (trace.xaxis, trace.yaxis))
    (title,) = [one.text for one in figure.layout.annotations if (one.x, one.y) == (x[0], y[1])]
    return {"title": title}


@pytest.mark.parametrize("count", range(1, MOST_FACETS + 3))
def test_pictures_lie_side_by_side_and_do_not_touch(count: int) -> None:
    figure = measures_figure([Facet(str(place), (), (), is_share=True) for place in range(count)], order=())
    axes = [f"axis{place or ''}".replace("axis0", "axis") for place in ["", *range(2, min(count, MOST_FACETS) + 1)]]
    boxes = [(*figure.layout[f"x{axis}"].domain, *figure.layout[f"y{axis}"].domain) for axis in axes]
    assert all(0 <= left < right <= 1.0001 and -1e-9 <= low < top <= 1 for left, right, low, top in boxes)
    for place, (left, right, low, top) in enumerate(boxes):
        for other in boxes[place + 1 :]:
            apart = right < other[0] or other[1] < left or top < other[2] or other[3] < low
            assert apart, (boxes[place], other)


def test_a_seed_without_a_number_ends_the_mean(found: TrainRun) -> None:
    run = MeasuredRun(found)
    best = next(one for one in found.best if (one.variant, one.width) == ("linear", 8))
    own = found.of("linear", 8, best.rate)[1]
    run._numbers[own.cell.stage] = {"risk.markov": {0: 2.0, 50: float("nan")}}
    (curve,) = run.curves("risk.markov", [best])
    assert np.isnan(curve.mean).tolist() == [False, True, True]
    (line,) = [
        t
        for t in measures_figure(run.by_place("risk.markov", [best]), order=["linear"]).data
        if t.customdata is not None
    ]
    assert list(line.y)[1:] == [None, None]


def test_the_export_has_every_number_of_every_training(folder: Path, found: TrainRun) -> None:
    rows = rows_of(found.run, "measures").records()
    mixing = re.compile(r"(share|moved)\.(offset|match)\..*|(share|moved)\.first\.L.*|first_norm.*|row_mass.*")
    wanted = {
        (one.cell.stage, step, name): value
        for one in found.trained
        for step, numbers in recorded(folder, one.cell.stage).items()
        for name, value in numbers.items()
        if not mixing.fullmatch(name)
    }
    told = {
        (row["training"], row["step"], f"{row['measure']}.{row['place']}".rstrip(".")): row["value"] for row in rows
    }
    assert told == wanted
    assert len(rows) == len(wanted)


def test_every_rate_has_its_recorded_curve(folder: Path, found: TrainRun) -> None:
    best = next(one for one in found.best if (one.variant, one.width) == ("softmax", 8))
    curves = rate_curves(found, best)
    assert [(one.rate, one.is_best) for one in curves] == [(0.001, False), (0.01, True)]
    for one in curves:
        records = [
            json.loads((folder / "records" / f"softmax.8.{one.rate:g}.{seed}.json").read_text()) for seed in (0, 1)
        ]
        for name in ("accuracy", "loss"):
            values = np.array([[point[name] for point in record["curve"]] for record in records])
            assert getattr(one, name) == pytest.approx(values.mean(0))
        assert one.held_out == pytest.approx(np.mean([record["held_out"] for record in records]))


def test_the_report_draws_the_first_measures_and_tells_their_end(found: TrainRun) -> None:
    section = next(one for one in train_sections(found.run) if one.title == "Measures of the task")
    assert [item.split(":")[0] for item in section.items] == [
        "First token, share, other rows", "Residual norm of the first token", "Risk on other rows",
    ]  # fmt: skip
    (table,) = section.folded
    rows = {row[:3]: row[3:] for row in table.rows}
    assert rows["Risk on other rows", "linear", ""] == ("2.700", "[2.600, 2.800]", "2")
    assert rows["First token, share, other rows", "softmax", "L1H1"] == ("0.180", "[0.080, 0.280]", "2")
    figure = json.loads(section.figures[0].json)
    assert [one["text"] for one in figure["layout"]["annotations"]] == [item.split(":")[0] for item in section.items]


def test_without_measures_the_report_says_nothing_of_them(tmp_path: Path, tiny_model: ModelRecord) -> None:
    bare = TrainRun(Run.open(write_train(tmp_path, tiny_model, pictures=False)))
    assert MeasuredRun(bare).measures == ()
    assert "Measures of the task" not in [one.title for one in train_sections(bare.run)]
    assert rows_of(bare.run, "measures").rows == ()
