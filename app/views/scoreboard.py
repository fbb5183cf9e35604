"""The tables of a circuit run: what the terminal prints and the report lays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from app.views.circuit import CircuitRun
from app.views.circuit_tables import stability_row
from app.views.circuit_words import title
from app.views.numbers import MISSING, duration, fixed, interval
from app.views.record_numbers import number, spread
from app.views.tables import TextTable
from circuits.evaluation import Spread
from circuits.evaluation.agreement import Ranking
from circuits.evaluation.truth import Unit

Area = Literal["cpr", "cmd", "log_area"]
UNITS: tuple[Unit, ...] = ("head", "edge")
_AREAS: tuple[tuple[Area, str, Ranking], ...] = (
    ("cpr", "CPR", "signed"),
    ("cmd", "CMD", "absolute"),
    ("log_area", "log area", "signed"),
)
_EXPLAINED = (
    "AUC and AP: against each truth, ranked by magnitude where it was measured (heads that work against the answer are "
    "members too), by signed score where it is known. CPR (higher is better), CMD (0 is best): circuits "
    "of growing size, judged on pairs that no method saw. Jaccard: circuits from resampled prompts; 0.8 is the bar."
)
_CIRCULAR = " Patching agrees with what it measured in this run by construction."


def circuit_tables(found: CircuitRun) -> list[TextTable]:
    """Every table of a circuit run, of the stages that are in."""
    if not found.methods:
        return []
    made = [
        board_table(found),
        truth_table(found),
        *(area_table(found, unit) for unit in UNITS),
        check_table(found),
        stability_table(found),
        ablation_table(found),
    ]
    return [table for table in made if table is not None]


def board_table(found: CircuitRun) -> TextTable:
    """The scoreboard: a row per method, whatever is known of it."""
    truths = [truth for truth in found.truths.values() if truth.unit == "head"]
    checked = _by_method(found, "check")
    measures = [f"{name} {unit}s" for _, name, _ in _AREAS[:2] for unit in UNITS]
    of_truths = [f"{name} {place}" for place, _ in enumerate(truths, 1) for name in ("AUC", "AP")]
    k = found.k
    columns = ("method", *of_truths, *measures, f"effect of top {k}", "Jaccard", "pairs", "time", "forwards", "back")
    rows = list[tuple[str, ...]]()
    for method in found.methods:
        scores, stable = found.scores(method), stability_row(found, method)
        against = [found.agreement(method, truth, truth.ranking) for truth in truths]
        areas = [area_of(found, method, unit, name, ranking) for name, _, ranking in _AREAS[:2] for unit in UNITS]
        alone = spread(checked[method]["check"]["faithfulness"]).value if method in checked else float("nan")
        shared: Any = stable["stability"] if stable else {"jaccard": float("nan")}
        rows.append(
            (
                title(method),
                *(fixed(v) for one in against for v in ((one.roc_auc, one.average_precision) if one else _none(2))),
                *(fixed(area.value if area else float("nan"), 2) for area in areas),
                fixed(alone, 2),
                fixed(number(shared["jaccard"]), 2),
                str(scores.n),
                duration(scores.seconds),
                f"{scores.forwards:.0f}",
                f"{scores.backwards:.0f}",
            )
        )
    name = f"Scoreboard: {found.task} on {found.run.manifest.model.name}"
    names = ", ".join(f"{place} is {truth.name}" for place, truth in enumerate(truths, 1))
    note = f"Truth {names}. {_EXPLAINED}" if truths else _EXPLAINED
    note += _CIRCULAR if any(truth.name.endswith("in this run") for truth in truths) else ""
    return TextTable(name, columns, tuple(rows), frozenset(columns[1:]), note)


def truth_table(found: CircuitRun) -> TextTable | None:
    """Every method against every truth, by signed score and by magnitude."""
    columns = (
        "method",
        "truth",
        "parts",
        "ranked by",
        "AUC",
        "AP",
        "precision at k",
        "k",
        "best TPR/TNR",
        "rank corr.",
    )
    rows = tuple(
        (
            title(one.method),
            one.truth,
            f"{one.n_true} of {one.n_parts} {one.unit}s",
            "score" if one.ranking == "signed" else "magnitude",
            fixed(one.roc_auc),
            fixed(one.average_precision),
            fixed(one.precision_at_k),
            str(one.k),
            fixed(one.tpr_tnr_harmonic),
            fixed(one.rank_correlation),
        )
        for one in found.agreements.values()
    )
    note = "Best TPR/TNR is what O'Neill and Bui call F1; its threshold is chosen with the truth in sight."
    return TextTable("Against each truth", columns, rows, frozenset(columns[4:]), note) if rows else None


def area_table(found: CircuitRun, unit: Unit) -> TextTable | None:
    """Areas under the faithfulness curves of one kind of part, with intervals over prompts."""
    columns = ("method", *(f"{name}{end}" for _, name, _ in _AREAS for end in ("", " 95 %")), "pairs judged on")
    rows = list[tuple[str, ...]]()
    for method in found.methods:
        areas = [area_of(found, method, unit, name, ranking) for name, _, ranking in _AREAS]
        if all(area is None for area in areas):
            continue
        cells = [c for a in areas for c in ((fixed(a.value), interval(a.low, a.high)) if a else (MISSING, MISSING))]
        rows.append((title(method), *cells, str(next(area.n for area in areas if area))))
    kept = "MLPs and embedding always kept" if unit == "head" else "loose ends pruned, as in MIB"
    note = f"Everything outside a circuit: {found.config.get('ablation', 'resample')} ablation; {kept}."
    made = TextTable(f"Faithfulness of circuits of {unit}s", columns, tuple(rows), frozenset(columns[1:]), note)
    return made if rows else None


def check_table(found: CircuitRun) -> TextTable | None:
    """Whether the best heads of each method are faithful, complete and minimal."""
    rows = list[tuple[str, ...]]()
    for method, row in _by_method(found, "check").items():
        made = row["check"]
        alone, left = spread(made["faithfulness"]), spread(made["left"])
        random = [number(value) for value in made["random_faithfulness"]]
        needed = sum(spread(drop).low > 0 for drop in made["drops"])
        rows.append(
            (
                title(method),
                f"{fixed(alone.value, 2)} {interval(alone.low, alone.high, 2)}",
                fixed(sum(random) / len(random), 2) if random else MISSING,
                f"{fixed(left.value, 2)} {interval(left.low, left.high, 2)}",
                fixed(number(made["incompleteness"]), 2),
                f"{needed} of {len(made['drops'])}",
                " ".join(row["heads"]),
            )
        )
    columns = ("method", "effect kept", "random sets", "left without it", "incompleteness", "heads needed", "heads")
    note = (
        "Faithful: effect kept near 1. Complete: what is left without it and incompleteness near 0. Minimal: all heads "
        "needed (the circuit is worse without them, beyond the interval; about 0 also where a backup covers)."
    )
    name = f"The {found.k} best heads of each method as a circuit"
    return TextTable(name, columns, tuple(rows), frozenset(columns[1:6]), note) if rows else None


def stability_table(found: CircuitRun) -> TextTable | None:
    """Whether other prompts would have given the same circuit."""
    columns = ("method", "Jaccard", "95 % of pairs", "chance", "parts in >= 95 %", "resamples", "verdict")
    rows = list[tuple[str, ...]]()
    for method, row in _by_method(found, "stability").items():
        made = row["stability"]
        core = int((found.run.tensor("stability", f"{method}.inclusion") >= 0.95).sum())
        shown = (fixed(number(made["jaccard"])), interval(number(made["low"]), number(made["high"]), 2))
        verdict = str(row["verdict"]).partition(":")[0]
        cells = (title(method), *shown, fixed(number(made["chance"]), 2))
        rows.append((*cells, f"{core} of {made['k']}", str(made["resamples"]), verdict))
    for row in found.run.record("stability").get("edge_rows", []) if found.has("stability") else []:
        made = row["stability"]
        shown = (fixed(number(made["jaccard"])), interval(number(made["low"]), number(made["high"]), 2))
        cells = (f"{title(row['method'])}, edges", *shown, fixed(number(made["chance"]), 2))
        verdict = str(row["verdict"]).partition(":")[0]
        rows.append((*cells, f"{row['core']} of {made['k']}", str(made["resamples"]), verdict))
    name = f"Stability of the circuit of {found.k} heads, and of the strongest edges, over prompts"
    return TextTable(name, columns, tuple(rows), frozenset(columns[1:6])) if rows else None


def ablation_table(found: CircuitRun) -> TextTable | None:
    """How much the kind of ablation changes what patching finds."""
    kinds = found.run.record("stability")["ablations"] if found.has("stability") else []
    rows = tuple(
        (
            f"{one['first']} and {one['second']}",
            fixed(number(one["rank"][0])),
            interval(number(one["rank"][1]), number(one["rank"][2])),
            fixed(number(one["overlap"])),
        )
        for one in kinds
    )
    columns = ("patching with", "rank correlation", "95 % over heads", f"overlap of top {found.k}")
    note = str(found.run.record("stability").get("ablations_note", "")) if found.has("stability") else ""
    return (
        TextTable("Sensitivity to the kind of ablation", columns, rows, frozenset(columns[1:]), note) if rows else None
    )


def drop_table(found: CircuitRun, method: str) -> TextTable | None:
    """Minimality head by head: what the circuit loses without each."""
    row = _by_method(found, "check").get(method)
    if row is None:
        return None
    drops = [spread(drop) for drop in row["check"]["drops"]]
    cells = tuple(
        (label, fixed(drop.value), interval(drop.low, drop.high), "yes" if drop.low > 0 else "no")
        for label, drop in zip(row["heads"], drops, strict=True)
    )
    columns = ("head", "lost without it", "95 %", "needed")
    return TextTable(f"{title(method)}: head by head", columns, cells, frozenset(columns[1:3]))


def backup_sentence(found: CircuitRun) -> str:
    """What ablating the strongest heads together says of heads that stand by."""
    made = found.run.record("check")["backup"] if found.has("check") else None
    if made is None:
        return ""
    joint, excess = spread(made["joint"]), spread(made["excess"])
    chain = "each alone already breaks what the others do, or they saturate the same thing"
    kind = "they cover for each other" if excess.low > 0 else chain
    kind = kind if excess.low > 0 or excess.high < 0 else "neither is seen beyond the interval"
    ends = (excess.low, excess.high) if excess.value >= 0 else (-excess.high, -excess.low)
    return (
        f"{', '.join(made['movers'])} ablated together cost {fixed(joint.value, 2)} "
        f"{interval(joint.low, joint.high, 2)}; that is {fixed(abs(excess.value), 2)} {interval(*ends, 2)} "
        f"{'more' if excess.value >= 0 else 'less'} than one by one added up: {kind}. Heads that matter more once "
        f"they are gone, beyond the interval: {', '.join(made['backups']) or 'none'} (n = {made['n']}; no correction "
        "for the number of heads)."
    )


def area_of(found: CircuitRun, method: str, unit: Unit, name: Area, ranking: Ranking) -> Spread | None:
    """One area of one method's curve, or None."""
    one = found.curve(method, unit, ranking)
    return None if one is None else one.areas.get(name)


def _by_method(found: CircuitRun, stage: str) -> Mapping[str, Any]:
    """The rows of a stage's record by method; empty where it is not in."""
    rows: Sequence[Any] = found.run.record(stage)["rows"] if found.has(stage) else ()
    return {row["method"]: row for row in rows}


def _none(count: int) -> tuple[float, ...]:
    return (float("nan"),) * count
