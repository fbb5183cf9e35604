"""What a calibration is judged by: any task that turns logits into scores of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from headscope.tasks.contrast import NO_TOKEN
from headscope.tasks.in_context import InContextBatch


@runtime_checkable
class Part(Protocol):
    """Items that are run together."""

    @property
    def items(self) -> Int[Tensor, " item"]:
        """Which items of the judge."""
        ...

    @property
    def tokens(self) -> Int[Tensor, "row pos"]:
        """Rows to run, padded on the right; an item may have several."""
        ...

    @property
    def prompt_lengths(self) -> Int[Tensor, " row"]:
        """Tokens of each row that are its prompt: sinks are found there."""
        ...

    @property
    def positions(self) -> Int[Tensor, " position"]:
        """Positions whose logits are needed, in any row."""
        ...

    @property
    def item_of_row(self) -> Int[Tensor, " row"]:
        """For each row the place of its item in ``items``."""
        ...

    def scores(self, logits: Float[Tensor, "row position d_vocab"]) -> Float[Tensor, "item label"]:
        """Score of every answer of each item, differentiable; minus infinity for answers that an item lacks."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Items with right answers."""

    @property
    def name(self) -> str:
        """Of the task."""
        ...

    @property
    def labels(self) -> Int[Tensor, " item"]:
        """The right answer of each item."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """What each item was made from: those of one group are alike; empty if each stands for itself."""
        ...

    @property
    def identities(self) -> frozenset[str]:
        """What its items are known by: two judges that share one overlap."""
        ...

    def parts(self, batch_size: int) -> Sequence[Part]:
        """All items, in parts of about so many."""
        ...


@dataclass(frozen=True)
class InContextPart:
    """Few-shot prompts that are run together; see `Part`."""

    items: Int[Tensor, " item"]
    tokens: Int[Tensor, "row pos"]
    prompt_lengths: Int[Tensor, " row"]
    positions: Int[Tensor, " position"]
    item_of_row: Int[Tensor, " row"]
    row_of: Int[Tensor, "item label"]
    position_of: Int[Tensor, "item label step"]
    answers: Int[Tensor, "item label step"]
    per_token: bool

    @classmethod
    def of(cls, batch: InContextBatch, items: Int[Tensor, " item"]) -> InContextPart:
        """The rows of these items, and where their answers are read."""
        used, row_of = batch.rows[items].unique(return_inverse=True)
        row_of = row_of - int((used == NO_TOKEN).any())
        used = used[used != NO_TOKEN]
        answers, lengths = batch.answers[items], batch.lengths[used]
        real = answers != NO_TOKEN
        starts = lengths[row_of.clamp_min(0)] - real.sum(-1)  # of the last prompt token
        at = starts[..., None] + torch.arange(answers.shape[-1])
        positions, place = at[real].unique(return_inverse=True)
        position_of = torch.zeros_like(answers).masked_scatter(real, place)
        has, prompt_lengths = row_of >= 0, lengths.clone()
        prompt_lengths.scatter_reduce_(0, row_of[has], starts[has] + 1, "amin")
        item_of_row = torch.zeros_like(lengths)
        item_of_row[row_of[has]] = torch.arange(len(items))[:, None].expand_as(row_of)[has]
        tokens = batch.tokens[used, : int(lengths.max())]
        return cls(items, tokens, prompt_lengths, positions, item_of_row, row_of, position_of, answers, batch.per_token)

    def scores(self, logits: Float[Tensor, "row position d_vocab"]) -> Float[Tensor, "item label"]:
        """Log-probability of each answer, mean or sum over its tokens: `headscope.tasks.in_context_scores`' rule."""
        device, real = logits.device, self.answers != NO_TOKEN
        rows = self.row_of[..., None].expand_as(self.answers)[real].to(device)
        spoken = logits[rows, self.position_of[real].to(device)].float().log_softmax(-1)
        spoken = spoken.gather(-1, self.answers[real].to(device)[:, None])[:, 0]
        count = real.sum(-1).to(device)
        total = torch.zeros(real.shape, device=device).masked_scatter(real.to(device), spoken).sum(-1)
        score = total / count.clamp_min(1) if self.per_token else total
        return score.masked_fill(count == 0, -torch.inf)


@dataclass(frozen=True)
class InContextJudge:
    """Few-shot prompts as a judge; an item is known by its prompt, and by what it was made from."""

    batch: InContextBatch

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.batch.task

    @property
    def labels(self) -> Int[Tensor, " item"]:
        """The right answers."""
        return self.batch.labels

    @property
    def groups(self) -> tuple[str, ...]:
        """The phrase, fact or event of each item; an item without one stands for itself."""
        return tuple(group or prompt for group, prompt in zip(self.batch.groups, self.batch.prompts, strict=True))

    @property
    def identities(self) -> frozenset[str]:
        """Prompts, and groups of items."""
        groups = {f"{self.batch.task}: {group}" for group in self.batch.groups if group}
        return frozenset({*self.batch.prompts, *groups})

    def parts(self, batch_size: int) -> Sequence[InContextPart]:
        """Prompts of about one length together."""
        longest = self.batch.lengths[self.batch.rows.amax(-1)]
        return [InContextPart.of(self.batch, items) for items in longest.argsort(stable=True).split(batch_size)]
