"""Duplicate-token heads, also called echo heads: they look at earlier copies of the current token.

Definition: mean over rows i of copies 2..R of sum over all earlier copies m of A[i, i - mP], on random tokens
repeated in copies of period P.
Source: Wang et al. 2022 (arXiv 2211.00593), "duplicate token heads"; Tang et al. 2024 (RazorAttention,
arXiv 2407.15891), "echo heads".
Pitfalls: RazorAttention averages over all T^2 cells, which depends on T; here the mean is over rows that have an
earlier copy, so the value lies in 0..1 and does not depend on the period. Tokens are drawn without replacement, since
accidental repeats within a copy would be counted as misses.
"""

from __future__ import annotations

from headscope.heads import ScoreDefinition
from probes.probe import Bench, OnStep, Probe, Samples
from probes.repeated_cells import measure_cells

DUPLICATE_TOKEN = ScoreDefinition(
    name="duplicate_token",
    title="Duplicate token",
    unit="attention mass",
    formula="mean_i sum_m A[i, i - mP], rows i of copies 2..R, all earlier copies m",
    source="Wang et al. 2022, arXiv 2211.00593; RazorAttention echo heads, arXiv 2407.15891",
    reading="0 to 1; 1 means all attention goes to earlier copies of the same token",
    probe="duplicate_token",
    threshold=0.3,
    head_class="duplicate-token",
    caveats="Query heads; the current position itself does not count; start token first where the model has one.",
)
DUPLICATE_TOKEN_TL = ScoreDefinition(
    name="duplicate_token_tl",
    title="Duplicate token (TransformerLens)",
    unit="share of all attention",
    formula="sum over the same cells, divided by sum A",
    source="TransformerLens head_detector.detect_head, error_measure='mul'",
    reading="0 to (R-1)/R: rows of the first copy count in the divisor and can never score",
    probe="duplicate_token",
)


def _measure(bench: Bench, on_step: OnStep) -> Samples:
    mean, share = measure_cells(bench, "duplicate", on_step)
    return {"duplicate_token": mean, "duplicate_token_tl": share}


PROBE = Probe(
    "duplicate_token",
    "attention to earlier copies of the current token",
    (DUPLICATE_TOKEN, DUPLICATE_TOKEN_TL),
    _measure,
)
