"""A benchmark of circuit methods as tables: per task and truth a row per method, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from app.views.circuit_words import title
from app.views.numbers import duration, fixed, interval
from app.views.record_numbers import number
from app.views.tables import TextTable
from circuits.evaluation.trials import FEWEST_SEEDS, ScoreboardRow, Trial, summarise
from headscope.errors import RunError, UnsupportedError
from headscope.runs.reading import Run

KIND = "circuit-bench"
_TRUTH, _BOARD = ".truth", "scoreboard"
_FLOATS = ("value", "low", "high", "worst", "seconds", "forwards", "backwards")
Cells = tuple[str, ...]


class Benchmark:
    """A run of kind ``circuit-bench``, whole or unfinished."""

    def __init__(self, run: Run) -> None:
        """Read nothing yet.

        Raises:
            UnsupportedError: if the run is of another kind.
        """
        if run.manifest.kind != KIND:
            raise UnsupportedError(f"the run {run.manifest.id} is of kind {run.manifest.kind}, not {KIND}.")
        self.run = run

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of the benchmark: those that the model does."""
        return tuple(stage.removesuffix(_TRUTH) for stage in self.run.manifest.planned if stage.endswith(_TRUTH))

    @cached_property
    def rows(self) -> list[ScoreboardRow]:
        """The scoreboard; of the trials that are in where the run is unfinished.

        Raises:
            RunError: if a record does not hold what it should.
        """
        if _BOARD in self.run.records:
            return [self._read(_BOARD, lambda row=row: _row(row)) for row in self.run.record(_BOARD)["rows"]]
        stages = [stage for stage in self.run.records if not stage.endswith(_TRUTH)]
        return summarise([self._read(s, lambda s=s: Trial.from_record(self.run.record(s)["trial"])) for s in stages])

    @cached_property
    def errors(self) -> tuple[tuple[str, str], ...]:
        """Trials that failed, and why."""
        if _BOARD in self.run.records:
            return tuple((str(one["stage"]), str(one["error"])) for one in self.run.record(_BOARD)["errors"])
        stages = [stage for stage in self.run.records if not stage.endswith(_TRUTH)]
        told = ((stage, str(self.run.record(stage)["trial"]["error"])) for stage in stages)
        return tuple((stage, error) for stage, error in told if error)

    def performance(self, task: str) -> str:
        """How well the model does a task, in a line; empty where that is not in."""
        stage = task + _TRUTH
        return str(self.run.record(stage)["performance"]["one_line"]) if stage in self.run.records else ""

    def truths(self, task: str) -> tuple[tuple[str, str, str], ...]:
        """The truths of a task: name, unit, rule."""
        stage = task + _TRUTH
        told = self.run.record(stage)["truths"] if stage in self.run.records else ()
        return tuple((one["truth"]["name"], one["truth"]["unit"], one["truth"]["rule"]) for one in told)

    def figure(self, task: str, truth: str, unit: str, metric: str, ranking: str = "signed") -> list[ScoreboardRow]:
        """One figure of every method and number of pairs."""
        wanted = (task, truth, unit, metric, ranking)
        return [row for row in self.rows if (row.task, row.truth, row.unit, row.metric, row.ranking) == wanted]

    def judges(self, task: str) -> list[tuple[str, str]]:
        """What the methods of a task are judged by, as ``(truth, unit)``, in the order of the run."""
        return list(dict.fromkeys((row.truth, row.unit) for row in self.rows if row.task == task))

    def _read(self, stage: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise RunError(f"the run {self.run.manifest.id} cannot be read: the record {stage!r} ({reason}).") from None


def bench_tables(bench: Benchmark) -> list[TextTable]:
    """Every table of a benchmark, of the trials that are in."""
    found = [table for task in bench.tasks for table in task_tables(bench, task)]
    return [*found, *([error_table(bench)] if bench.errors else [])]


def task_tables(bench: Benchmark, task: str) -> list[TextTable]:
    """The tables of one task: one per truth, then faithfulness, then what it took."""
    found = [
        _faithful_table(bench, task, truth, unit)
        if truth.startswith("faithfulness")
        else _truth_table(bench, task, truth, unit)
        for truth, unit in bench.judges(task)
    ]
    return [*found, _cost_table(bench, task)] if found else []


def error_table(bench: Benchmark) -> TextTable:
    """Trials that failed."""
    return TextTable("Trials that failed", ("trial", "why"), bench.errors, frozenset())


def figure_text(row: ScoreboardRow | None, decimals: int = 3) -> str:
    """A figure with its interval; without one where there are too few seeds."""
    if row is None:
        return "n/a"
    ends = "" if row.low != row.low else f" {interval(row.low, row.high, decimals - 1)}"  # NaN
    return fixed(row.value, decimals) + ends


def _truth_table(bench: Benchmark, task: str, truth: str, unit: str) -> TextTable:
    rule = next((rule for name, own, rule in bench.truths(task) if (name, own) == (truth, unit)), "")
    # members that were chosen by magnitude are found by magnitude
    first, other, name = ("absolute", "signed", "score") if "magnitude" in rule else ("signed", "absolute", "magnitude")
    wanted = (
        ("AUC", "roc_auc", first, True),
        ("AP", "average_precision", first, True),
        (f"AUC by {name}", "roc_auc", other, False),
        (f"AP by {name}", "average_precision", other, False),
        ("precision at k", "precision_at_k", first, False),
        ("best TPR/TNR", "tpr_tnr_harmonic", first, False),
        ("rank corr.", "rank_correlation", first, False),
    )
    note = f"Members: {rule}. {_seeds_note(bench)}"
    return _table(bench, task, truth, unit, f"{task}: {unit}s against {truth}", wanted, note, worst="worst AUC")


def _faithful_table(bench: Benchmark, task: str, truth: str, unit: str) -> TextTable:
    wanted = (
        ("CPR", "cpr", "signed", True),
        ("CMD", "cmd", "absolute", True),
        ("log area", "log_area", "signed", True),
        ("log gap", "log_gap", "absolute", True),
    )
    note = (
        f"On pairs that no method saw. CPR, log area: higher is better; CMD, log gap: 0 is best. {_seeds_note(bench)}"
    )
    return _table(bench, task, truth, unit, f"{task}: {truth} of circuits of {unit}s", wanted, note, worst="worst CPR")


def _table(
    bench: Benchmark,
    task: str,
    truth: str,
    unit: str,
    name: str,
    wanted: Sequence[tuple[str, str, str, bool]],
    note: str,
    *,
    worst: str,
) -> TextTable:
    """A row per method and number of pairs; the first figure also with its worst seed."""
    found: dict[str, Mapping[tuple[str, int], ScoreboardRow]] = {
        heading: {(row.method, row.examples): row for row in bench.figure(task, truth, unit, metric, ranking)}
        for heading, metric, ranking, _ in wanted
    }
    first = found[wanted[0][0]]
    rows = list[Cells]()
    for key, row in first.items():
        cells = [
            figure_text(found[h].get(key)) if whole else fixed(found[h][key].value) if key in found[h] else "n/a"
            for h, _, _, whole in wanted
        ]
        rows.append((title(key[0]), str(key[1]), *cells, fixed(row.worst), _seeds(row)))
    columns = ("method", "pairs", *(heading for heading, *_ in wanted), worst, "seeds")
    return TextTable(name, columns, tuple(rows), frozenset(columns[1:]), note)


def _cost_table(bench: Benchmark, task: str) -> TextTable:
    told = {(row.method, row.examples): row for row in bench.rows if row.task == task}
    rows = tuple(
        (title(method), str(n), duration(row.seconds), f"{row.forwards:.0f}", f"{row.backwards:.0f}")
        for (method, n), row in told.items()
    )
    columns = ("method", "pairs", "time", "forwards", "backwards")
    note = "Mean over seeds; forwards and backwards count prompts."
    return TextTable(f"{task}: what it took", columns, rows, frozenset(columns[1:]), note)


def _seeds(row: ScoreboardRow) -> str:
    return f"{row.seeds}, {row.failed} without a number" if row.failed else str(row.seeds)


def _seeds_note(bench: Benchmark) -> str:
    seeds = int(bench.run.manifest.config.get("seeds", 0))
    if seeds < FEWEST_SEEDS:
        return f"{seeds} {'seed' if seeds == 1 else 'seeds'}: no intervals, which take {FEWEST_SEEDS}."
    return "95 % t intervals over seeds, each with prompts of its own."


def _row(record: Mapping[str, Any]) -> ScoreboardRow:
    told: dict[str, Any] = {name: number(value) if name in _FLOATS else value for name, value in record.items()}
    return ScoreboardRow(**told)
