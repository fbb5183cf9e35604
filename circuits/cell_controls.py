"""What a cut is compared with: other cells of the same rows, as many at random, or as many as hold the same weight.

A head that looks at little loses little when random cells are cut, since most of them carry nothing. So beside as many
random cells there is a stricter control: other cells of the row that together hold as much of what the row moves as the
claimed ones. Where a head has nearly all of its weight on the claimed cells there are no such others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEAR = 0.2
"""A control has equal weight where its rows are, in the mean, this much of the claimed weight or less away from it."""


@dataclass(frozen=True)
class Lacking:
    """Why there are no cells of equal weight.

    Attributes:
        weight: what the other cells can hold, mean over rows.
        note: the same in words.
    """

    weight: float
    note: str


def held(cells: Bool[Tensor, "B T T"], moved: Float[Tensor, "B T T"], rows: Bool[Tensor, "B T"]) -> float:
    """What cells hold of what their rows move, mean over ``rows``, 0 to 1."""
    return float((moved * cells).sum(-1)[rows].mean()) if bool(rows.any()) else 0.0


def seen_cells(mask: Bool[Tensor, "B T T"], *, causal: bool) -> Bool[Tensor, "T T"]:
    """What a row can read: the cells up to it, or all where models read both ways."""
    every = torch.ones_like(mask[0])
    return every.tril() if causal else every


def random_cells(
    mask: Bool[Tensor, "B T T"], generator: torch.Generator, seen: Bool[Tensor, "T T"]
) -> Bool[Tensor, "B T T"]:
    """As many other cells of each row, drawn evenly from those it sees; all there are where they are fewer."""
    left, drawn = _drawn(mask, generator, seen), torch.zeros_like(mask)
    count = mask.sum(-1, keepdim=True)
    for place in range(int(count.max())):
        value, column = left.max(-1, keepdim=True)
        drawn |= torch.zeros_like(mask).scatter(-1, column, (value > 0) & (place < count))
        left = left.scatter(-1, column, 0.0)
    return drawn


def equal_weight_cells(
    mask: Bool[Tensor, "B T T"],
    moved: Float[Tensor, "B T T"],
    generator: torch.Generator,
    seen: Bool[Tensor, "T T"],
    *,
    draws: int,
) -> Iterator[Bool[Tensor, "B T T"]] | Lacking:
    """Other cells of each row, in random order, that together hold what the claimed ones do; or why there are none.

    A row takes each cell that does not take it above the claimed weight, and at the end one more where that comes
    nearer.

    Args:
        mask: the claimed cells.
        moved: what each cell brings, rows that sum to 1.
        generator: of the order.
        seen: what each row can read.
        draws: how many masks are drawn.
    """
    rows = mask.any(-1)
    first = _filled(mask, moved, generator, seen)
    wanted, weight = held(mask, moved, rows), held(first, moved, rows)
    if not _apart(first, mask, moved) <= NEAR * wanted:
        note = f"no other cells of these rows hold as much: {weight:.2f} of what they move, the claimed {wanted:.2f}"
        return Lacking(weight, note)
    return (_filled(mask, moved, generator, seen) for _ in range(draws))


def _apart(one: Bool[Tensor, "B T T"], other: Bool[Tensor, "B T T"], moved: Float[Tensor, "B T T"]) -> float:
    """How far apart the weights of two masks are in a row, mean over rows of ``other``."""
    rows = other.any(-1)
    difference = (moved * one).sum(-1) - (moved * other).sum(-1)
    return float(difference[rows].abs().mean()) if bool(rows.any()) else 0.0


def _filled(
    mask: Bool[Tensor, "B T T"], moved: Float[Tensor, "B T T"], generator: torch.Generator, seen: Bool[Tensor, "T T"]
) -> Bool[Tensor, "B T T"]:
    """One draw of cells of equal weight."""
    order = _drawn(mask, generator, seen).argsort(-1)
    weights, free = (part.gather(-1, order) for part in (moved, _others(mask, seen)))
    target = (moved * mask).sum(-1)
    total, taken = torch.zeros_like(target), torch.zeros_like(mask)
    for place in range(weights.shape[-1]):
        own = weights[..., place]
        taken[..., place] = free[..., place] & (total + own <= target) & (own > 0)
        total = total + own * taken[..., place]
    short = (target - total)[..., None]
    gain = torch.where(free & ~taken, short.abs() - (short - weights).abs(), -1.0)  # what one more brings nearer
    best = gain.argmax(-1, keepdim=True)
    taken |= torch.zeros_like(taken).scatter(-1, best, gain.gather(-1, best) > 0)
    return torch.zeros_like(mask).scatter(-1, order, taken)


def _others(mask: Bool[Tensor, "B T T"], seen: Bool[Tensor, "T T"]) -> Bool[Tensor, "B T T"]:
    """In rows with claimed cells, the seen cells that are not claimed."""
    return seen & ~mask & mask.any(-1, keepdim=True)


def _drawn(
    mask: Bool[Tensor, "B T T"], generator: torch.Generator, seen: Bool[Tensor, "T T"]
) -> Float[Tensor, "B T T"]:
    """A random number above 0 for every cell that can be drawn, 0 for the others."""
    return (1 - torch.rand(mask.shape, generator=generator).to(mask.device)) * _others(mask, seen)
