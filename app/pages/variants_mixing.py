"""The panels about mixing matrices: side by side, over the steps of a training, with what each head does."""

from __future__ import annotations

from dash import html

from app.figures.mixing import mixing_figure
from app.figures.variant_heads import MOST_ROWS, growth_figure, strips_figure
from app.frame.page import Content, empty
from app.frame.words import attributes
from app.pages.variants_state import VariantsState, matrix_run, shown_models
from app.site import View
from app.views.mixing import Board, Pictured, board, tokens_of
from app.views.numbers import fixed
from app.views.source import source_line
from app.views.table import Column, Table
from app.views.training import Snapshot, TrainRun
from app.views.variant_comparison import CompareRun
from app.views.variant_profiles import (
    CELLS_MEAN,
    VIEW_MEANINGS,
    ProfileRow,
    compared_rows,
    profile_table,
    trained_rows,
)

_PICTURED_EXAMPLES = 32
_FIT_STEPS = 0.05


def matrices(view: View, state: VariantsState) -> Content:
    found = matrix_run(view.site, state)
    models = shown_models(found, state.models)
    made = board(found.run, models, head=state.head, view=state.view, step=state.step)
    if not made.tiles:
        return empty("These models have no such head.")
    top = colour_top(made) if state.colours == "fit" else 1.0
    strongest = max(made.tiles, key=lambda tile: float(tile.weights.max()))
    left = f" {made.left_out} more are left out; choose fewer models or one head." if made.left_out else ""
    bins = max(tile.width for tile in made.tiles)
    pooled = f" Cells hold the largest of {bins} x {bins}." if bins > 1 else ""
    when = "" if state.step is None or isinstance(found, CompareRun) else f" at step {state.step:,}"
    return Content(
        mixing_figure(made, top=top),
        body=html.Span("", className="variants-shown", **attributes(data_step=_shown_step(made, state))),
        table=_cells_table(made),
        summary=f"{len(made.tiles)} mixing matrices{when}, {state.view}; largest weight "
        f"{fixed(float(strongest.weights.max()))} in {strongest.title}.",
        caption=f"{VIEW_MEANINGS[state.view]} Rows look at columns; colours 0 to {top:g} in all.{_text_note(made)}"
        f"{pooled}{left} A signed M is shown by its size; raw M of two variants is not comparable and is not shown.",
        source=source_line(found.run),
    )


def colour_top(made: Board) -> float:
    """Top of the colours that fits the largest weight, rounded up."""
    largest = max(float(tile.weights.max()) for tile in made.tiles)
    return min(1.0, max(_FIT_STEPS, _FIT_STEPS * -(-largest // _FIT_STEPS)))


def profiles(view: View, state: VariantsState) -> Content:
    found = matrix_run(view.site, state)
    if isinstance(found, CompareRun):
        return empty("The heads of a comparison are in the census below; this panel follows a training.")
    models = shown_models(found, state.models)
    rows = [
        row for one in models for row in _rows_at(found, one, state.step) if not state.head or row.head == state.head
    ]
    if not rows:
        return empty("No profile of these heads was kept.")
    when = ", ".join(f"{one.label} at step {_step_of(one, state.step):,}" for one in models)
    return Content(
        strips_figure(rows[:MOST_ROWS]),
        table=profile_table(rows),
        summary=f"Where {len(rows)} heads look and what they bring: {when}.",
        caption=f"{when}. Mean over n = {_PICTURED_EXAMPLES} held-out examples of the training's probe, cells in "
        f"hundredths; {CELLS_MEAN}.",
        source=source_line(found.run),
    )


def growth(view: View, state: VariantsState) -> Content:
    found = matrix_run(view.site, state)
    if isinstance(found, CompareRun):
        return empty("A comparison looks at models when they are trained: this panel needs a train run.")
    models = shown_models(found, state.models)
    series = {one.label: [r for r in _all_rows(found, one) if not state.head or r.head == state.head] for one in models}
    series = {label: rows for label, rows in series.items() if rows}
    if not series:
        return empty("No profile of these heads was kept.")
    table = profile_table([row for rows in series.values() for row in rows])
    return Content(
        growth_figure(series, view=state.view, order=list(series), step=state.step),
        table=table,
        summary=f"Weight on the previous token, one behind the match and the first token against steps, "
        f"{state.view}, for {', '.join(series)}.",
        caption="A line for each head. match +1: an induction or retrieval head; carry 1: a previous-token head where "
        "pairs are bound, offset 1: over all rows; "
        "first: the first token. The upright line is the step shown above. "
        f"Mean over n = {_PICTURED_EXAMPLES} held-out examples.",
        source=source_line(found.run),
    )


def census_rows(found: CompareRun, state: VariantsState) -> tuple[ProfileRow, ...]:
    """The heads of the models that are chosen, or all; of one head, where one is chosen."""
    known = {one.name for one in found.models}
    names = [name for name in state.models if name in known]
    return tuple(row for row in compared_rows(found, names) if not state.head or row.head == state.head)


def _rows_at(found: TrainRun, one: Pictured, step: int | None) -> tuple[ProfileRow, ...]:
    shown = _step_of(one, step)
    return next((_profile(found, one, shot) for shot in found.snapshots(one.name) if shot.step == shown), ())


def _all_rows(found: TrainRun, one: Pictured) -> list[ProfileRow]:
    return [row for shot in found.snapshots(one.name) for row in _profile(found, one, shot)]


def _profile(found: TrainRun, one: Pictured, shot: Snapshot) -> tuple[ProfileRow, ...]:
    return trained_rows(one.name, one.label, shot, len(tokens_of(found.run, one.name)) or None)


def _step_of(one: Pictured, step: int | None) -> int:
    place = one.place(step)
    return one.steps[place] if place is not None else 0


def _shown_step(made: Board, state: VariantsState) -> str:
    return str(state.step) if state.step is not None else str(max((tile.step or 0 for tile in made.tiles), default=0))


def _text_note(made: Board) -> str:
    return " Numbers along the edges are tokens; the text is the same for all models." if made.tokens else ""


def _cells_table(made: Board) -> Table:
    """Every cell of weight 0.001 or more, the strongest first within its matrix."""
    columns = (
        Column("model", "Model"), Column("head", "Head"), Column("step", "Step"), Column("row", "Row"),
        Column("column", "Column"), Column("row_token", "Row's token"), Column("column_token", "Column's token"),
        Column("weight", "Weight", 4, "as the view has it"),
    )  # fmt: skip
    rows = list[tuple[str | int | float | None, ...]]()
    for tile in made.tiles:
        strong = [
            (float(tile.weights[i, j]), int(i), int(j)) for i, j in zip(*(tile.weights >= 0.001).nonzero(), strict=True)
        ]
        for weight, row, column in sorted(strong, reverse=True):
            places = (row * tile.width, column * tile.width)
            tokens = [made.tokens[at] if at < len(made.tokens) else None for at in places]
            rows.append((tile.model.label, tile.head, tile.step, *places, *tokens, weight))
    return Table("Mixing matrices: cells of 0.001 or more", columns, tuple(rows))
