"""The measurement behind three probes: mass on the cells of one kind, on repeated random tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headscope.readings import Reading, read
from headscope.tasks import build_repeated
from headscope.tasks.repeated import CellKind
from probes.probe import Bench, OnStep, batches


def measure_cells(
    bench: Bench, kind: CellKind, on_step: OnStep
) -> tuple[Float[np.ndarray, "example layer head"], Float[np.ndarray, "example layer head"]]:
    """Mass on the cells of ``kind``: mean over the rows that have one, and over all rows of the pattern.

    The second is TransformerLens' `detect_head` with ``error_measure="mul"``: the sum over those cells divided by
    the sum over the whole pattern, which is T since rows sum to 1. All three kinds use the same sequences.
    """
    config = bench.config
    task = build_repeated(
        bench.model,
        n=config.repeated_examples,
        period=config.period,
        copies=config.copies,
        generator=bench.generator("repeated tokens"),
    )
    rows, keys = (part.to(bench.model.device) for part in task.detection_cells(kind))
    own = (rows >= int(task.cells(kind)[0].min())).float()
    mass, detected = bench.zeros(config.repeated_examples), bench.zeros(config.repeated_examples)
    for where, tokens in batches(task.tokens):

        def take(layer: int, reading: Reading, where: slice = where) -> None:
            cells = reading.cell_mass(rows, keys)
            mass[where, layer] = (cells @ own).cpu().numpy()
            detected[where, layer] = cells.sum(-1).cpu().numpy()

        read(bench.model, tokens, take, method=config.method)
        on_step(min(where.stop, len(mass)), len(mass))
    return mass / task.n_rows(kind), detected / task.tokens.shape[1]
