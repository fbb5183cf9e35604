"""Several statements hidden in one long text, and answers that copy from them: how such a prompt is laid out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch
from headscope.tasks.needle import full_stops


@dataclass(frozen=True)
class Statement:
    """Tokens to hide at a depth, from 0 (start) to 1 (end of the haystack)."""

    tokens: list[int]
    depth: float


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        tokens: what it says.
        statement: index of the statement that it copies, or -1.
        offset: where in the statement the copied tokens begin.
        counted: whether its tokens are judged.
    """

    tokens: list[int]
    statement: int = -1
    offset: int = 0
    counted: bool = True


@dataclass(frozen=True)
class Puzzle:
    """One example before it is laid out: what is hidden, what is asked, what is answered.

    Attributes:
        statements: hidden in the haystack.
        tail: question and cue, behind the haystack.
        answer: follows the prompt.
        name: what is asked for.
        text: the answer as text.
        depth: of the statement that holds the (first) answer.
    """

    statements: tuple[Statement, ...]
    tail: list[int]
    answer: tuple[Piece, ...]
    name: str
    text: str
    depth: float

    @property
    def answer_tokens(self) -> list[int]:
        """The answer in one."""
        return [token for piece in self.answer for token in piece.tokens]


def lay_out(
    model: HookedModel,
    haystack: str,
    puzzles: Sequence[Puzzle],
    *,
    length: int,
    generator: torch.Generator,
    at_stops: bool = True,
) -> AnswerBatch:
    """Hide the statements of each puzzle in its own random stretch of the haystack: prompts of exactly ``length``.

    A prompt is: start token, haystack with the statements, tail. Statements that fall on the same place keep the order
    of their depths. Everything is joined from pieces of tokens, so positions are exact by construction.

    Args:
        model: whose tokens and context are used.
        haystack: the long text.
        puzzles: one per example.
        length: tokens of a prompt, without the answer.
        generator: draws the stretch of the haystack.
        at_stops: put a statement behind the last full stop before its depth, not right at its depth.

    Raises:
        TaskError: if the length is beyond the context or too short for what has to be in it, or the haystack is too
            short.
    """
    start = [] if model.bos is None else [model.bos]
    sizes = [len(start) + len(one.tail) + sum(len(part.tokens) for part in one.statements) for one in puzzles]
    longest = max(len(one.answer_tokens) for one in puzzles)
    hay = model.encode(haystack)
    _check_room(model, length, longest, sizes, len(hay))
    stops = full_stops(model, hay) if at_stops else None
    shape = (len(puzzles), length + longest)
    tokens, counted = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    source = torch.full(shape, -1)
    for index, (one, size) in enumerate(zip(puzzles, sizes, strict=True)):
        body, starts = _hide(hay, stops, one.statements, length - size, generator)
        row = [*start, *body, *one.tail, *one.answer_tokens]
        tokens[index] = torch.tensor(row + row[-1:] * (shape[1] - len(row)))
        at = length - 1
        for piece in one.answer:
            part = slice(at, at + len(piece.tokens))
            counted[index, part] = piece.counted
            if piece.statement >= 0:
                first = len(start) + starts[piece.statement] + piece.offset
                source[index, part] = torch.arange(first, first + len(piece.tokens))
            at = part.stop
    named = (tuple(one.text for one in puzzles), tuple(one.name for one in puzzles))
    return AnswerBatch(tokens, length, counted, source, *named, tuple(one.depth for one in puzzles))


def check_told_apart(model: HookedModel, texts: Sequence[str]) -> None:
    """Refuse texts that the tokenizer turns into the same tokens: no model could tell which was meant.

    Raises:
        TaskError: naming two of them.
    """
    seen: dict[tuple[int, ...], str] = {}
    for text in texts:
        other = seen.setdefault(tuple(model.encode(text)), text)
        if other != text:
            raise TaskError(
                f"the tokenizer of {model.name!r} does not tell {other.strip()!r} from {text.strip()!r}: "
                "give words that it knows."
            )


def draw(count: int, size: int, generator: torch.Generator) -> list[int]:
    """``size`` different numbers below ``count``, in random order."""
    return torch.randperm(count, generator=generator)[:size].tolist()


def depths_behind(depth: float, count: int, generator: torch.Generator) -> list[float]:
    """``count`` uniform random depths between ``depth`` and 1, in rising order."""
    drawn = torch.rand(count, generator=generator, dtype=torch.float64).sort().values
    return (depth + (1 - depth) * drawn).tolist()


def _check_room(model: HookedModel, length: int, answer: int, sizes: Sequence[int], hay: int) -> None:
    most, least = max(sizes), min(sizes)
    if length + answer > model.shape.n_ctx:
        raise TaskError(
            f"a prompt of {length} tokens and its answer of {answer} are beyond the context of {model.name!r}: "
            f"the limit is {model.shape.n_ctx} tokens, {model.shape.n_ctx - answer} for the prompt."
        )
    if most > length:
        raise TaskError(
            f"the hidden statements and the question take {most} tokens: a prompt of {length} is too short. "
            f"Use at least {most}, or hide fewer or shorter statements."
        )
    if length - least > hay:
        raise TaskError(
            f"the haystack has {hay} tokens and a prompt of {length} needs {length - least}. "
            "Use a longer text or shorter prompts."
        )


def _hide(
    hay: list[int],
    stops: list[int] | None,
    statements: Sequence[Statement],
    room: int,
    generator: torch.Generator,
) -> tuple[list[int], list[int]]:
    """``room`` tokens of the haystack with the statements inside, and where each statement begins."""
    first = int(torch.randint(0, len(hay) - room + 1, (1,), generator=generator))
    body: list[int] = []
    starts, done = [0] * len(statements), first
    for index in sorted(range(len(statements)), key=lambda index: statements[index].depth):
        cut = _cut(stops, first, first + int(statements[index].depth * room))
        body += hay[done:cut]
        starts[index], done = len(body), cut
        body += statements[index].tokens
    return body + hay[done : first + room], starts


def _cut(stops: list[int] | None, first: int, target: int) -> int:
    """The last full stop in ``(first, target]``, or the target itself."""
    if stops is None:
        return target
    before = bisect_right(stops, target)
    return stops[before - 1] if before and stops[before - 1] > first else target
