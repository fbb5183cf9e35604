"""The panels about a train run: curves, recall against state, best rates."""

from __future__ import annotations

from typing import Any

from dash import html

from app.figures.training import MEASURES, curves_figure, recall_figure
from app.frame.exports import grid
from app.frame.page import Content
from app.pages.variants_state import VariantsState, begun_training, drawn
from app.site import View
from app.views.source import source_line
from app.views.tables import incomplete_banner
from app.views.training import TrainRun
from app.views.training_curves import mean_curve
from app.views.training_tables import (
    RATE_RULE,
    best_table,
    best_text,
    cell_table,
    curve_table,
    training_finding,
)

_NARROW, _WIDE = 92, 170


def source(found: TrainRun) -> str:
    """Where the numbers of a panel come from."""
    config = found.config
    first, n = config.get("seed", 0), config.get("seeds", 1)
    seeds = f"seed {first}" if n == 1 else f"seeds {first} to {first + n - 1}"
    return f"{found.task}: {len(found.trained)} of {found.planned} trainings, {seeds} · {source_line(found.run)}"


def short(view: View, state: VariantsState) -> Content:
    found = begun_training(view.site, state)
    body = [html.P(training_finding(found), className="hs-finding")]
    if banner := incomplete_banner(found.run):
        body.insert(0, html.P(banner, className="hs-refused"))
    return Content(body=body, source=source(found))


def curves(view: View, state: VariantsState) -> Content:
    found = begun_training(view.site, state)
    best, here = drawn(found, state)
    stop = found.config.get("stop_at")
    figure = curves_figure(
        [mean_curve(found, one) for one in best], order=found.variants, measure=state.measure,
        solved=None if stop is None else float(stop),
    )  # fmt: skip
    left = f" Drawn: {len(best)} of {here} variants; choose them above." if len(best) < here else ""
    told = "; ".join(f"{one.variant} {best_text(one)}" for one in best)
    n = found.config.get("evaluated", "?")
    return Content(
        figure,
        table=curve_table(found),
        summary=f"{MEASURES[state.measure].capitalize()} against steps, width {best[0].width}. {told}.",
        caption=f"Width {best[0].width}, each variant at its best rate: thin lines are seeds, thick ones their mean, "
        f"in which a training that ended early keeps its last value; bands: 95 % bootstrap over seeds, too narrow with "
        f"fewer than ten. n = {n} held-out examples of each seed.{left}",
        source=source(found),
    )


def recall(view: View, state: VariantsState) -> Content:
    found = begun_training(view.site, state)
    kept = {one.variant for one in drawn(found, state)[0]}
    best = [one for one in found.best if one.variant in kept]
    top = max(best, key=lambda one: (one.accuracy.mean, -one.state_size))
    seeds = sorted({len(one.accuracies) for one in best})
    n = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    bars = "One seed has no interval." if seeds == [1] else f"Bars: 95 % bootstrap over n = {n} seeds."
    few = " An interval over so few seeds is too narrow." if 1 < seeds[-1] < 10 else ""
    return Content(
        recall_figure(best, order=found.variants),
        table=best_table(found),
        summary=f"Accuracy against the size of the state; highest {top.variant} at width {top.width}, "
        f"{best_text(top)}, state {top.state_size:,}.",
        caption=f"A mark for each variant and width, at its best rate. {bars}{few} State: numbers kept after a "
        "text of the task, all layers.",
        source=source(found),
    )


def rates(view: View, state: VariantsState) -> Content:
    found = begun_training(view.site, state)
    table = best_table(found)
    stop = found.config.get("stop_at", 0.99)
    return Content(
        body=_grid("variants-rates-table", table),
        table=table,
        caption=f"{RATE_RULE} Solved: seeds whose held-out accuracy reached {stop:g}; steps: their median.",
        source=source(found),
    )


def cells(view: View, state: VariantsState) -> Content:
    found = begun_training(view.site, state)
    table = cell_table(found)
    return Content(
        body=_grid("variants-cells-table", table),
        table=table,
        caption=f"{len(table.rows)} trainings. Accuracy is on fresh examples; a training that diverged counts as 0.",
        source=source(found),
    )


def _grid(grid_id: str, table: Any) -> Any:
    """All rows: a wide first column, narrow numbers whose headings wrap."""
    height = min(430, 34 * len(table.rows) + 92)
    made: Any = grid(grid_id, table=table, height=f"{height}px", options={"rowHeight": 34})
    for column, found in zip(table.columns, made.columnDefs, strict=True):
        found |= {"wrapHeaderText": True, "autoHeaderHeight": True, "minWidth": _NARROW, "filter": False}
        found |= {"headerTooltip": column.meaning or column.title}
    made.columnDefs[0] |= {"minWidth": _WIDE, "pinned": "left", "filter": True}
    return made
