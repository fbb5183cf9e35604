"""The stages of a circuit run that judge what was found: curves, agreement with truths, the best heads."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from app.circuit_seeker import Seeker
from app.running import Steps
from circuits.backup_heads import check_backups
from circuits.circuit_scores import CircuitScores
from circuits.evaluation import agreement
from circuits.evaluation.agreement import Ranking
from circuits.evaluation.truth import Unit
from circuits.faithfulness import check_circuit, edge_curve, head_curve
from circuits.records import Arrays, agreement_to_record, curve_to_record, truth_to_record
from headscope.runs import RunWriter

_ROOM_FOR_ALL_HEADS = 1_500  # heads times prompts: joint ablation takes two runs for each


def save_curves(writer: RunWriter, stage: str, steps: Steps, seeker: Seeker, scores: CircuitScores) -> None:
    """Faithfulness against size, by signed score and by magnitude, of heads and of edges."""
    config, records, arrays = seeker.config, list[dict[str, Any]](), Arrays()
    rankings: tuple[Ranking, ...] = ("signed", "absolute")
    wanted = list[tuple[Unit, Ranking]](itertools.product(config.units, rankings))
    for index, (unit, ranking) in enumerate(wanted, 1):
        if unit == "head":
            curve = head_curve(seeker.runs, scores, ranking=ranking, random_draws=config.random_draws, seed=config.seed)
        elif scores.edges is None:
            continue
        else:
            curve = edge_curve(seeker.runs, scores, ranking=ranking, seed=config.seed)
        record, parts = curve_to_record(curve)
        areas = [curve.interval("cpr" if ranking == "signed" else "cmd"), curve.interval("log_area")]
        names = ["cpr" if ranking == "signed" else "cmd", "log_area"]
        told = {name: dataclasses.asdict(area) for name, area in zip(names, areas, strict=True)}
        key = f"{unit}-{ranking}"
        records.append({"key": key, "curve": record, "arrays": sorted(parts), "areas": told})
        arrays |= {f"{key}.{name}": value for name, value in parts.items()}
        steps(index, len(wanted))
    content = {"kind": "circuit_curves", "method": scores.method, "curves": records}
    writer.save_record(stage, content, tensors=arrays, seconds=steps.seconds)


def save_agreement(
    writer: RunWriter, stage: str, steps: Steps, seeker: Seeker, found: dict[str, CircuitScores]
) -> None:
    """Every method's ranking against every truth."""
    truths, rows, told, arrays = seeker.truths(found), list[dict[str, Any]](), list[dict[str, Any]](), Arrays()
    for number, truth in enumerate(truths):
        record, parts = truth_to_record(truth)
        told.append({"key": f"truth{number}", "truth": record, "arrays": sorted(parts)})
        arrays |= {f"truth{number}.{name}": value for name, value in parts.items()}
        for scores in found.values():
            if truth.unit == "edge" and scores.edges is None:
                continue
            for ranking in ("signed", "absolute") if scores.signed else ("signed",):
                record, parts = agreement_to_record(agreement(scores, truth, ranking=ranking))
                key = f"roc{len(rows)}"
                rows.append({"key": key, "agreement": record, "arrays": sorted(parts)})
                arrays |= {f"{key}.{name}": value for name, value in parts.items()}
    writer.save_record(
        stage, {"kind": "circuit_agreement", "truths": told, "rows": rows}, tensors=arrays, seconds=steps.seconds
    )


def save_check(writer: RunWriter, stage: str, steps: Steps, seeker: Seeker, found: dict[str, CircuitScores]) -> None:
    """The best heads of each method as a circuit: faithful, complete, minimal? And which heads stand by."""
    config, rows = seeker.config, list[dict[str, Any]]()
    k = seeker.size(seeker.truths(found))
    for number, (method, scores) in enumerate(found.items(), 1):
        made = check_circuit(seeker.runs, scores.ranked()[:k], seed=config.seed)
        rows.append({"method": method, "check": dataclasses.asdict(made), "heads": [str(h) for h in made.heads]})
        steps(number, len(found))
    backup, arrays = None, Arrays()
    shape = seeker.anatomy.model.shape
    if shape.n_layers * shape.n_heads * len(seeker.judged) <= _ROOM_FOR_ALL_HEADS and found:
        best = next(iter(found.values())).ranked()[: min(3, k)]
        made = check_backups(seeker.runs, best, seed=config.seed)
        tables = ("alone", "conditional", "gain", "gain_low", "gain_high")
        arrays = {name: getattr(made, name) for name in tables}
        backup = {
            "movers": [str(head) for head in made.movers],
            "backups": [str(head) for head in made.backups()],
            **{name: dataclasses.asdict(getattr(made, name)) for name in ("joint", "excess")},
            "n": made.n,
        }
    content = {"kind": "circuit_check", "k": k, "rows": rows, "backup": backup}
    writer.save_record(stage, content, tensors=arrays or None, seconds=steps.seconds)
