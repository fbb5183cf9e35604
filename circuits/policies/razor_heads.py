"""The heads that RazorAttention keeps whole: echo and induction heads on random tokens said four times.

Tang et al. 2025, arXiv 2407.15891, section 3.2. On T tokens, random ones repeated with period P:

    echo(h)      = sum over i, m >= 1 of A[i, i - mP]     / T^2   (earlier copies of the token itself)
    induction(h) = sum over i, m >= 1 of A[i, i - mP + 1] / T^2   (what came after them)

The means are over the whole T x T matrix, so that scores of different lengths cannot be compared; `probes.induction`
and `probes.duplicate_token` give the same orders on a scale of 0 to 1. Random tokens are drawn without replacement;
the authors' code draws with it, and counts accidental repeats as misses.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from circuits.policies.head_split import HeadSplit, count_of
from circuits.policies.search_settings import RazorHeadSettings
from headscope.heads import HeadScores, ScoreDefinition
from headscope.models.protocol import HookedModel
from headscope.readings import Reading, read
from headscope.tasks import build_repeated
from headscope.tasks.repeated import CellKind
from probes.probe import OnStep, batches, no_progress, summarise

_CAVEATS = (
    "Query heads; comparable only between heads measured at the same T. Random tokens, none twice within a copy; start "
    "token first where the model has one."
)
ECHO = ScoreDefinition(
    name="razor_echo",
    title="Echo (RazorAttention)",
    unit="attention mass per cell",
    formula="sum_i sum_m A[i, i - mP] / T^2, all earlier copies m of the token",
    source="Tang et al. 2025 (RazorAttention), arXiv 2407.15891, section 3.2",
    reading="0 to (1 - 1/R) / T, with R copies; the order is what counts",
    probe="razor_heads",
    caveats=_CAVEATS,
)
INDUCTION = ScoreDefinition(
    name="razor_induction",
    title="Induction (RazorAttention)",
    unit="attention mass per cell",
    formula="sum_i sum_m A[i, i - mP + 1] / T^2, what followed all earlier copies m of the token",
    source="Tang et al. 2025 (RazorAttention), arXiv 2407.15891, section 3.2",
    reading="0 to (1 - 1/R) / T, with R copies; the order is what counts",
    probe="razor_heads",
    caveats=_CAVEATS,
)
_CELLS: dict[str, tuple[ScoreDefinition, CellKind]] = {
    "echo": (ECHO, "duplicate"),
    "induction": (INDUCTION, "induction"),
}


def razor_scores(
    model: HookedModel, settings: RazorHeadSettings | None = None, *, on_step: OnStep = no_progress
) -> tuple[HeadScores, HeadScores]:
    """Echo and induction scores of every query head, in this order, from one pass over the sequences.

    Raises:
        TaskError: if the vocabulary has fewer tokens than a period, or the context is too short for the copies.
        UnsupportedError: if the model cannot be read through the attention seam.
    """
    settings = settings or RazorHeadSettings()
    samples = _measure(model, settings, on_step)
    echo, induction = (
        summarise(definition, samples[name], model, seed=settings.seed) for name, (definition, _) in _CELLS.items()
    )
    return echo, induction


def _measure(
    model: HookedModel, settings: RazorHeadSettings, on_step: OnStep
) -> dict[str, Float[np.ndarray, "example layer head"]]:
    """Mass on the cells of each kind over T^2, for every example."""
    generator = torch.Generator().manual_seed(settings.seed)
    task = build_repeated(
        model, n=settings.examples, period=settings.period, copies=settings.copies, generator=generator
    )
    cells = {name: [part.to(model.device) for part in task.cells(kind)] for name, (_, kind) in _CELLS.items()}
    shape = (settings.examples, model.shape.n_layers, model.shape.n_heads)
    found = {name: np.zeros(shape, dtype=np.float32) for name in cells}
    for where, tokens in batches(task.tokens):

        def take(layer: int, reading: Reading, where: slice = where) -> None:
            for name, (rows, keys) in cells.items():
                found[name][where, layer] = reading.cell_mass(rows, keys).sum(-1).cpu().numpy()

        read(model, tokens, take)
        on_step(min(where.stop, settings.examples), settings.examples)
    return {name: mass / task.tokens.shape[1] ** 2 for name, mass in found.items()}


def razor_split(echo: HeadScores, induction: HeadScores, settings: RazorHeadSettings | None = None) -> HeadSplit:
    """The key/value heads that keep everything: strongest echo heads and strongest induction heads of all layers.

    A key/value head counts by its strongest query head. The split holds exactly as many heads as both shares together
    mean: the echo heads first, at least one where their share is above 0 and anything is kept at all, and the rest from
    the top of the induction ranking; so a head in both classes is made up for by the next induction head.

    Args:
        echo: scores per query head.
        induction: likewise.
        settings: the two shares of key/value heads, 14 % and 1 % by default.
    """
    settings = settings or RazorHeadSettings()
    full = np.zeros((echo.n_layers, echo.n_kv_heads), dtype=bool)
    both = min(1.0, round(settings.induction_share + settings.echo_share, 9))  # 0.1 + 0.2 is above 0.3
    total = count_of(both, full.size)
    n_echo = min(total, max(count_of(settings.echo_share, full.size), int(settings.echo_share > 0)))
    for head in echo.by_kv_head().ranked()[:n_echo]:
        full[head] = True
    for head in induction.by_kv_head().ranked():
        if int(full.sum()) < total:
            full[head] = True
    return HeadSplit(full, f"strongest {settings.induction_share:.0%} induction, {settings.echo_share:.0%} echo")
