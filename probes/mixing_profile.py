"""Where a small model's heads look and what they bring, whatever their mixer: profiles by offset, match and carry.

A detector at a fixed cell misses real circuits: models that solve associative recall were seen to read the token after
the value, where a detector of the value finds nothing. So a head is described by whole profiles:

- *offsets*: mean weight from row i to row ``i - d``, ``d = 0 ... 8`` (a previous-token head has its weight at 1);
- *matches*: mean weight from an asked row to ``match + d``, ``d = -1 ... 4``, where the match is the earlier place of
  the same token (0: a duplicate-token head, 1: an induction or retrieval head);
- *carries*: mean weight from the row ``match + d`` to the match, ``d = 1 ... 4``: what tells that row which token stood
  d places before it, so that a later head can find it (1: a previous-token head where it is needed, on the pairs);
- *first token*: mean weight on position 0, beside what uniform rows would give it, with the norm of its value over the
  mean norm of the others.

Each is taken on both views of M (`headscope.readings.mixing`): the share, where a row looks, and what is moved. Rows
are those with a token at every offset counted; asked rows are the task's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.readings.mixing import LayerMix

View = Literal["share", "moved"]
VIEWS: tuple[View, ...] = ("share", "moved")
OFFSETS = tuple(range(9))
MATCH_OFFSETS = (-1, 0, 1, 2, 3, 4)
CARRY_OFFSETS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Matches:
    """Asked rows and where the token they repeat stood before.

    Attributes:
        rows: positions of the asked rows.
        columns: position of the match of each, -1 for a row without one, which does not count. A row that is there
            more than once has several matches (pairs that are written down twice).
    """

    rows: Int[Tensor, "B N"]
    columns: Int[Tensor, "B N"]

    @property
    def asked(self) -> Int[Tensor, " B"]:
        """Different rows of each example that have a match."""
        real = self.columns >= 0
        same = (self.rows[:, :, None] == self.rows[:, None, :]) & real[:, None, :]
        return (real & ~same.tril(-1).any(-1)).sum(1)


def offset_profile(weights: Float[Tensor, "B H T K"], offsets: Sequence[int] = OFFSETS) -> Float[Tensor, "B H offset"]:
    """Mean weight from row i to column ``i - d`` for each offset d, over rows that have all these columns.

    In a text that is not longer than the largest offset it is the last row alone, and 0 for columns before the text.
    """
    size, last = weights.shape[2], max(offsets)
    rows = torch.arange(min(last, size - 1), size, device=weights.device)
    found = [weights[:, :, rows, (rows - offset).clamp_min(0)].mean(-1) * (offset < size) for offset in offsets]
    return torch.stack(found, -1)


def match_profile(
    weights: Float[Tensor, "B H T K"], matches: Matches, offsets: Sequence[int] = MATCH_OFFSETS
) -> Float[Tensor, "B H offset"]:
    """Mean weight from asked rows to ``match + d`` for each d; a column after the row or before the text counts 0.

    The weights of a row's several matches add up.
    """
    batch = torch.arange(len(weights), device=weights.device)[:, None]
    matched = matches.columns >= 0
    found: list[Tensor] = []
    for offset in offsets:
        columns = matches.columns + offset
        real = matched & (columns >= 0) & (columns <= matches.rows)
        cells = weights[batch, :, matches.rows.clamp_min(0), columns.clamp(0, weights.shape[3] - 1)]
        found.append((cells * real[..., None]).sum(1) / matches.asked[:, None].clamp_min(1))
    return torch.stack(found, -1)


def carry_profile(
    weights: Float[Tensor, "B H T K"], matches: Matches, offsets: Sequence[int] = CARRY_OFFSETS
) -> Float[Tensor, "B H offset"]:
    """Mean weight from the row ``match + d`` to the match for each d, over asked rows that come after that row.

    Few rows have a pair to bind: over all rows a head that does this and nothing else shows a small weight at offset d.
    """
    batch = torch.arange(len(weights), device=weights.device)[:, None]
    columns = matches.columns.clamp_min(0)
    found: list[Tensor] = []
    for offset in offsets:
        real = (matches.columns >= 0) & (columns + offset < matches.rows)
        cells = weights[batch, :, (columns + offset).clamp_max(weights.shape[2] - 1), columns]
        found.append((cells * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp_min(1))
    return torch.stack(found, -1)


def uniform_carries(matches: Matches, offsets: Sequence[int] = CARRY_OFFSETS) -> tuple[float, ...]:
    """What `carry_profile` is of uniform causal rows: these rows are early ones, where a cell holds much by itself."""
    rows = int(matches.rows.max()) + 1
    even = torch.ones(1, 1, rows, rows, device=matches.rows.device).tril()
    even = (even / even.sum(-1, keepdim=True)).expand(len(matches.rows), 1, -1, -1)
    return tuple(float(value) for value in carry_profile(even, matches, offsets).mean((0, 1)))


def first_token(weights: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H"]:
    """Mean weight of position 0 over the rows after it."""
    return weights[:, :, 1:, 0].mean(-1)


def uniform_first_token(size: int) -> float:
    """What `first_token` is of uniform causal rows: the mean of ``1 / (i + 1)``, i from 1."""
    return sum(1 / (row + 1) for row in range(1, size)) / (size - 1)


def first_value_norm(layer: LayerMix) -> Float[Tensor, "B H"]:
    """Norm of position 0's value through W_O over the mean norm of the other tokens' values."""
    norms = layer.value_norm[:, :, : layer.mix.n_tokens]
    return norms[:, :, 0] / norms[:, :, 1:].mean(-1)


def view_of(layer: LayerMix, view: View) -> Float[Tensor, "B H T K"]:
    """One of the two views of a layer's M."""
    return layer.share if view == "share" else layer.moved
