"""The numbers of a circuit run as tables: components, edges, curves, the scoreboard, and what tells trust."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.views.circuit import CircuitRun
from app.views.circuit_graph import edge_label
from app.views.circuit_words import title, unit_text
from app.views.numbers import fixed
from app.views.table import Cell, Column, Table
from app.views.table_rows import late_rows
from circuits.evaluation import Agreement, Spread, Truth
from circuits.evaluation.agreement import Ranking
from circuits.evaluation.truth import Unit
from headscope.statistics import rank_agreement_interval

_NOTHING = float("nan")


def meta(found: CircuitRun, **more: object) -> dict[str, object]:
    """What travels with every table of a circuit run."""
    manifest = found.run.manifest
    return {"run": manifest.id, "model": manifest.model.name, "task": found.task, "seed": found.seed, **more}


def node_table(found: CircuitRun, method: str, other: str, *, unit: Unit, ranking: Ranking, alive: set[str]) -> Table:
    """Heads, and MLPs where the method scores them, strongest first; a circuit of heads always keeps its MLPs."""
    scores, second = found.scores(method), found.scores(other) if other else None
    table = found.head_scores(method)
    inclusion = _inclusion(found, method)
    rows = list[tuple[str, float, float, float, str, float, float]]()
    for layer, head in np.ndindex(scores.heads.shape):
        label = f"L{layer}H{head}"
        place = (layer, head)
        ends = (_NOTHING, _NOTHING) if table is None else (float(table.low[place]), float(table.high[place]))
        beside = _NOTHING if second is None else float(second.heads[layer, head])
        often = _NOTHING if inclusion is None else float(inclusion[layer, head])
        value = float(scores.heads[layer, head])
        rows.append((label, value, *ends, "yes" if label in alive else "no", beside, often))
    for layer, score in enumerate([] if scores.mlps is None else scores.mlps):
        label = f"L{layer}.mlp"
        beside = _NOTHING if second is None or second.mlps is None else float(second.mlps[layer])
        inside = "always" if unit == "head" else "yes" if label in alive else "no"
        rows.append((label, float(score), _NOTHING, _NOTHING, inside, beside, _NOTHING))
    rows.sort(key=lambda row: -_strength(row[1], ranking))
    columns = (
        Column("rank", "#"),
        Column("part", "Part"),
        Column("score", title(method), 4, f"{scores.meaning} ({unit_text(scores)})"),
        Column("low", "Low", 4, "lower end of the 95 % bootstrap interval over prompts"),
        Column("high", "High", 4, "upper end"),
        Column("in_circuit", "In circuit", None, "in the circuit of the slider? always: one of heads keeps all MLPs"),
        Column("other", title(other) if other else "Other", 4, "score by the other method"),
        Column("inclusion", "Inclusion", 3, "share of resampled prompt sets in whose circuit the head is"),
    )
    ranked = tuple((place, *row) for place, row in enumerate(rows, 1))
    return Table(f"Parts by {title(method)}", columns, ranked, meta(found, method=method, meaning=scores.meaning))


def _strength(value: float, ranking: Ranking) -> float:
    if np.isnan(value):
        return -np.inf
    return abs(value) if ranking == "absolute" else value


def _inclusion(found: CircuitRun, method: str) -> np.ndarray | None:
    rows = found.run.record("stability")["rows"] if found.has("stability") else []
    known = any(row["method"] == method for row in rows)
    return found.run.tensor("stability", f"{method}.inclusion") if known else None


def edge_table(found: CircuitRun, method: str, ranking: Ranking, kept: np.ndarray | None) -> Table:
    """Every scored edge, strongest first; rows are made when somebody asks for them.

    Args:
        found: the run.
        method: a method that scores edges.
        ranking: the order.
        kept: the circuit of the slider, or None where it is one of heads.
    """
    scores = found.scores(method)

    def make() -> tuple[tuple[Cell, ...], ...]:
        assert scores.edges is not None
        graph, made = scores.graph, list[tuple[Cell, ...]]()
        for place, (writer, reader) in enumerate(scores.ranked_edges(absolute=ranking == "absolute"), 1):
            inside = "" if kept is None else "yes" if kept[writer, reader] else "no"
            score = float(scores.edges[writer, reader])
            made.append((place, edge_label(graph, writer, reader), score, inside))
        return tuple(made)

    columns = (
        Column("rank", "#"),
        Column("edge", "Edge", None, "writer -> input; .q .k .v are the inputs of attention"),
        Column("score", title(method), 5, f"{scores.meaning} ({unit_text(scores)})"),
        Column("in_circuit", "In circuit", None, "whether it is in the circuit of the slider, after pruning"),
    )
    return Table(f"Edges by {title(method)}", columns, late_rows(make), meta(found, method=method))


def curve_table(found: CircuitRun, methods: tuple[str, ...], unit: Unit, ranking: Ranking) -> Table:
    """Faithfulness of circuits of growing size, of each method that has a curve."""
    rows = list[tuple[Cell, ...]]()
    for method in methods:
        one = found.curve(method, unit, ranking)
        if one is None:
            continue
        curve, ends = one.curve, one.ends
        random = curve.random_faithfulness
        for point, share in enumerate(curve.shares):
            rows.append(
                (
                    method, float(share), int(curve.kept[point]), int(curve.connected[point]),
                    float(curve.faithfulness[point]), float(ends[0, point]), float(ends[1, point]),
                    float(curve.worst[point]), _NOTHING if random is None else float(random[:, point].mean()), curve.n,
                )
            )  # fmt: skip
    columns = (
        Column("method", "Method"),
        Column("share", "Share kept", 3),
        Column("kept", "Parts kept"),
        Column("connected", "After pruning"),
        Column("faithfulness", "Effect kept", 3, "(m(circuit) - m(empty)) / (m(full) - m(empty)), means over prompts"),
        Column("low", "Low", 3, "95 % bootstrap interval over prompts"),
        Column("high", "High", 3),
        Column("worst", "Worst prompt", 3, "the lowest prompt, on the scale of the mean"),
        Column("random", "Random", 3, "mean of random circuits of the same size"),
        Column("n", "n"),
    )
    return Table(f"Effect kept by circuits of {unit}s", columns, tuple(rows), meta(found, unit=unit, ranking=ranking))


def pair_table(found: CircuitRun, first: str, second: str) -> Table:
    """Two methods' scores of every head."""
    a, b = found.scores(first), found.scores(second)
    rows = tuple(
        (f"L{layer}H{head}", float(a.heads[layer, head]), float(b.heads[layer, head]))
        for layer, head in np.ndindex(a.heads.shape)
    )
    columns = (
        Column("head", "Head"),
        Column("first", title(first), 4, unit_text(a)),
        Column("second", title(second), 4, unit_text(b)),
    )
    return Table(f"{title(first)} against {title(second)}", columns, rows, meta(found, first=first, second=second))


def pair_sentence(found: CircuitRun, first: str, second: str, ranking: Ranking) -> str:
    """Rank correlation of two methods' head scores, or of their magnitudes, and what their best heads share."""
    a, b = found.scores(first), found.scores(second)
    absolute = ranking == "absolute"
    values = [np.abs(one.heads) if absolute else one.heads for one in (a, b)]
    rho, low, high = rank_agreement_interval(*values, generator=np.random.default_rng(0), resamples=200)
    k = min(found.k, a.heads.size)
    shared = len(set(a.ranked(absolute=absolute)[:k]) & set(b.ranked(absolute=absolute)[:k]))
    best = f"Of their {k} best heads by {'magnitude' if absolute else 'signed score'} {shared} are the same."
    if np.isnan(rho):
        return f"Spearman's rank correlation is not defined: one gives all heads the same score. {best}"
    of = " of magnitudes" if absolute else ""
    return f"Spearman's rank correlation{of} over heads {rho:.2f} [{low:.2f}, {high:.2f}]. {best}"


def ranked_by(truth: Truth) -> str:
    """How methods are ranked against a truth: where its effects were measured it counts parts by magnitude."""
    return "ranked by magnitude" if truth.ranking == "absolute" else "ranked by signed score"


def best_sentence(rows: list[Agreement]) -> str:
    """Which methods agree best with a truth: ``Best: EAP, AUC 0.998.``; all of them where several tie."""
    top = max(one.roc_auc for one in rows)
    names = [title(one.method) for one in rows if np.isclose(one.roc_auc, top, rtol=0, atol=1e-9)]
    if len(names) == 1:
        return f"Best: {names[0]}, AUC {fixed(top)}."
    return f"Best: {', '.join(names[:-1])} and {names[-1]} tie at AUC {fixed(top)}."


def roc_table(found: CircuitRun, truth: Truth, rows: list[Agreement]) -> Table:
    """The points of every ROC curve against one truth."""
    made = tuple(
        (one.method, int(kept), float(false), float(true))
        for one in rows
        for kept, false, true in zip(one.roc.kept, one.roc.false_positive_rate, one.roc.true_positive_rate, strict=True)
    )
    columns = (
        Column("method", "Method"),
        Column("kept", "Kept"),
        Column("false_positive_rate", "False positive rate", 4),
        Column("true_positive_rate", "True positive rate", 4),
    )
    areas = {one.method: one.roc_auc for one in rows}
    return Table(f"ROC curves against {truth.name}", columns, made, meta(found, truth=truth.name, roc_auc=areas))


def scoreboard(found: CircuitRun, unit: Unit, ranking: Ranking) -> Table:
    """A row per method: agreement with each truth, areas under the faithfulness curves, stability and cost.

    A measured truth counts parts by magnitude, so methods are ranked by magnitude against it; else by signed score.
    """
    truths = list(found.truths.items())
    columns = [Column("method", "Method"), Column("title", "Name")]
    for key, truth in truths:
        where, order = f"{truth.name} ({truth.unit}s)", ranked_by(truth)
        columns += [
            Column(f"{key}_auc", f"AUC, {where}", 3, f"area under the ROC curve, {order}"),
            Column(f"{key}_ap", f"AP, {where}", 3, f"average precision, {order}"),
        ]
    for area, meaning in (("cpr", "CPR (signed), higher is better"), ("cmd", "CMD (by magnitude), 0 is best"),
                          ("log_area", "mean effect kept over the logarithm of the size")):  # fmt: skip
        columns += [Column(area, area.replace("_", " ").upper() if area != "log_area" else "Log area", 3, meaning),
                    Column(f"{area}_low", "Low", 3), Column(f"{area}_high", "High", 3)]  # fmt: skip
    columns += [
        Column("jaccard", "Jaccard", 3, "mean overlap of circuits from resampled prompts"),
        Column("seconds", "Seconds", 2), Column("forwards", "Forwards", 0, "prompts run forward"),
        Column("backwards", "Backwards", 0), Column("n", "n", None, "pairs seen"),
    ]  # fmt: skip
    rows = tuple(_board_row(found, method, truths, unit, ranking) for method in found.methods)
    return Table(
        f"Scoreboard: {found.task}", tuple(columns), rows, meta(found, unit=unit, ranking=ranking)
    )  # fmt: skip


def _board_row(
    found: CircuitRun, method: str, truths: list[tuple[str, Truth]], unit: Unit, ranking: Ranking
) -> tuple[Cell, ...]:
    scores = found.scores(method)
    row: list[Cell] = [method, title(method)]
    for _, truth in truths:
        one = found.agreement(method, truth, truth.ranking)
        row += [_NOTHING, _NOTHING] if one is None else [one.roc_auc, one.average_precision]
    for name, order in (("cpr", "signed"), ("cmd", "absolute"), ("log_area", ranking)):
        area = _area(found, method, unit, "signed" if order == "signed" else "absolute", name)
        row += [_NOTHING] * 3 if area is None else [area.value, area.low, area.high]
    stable = stability_row(found, method)
    row.append(_NOTHING if stable is None else float(stable["stability"]["jaccard"]))
    return (*row, scores.seconds, scores.forwards, scores.backwards, scores.n)


def _area(found: CircuitRun, method: str, unit: Unit, ranking: Ranking, name: str) -> Spread | None:
    one = found.curve(method, unit, ranking)
    return None if one is None else one.areas.get(name)


def stability_row(found: CircuitRun, method: str) -> dict[str, Any] | None:
    """What the run says of a method's stability, or None."""
    rows = found.run.record("stability")["rows"] if found.has("stability") else []
    return next((row for row in rows if row["method"] == method), None)
