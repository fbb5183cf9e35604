"""Induction heads: at the second ``a`` of ``a b ... a`` they look at the ``b`` that followed the first.

Definition (prefix matching): mean over rows i of copies 2..R of sum over all earlier copies m of A[i, i - mP + 1],
on 25 random tokens repeated 4 times.
Source: Olsson et al. 2022 (arXiv 2209.11895), prefix matching score.
Pitfalls: the original leaves out the 5 % most and least common tokens; here tokens are uniform over the vocabulary
without its special tokens. `detect_head` of TransformerLens divides by all attention, rows without a match included,
so its numbers are lower (second column). A high score says where the head looks, not that it copies: see copying,
and the ablation.
"""

from __future__ import annotations

from headscope.heads import ScoreDefinition
from probes.probe import Bench, OnStep, Probe, Samples
from probes.repeated_cells import measure_cells

INDUCTION = ScoreDefinition(
    name="induction",
    title="Induction",
    unit="attention mass",
    formula="mean_i sum_m A[i, i - mP + 1], rows i of copies 2..R, all earlier copies m (prefix matching)",
    source="Olsson et al. 2022, arXiv 2209.11895",
    reading="0 to 1; 1 means all attention goes to what followed earlier copies of the current token",
    probe="induction",
    threshold=0.3,
    head_class="induction",
    caveats="Query heads; random tokens, none twice within a copy; start token first where the model has one.",
)
INDUCTION_TL = ScoreDefinition(
    name="induction_tl",
    title="Induction (TransformerLens)",
    unit="share of all attention",
    formula="sum over the same cells, divided by sum A",
    source="TransformerLens head_detector.detect_head, error_measure='mul'",
    reading="0 to (R-1)/R: rows of the first copy count in the divisor and can never score",
    probe="induction",
)


def _measure(bench: Bench, on_step: OnStep) -> Samples:
    mean, share = measure_cells(bench, "induction", on_step)
    return {"induction": mean, "induction_tl": share}


PROBE = Probe(
    "induction", "attention to what followed earlier copies of the token", (INDUCTION, INDUCTION_TL), _measure
)
