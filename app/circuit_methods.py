"""The stages of a circuit run in which methods look for it: scores of heads, then all that a method found."""

from __future__ import annotations

import numpy as np

from app.circuit_seeker import Seeker
from app.running import Steps
from circuits.circuit_scores import CircuitScores
from circuits.discovery import discover
from circuits.methods import METHODS
from circuits.records import scores_from, scores_to_record
from headscope.heads import HeadScores, ScoreDefinition
from headscope.runs import Run, RunWriter
from probes.probe import OnStep, summarise

PARTS = "-parts"


def found_so_far(run: Run, methods: tuple[str, ...]) -> dict[str, CircuitScores]:
    """The scores of the methods whose stages are in."""
    return {method: load_scores(run, method) for method in methods if method + PARTS in run.records}


def load_scores(run: Run, method: str) -> CircuitScores:
    """One method's scores, as the run keeps them."""
    record = run.record(method + PARTS)
    arrays = {name: run.tensor(method + PARTS, name) for name in record["arrays"]}
    return scores_from(record["scores"], arrays)


def score_definition(scores: CircuitScores) -> ScoreDefinition:
    """A method's scores of heads as any other score of a head: ``circuit_eap_ig_inputs``."""
    method = METHODS[scores.method]
    return ScoreDefinition(
        name="circuit_" + scores.method.replace("-", "_"),
        title=f"{method.title}: {scores.task}",
        unit="nats" if scores.unit == "measure" else scores.unit,
        formula=scores.meaning,
        source=method.source,
        reading="any sign; above 0 the head helps the right answer" if scores.signed else "higher matters more",
        probe=scores.method,
        caveats=f"On {scores.n} pairs of {scores.task}. " + " ".join(scores.notes),
    )


def find(seeker: Seeker, method: str, on_step: OnStep) -> CircuitScores:
    """Run one method on its pairs."""
    config = seeker.config
    asked = config.settings_of(method)
    return discover(seeker.anatomy, seeker.pairs_of(method), method, asked, seed=config.seed, on_step=on_step)


def save_method(writer: RunWriter, stage: str, steps: Steps, seeker: Seeker) -> CircuitScores:
    """One method's scores: heads as scores of the run."""
    scores = find(seeker, stage, steps)
    definition = score_definition(scores)
    samples = scores.examples if scores.examples is not None and len(scores.examples) > 1 else None
    if samples is None:
        model, blank = seeker.anatomy.model, np.full(scores.heads.shape, np.nan)
        count = np.full(scores.heads.shape, scores.n)
        table = HeadScores(definition, model.name, scores.heads, blank, blank, count, model.shape.n_kv_heads)
    else:
        table = summarise(definition, samples, seeker.anatomy.model, seed=seeker.config.seed)
    kept = {} if samples is None else {definition.name: samples}
    writer.save_scores(stage, [table], samples=kept, seconds=steps.seconds)
    return scores


def save_parts(writer: RunWriter, stage: str, steps: Steps, scores: CircuitScores) -> None:
    """The whole of what the method found: MLPs, edges, cost."""
    record, arrays = scores_to_record(scores)
    content = {"kind": "circuit_scores", "method": scores.method, "scores": record, "arrays": sorted(arrays)}
    writer.save_record(stage, content, tensors=arrays, seconds=steps.seconds)
