"""Does a head do what its profile says? Cut the cells it is said to use, against equally many others of the same rows.

A model of two layers with one head each has no random heads to compare with, and ablating the only head of a layer says
nothing of what the head looked at. So a claim is about cells: *from these rows the head reads these columns*. They are
set to 0 in `hook_pattern`, before M is applied and without dividing the row again, and the task is scored. The control
cuts in the same rows of the same head one other column that the row sees, drawn at random for each row.

Of a recurrence the cut takes the token's part from the row's output; the token stays in the state that later tokens
were corrected by (an attention knockout in the sense of arXiv 2505.24244, not a removal of the token).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.decoder.decoder import Decoder
from headscope.statistics import bootstrap_scalar, permutation_p
from headscope.tasks.synthetic import SyntheticBatch


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

    def others(self, generator: torch.Generator) -> Cells:
        """As many cells of the same rows: another column at random among those a causal row sees."""
        draws = torch.rand(self.rows.shape, generator=generator).to(self.rows.device)
        column = (draws * self.rows.clamp_min(1)).long()  # one of the row's other columns, in order without its own
        column = column + (column >= self.columns).long()
        return Cells(self.rows, column, self.real & (self.rows > 0))


@dataclass(frozen=True)
class CutCheck:
    """A claim about a head's cells, tested.

    Attributes:
        head: the head.
        accuracy: share of right answers of the untouched model.
        cut: the same with the claimed cells at 0.
        low: lower end of the 95 % bootstrap interval of ``accuracy - cut``, paired by example.
        high: upper end.
        random: the same as ``cut`` for each draw of other cells.
        p_value: one-sided: (1 + draws at least as harmful) / (1 + draws).
        n: examples.
        cells: cells cut, mean for each example.
    """

    head: Head
    accuracy: float
    cut: float
    low: float
    high: float
    random: tuple[float, ...]
    p_value: float
    n: int
    cells: float

    @property
    def drop(self) -> float:
        """What the cut costs."""
        return self.accuracy - self.cut

    @property
    def random_drop(self) -> float:
        """What a random cut costs, mean over draws."""
        return self.accuracy - float(np.mean(self.random))


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


def check_cells(
    model: Decoder,
    batch: SyntheticBatch,
    head: Head,
    cells: Cells,
    *,
    correct: Callable[[Tensor, SyntheticBatch], Float[Tensor, " B"]],
    generator: torch.Generator,
    draws: int = 20,
) -> CutCheck:
    """Cut a head's cells, and as many others ``draws`` times.

    Args:
        model: the model.
        batch: the task's examples.
        head: whose cells.
        cells: the claim.
        correct: share of right answers of each example, from logits.
        generator: of the random cells.
        draws: random controls.

    Raises:
        UnsupportedError: for a mixer that is not linear in its values, whose pattern cannot be edited.
    """
    if model.mixing_layers[head.layer].mixer.kind == "jacobian":
        raise UnsupportedError(f"{head} is not linear in its values: it has no cells to cut.")
    with torch.no_grad():
        plain = correct(_logits(model, batch), batch).double().cpu().numpy()
        cut = correct(cut_logits(model, batch, head, cells), batch).double().cpu().numpy()
        others = [
            float(correct(cut_logits(model, batch, head, cells.others(generator)), batch).double().mean())
            for _ in range(draws)
        ]
    drop = bootstrap_scalar(plain - cut, generator=np.random.default_rng(0))
    return CutCheck(
        head=head,
        accuracy=float(plain.mean()),
        cut=float(cut.mean()),
        low=drop.low,
        high=drop.high,
        random=tuple(others),
        p_value=permutation_p(float(cut.mean()), others, -1),
        n=len(plain),
        cells=float(cells.real.sum()) / len(plain),
    )


def cut_logits(model: Decoder, batch: SyntheticBatch, head: Head, cells: Cells) -> Float[Tensor, "B T d_output"]:
    """Logits with cells of a head at 0 in every channel of it."""
    index = torch.arange(len(cells.rows), device=cells.rows.device)[:, None].expand(cells.rows.shape)
    where = (index[cells.real], cells.rows[cells.real], cells.columns[cells.real])

    def cut(matrix: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        edited = matrix.clone()
        of_head = edited[:, head.head]
        if of_head.ndim == 4:
            of_head.transpose(0, 1)[:, *where] = 0
        else:
            of_head[where] = 0
        return edited

    name = f"blocks.{head.layer}.attn.hook_pattern"
    with model.hooks(fwd_hooks=[(name, cut)]):
        return _logits(model, batch)


def _logits(model: Decoder, batch: SyntheticBatch) -> Float[Tensor, "B T d_output"]:
    return model(batch.given)
