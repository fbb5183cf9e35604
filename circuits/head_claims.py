"""Which cells a head is said to use, by its profile, and what cutting them does."""

from __future__ import annotations

import torch

from circuits.cell_cuts import Cells, Judge, carry_cells, check_cells, column_cells, match_cells, offset_cells
from circuits.comparison_results import CLAIMED, Claim, HeadProfile
from headscope.heads import Head
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import LayerMix
from headscope.tasks.synthetic import SyntheticBatch
from probes.mixing_curve import matches_of
from probes.mixing_profile import CARRY_OFFSETS, MATCH_OFFSETS, OFFSETS


def claimed_cells(profile: HeadProfile, least: float = CLAIMED) -> tuple[str, ...]:
    """Names of all kinds of cells on which a head has at least this weight in the moved view, but for the row itself.

    Offsets of 1 and more, rows behind the match to it, every place beside the match, and the first token:
    ``offset 1``, ``carry 1``, ``match +1``, ``first token``. Where uniform rows have much in a cell, the bar is as far
    above these (`HeadProfile.bars`).
    """
    names = [f"offset {d}" for d in OFFSETS[1:]]
    names += [f"carry {d}" for d in CARRY_OFFSETS] if profile.carries else []
    names += [f"match {d:+d}" for d in MATCH_OFFSETS] if profile.matches else []
    every, bars = (*names, "first token"), profile.bars
    return tuple(name for name in every if weight_of(profile, name, "moved") >= max(least, bars.get(name, least)))


def weight_of(profile: HeadProfile, cells: str, view: str) -> float:
    """Mean weight of a head on cells of a name."""
    kind, _, number = cells.partition(" ")
    if kind == "offset":
        return profile.offsets[view][OFFSETS.index(int(number))]
    if kind == "carry":
        return profile.carries[view][CARRY_OFFSETS.index(int(number))]
    if kind == "match":
        return profile.matches[view][MATCH_OFFSETS.index(int(number))]
    return profile.first[view]


def check_claim(
    model: Decoder,
    batch: SyntheticBatch,
    layer: LayerMix,
    profile: HeadProfile,
    cells: str,
    *,
    judge: Judge,
    generator: torch.Generator,
    draws: int,
) -> Claim:
    """Cut the cells of a claim and its controls; see `circuits.cell_cuts.check_cells`."""
    found, head = cells_of(batch, cells), Head.parse(profile.head)
    check = check_cells(model, batch, layer, head, found, judge=judge, generator=generator, draws=draws)
    weight, share = (weight_of(profile, cells, view) for view in ("moved", "share"))
    return Claim(profile.head, cells, weight, share, check)


def cells_of(batch: SyntheticBatch, cells: str) -> Cells:
    """The cells of a name in a batch."""
    kind, _, number = cells.partition(" ")
    if kind == "offset":
        return offset_cells(batch.targets, int(number))
    if kind == "first":
        return column_cells(batch.targets, 0)
    matches = matches_of(batch)
    assert matches is not None  # a claim about matches comes from a task that has them
    made = carry_cells if kind == "carry" else match_cells
    return made(matches.rows, matches.columns, int(number))
