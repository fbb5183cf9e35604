"""Random tokens, repeated: the sequence on which induction, echo and previous-token heads show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel

CellKind = Literal["previous", "duplicate", "induction"]


@dataclass(frozen=True)
class RepeatedTokens:
    """``[bos] a b c d  a b c d  a b c d``: every example its own random tokens, none twice in a copy.

    The cells a head of each kind attends to, from the row of the second ``b`` above (position 6):
    previous: position 5 (``a``); duplicate: position 2 (``b``); induction: position 3 (``c``, what came after).

    Attributes:
        tokens: the batch.
        start: position of the first random token (1 behind a start token, else 0).
        period: length P of one copy.
        copies: number of copies R.
    """

    tokens: Int[Tensor, "batch pos"]
    start: int
    period: int
    copies: int

    def cells(self, kind: CellKind) -> tuple[Int[Tensor, " cell"], Int[Tensor, " cell"]]:
        """Rows and keys that a head of this kind attends to; the same in every example.

        previous: ``(i, i - 1)`` of every row with a random token before it, so never the start token.
        duplicate: ``(i, i - mP)`` and induction: ``(i, i - mP + 1)``, rows of copies 2..R, all earlier copies m.
        """
        end = self.start + self.period * self.copies
        if kind == "previous":
            rows = torch.arange(self.start + 1, end)
            return rows, rows - 1
        shift = 1 if kind == "induction" else 0
        pairs = [
            (row, row - back * self.period + shift)
            for row in range(self.start + self.period, end)
            for back in range(1, (row - self.start) // self.period + 1)
        ]
        table = torch.tensor(pairs)
        return table[:, 0], table[:, 1]

    def detection_cells(self, kind: CellKind) -> tuple[Int[Tensor, " cell"], Int[Tensor, " cell"]]:
        """The cells of TransformerLens' detection pattern: as `cells`, but previous counts the start token too."""
        if kind == "previous":
            rows = torch.arange(1, self.tokens.shape[1])
            return rows, rows - 1
        return self.cells(kind)

    def n_rows(self, kind: CellKind) -> int:
        """Number of rows that have a cell."""
        return int(self.cells(kind)[0].unique().numel())


def ordinary_tokens(model: HookedModel) -> Int[Tensor, " token"]:
    """Ids that stand for text: inside the tokenizer, and not special."""
    size = min(model.shape.d_vocab, len(model.tokenizer))
    keep = torch.ones(size, dtype=torch.bool)
    added = model.tokenizer.added_tokens_decoder  # all_special_ids holds only those that have a role of their own
    special = {*model.tokenizer.all_special_ids, *(token for token, text in added.items() if text.special)}
    keep[[token for token in special if token < size]] = False
    return keep.nonzero().flatten()


def build_repeated(
    model: HookedModel, *, n: int, period: int, copies: int, generator: torch.Generator
) -> RepeatedTokens:
    """Draw ``n`` examples; tokens are uniform without replacement, so no copy repeats a token by accident.

    Raises:
        TaskError: if the vocabulary is smaller than the period, or the sequence longer than the context.
    """
    pool = ordinary_tokens(model)
    if period > len(pool) or period < 2:
        raise TaskError(f"a period of {period} tokens cannot be drawn from {len(pool)}: use 2 to {len(pool)}.")
    start = 0 if model.bos is None else 1
    if start + period * copies > model.shape.n_ctx:
        raise TaskError(
            f"{copies} copies of {period} tokens do not fit in the context of {model.name!r} "
            f"({model.shape.n_ctx} tokens)."
        )
    drawn = torch.stack([pool[torch.randperm(len(pool), generator=generator)[:period]] for _ in range(n)])
    tokens = drawn.repeat(1, copies)
    if model.bos is not None:
        tokens = torch.cat([torch.full((n, 1), model.bos), tokens], 1)
    return RepeatedTokens(tokens, start, period, copies)
