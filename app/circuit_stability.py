"""The stage of a circuit run on stability: would other prompts, or another ablation, give the same circuit?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from app.circuit_seeker import Seeker
from app.running import Steps
from circuits.attribution import edge_scores
from circuits.circuit_scores import CircuitScores
from circuits.discovery import discover
from circuits.method_settings import PatchingSettings
from circuits.records import Arrays, stability_to_record
from circuits.stability import ablation_sensitivity, stability_of_prompts
from headscope.runs import RunWriter

_EDGES_BY_PROMPT = ("eap", "eap-ig-inputs")  # an edge's score is a mean over prompts, and quick to have for each
_EDGE_SHARE, _SHOWN_EDGES, _CORE = 0.002, 40, 0.95


def save_stability(
    writer: RunWriter, stage: str, steps: Steps, seeker: Seeker, found: dict[str, CircuitScores]
) -> None:
    """How often each head is in the circuit when prompts are drawn again; how much the kind of ablation matters."""
    config, rows, arrays = seeker.config, list[dict[str, Any]](), Arrays()
    k = seeker.size(seeker.truths(found))
    for method, scores in found.items():
        if scores.examples is None or len(scores.examples) < 2:
            continue
        made = stability_of_prompts(scores.examples, k=k, resamples=config.resamples, seed=config.seed)
        record, parts = stability_to_record(made)
        rows.append({"method": method, "stability": record, "is_stable": made.is_stable, "verdict": made.verdict})
        arrays |= {f"{method}.{name}": value for name, value in parts.items()}
    edges = [_edge_stability(seeker, scores) for method, scores in found.items() if method in _EDGES_BY_PROMPT]
    kinds, note = _ablations(seeker, found, steps) if "patching" in found else ([], "")
    content = {
        "kind": "circuit_stability",
        "k": k,
        "rows": rows,
        "edge_rows": edges,
        "ablations": kinds,
        "ablations_note": note,
    }
    writer.save_record(stage, content, tensors=arrays or None, seconds=steps.seconds)


def _edge_stability(seeker: Seeker, scores: CircuitScores) -> dict[str, Any]:
    """The same of a method's edges, from their scores on every prompt; the likeliest edges by name."""
    config, graph, method = seeker.config, scores.graph, scores.method
    settings: Any = config.settings_of(method)
    batch = seeker.pairs_of(method).to(seeker.anatomy.model.device)
    examples = np.nan_to_num(edge_scores(seeker.anatomy, batch, settings, method))
    k = max(10, round(_EDGE_SHARE * graph.n_edges))
    made = stability_of_prompts(
        examples, k=k, unit="edge", possible=graph.edges, absolute=True, resamples=config.resamples, seed=config.seed
    )
    record, arrays = stability_to_record(made)
    inclusion = arrays["inclusion"]
    order = np.argsort(-inclusion, axis=None, kind="stable")[:_SHOWN_EDGES]
    places = [divmod(int(index), inclusion.shape[1]) for index in order]
    likely = [[str(graph.writers[w]), str(graph.readers[r]), float(inclusion[w, r])] for w, r in places]
    core = int((inclusion >= _CORE).sum())
    return {"method": method, "stability": record, "verdict": made.verdict, "core": core, "likeliest": likely}


def _ablations(seeker: Seeker, found: dict[str, CircuitScores], steps: Steps) -> tuple[list[dict[str, Any]], str]:
    """Patching again with means, where means are of more than one prompt, and with zeros."""
    k, batch = seeker.size(seeker.truths(found)), seeker.pairs_of("patching")
    kinds, note = {"resample": found["patching"]}, ""
    if int(batch.template.unique(return_counts=True)[1].max()) == 1:
        note = "Means are not tried: every template has one prompt, whose mean is the corrupted twin itself."
    for number, replacement in enumerate(("zero",) if note else ("mean", "zero"), 1):
        asked = PatchingSettings.parse({"replacement": replacement})
        kinds[replacement] = discover(seeker.anatomy, batch, "patching", asked, seed=seeker.config.seed)
        steps(number, 2)
    made = ablation_sensitivity(kinds, k=k, seed=seeker.config.seed)
    return [dataclasses.asdict(one) for one in made], note
