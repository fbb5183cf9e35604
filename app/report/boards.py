"""The report of a circuit run and of a benchmark of circuit methods: sections of sentences, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.figures.circuit_graph import circuit_figure
from app.figures.scoreboard import MOST_SIDE_BY_SIDE, curves_figure, method_figure, roc_curves_figure, sweep_figure
from app.report.blocks import FigureBlock, anchor, figure_block
from app.views import scoreboard as tables
from app.views.benchmark import Benchmark, error_table, task_tables
from app.views.circuit import CircuitRun
from app.views.circuit_graph import picture
from app.views.circuit_sizes import sizes_of, step_of
from app.views.circuit_words import title
from app.views.tables import TextTable
from app.views.tokens import visible
from circuits.evaluation.agreement import Ranking
from circuits.evaluation.truth import Unit
from headscope.runs.reading import Run

_DRAWN_FIRST = ("eap-ig-inputs", "eap-ig-activations", "eap", "path-patching", "patching")
_RANKINGS: tuple[Ranking, ...] = ("signed", "absolute")

_LIMITS = (
    "A measured truth is patching of one part at a time: it does not see heads that stand in for each other, and what "
    "counts as a member hangs on a threshold. Agreement with it says how well a method predicts patching.",
    "Everything outside a circuit carries the values of the corrupted prompt (or means): another corruption, ablation "
    "or measure gives another circuit.",
    "In circuits of heads MLPs and the embedding are always kept, so their faithfulness is not comparable with that of "
    "circuits of edges, nor with published figures of edges.",
    "Methods that give magnitudes cannot tell what helps from what harms: they have one ranking, by their score.",
)


@dataclass(frozen=True)
class BoardSection:
    """One section of such a report.

    Attributes:
        title: its heading.
        text: paragraphs.
        items: sentences of a list.
        figures: its figures.
        tables: its tables.
        folded: tables that open on demand.
        is_wide: whether each figure takes the width of the page.
    """

    title: str
    text: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    figures: tuple[FigureBlock, ...] = ()
    tables: tuple[TextTable, ...] = ()
    folded: tuple[TextTable, ...] = ()
    is_wide: bool = False

    @property
    def anchor(self) -> str:
        """Its id in the page."""
        return anchor("board", self.title)


def circuit_sections(run: Run) -> tuple[BoardSection, ...]:
    """The sections of a circuit run, of the stages that are in."""
    found = CircuitRun(run)
    if not found.methods:
        return (_task(found),)
    made = (_task(found), _board(found), _roc(found), _curves(found), _graph(found), _stable(found), _check(found))
    return tuple(section for section in made if section.figures or section.tables or section.text or section.items)


def bench_sections(run: Run) -> tuple[BoardSection, ...]:
    """A section per task of a benchmark, and one for what failed."""
    bench = Benchmark(run)
    made = [_bench_task(bench, task) for task in bench.tasks]
    if bench.errors:
        made.append(BoardSection("What failed", tables=(error_table(bench),)))
    return tuple(made)


def board_lead(run: Run) -> str:
    """What such a run set out to do, in a sentence."""
    config, model = run.manifest.config, run.manifest.model
    heads = f"{model.n_layers * model.n_heads} attention heads"
    if run.manifest.kind == "circuit":
        methods = _count(len(config["methods"]), "method")
        return f"{methods} looked for the {config['task']} circuit of {model.name}: {heads}."
    tasks = len(Benchmark(run).tasks)
    return (
        f"Methods that look for circuits in {model.name} ({heads}), on {_count(tasks, 'task')} and "
        f"{_count(config['seeds'], 'seed')}, against every truth that there is."
    )


def board_limits(kind: str) -> tuple[str, ...]:
    """Reservations that hold for every such run; none for other kinds."""
    return _LIMITS if kind in ("circuit", "circuit-bench") else ()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _task(found: CircuitRun) -> BoardSection:
    name = f"The task: {found.task}"
    if not found.has("prompts"):
        return BoardSection(name, (found.missing("prompts"),))
    record = found.run.record("prompts")
    pieces = record["pieces"]
    rows = tuple(
        (
            _text(pieces, pair["clean"]),
            _text(pieces, pair["corrupted"]),
            " / ".join(pair["right"][:3]),
            " / ".join(pair["wrong"][:3]),
        )
        for pair in record["pairs"][:4]
    )
    text = (
        str(record["performance"]["one_line"]) + ".",
        f"Methods saw {record['n']} pairs at most; circuits are judged on {record['judged']} others. A part's effect: "
        "the logit difference of the clean prompt minus that with the part as it was on the corrupted prompt.",
    )
    columns = ("clean prompt", "corrupted prompt", "right", "wrong")
    return BoardSection(name, text, tables=(TextTable("Some of the pairs", columns, rows, frozenset()),))


def _text(pieces: Mapping[str, str], tokens: Sequence[int]) -> str:
    """Tokens as text, with blanks where the tokenizer's words carry none; marks that turn the text around are seen."""
    words = [pieces[str(token)] for token in tokens]
    return visible(("" if any(word.startswith(" ") for word in words) else " ").join(words))


def _board(found: CircuitRun) -> BoardSection:
    notes = tuple(f"{title(m)}: {' '.join(found.scores(m).notes)}" for m in found.methods if found.scores(m).notes)
    against, areas = tables.truth_table(found), [tables.area_table(found, unit) for unit in tables.UNITS]
    folded = tuple(table for table in (against, *areas) if table is not None)
    return BoardSection("Scoreboard", items=notes, tables=(tables.board_table(found),), folded=folded)


def _roc(found: CircuitRun) -> BoardSection:
    figures = list[FigureBlock]()
    for key, truth in found.truths.items():
        own = [a for m in found.methods if (a := found.agreement(m, truth, truth.ranking)) is not None]
        if not own:
            continue
        largest = max(one.roc_auc for one in own)
        best = " and ".join(title(one.method) for one in own if one.roc_auc == largest)
        label = (
            f"ROC curves of {len(own)} methods against {truth.name} ({truth.unit}s); largest area "
            f"{largest:.3f} by {best}."
        )
        drawn = roc_curves_figure(own)
        members = f"{int(truth.members.sum())} of {int(truth.possible.sum())} {truth.unit}s are members ({truth.rule})"
        order = "signed score" if truth.ranking == "signed" else "magnitude, as its members are"
        caption = f"Against {truth.name}: {members}. Ranked by {order}."
        figures.append(figure_block(drawn, anchor=anchor("roc", key), label=label, caption=caption))
    return BoardSection("ROC curves", figures=tuple(figures), is_wide=len(found.methods) > MOST_SIDE_BY_SIDE)


def _curves(found: CircuitRun) -> BoardSection:
    figures = list[FigureBlock]()
    for unit in tables.UNITS:
        for ranking in _RANKINGS:
            curves = [c for m in found.methods if (c := found.curve(m, unit, ranking)) is not None]
            if not curves:
                continue
            order = "signed score (for CPR)" if ranking == "signed" else "magnitude (for CMD)"
            caption = f"Circuits of {unit}s by {order}. 1: the circuit does what the model does."
            label = f"Effect kept by circuits of {unit}s of growing size, by {order}, {len(curves)} methods."
            figures.append(
                figure_block(
                    curves_figure(curves), anchor=anchor("curves", unit, ranking), label=label, caption=caption
                )
            )
    return BoardSection("Faithfulness", figures=tuple(figures), is_wide=len(found.methods) > MOST_SIDE_BY_SIDE)


def _graph(found: CircuitRun) -> BoardSection:
    """The circuit of one method: its best heads, and the smallest circuit of edges that keeps most of the effect."""
    method = next((name for name in _DRAWN_FIRST if name in found.methods), found.methods[0])
    scores, figures = found.scores(method), list[FigureBlock]()
    units: tuple[Unit, ...] = ("head",) if scores.edges is None else ("head", "edge")
    for unit in units:
        sizes = sizes_of(found, method, unit, "signed")[1]
        size = found.k if unit == "head" else sizes[step_of(found, method, unit, "signed", -1)]
        shown = picture(scores, found.kept(method, unit, "signed", size), unit=unit, ranking="signed")
        label = f"The circuit of {title(method)} in layers: {shown.n_heads} heads, {len(shown.edges)} edges drawn."
        caption = (
            f"{title(method)}: the {size} best {unit}s. Input below, output on top; solid edges help, dashed ones "
            "work against the right answer."
        )
        figure = circuit_figure(shown, signed=scores.signed, unit=scores.unit)
        figures.append(figure_block(figure, anchor=anchor("graph", unit), label=label, caption=caption))
    return BoardSection("The circuit", figures=tuple(figures))


def _stable(found: CircuitRun) -> BoardSection:
    made = (tables.stability_table(found), tables.ablation_table(found))
    return BoardSection("Would other prompts give the same circuit?", tables=tuple(t for t in made if t is not None))


def _check(found: CircuitRun) -> BoardSection:
    checked, backup = tables.check_table(found), tables.backup_sentence(found)
    drops = [tables.drop_table(found, method) for method in found.methods]
    return BoardSection(
        "Faithful, complete, minimal?",
        text=(f"Backup heads: {backup}",) if backup else (),
        tables=() if checked is None else (checked,),
        folded=tuple(table for table in drops if table is not None),
    )


def _bench_task(bench: Benchmark, task: str) -> BoardSection:
    judges = bench.judges(task)
    figures = list[FigureBlock]()
    for truth, unit in judges:
        metric, name = ("cpr", "CPR") if truth.startswith("faithfulness") else ("roc_auc", "AUC")
        rows = bench.figure(task, truth, unit, metric)
        several = len({row.examples for row in rows}) > 1
        drawn = sweep_figure(rows, name=name) if several else method_figure(rows, name=name)
        best = max((row for row in rows if row.value == row.value), key=lambda row: row.value, default=None)
        told = f"; largest {best.value:.3f} by {title(best.method)}" if best else ""
        label = f"{task}: {name} of {unit}s, {truth}, method by method{told}."
        caption = f"{name}, {unit}s, {truth}. Bars: 95 % t intervals over seeds, where there are 5."
        figures.append(figure_block(drawn, anchor=anchor("sweep", task, truth, unit), label=label, caption=caption))
    line = bench.performance(task)
    return BoardSection(
        f"Task {task}",
        (f"{line}.",) if line else (),
        figures=tuple(figures),
        tables=tuple(task_tables(bench, task)),
        is_wide=len({row.method for row in bench.rows}) > MOST_SIDE_BY_SIDE,
    )
