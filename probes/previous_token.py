"""Previous-token heads: from every position they look one back.

Definition: mean over rows i of A[i, i-1], on repeated random tokens, rows with a random token before them.
Source: Olsson et al. 2022 (arXiv 2209.11895), "previous token heads"; Elhage et al. 2021.
Pitfalls: the row after the start token is left out, since there "previous" and "sink" are the same cell. On natural
text the score is higher for local heads, which this measure cannot tell from sharp ones: see the local probe.
"""

from __future__ import annotations

from headscope.heads import ScoreDefinition
from probes.probe import Bench, OnStep, Probe, Samples
from probes.repeated_cells import measure_cells

PREVIOUS_TOKEN = ScoreDefinition(
    name="previous_token",
    title="Previous token",
    unit="attention mass",
    formula="mean_i A[i, i-1], over rows that have a random token before them; start token never counted as key",
    source="Olsson et al. 2022, arXiv 2209.11895",
    reading="0 to 1; 1 means all attention goes one position back",
    probe="previous_token",
    threshold=0.4,
    head_class="previous-token",
    caveats="Query heads; random tokens repeated in copies; start token first where the model has one.",
)
PREVIOUS_TOKEN_TL = ScoreDefinition(
    name="previous_token_tl",
    title="Previous token (TransformerLens)",
    unit="share of all attention",
    formula="sum A[i, i-1] over those rows, divided by sum A",
    source="TransformerLens head_detector.detect_head, error_measure='mul'",
    reading="0 to 1; near the score above, since almost every row has a previous token",
    probe="previous_token",
    caveats="detect_head also counts the cell on the start token (row 1): here as there it is included.",
)


def _measure(bench: Bench, on_step: OnStep) -> Samples:
    mean, share = measure_cells(bench, "previous", on_step)
    return {"previous_token": mean, "previous_token_tl": share}


PROBE = Probe(
    "previous_token",
    "attention to the position before, on random tokens",
    (PREVIOUS_TOKEN, PREVIOUS_TOKEN_TL),
    _measure,
)
