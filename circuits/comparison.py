"""Small models with different mixers side by side: what each one's heads look at and bring, and whether it matters.

Every head is described by whole profiles in two views of M that mean the same for every mixer (raw M does not). Cells
with much weight are a claim, *this head reads these cells*, and each claim is tested by cutting them
(`circuits.head_claims`, `circuits.cell_cuts`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.comparison_results import Claim, HeadProfile, LengthScore, ModelReport
from circuits.head_claims import check_claim, claimed_cells
from headscope.errors import HeadscopeError
from headscope.heads import Head
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import LayerMix, read_mixing
from headscope.statistics import Interval, bootstrap_ratio
from headscope.tasks.synthetic import Scored, SyntheticBatch, SyntheticTask
from probes.mixing_curve import matches_of
from probes.mixing_profile import (
    VIEWS,
    Matches,
    carry_profile,
    first_token,
    first_value_norm,
    match_profile,
    offset_profile,
    uniform_carries,
    uniform_first_token,
    view_of,
)

_EXAMPLES_FROM = 3_000_000_019
"""Below 2^32, which is as far as PyTorch's generator for the CPU tells seeds apart."""


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
    draws: int = 40,
    seed: int = 0,
    lengths: Sequence[int] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> ModelReport:
    """Profiles, claims and accuracies of one model.

    Args:
        compared: the model.
        task: what it was trained on.
        n: examples.
        draws: other cuts of each control beside each claim; see `draws_of`.
        seed: of the examples, which are the same for every model on one device, and of the cuts.
        lengths: other lengths of the text to score it on.
        on_step: called with (done, total) steps: the profiles, each claim, each length.
    """
    model, generator = compared.model.eval(), example_generator(seed)
    batch = task.held_out.batch(n, generator)
    layers = read_mixing(model, batch.given)
    matches = matches_of(batch)
    heads = [profile for layer in layers for profile in _profiles(layer, matches)]
    editable = {layer.layer for layer in model.mixing_layers if layer.mixer.kind != "jacobian"}  # others have no cells
    claimed = [(head, cells) for head in heads for cells in claimed_cells(head) if _layer(head) in editable]
    each = draws_of(draws, len(claimed))
    steps = _counted(1 + len(claimed) + len(lengths), on_step)
    next(steps)
    claims, scored = list[Claim](), dict[int, LengthScore]()
    for head, cells in claimed:
        layer = layers[_layer(head)]
        claims.append(check_claim(model, batch, layer, head, cells, judge=task.scored, generator=generator, draws=each))
        next(steps)
    for length in lengths:
        scored[length] = accuracy_at(model, task, length, n=n, seed=seed)
        next(steps)
    return ModelReport(
        name=compared.name,
        variant=compared.variant,
        seed=compared.seed,
        kind=", ".join(dict.fromkeys(layer.mixer.kind for layer in model.mixing_layers)),
        accuracy=_interval(task.scored(_logits(model, batch), batch)),
        n=n,
        state_size=model.state_size(task.length),
        parameters=sum(part.numel() for part in model.parameters()),
        heads=tuple(heads),
        claims=tuple(claims),
        lengths=scored,
    )


def example_generator(seed: int) -> torch.Generator:
    """Of the examples of a comparison, far from the small seeds of trainings, whose examples it must not see."""
    return torch.Generator().manual_seed(_EXAMPLES_FROM + seed)


def draws_of(draws: int, claims: int) -> int:
    """Other cuts beside each claim of a model: ``draws``, and half of it for each claim where there are more than two.

    So the smallest p, corrected for all claims of the model (Holm 1979), stays near ``2 / draws``: with 40 draws it is
    0.024 for one claim and 0.049 for two or more.
    """
    return draws * max(2, claims) // 2


def accuracy_at(model: Decoder, task: SyntheticTask[Any], length: int, *, n: int, seed: int) -> LengthScore:
    """Accuracy on texts of another length, or why there is none."""
    try:
        other = task.of_length(length)
        batch = other.held_out.batch(n, example_generator(seed))
    except HeadscopeError as error:
        return _unread(f"the task has no texts of {length} tokens: {error}")
    try:
        return LengthScore(_interval(other.scored(_logits(model, batch), batch)))
    except HeadscopeError as error:
        return _unread(f"the model reads no texts of {length} tokens: {error}")


def _unread(reason: str) -> LengthScore:
    """No accuracy; of the errors of settings only the end, which says what is wrong with them."""
    nothing = float("nan")
    return LengthScore(
        Interval(nothing, nothing, nothing), re.sub(r"settings cannot be \{.*?(\.\.\.|\}): ", "", reason).rstrip(".")
    )


def _counted(total: int, on_step: Callable[[int, int], None] | None) -> Iterator[None]:
    """Tell how many of the steps are done, one more each time."""
    for done in range(1, total + 1):
        if on_step is not None:
            on_step(done, total)
        yield


def _layer(profile: HeadProfile) -> int:
    return Head.parse(profile.head).layer


def _profiles(layer: LayerMix, matches: Matches | None) -> list[HeadProfile]:
    """All heads of a layer, mean over the examples."""
    views = {view: view_of(layer, view) for view in VIEWS}
    offsets = {view: offset_profile(weights).mean(0) for view, weights in views.items()}
    found = {} if matches is None else {view: match_profile(w, matches).mean(0) for view, w in views.items()}
    carried = {} if matches is None else {view: carry_profile(w, matches).mean(0) for view, w in views.items()}
    uniform = () if matches is None else uniform_carries(matches)
    first = {view: first_token(weights).mean(0) for view, weights in views.items()}
    norm, mass = first_value_norm(layer).mean(0), layer.row_mass.mean((0, 2))
    null, negative = layer.mix.null_mass, layer.negative_share.mean((0, 2))
    support = layer.support.mean((0, 2))
    return [
        HeadProfile(
            head=str(Head(layer.layer, head)),
            offsets={view: _numbers(part[head]) for view, part in offsets.items()},
            matches={view: _numbers(part[head]) for view, part in found.items()},
            carries={view: _numbers(part[head]) for view, part in carried.items()},
            first={view: float(part[head]) for view, part in first.items()},
            first_uniform=uniform_first_token(layer.mix.n_tokens),
            first_norm=float(norm[head]),
            row_mass=float(mass[head]),
            null_mass=None if null is None else float(null.float().mean((0, 2))[head]),
            negative=float(negative[head]),
            support=float(support[head]),
            carries_uniform=uniform,
            usage=None if layer.head_weight is None else float(layer.head_weight[..., head].mean()),
        )
        for head in range(len(norm))
    ]


def _numbers(part: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in part)


def _logits(model: Decoder, batch: SyntheticBatch) -> Float[Tensor, "B T d_output"]:
    with torch.no_grad():
        return model(batch.given)


def _interval(scored: Scored) -> Interval:
    points, possible = (part.cpu().numpy() for part in scored)
    return bootstrap_ratio(points, possible, generator=np.random.default_rng(0))
