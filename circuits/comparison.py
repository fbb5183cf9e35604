"""Small models with different mixers side by side: what each one's heads look at and bring, and whether it matters.

Every head is described by whole profiles in two views of M that mean the same for every mixer (raw M does not). The
strongest cells of a profile are a claim, *this head reads these cells*, and each claim is tested by cutting the cells
against equally many others (`circuits.cell_cuts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.cell_cuts import Cells, check_cells, column_cells, match_cells, offset_cells
from circuits.comparison_results import Claim, HeadProfile, ModelReport
from headscope.errors import HeadscopeError
from headscope.heads import Head
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import LayerMix, read_mixing
from headscope.statistics import Interval, bootstrap_scalar
from headscope.tasks.synthetic import SyntheticBatch, SyntheticTask
from probes.mixing_curve import matches_of
from probes.mixing_profile import (
    MATCH_OFFSETS,
    OFFSETS,
    VIEWS,
    Matches,
    first_token,
    first_value_norm,
    match_profile,
    offset_profile,
    uniform_first_token,
    view_of,
)

CLAIMED = 0.25
"""Cells with this mean weight in the moved view make a claim; uniform rows of 32 columns have 0.03 in a cell."""


@dataclass(frozen=True)
class Compared:
    """A model to compare.

    Attributes:
        name: what it is called.
        variant: of the registry.
        seed: of its training.
        model: the model.
    """

    name: str
    variant: str
    seed: int
    model: Decoder


def describe_model(
    compared: Compared,
    task: SyntheticTask[Any],
    *,
    n: int = 128,
    draws: int = 20,
    seed: int = 0,
    lengths: Sequence[int] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> ModelReport:
    """Profiles, claims and accuracies of one model.

    Args:
        compared: the model.
        task: what it was trained on.
        n: examples.
        draws: random cuts beside each claim.
        seed: of the examples, which are the same for every model on one device, and of the cuts.
        lengths: other lengths of the text to score it on.
        on_step: called with (done, total) steps: the profiles, each claim, each length.
    """
    model = compared.model.eval()
    generator = torch.Generator().manual_seed(seed)
    batch = task.held_out.batch(n, generator)
    layers = read_mixing(model, batch.given)
    matches = matches_of(batch)
    heads = [profile for layer in layers for profile in _profiles(layer, matches)]
    editable = {layer.layer for layer in model.mixing_layers if layer.mixer.kind != "jacobian"}  # others have no cells
    claimed = [
        claim
        for head in heads
        for claim in _claimed(head, matches is not None)
        if Head.parse(head.head).layer in editable
    ]
    total, done = 1 + len(claimed) + len(lengths), 1
    claims = list[Claim]()
    for profile, cells in claimed:
        if on_step is not None:
            on_step(done, total)
        claims.append(_test(model, batch, profile, cells, generator=generator, draws=draws))
        done += 1
    scored = dict[int, Interval]()
    for length in lengths:
        if on_step is not None:
            on_step(done, total)
        scored[length] = accuracy_at(model, task, length, n=n, seed=seed)
        done += 1
    if on_step is not None:
        on_step(total, total)
    return ModelReport(
        name=compared.name,
        variant=compared.variant,
        seed=compared.seed,
        kind=model.mixing_layers[0].mixer.kind,
        accuracy=_interval(correct_share(_logits(model, batch), batch)),
        n=n,
        state_size=model.state_size(task.length),
        parameters=sum(part.numel() for part in model.parameters()),
        heads=tuple(heads),
        claims=tuple(claims),
        lengths=scored,
    )


def correct_share(logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> Float[Tensor, " B"]:
    """Share of the asked positions of each example whose largest logit is the target."""
    asked = batch.is_asked
    right = (logits.argmax(-1) == batch.targets) & asked
    return right.sum(1).double() / asked.sum(1).clamp_min(1)


def accuracy_at(model: Decoder, task: SyntheticTask[Any], length: int, *, n: int, seed: int) -> Interval:
    """Accuracy on texts of another length; NaN where the task or the model has none so long."""
    try:
        batch = task.changed(length=length).held_out.batch(n, torch.Generator().manual_seed(seed))
        return _interval(correct_share(_logits(model, batch), batch))
    except HeadscopeError:
        return Interval(float("nan"), float("nan"), float("nan"))


def _profiles(layer: LayerMix, matches: Matches | None) -> list[HeadProfile]:
    """All heads of a layer, mean over the examples."""
    views = {view: view_of(layer, view) for view in VIEWS}
    offsets = {view: offset_profile(weights).mean(0) for view, weights in views.items()}
    found = {} if matches is None else {view: match_profile(w, matches).mean(0) for view, w in views.items()}
    first = {view: first_token(weights).mean(0) for view, weights in views.items()}
    norm, mass = first_value_norm(layer).mean(0), layer.row_mass.mean((0, 2))
    null, negative = layer.mix.null_mass, layer.negative_share.mean((0, 2))
    support = layer.support.mean((0, 2))
    return [
        HeadProfile(
            head=str(Head(layer.layer, head)),
            offsets={view: _numbers(part[head]) for view, part in offsets.items()},
            matches={view: _numbers(part[head]) for view, part in found.items()},
            first={view: float(part[head]) for view, part in first.items()},
            first_uniform=uniform_first_token(layer.mix.n_tokens),
            first_norm=float(norm[head]),
            row_mass=float(mass[head]),
            null_mass=None if null is None else float(null.float().mean((0, 2))[head]),
            negative=float(negative[head]),
            support=float(support[head]),
        )
        for head in range(len(norm))
    ]


def _numbers(part: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in part)


def _claimed(profile: HeadProfile, has_matches: bool) -> list[tuple[HeadProfile, str]]:
    """The strongest offset (not the row itself), the strongest match and the first token, where they are strong."""
    moved = profile.offsets["moved"]
    best = max(range(1, len(moved)), key=lambda d: moved[d])
    found = [f"offset {OFFSETS[best]}"] if moved[best] >= CLAIMED else []
    if has_matches:
        matches = profile.matches["moved"]
        at = max(range(len(matches)), key=lambda d: matches[d])
        found += [f"match {MATCH_OFFSETS[at]:+d}"] if matches[at] >= CLAIMED else []
    found += ["first token"] if profile.first["moved"] >= CLAIMED else []
    return [(profile, cells) for cells in found]


def _test(
    model: Decoder,
    batch: SyntheticBatch,
    profile: HeadProfile,
    cells: str,
    *,
    generator: torch.Generator,
    draws: int,
) -> Claim:
    weight, share = (_weight(profile, cells, view) for view in ("moved", "share"))
    check = check_cells(
        model,
        batch,
        Head.parse(profile.head),
        _cells(batch, cells),
        correct=correct_share,
        generator=generator,
        draws=draws,
    )
    return Claim(
        head=profile.head,
        cells=cells,
        weight=weight,
        share=share,
        accuracy=check.accuracy,
        cut=check.cut,
        low=check.low,
        high=check.high,
        random=check.random,
        p_value=check.p_value,
        n=check.n,
    )


def _weight(profile: HeadProfile, cells: str, view: str) -> float:
    kind, _, number = cells.partition(" ")
    if kind == "offset":
        return profile.offsets[view][OFFSETS.index(int(number))]
    if kind == "match":
        return profile.matches[view][MATCH_OFFSETS.index(int(number))]
    return profile.first[view]


def _cells(batch: SyntheticBatch, cells: str) -> Cells:
    kind, _, number = cells.partition(" ")
    if kind == "offset":
        return offset_cells(batch.targets, int(number))
    if kind == "first":
        return column_cells(batch.targets, 0)
    matches = matches_of(batch)
    assert matches is not None  # a claim about matches comes from a task that has them
    return match_cells(matches.rows, matches.columns, int(number))


def _logits(model: Decoder, batch: SyntheticBatch) -> Float[Tensor, "B T d_output"]:
    with torch.no_grad():
        return model(batch.given)


def _interval(shares: Float[Tensor, " B"]) -> Interval:
    return bootstrap_scalar(shares.cpu().numpy(), generator=np.random.default_rng(0))
