"""Does a head do what its profile says? Cut the cells it is said to use, and other cells of the same rows.

A model of two layers with one head each has no random heads to compare with, and ablating the only head of a layer says
nothing of what the head looked at. So a claim is about cells: *from these rows the head reads these columns*. They are
set to 0 in `hook_pattern`, before M is applied and without dividing the row again, and the task is scored. The controls
are in `circuits.cell_controls`.

Of a recurrence the cut takes the token's part from the row's output; the token stays in the state that later tokens
were corrected by (an attention knockout in the sense of arXiv 2505.24244, not a removal of the token).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.cell_controls import Lacking, equal_weight_cells, held, random_cells, seen_cells
from circuits.comparison_results import Control, ControlName, CutCheck
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.mixers.interface import Mix
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import LayerMix
from headscope.statistics import bootstrap_ratio, permutation_p
from headscope.tasks.synthetic import Scored, SyntheticBatch

Judge = Callable[[Tensor, SyntheticBatch], Scored]
"""What each example scores, from logits, such as `SyntheticTask.scored`."""


@dataclass(frozen=True)
class Cells:
    """Cells of one head: from rows to columns.

    Attributes:
        rows: positions of rows.
        columns: one column of each.
        real: which of them count.
    """

    rows: Int[Tensor, "B N"]
    columns: Int[Tensor, "B N"]
    real: Bool[Tensor, "B N"]

    def mask(self, size: int) -> Bool[Tensor, "B T T"]:
        """The same as a mask over texts of ``size`` tokens."""
        found = torch.zeros(len(self.rows), size, size, dtype=torch.bool, device=self.rows.device)
        index = torch.arange(len(self.rows), device=self.rows.device)[:, None].expand(self.rows.shape)
        found[index[self.real], self.rows[self.real], self.columns[self.real]] = True
        return found


def offset_cells(tokens: Int[Tensor, "B T"], offset: int) -> Cells:
    """From every row to the row ``offset`` before it."""
    rows = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    return Cells(rows, rows - offset, rows >= offset)


def column_cells(tokens: Int[Tensor, "B T"], column: int) -> Cells:
    """From every later row to one column."""
    rows = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    return Cells(rows, torch.full_like(rows, column), rows > column)


def match_cells(rows: Int[Tensor, "B N"], columns: Int[Tensor, "B N"], offset: int) -> Cells:
    """From asked rows to ``offset`` behind their match; rows without a match (-1) do not count."""
    target = columns + offset
    return Cells(rows, target, (columns >= 0) & (target >= 0) & (target <= rows))


def carry_cells(rows: Int[Tensor, "B N"], columns: Int[Tensor, "B N"], offset: int) -> Cells:
    """From the row ``offset`` behind each match to the match, where that row comes before the one that asks."""
    return Cells(columns + offset, columns, (columns >= 0) & (columns + offset < rows))


def check_cells(
    model: Decoder,
    batch: SyntheticBatch,
    layer: LayerMix,
    head: Head,
    cells: Cells,
    *,
    judge: Judge,
    generator: torch.Generator,
    draws: int = 40,
) -> CutCheck:
    """Cut a head's cells, and others of the same rows ``draws`` times for each control.

    Args:
        model: the model.
        batch: the task's examples.
        layer: the mixing of the head's layer on these examples.
        head: whose cells.
        cells: the claim.
        judge: what each example scores, from logits.
        generator: of the other cells.
        draws: of each control; p is never below ``1 / (1 + draws)``.

    Raises:
        UnsupportedError: for a mixer that is not linear in its values, whose pattern cannot be edited.
    """
    if model.mixing_layers[head.layer].mixer.kind == "jacobian":
        raise UnsupportedError(f"{head} is not linear in its values: it has no cells to cut.")
    mask = cells.mask(layer.mix.n_tokens)
    moved = layer.moved[:, head.head, :, : layer.mix.n_tokens]

    def after(cut: Bool[Tensor, "B T T"]) -> Scored:
        with torch.no_grad():
            return judge(cut_logits(model, batch, head, cut, layer.mix), batch)

    with torch.no_grad():
        plain = judge(model(batch.given), batch)
    cut = after(mask)
    possible = plain.possible.cpu().numpy()
    drop = bootstrap_ratio((plain.points - cut.points).cpu().numpy(), possible, generator=np.random.default_rng(0))
    seen = seen_cells(mask, causal=model.config.causal)
    others = (random_cells(mask, generator, seen) for _ in range(draws))
    alike = equal_weight_cells(mask, moved, generator, seen, draws=draws)
    return CutCheck(
        accuracy=plain.accuracy,
        cut=cut.accuracy,
        low=drop.low,
        high=drop.high,
        n=int((possible != 0).sum()),
        cells=float(mask.sum()) / len(possible),
        weight=held(mask, moved, mask.any(-1)),
        controls=(
            _control("random", others, moved, mask, after, cut.accuracy),
            _control("equal weight", alike, moved, mask, after, cut.accuracy),
        ),
    )


def _control(
    name: ControlName,
    found: Iterator[Bool[Tensor, "B T T"]] | Lacking,
    moved: Float[Tensor, "B T T"],
    mask: Bool[Tensor, "B T T"],
    after: Callable[[Tensor], Scored],
    cut: float,
) -> Control:
    """Cut each draw, and place the claimed cut among them."""
    if isinstance(found, Lacking):
        return Control(name, (), found.weight, float("nan"), found.note)
    accuracies, weights = list[float](), list[float]()
    for drawn in found:
        accuracies.append(after(drawn).accuracy)
        weights.append(held(drawn, moved, mask.any(-1)))
    return Control(name, tuple(accuracies), float(np.mean(weights)), permutation_p(cut, accuracies, -1))


def cut_logits(
    model: Decoder, batch: SyntheticBatch, head: Head, cut: Bool[Tensor, "B T T"], mix: Mix | None = None
) -> Float[Tensor, "B T d_output"]:
    """Logits with cells of a head at 0 in every channel of it.

    Args:
        model: the model.
        batch: what it reads.
        head: whose cells.
        cut: which cells, row by column.
        mix: the head's layer on these examples, where a token may have a second column (a prefix that is read again):
            both are cut.
    """
    again = () if mix is None else tuple(zip(mix.columns, mix.column_positions, strict=True))

    def edit(matrix: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        edited = matrix.clone()
        of_head = edited[:, head.head]
        whole = torch.zeros(*cut.shape[:2], of_head.shape[-1], dtype=torch.bool, device=of_head.device)
        whole[..., : cut.shape[-1]] = cut
        for extra, (kind, position) in enumerate(again):
            if kind == "past" and position >= 0:
                whole[..., cut.shape[-1] + extra] = cut[..., position]
        of_head.masked_fill_(whole[:, None] if of_head.ndim == 4 else whole, 0)
        return edited

    with model.hooks(fwd_hooks=[(f"blocks.{head.layer}.attn.hook_pattern", edit)]):
        return model(batch.given)
