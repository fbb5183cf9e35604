"""Teacher-forced answers in one form, whatever the task: which rows count, what they predict, how they are judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headscope.errors import TaskError
from headscope.tasks.needle import NeedleBatch
from headscope.tasks.repeated import RepeatedTokens

Measure = Literal["accuracy", "exact", "loss"]


@dataclass(frozen=True)
class AnswerBatch:
    """Prompts of one exact length, each followed by its answer; row i predicts ``tokens[:, i + 1]``.

    ``prompt_length`` 4, an answer of two tokens that copies positions 1 and 2, one token of padding::

        tokens     a  X  Y  cue X  Y  Y
        counted    .  .  .  yes yes .  .
        labels     .  .  .  .   yes yes .
        source    -1 -1 -1  1   2  -1 -1

    Attributes:
        tokens: prompt, answer and padding on the right (the last token again, which no counted row sees).
        prompt_length: tokens of every prompt; the first row that counts is ``prompt_length - 1``.
        counted: rows whose prediction is judged.
        source: the prompt position that holds what a counted row predicts, or -1 where it copies nothing.
        texts: each answer as text; empty if the answer is no text.
        names: what each example asks for.
        depths: where the statement with the (first) answer lies, from 0 (start) to 1 (end of the haystack); NaN if
            there is none.
        measure: what the task is judged by: `answer_accuracy`, `answer_exact` or `answer_loss`.
    """

    tokens: Int[Tensor, "batch pos"]
    prompt_length: int
    counted: Bool[Tensor, "batch pos"]
    source: Int[Tensor, "batch pos"]
    texts: tuple[str, ...]
    names: tuple[str, ...]
    depths: tuple[float, ...]
    measure: Measure = "accuracy"

    @property
    def labels(self) -> Bool[Tensor, "batch pos"]:
        """The tokens that counted rows predict: ``counted``, one position later."""
        return torch.cat([torch.zeros_like(self.counted[:, :1]), self.counted[:, :-1]], 1)

    @property
    def rows(self) -> Int[Tensor, " row"]:
        """Rows from the first to the last that counts in any example: all that a judge needs logits of."""
        return torch.arange(self.prompt_length - 1, int(self.counted.any(0).nonzero().max()) + 1)

    def select(self, part: slice) -> AnswerBatch:
        """Some of the examples."""
        tensors = (self.tokens[part], self.counted[part], self.source[part])
        texts, names, depths = self.texts[part], self.names[part], self.depths[part]
        return AnswerBatch(tensors[0], self.prompt_length, *tensors[1:], texts, names, depths, self.measure)


def needle_answers(task: NeedleBatch) -> AnswerBatch:
    """Needle prompts with their answers behind them; the answer tokens count."""
    length = task.prompts.shape[1]
    tokens = torch.cat([task.prompts, task.answers], 1)
    behind = torch.arange(tokens.shape[1]) - (length - 1)
    counted = (behind >= 0) & (behind < task.answer_lengths[:, None])
    source = torch.where(counted, task.spans[:, None] + behind, -1)
    return AnswerBatch(tokens, length, counted, source, task.texts, task.names, task.depths)


def repeated_answers(task: RepeatedTokens) -> AnswerBatch:
    """Repeated random tokens; every copy but the first counts, without the first token of the second copy."""
    n, length = task.tokens.shape
    rows = torch.arange(length).expand(n, -1)
    counted = (rows >= task.start + task.period) & (rows < length - 1)
    source = torch.where(counted, rows + 1 - task.period, -1)
    nothing = ("",) * n
    depths = (math.nan,) * n
    return AnswerBatch(
        task.tokens, task.start + task.period + 1, counted, source, nothing, ("repeated",) * n, depths, "loss"
    )


def prose_answers(passages: Int[Tensor, "batch pos"]) -> AnswerBatch:
    """Passages of text; every token but the first counts."""
    n = len(passages)
    counted = torch.ones_like(passages, dtype=torch.bool)
    counted[:, -1] = False
    source = torch.full_like(passages, -1)
    return AnswerBatch(passages, 1, counted, source, ("",) * n, ("prose",) * n, (math.nan,) * n, "loss")


def answer_accuracy(logits: Float[Tensor, "batch row d_vocab"], batch: AnswerBatch) -> Float[Tensor, " batch"]:
    """Share of each example's counted tokens that are predicted first, from 0 to 1.

    The answer is teacher-forced: once its first token is given, a model may copy the others without having found them.

    Args:
        logits: at all rows, or at ``batch.rows`` alone.
        batch: the examples.

    Raises:
        TaskError: if the logits are of other rows.
    """
    right, counted = _hits(logits, batch)
    return (right & counted).sum(-1).float() / counted.sum(-1)


def answer_exact(logits: Float[Tensor, "batch row d_vocab"], batch: AnswerBatch) -> Bool[Tensor, " batch"]:
    """Whether every counted token of an example is predicted first: greedy decoding would give the answer.

    Where the answer has tokens that do not count (what joins two values), those are given and not decoded.

    Args:
        logits: at all rows, or at ``batch.rows`` alone.
        batch: the examples.

    Raises:
        TaskError: if the logits are of other rows.
    """
    right, counted = _hits(logits, batch)
    return (right | ~counted).all(-1)


def answer_loss(logits: Float[Tensor, "batch row d_vocab"], batch: AnswerBatch) -> Float[Tensor, " batch"]:
    """Mean cross-entropy of each example's counted tokens, in nats per token.

    Args:
        logits: at all rows, or at ``batch.rows`` alone.
        batch: the examples.

    Raises:
        TaskError: if the logits are of other rows.
    """
    first, targets, counted = _aligned(logits, batch)
    flat = torch.nn.functional.cross_entropy(first.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (flat.view_as(targets) * counted).sum(-1) / counted.sum(-1)


def answer_score(logits: Float[Tensor, "batch row d_vocab"], batch: AnswerBatch) -> Float[Tensor, " batch"]:
    """What the task is judged by, ``batch.measure``, of each example."""
    judges = {"accuracy": answer_accuracy, "exact": answer_exact, "loss": answer_loss}
    return judges[batch.measure](logits, batch).float()


def _hits(logits: Tensor, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
    """Whether each row predicts its target first, and whether it counts."""
    logits, targets, counted = _aligned(logits, batch)
    return logits.argmax(-1) == targets, counted


def _aligned(logits: Tensor, batch: AnswerBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and counted at ``batch.rows``, on the logits' device."""
    rows = batch.rows
    if logits.shape[1] == batch.tokens.shape[1]:
        logits = logits[:, rows.to(logits.device)]
    elif logits.shape[1] != len(rows):
        raise TaskError(
            f"the logits have {logits.shape[1]} rows and the batch {batch.tokens.shape[1]}: give the logits of all "
            f"rows, or of the {len(rows)} rows that count (batch.rows)."
        )
    return logits, batch.tokens[:, rows + 1].to(logits.device), batch.counted[:, rows].to(logits.device)
