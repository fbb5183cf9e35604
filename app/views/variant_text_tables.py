"""Train and compare runs as text: what the terminal prints and the report lays out."""

from __future__ import annotations

from app.views.numbers import MISSING, fixed, interval
from app.views.tables import TextTable
from app.views.training import TrainRun
from app.views.training_tables import RATE_RULE, accuracy_text, length_table, training_finding
from app.views.variant_census import CENSUS_RULE, shown_roles
from app.views.variant_claims import cautions, verdicts
from app.views.variant_comparison import CompareRun
from app.views.variant_cuts import RULE, shown_claims
from app.views.variant_profiles import CELLS_MEAN, VIEWS, cell_names, compared_rows


def training_texts(found: TrainRun) -> list[TextTable]:
    """Every table of a train run for the terminal, of the trainings that are in."""
    return [best_rate_text(found)] if found.best else []


def comparison_texts(found: CompareRun) -> list[TextTable]:
    """Every table of a compare run for the terminal, of the models that are in."""
    if not found.models:
        return []
    made = [models_text(found), verdict_text(found), census_text(found), claims_text(found), strongest_text(found),
            lengths_text(found)]  # fmt: skip
    return [table for table in made if table.rows]


def best_rate_text(found: TrainRun) -> TextTable:
    """A row for each variant and width, at its best rate."""
    columns = ("variant", "width", "best rate", "accuracy, 95 % over seeds", "seeds", "solved", "median steps",
               "state", "parameters", "held-out accuracy of each rate")  # fmt: skip
    rows = tuple(
        (
            one.variant, str(one.width), f"{one.rate:g}", accuracy_text(one), str(len(one.accuracies)),
            f"{one.solved} of {len(one.accuracies)}", MISSING if one.steps is None else f"{one.steps:g}",
            f"{one.state_size:,}", f"{one.parameters:,}",
            ", ".join(f"{rate:g}: {fixed(value)}" for rate, value in one.rates.items()),
        )
        for one in found.best
    )  # fmt: skip
    title = f"{found.task}: {len(found.trained)} of {found.planned} trainings"
    numbers = frozenset(columns[1:3] + columns[4:9])
    return TextTable(title, columns, rows, numbers, f"{training_finding(found)} {RATE_RULE}")


def cells_text(found: TrainRun) -> TextTable:
    """A row for each training."""
    columns = ("training", "accuracy", "held-out accuracy", "loss", "solved at", "steps", "diverged")
    rows = tuple(
        (
            one.cell.stage, fixed(one.result.accuracy), fixed(one.result.held_out), fixed(one.result.loss),
            "never" if one.result.solved_at is None else str(one.result.solved_at), str(one.result.steps),
            "yes" if one.result.diverged else "",
        )
        for one in found.trained
    )  # fmt: skip
    return TextTable(f"{len(rows)} trainings", columns, rows, frozenset(columns[1:6]))


def models_text(found: CompareRun) -> TextTable:
    """A row for each model."""
    columns = ("model", "M", "accuracy", "95 % interval", "n", "state", "parameters")
    rows = tuple(
        (
            found.label(one), one.kind, fixed(one.accuracy.mean), interval(one.accuracy.low, one.accuracy.high),
            str(one.n), f"{one.state_size:,}", f"{one.parameters:,}",
        )
        for one in found.models
    )  # fmt: skip
    return TextTable(f"{len(rows)} of {found.planned} models", columns, rows, frozenset(columns[2:]))


def verdict_text(found: CompareRun) -> TextTable:
    """A sentence for each variant."""
    return TextTable("In short", ("variant", "what its trainings show"), verdicts(found), frozenset(), cautions(found))


def census_text(found: CompareRun) -> TextTable:
    """A row for each variant and role of heads, over the seeds of its training."""
    table = shown_roles(found)
    columns = tuple(column.title.lower() for column in table.columns)
    rows = tuple(tuple(map(str, row)) for row in table.rows)
    return TextTable("Census by variant", columns, rows, frozenset(columns[5:]), CENSUS_RULE)


def claims_text(found: CompareRun) -> TextTable:
    """A row for each claim."""
    table = shown_claims(found)
    columns = tuple(column.title.lower() for column in table.columns)
    rows = tuple(tuple(map(str, row)) for row in table.rows)
    return TextTable("Claims, tested by cutting", columns, rows, frozenset(columns[3:9]), RULE)


def strongest_text(found: CompareRun) -> TextTable:
    """A row for each head: the cells on which it has most weight, in both views, and its first token."""
    columns = ("model", "head", "most, share", "most, moved", "first token: share, moved, if uniform", "value norm",
               "row mass", "null mass", "negative", "columns")  # fmt: skip
    rows = compared_rows(found)
    made = tuple(
        (
            row.label, row.head, *(_most(dict(row.cells[view])) for view in VIEWS),
            ", ".join(_number(part) for part in (*(row.cells[v].get("first") for v in VIEWS),
                                                 row.numbers["first_uniform"])),
            *(_number(row.numbers[name]) for name in ("first_norm", "row_mass", "null_mass", "negative")),
            _number(row.numbers["support"], 2),
        )
        for row in rows
    )  # fmt: skip
    return TextTable("Heads", columns, made, frozenset(columns[5:]), f"{CELLS_MEAN[:1].upper()}{CELLS_MEAN[1:]}.")


def profiles_text(found: CompareRun) -> TextTable:
    """A row for each head and view: the weight on every kind of cells."""
    rows = compared_rows(found)
    names = cell_names(rows)
    made = tuple(
        (row.label, row.head, view, *(_number(row.cells[view].get(name)) for name in names))
        for row in rows
        for view in VIEWS
    )
    return TextTable("Heads: mean weight on each kind of cells", ("model", "head", "view", *names), made,
                     frozenset(names))  # fmt: skip


def lengths_text(found: CompareRun) -> TextTable:
    """A row for each model and length; none where only the length of the training was measured."""
    if not any(one.lengths for one in found.models):
        return TextTable("Accuracy by length", (), (), frozenset())
    columns = ("model", "tokens", "accuracy", "95 % interval", "n", "trained on", "why there is none")
    rows = tuple(
        (
            str(row["model"]), str(row["length"]), _number(row["accuracy"]), _ends(row["low"], row["high"]),
            str(row["n"] or ""), "yes" if row["trained"] else "", str(row["reason"] or ""),
        )
        for row in length_table(found).records()
    )  # fmt: skip
    return TextTable("Accuracy by length", columns, rows, frozenset(columns[1:5]))


def _most(cells: dict[str, float]) -> str:
    name = max(cells, key=lambda cell: cells[cell])
    return f"{name} {fixed(cells[name])}"


def _number(value: object, decimals: int = 3) -> str:
    return fixed(value, decimals) if isinstance(value, float) else MISSING


def _ends(low: object, high: object) -> str:
    return interval(low, high) if isinstance(low, float) and isinstance(high, float) else MISSING
