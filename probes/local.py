"""Local heads: they look at the last few positions.

Definitions, on passages of real text (start token first where the model has one), with the offset profile
``c(d) = mean_i A[i, i - d]``: mean distance = mean over rows i >= 1 of sum_j A[i, j] (i - j);
window mass = sum of c(d) over d < 16; window 95 = smallest w with ``sum_{d < w} c(d) >= 0.95``.
Source: locality as in Wu et al. 2024 and MoA (arXiv 2406.14909); window as in StreamingLLM (arXiv 2309.17453).
Pitfalls: rows i < 16 lie wholly inside the window, so its mass has a floor of about 16 / T. A sink head is far from
local, however short its other attention: its distance is that to the first position. Previous-token heads are local.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headscope.heads import ScoreDefinition
from headscope.readings import Reading
from headscope.tasks import build_prose
from probes.passages import measure_passages
from probes.probe import Bench, OnStep, Probe, Samples

WINDOW, SHARE = 16, 0.95
_WHERE = "Real text of 256 tokens by default; start token first where the model has one. Depends on T."

WINDOW_MASS = ScoreDefinition(
    name="window_mass",
    title="Local",
    unit="attention mass",
    formula="sum_{d < 16} c(d), c(d) = mean_i A[i, i - d]: mass on the last 16 positions, the current one included",
    source="window of StreamingLLM, arXiv 2309.17453; per-head locality as in MoA, arXiv 2406.14909",
    reading="0 to 1; floor about 16/T",
    probe="local",
    threshold=0.9,
    head_class="local",
    caveats=_WHERE,
)
MEAN_DISTANCE = ScoreDefinition(
    name="mean_distance",
    title="Mean distance",
    unit="tokens",
    formula="mean over rows i >= 1 of sum_j A[i, j] (i - j)",
    source="Vig and Belinkov 2019, arXiv 1906.04284, mean attention distance",
    reading="0 to T-1; about T/4 for uniform attention",
    probe="local",
    caveats=_WHERE,
    higher=False,
)
WINDOW_95 = ScoreDefinition(
    name="window_95",
    title="Window for 95 %",
    unit="tokens",
    formula="smallest w with sum_{d < w} c(d) >= 0.95",
    source="per-head window as in MoA, arXiv 2406.14909",
    reading="1 to T; the cache window that would keep 95 % of this head's attention",
    probe="local",
    caveats=_WHERE + " Mean over passages of the per-passage window.",
    higher=False,
)
DEFINITIONS = (WINDOW_MASS, MEAN_DISTANCE, WINDOW_95)


def _local_scores(reading: Reading, length: int) -> dict[str, Tensor]:
    """Every local score of one layer, each [batch, head]."""
    device = reading.value.device
    profile = reading.offset_mass()
    positions = torch.arange(length, device=device, dtype=torch.float32)
    share = (positions / length)[:, None]  # in 0..1, for precision
    attended = reading.attended_mean(share)[..., 0] * length
    covered = profile.cumsum(-1) >= SHARE - 1e-6
    return {
        "window_mass": profile[..., :WINDOW].sum(-1),
        "mean_distance": (positions - attended)[..., 1:].mean(-1),
        "window_95": covered.float().argmax(-1).float() + 1.0,
    }


def _measure(bench: Bench, on_step: OnStep) -> Samples:
    n, length = bench.config.prose_examples, bench.prose_length
    text = build_prose(bench.model, bench.haystack, n=n, length=length, generator=bench.generator("prose"))
    names = tuple(definition.name for definition in DEFINITIONS)
    return measure_passages(bench, text, names, lambda reading: _local_scores(reading, length), on_step)


PROBE = Probe("local", "how far back a head looks", DEFINITIONS, _measure)
