"""Labelled items as few-shot prompts, and which answer a model gives.

    The concert was a triumph. Overall, it was great          a demonstration

    The hotel had dirty rooms. Overall, it was                the item -> great or terrible?

An answer is scored by the log-probability of its tokens behind the prompt, for any tokenizer and any number of tokens:
of a label all of them together, of the text of an option their mean (options differ in length, and a long one is not
less right). Where all answers are single tokens the best score is the best logit, as in the released code of ACT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel
from headscope.tasks.contrast import NO_TOKEN
from headscope.tasks.contrasts import starts_with_bos
from headscope.tasks.labelled import LabelledItem, LabelledSet

Answer = Literal["text", "letter"]
"""How a choice is answered: with the text of an option, or with its letter behind a list of all options."""


@dataclass(frozen=True)
class InContextBatch:
    """Prompts with their answers, one or more rows of tokens for each item.

    A row is a prompt and all but the last token of an answer; answers whose rows are equal share one. So an item whose
    answers are single tokens has one row, its prompt.

    Attributes:
        task: name of the data set.
        tokens: the rows, padded on the right with their last token.
        lengths: real tokens of each row.
        rows: for each item and answer the row that it is read from; `NO_TOKEN` where an item has fewer answers.
        answers: tokens of each answer, `NO_TOKEN` behind the last; answer token s is predicted at position
            ``lengths[row] - n_tokens + s`` of its row.
        labels: the right answer of each item.
        groups: `LabelledItem.group` of each item.
        prompts: each prompt as text, up to the answer.
        per_token: whether a score is the mean over the tokens of an answer (options as text) or their sum.
    """

    task: str
    tokens: Int[Tensor, "row pos"]
    lengths: Int[Tensor, " row"]
    rows: Int[Tensor, "item label"]
    answers: Int[Tensor, "item label step"]
    labels: Int[Tensor, " item"]
    groups: tuple[str, ...]
    prompts: tuple[str, ...]
    per_token: bool

    def __len__(self) -> int:
        return len(self.labels)


def build_in_context(
    model: HookedModel,
    labelled: LabelledSet,
    items: Sequence[LabelledItem],
    *,
    demonstrations: Sequence[LabelledItem] = (),
    shots: int = 0,
    generator: torch.Generator,
    answer: Answer = "text",
    bos: bool | None = None,
) -> InContextBatch:
    """A prompt for each item, with ``shots`` demonstrations of its own before it.

    Each prompt draws its demonstrations from the pool: labels in equal numbers (which labels have one more where that
    does not come out even is drawn), in random order. So an accuracy is a mean over demonstrations too, not the luck
    of one draw.

    Args:
        model: gives the tokenizer and the longest context.
        labelled: the set that the items are of.
        items: what to ask.
        demonstrations: pool to draw from, as `headscope.tasks.labelled.split` gives it.
        shots: demonstrations of one prompt.
        generator: the only source of chance, on the CPU.
        answer: how a choice is answered; classifications take no notice.
        bos: whether prompts begin with the start token; by default as the tokenizer itself does it.

    Raises:
        TaskError: if there are no items, too few demonstrations, or the tokenizer has no tokens for an answer or the
            same ones for two, or a prompt is longer than the context.
    """
    if not items:
        raise TaskError(f"no items of {labelled.name!r} were given; a batch has at least one.")
    start = starts_with_bos(model) if bos is None else bos
    pool = _Pool.of(labelled, demonstrations, shots)
    prompts = [_prompt(labelled, item, pool.draw(generator), answer) for item in items]
    cases = [
        [_case(model, prompt, option, start) for option in _options(labelled, item, answer)]
        for prompt, item in zip(prompts, items, strict=True)
    ]
    for case, prompt in zip(cases, prompts, strict=True):
        _check(model, labelled.name, case, prompt)
    return _stack(labelled.name, cases, items, prompts, per_token=labelled.kind == "choice" and answer == "text")


@dataclass(frozen=True)
class _Pool:
    by_label: tuple[tuple[LabelledItem, ...], ...]
    shots: int

    @classmethod
    def of(cls, labelled: LabelledSet, items: Sequence[LabelledItem], shots: int) -> _Pool:
        by_label = tuple(tuple(item for item in items if item.label == label) for label in range(len(labelled.labels)))
        needed = -(-shots // len(by_label))
        least = min(map(len, by_label))
        if shots < 0 or needed > least:
            raise TaskError(
                f"{shots} shots of {labelled.name!r} need {needed} demonstrations of each of {len(by_label)} labels; "
                f"the pool has {least} of the rarest. Use 0 to {least * len(by_label)} shots or a larger pool."
            )
        return cls(by_label, shots)

    def draw(self, generator: torch.Generator) -> list[LabelledItem]:
        """Demonstrations of one prompt."""
        each, more = divmod(self.shots, len(self.by_label))
        extra = set(torch.randperm(len(self.by_label), generator=generator)[:more].tolist())
        found: list[LabelledItem] = []
        for label, rows in enumerate(self.by_label):
            order = torch.randperm(len(rows), generator=generator).tolist()
            found += [rows[index] for index in order[: each + (label in extra)]]
        return [found[index] for index in torch.randperm(len(found), generator=generator).tolist()]


def _options(labelled: LabelledSet, item: LabelledItem, answer: Answer) -> Sequence[str]:
    if labelled.kind == "classification":
        return labelled.labels
    return labelled.labels[: len(item.options)] if answer == "letter" else item.options


def _asked(labelled: LabelledSet, item: LabelledItem, answer: Answer) -> str:
    """One item up to its answer; options are listed where a letter has to name one."""
    text = item.text
    if labelled.kind == "choice" and answer == "letter":
        text += "".join(f"\n{letter}. {option}" for letter, option in zip(labelled.labels, item.options, strict=False))
    return labelled.template.format(text=text)


def _prompt(labelled: LabelledSet, item: LabelledItem, demonstrations: Sequence[LabelledItem], answer: Answer) -> str:
    shown = [f"{_asked(labelled, one, answer)} {_options(labelled, one, answer)[one.label]}" for one in demonstrations]
    return "\n\n".join([*shown, _asked(labelled, item, answer)])


@dataclass(frozen=True)
class _Case:
    """Tokens of a prompt and one answer, and how many of them are the answer's."""

    tokens: tuple[int, ...]
    n_answer: int


def _case(model: HookedModel, prompt: str, option: str, start: bool) -> _Case:
    """Prompt and answer are encoded together, as a text would be: what the prompt alone does not begin with answers."""
    alone = model.encode(prompt, bos=start)
    whole = model.encode(f"{prompt} {option}", bos=start)
    shared = next((at for at, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
    return _Case(tuple(whole), len(whole) - shared)


def _check(model: HookedModel, name: str, cases: Sequence[_Case], prompt: str) -> None:
    endings = [case.tokens[len(case.tokens) - case.n_answer :] for case in cases]
    unknown = model.tokenizer.unk_token_id
    if min(map(len, endings)) < 1 or len(set(endings)) < len(endings) or any(unknown in one for one in endings):
        raise TaskError(
            f"the tokenizer of {model.name!r} cannot tell the answers of {name!r} apart: it writes them "
            f"{', '.join(repr(model.decode(list(one))) for one in endings)}. Choose another task or another model."
        )
    longest = max(len(case.tokens) for case in cases)
    if longest - 1 > model.shape.n_ctx:
        raise TaskError(
            f"a prompt of {name!r} has {longest - 1} tokens and the context of {model.name!r} {model.shape.n_ctx}: "
            f"use fewer shots or another model. It begins: {prompt[:60]!r}"
        )


def _stack(
    name: str,
    cases: Sequence[Sequence[_Case]],
    items: Sequence[LabelledItem],
    prompts: Sequence[str],
    *,
    per_token: bool,
) -> InContextBatch:
    n_labels = max(map(len, cases))
    steps = max(case.n_answer for row in cases for case in row)
    rows = torch.full((len(cases), n_labels), NO_TOKEN)
    answers = torch.full((len(cases), n_labels, steps), NO_TOKEN)
    found: dict[tuple[int, tuple[int, ...]], int] = {}
    for index, options in enumerate(cases):
        for label, case in enumerate(options):
            rows[index, label] = found.setdefault((index, case.tokens[:-1]), len(found))
            answers[index, label, : case.n_answer] = torch.tensor(case.tokens[-case.n_answer :])
    read = [tokens for _, tokens in found]
    longest = max(map(len, read))
    return InContextBatch(
        task=name,
        tokens=torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in read]),
        lengths=torch.tensor([len(row) for row in read]),
        rows=rows,
        answers=answers,
        labels=torch.tensor([item.label for item in items]),
        groups=tuple(item.group for item in items),
        prompts=tuple(prompts),
        per_token=per_token,
    )
