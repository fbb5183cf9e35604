"""The report of a train run and of a compare run: who learned the task, what the heads do, and whether it matters."""

from __future__ import annotations

from dataclasses import replace

from app.figures.mixing import mixing_figure
from app.figures.training import MEASURES, Measure, curves_figure, length_figure, recall_figure
from app.figures.training_measures import measures_figure
from app.figures.variant_heads import MOST_ROWS, growth_figure, strips_figure
from app.report.blocks import FigureBlock, anchor, figure_block
from app.report.boards import BoardSection
from app.views.mixing import Pictured, board, chosen_models, first_models, pictured_models, tokens_of
from app.views.training import TrainRun
from app.views.training_curves import mean_curve
from app.views.training_measures import BAND_RULE, MeasuredRun, end_text
from app.views.training_tables import RATE_RULE, best_text, counted, training_finding
from app.views.variant_claims import cautions, finding, verdicts
from app.views.variant_comparison import CompareRun
from app.views.variant_cuts import RULE
from app.views.variant_profiles import (
    CELLS_MEAN,
    VIEW_MEANINGS,
    VIEWS,
    ProfileRow,
    compared_rows,
    trained_rows,
)
from app.views.variant_text_tables import (
    best_rate_text,
    cells_text,
    census_text,
    claims_text,
    lengths_text,
    models_text,
    profiles_text,
    strongest_text,
)
from headscope.runs.reading import Run
from headscope.training.sweep import VariantResult

_MOST_CURVES, _MOST_PICTURED = 12, 4
_SEEDS = "Intervals over seeds are 95 % bootstrap intervals and too narrow with fewer than ten seeds."
TRAIN_LIMITS = (
    "A variant is shown at the best of the learning rates that were tried; another rate may change the order. "
    f"{_SEEDS}",
    "Accuracies are of this task, these sizes and this many steps: a variant that fails here may need more of them.",
    "State counts the numbers that are kept to read one more token, not bytes of an implementation.",
)
COMPARE_LIMITS = (
    RULE,
    "Heads that read the same cells may stand in for each other: the cut of one alone understates what they do "
    "together.",
    "Raw M is not comparable between variants, and is not shown: share is where a row looks, moved what it brings. "
    "Gates, output norms and head weights after M are in neither.",
    "Intervals of one model are over examples, not over trainings: the number of seeds stands beside each statement.",
)


def compare_lead(run: Run) -> str:
    """What a compare run set out to do, in a sentence."""
    found = CompareRun(run)
    config = run.manifest.config
    return (
        f"{counted(found.planned, 'trained model')} of {counted(len(found.variants), 'attention variant')} side by "
        f"side: what their heads look at and bring, on {config.get('examples')} examples, and what cutting it does, "
        "beside cutting other cells of the same rows."
    )


def train_finding(run: Run) -> str:
    """Who learned the task; empty where nothing is in."""
    return training_finding(TrainRun(run))


def compare_finding(run: Run) -> str:
    """In how many trainings of each variant a cut matters; empty where nothing is in."""
    return finding(CompareRun(run))


def train_sections(run: Run) -> tuple[BoardSection, ...]:
    """The sections of a train run, of the trainings that are in."""
    found = TrainRun(run)
    if not found.trained:
        return (BoardSection("Training", ("No training is in yet.",)),)
    made = [_rates(found), _learning(found), _recall(found)]
    return (*made, *_measures(found), *_pictures(found))


def compare_sections(run: Run) -> tuple[BoardSection, ...]:
    """The sections of a compare run, of the models that are in."""
    found = CompareRun(run)
    if not found.models:
        return (BoardSection("Models", ("No model is in yet.",)),)
    lengths = lengths_text(found)
    said = tuple(f"{name}: {told}" for name, told in verdicts(found))
    made = [
        BoardSection("Models", (cautions(found),) if cautions(found) else (), items=said, tables=(models_text(found),)),
        BoardSection("Census by variant", tables=(census_text(found),)),
        _census(found),
        BoardSection("Claims, tested by cutting", tables=(claims_text(found),)),
        _matrices(found.run, chosen_models(pictured_models(found), first_models(pictured_models(found)))),
    ]
    if lengths.rows:
        made.append(_lengths(found))
    return tuple(made)


def _rates(found: TrainRun) -> BoardSection:
    table = replace(best_rate_text(found), note=RATE_RULE)
    return BoardSection("Best rates", tables=(table,), folded=(cells_text(found),))


def _most_accurate(found: TrainRun) -> tuple[list[VariantResult], str]:
    """The variants that are drawn, at the largest width and in the run's order, and what is said of the others."""
    own = [one for one in found.best if one.width == found.widths[-1]]
    kept = sorted(own, key=lambda one: -one.accuracy.mean)[:_MOST_CURVES]
    left = f" {len(kept)} of {len(own)} variants, the most accurate ones." if len(kept) < len(own) else ""
    return [one for one in own if one in kept], left


def _learning(found: TrainRun) -> BoardSection:
    width = found.widths[-1]
    best, left = _most_accurate(found)
    curves = [mean_curve(found, one) for one in best]
    told = "; ".join(f"{one.variant} {best_text(one)}" for one in sorted(best, key=lambda one: -one.accuracy.mean))
    solved = found.config.get("stop_at")
    measures: tuple[Measure, ...] = ("accuracy", "loss")
    figures = tuple(
        figure_block(
            curves_figure(
                curves, order=found.variants, measure=measure, solved=None if solved is None else float(solved)
            ),
            anchor=anchor("curves", measure),
            label=f"{MEASURES[measure].capitalize()} against steps, width {width}. {told}.",
            caption=f"Width {width}, best rate. Thin: seeds; thick: their mean, in which a training that ended early "
            f"keeps its last value; bands: 95 % bootstrap over seeds. n = "
            f"{found.config.get('evaluated')} held-out examples.{left}",
        )
        for measure in measures
    )
    return BoardSection("Learning", figures=figures, is_wide=True)


def _recall(found: TrainRun) -> BoardSection:
    told = "; ".join(f"{one.variant}, width {one.width}: {best_text(one)}" for one in found.best[:_MOST_CURVES])
    block = figure_block(
        recall_figure(found.best, order=found.variants),
        anchor="recall",
        label=f"Accuracy against the size of the state. {told}.",
        caption="A mark for each variant and width at its best rate; bars: 95 % bootstrap over seeds.",
    )
    return BoardSection("Recall against state", figures=(block,), is_wide=True)


def _measures(found: TrainRun) -> tuple[BoardSection, ...]:
    """The task's own measures at every evaluation; none where the run has none."""
    best, left = _most_accurate(found)
    shown = MeasuredRun(found).for_report(best)
    if not shown:
        return ()
    block = figure_block(
        measures_figure([facet for _, facet in shown], order=found.variants, same_scale=False),
        anchor="measures",
        label=f"Measures of the task against steps: {', '.join(one.title for one, _ in shown)}; the same numbers at "
        "the end are in the table.",
        caption=f"Width {found.widths[-1]}. {BAND_RULE} A line for each head or layer, where a measure has several: "
        f"heads of two seeds share no more than their number.{left}",
    )
    said = tuple(f"{one.title}: {one.meaning}" for one, _ in shown if one.meaning)
    table = end_text(shown)
    return (BoardSection("Measures of the task", items=said, figures=(block,), folded=(table,), is_wide=True),)


def _pictures(found: TrainRun) -> tuple[BoardSection, ...]:
    """Matrices at the end, and what heads did on the way; none where no pictures were kept."""
    models = pictured_models(found)
    if not models:
        return ()
    shown = chosen_models(models, first_models(models, _MOST_PICTURED))
    series = {one.label: _growth_rows(found, one) for one in shown}
    series = {label: rows for label, rows in series.items() if rows}
    grown = [
        figure_block(
            growth_figure(series, view=view, order=list(series), step=None),
            anchor=anchor("growth", view),
            label=f"Weight on three kinds of cells against steps, {view}: {', '.join(series)}.",
            caption=f"{VIEW_MEANINGS[view]} A line for each head.",
        )
        for view in VIEWS
        if series
    ]
    section = BoardSection("Heads while they are trained", figures=tuple(grown), is_wide=True)
    return (_matrices(found.run, shown), *((section,) if grown else ()))


def _growth_rows(found: TrainRun, one: Pictured) -> list[ProfileRow]:
    length = len(tokens_of(found.run, one.name)) or None
    return [row for shot in found.snapshots(one.name) for row in trained_rows(one.name, one.label, shot, length)]


def _matrices(run: Run, models: tuple[Pictured, ...]) -> BoardSection:
    figures = list[FigureBlock]()
    for view in VIEWS:
        made = board(run, models, head="", view=view, step=None)
        left = f" {made.left_out} more are left out." if made.left_out else ""
        figures.append(
            figure_block(
                mixing_figure(made),
                anchor=anchor("matrices", view),
                label=f"{len(made.tiles)} mixing matrices, {view}: {', '.join(one.label for one in models)}.",
                caption=f"{VIEW_MEANINGS[view]} Rows look at columns; colours 0 to 1 in all; the same text.{left}",
            )
        )
    return BoardSection("Mixing matrices", figures=tuple(figures), is_wide=True)


def _census(found: CompareRun) -> BoardSection:
    rows = compared_rows(found)
    left = f" The first {MOST_ROWS} of {len(rows)} heads; the table has all." if len(rows) > MOST_ROWS else ""
    block = figure_block(
        strips_figure(rows[:MOST_ROWS]),
        anchor="census",
        label=f"Mean weight of {len(rows)} heads on each kind of cells, in both views; the same numbers are in the "
        "table.",
        caption=f"{CELLS_MEAN[:1].upper()}{CELLS_MEAN[1:]}. Cells are in hundredths. n = {found.models[0].n}.{left}",
    )
    return BoardSection(
        "Head census", figures=(block,), tables=(strongest_text(found),), folded=(profiles_text(found),), is_wide=True
    )


def _lengths(found: CompareRun) -> BoardSection:
    trained = f" Upright line: the length of the training, {found.length} tokens." if found.length else ""
    block = figure_block(
        length_figure(found),
        anchor="lengths",
        label="Accuracy against the length of the text; the same numbers are in the table.",
        caption=f"A line for each model; bars: 95 % bootstrap over n = {found.models[0].n} examples.{trained}",
    )
    return BoardSection("Accuracy by length", figures=(block,), tables=(lengths_text(found),), is_wide=True)
