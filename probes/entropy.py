"""Entropy: how widely a head spreads its attention.

Definition: mean over rows i >= 1 of ``-sum_j A[i, j] ln A[i, j]``, on passages of real text (start token first
where the model has one). In nats; ``exp`` of it is the effective number of keys.
Source: Clark et al. 2019 (arXiv 1906.04341), section 3.
Pitfalls: the largest possible value grows with the row, ``ln(i + 1)``, so values compare only at one length.
A sink head has low entropy too: low entropy does not say where the head looks.
"""

from __future__ import annotations

from headscope.heads import ScoreDefinition
from headscope.tasks import build_prose
from probes.passages import measure_passages
from probes.probe import Bench, OnStep, Probe, Samples

ENTROPY = ScoreDefinition(
    name="entropy",
    title="Entropy",
    unit="nats",
    formula="mean over rows i >= 1 of -sum_j A[i, j] ln A[i, j]",
    source="Clark et al. 2019, arXiv 1906.04341",
    reading="0 (one key) to about ln T - 1 (uniform)",
    probe="entropy",
    caveats="Real text of 256 tokens by default; start token first where the model has one. Depends on T.",
)


def _measure(bench: Bench, on_step: OnStep) -> Samples:
    n, length = bench.config.prose_examples, bench.prose_length
    text = build_prose(bench.model, bench.haystack, n=n, length=length, generator=bench.generator("prose"))
    return measure_passages(
        bench, text, ("entropy",), lambda reading: {"entropy": reading.row_entropy()[..., 1:].mean(-1)}, on_step
    )


PROBE = Probe("entropy", "how widely attention is spread", (ENTROPY,), _measure)
