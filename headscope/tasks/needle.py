"""A needle in a haystack: one statement hidden in a long text, and a question whose answer copies it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from headscope.errors import TaskError, UnknownNameError
from headscope.models.protocol import HookedModel, Needle

NEEDLES: tuple[Needle, ...] = (
    Needle(
        "dolores",
        "The best thing to do in San Francisco is",
        "eat a sandwich and sit in Dolores Park on a sunny day",
        "What is the best thing to do in San Francisco?",
    ),
    Needle(
        "vault",
        "The password of the northern vault is",
        "purple elephant seven candle river",
        "What is the password of the northern vault?",
    ),
    Needle(
        "soup",
        "The secret ingredient in Marta's soup is",
        "roasted juniper berries with smoked paprika and honey",
        "What is the secret ingredient in Marta's soup?",
    ),
    Needle(
        "race",
        "The winner of the village race was",
        "a baker named Oskar who wore two different shoes",
        "Who was the winner of the village race?",
    ),
    Needle(
        "telescope",
        "On her ninth birthday Amira received",
        "a telescope made of copper and a map of Jupiter's moons",
        "What did Amira receive on her ninth birthday?",
    ),
    Needle(
        "lighthouse",
        "The keeper of the old lighthouse is afraid of",
        "grey seagulls that steal silver buttons at midnight",
        "What is the keeper of the old lighthouse afraid of?",
    ),
    Needle(
        "train",
        "The night train to Varna leaves from",
        "platform eleven behind the yellow water tower",
        "Where does the night train to Varna leave from?",
    ),
    Needle(
        "painter",
        "The painter mixed his favourite colour from",
        "crushed walnut shells, salt and wild cherry juice",
        "What did the painter mix his favourite colour from?",
    ),
)


@dataclass(frozen=True)
class NeedleBatch:
    """Prompts of one exact length, each with a needle; answers are padded on the right.

    Attributes:
        prompts: start token, haystack, needle, haystack, question and cue.
        answers: tokens of the answer, padded with the last token.
        answer_lengths: real tokens of each answer.
        spans: position of the answer's first token inside the needle; the span is that and the next
            ``answer_lengths - 1`` positions, exactly.
        depths: where the needle lies, from 0 (start) to 1 (end of the haystack).
        names: name of each needle.
        texts: each answer as text.
    """

    prompts: Int[Tensor, "batch pos"]
    answers: Int[Tensor, "batch answer"]
    answer_lengths: Int[Tensor, " batch"]
    spans: Int[Tensor, " batch"]
    depths: tuple[float, ...]
    names: tuple[str, ...]
    texts: tuple[str, ...]


def choose_needles(names: Sequence[str]) -> tuple[Needle, ...]:
    """Built-in needles by name; all of them if no name is given.

    Raises:
        UnknownNameError: for a name that is not built in.
    """
    known = {needle.name: needle for needle in NEEDLES}
    for name in names:
        if name not in known:
            raise UnknownNameError.of("needle", name, known)
    return tuple(known[name] for name in names) or NEEDLES


def load_needles(path: Path) -> tuple[Needle, ...]:
    """Needles from a JSON list of objects with name, cue, answer, question and optionally end.

    Raises:
        TaskError: if the file cannot be read or an entry has other keys.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        needles = tuple(Needle(**{key: _text(key, value) for key, value in entry.items()}) for entry in entries)
    except OSError as error:
        raise TaskError(f"the needle file {path} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise TaskError(
            f"the needle file {path} is not a JSON list of objects with name, cue, answer, question: {error}"
        ) from error
    if not needles or not all(needle.answer.strip() and needle.cue.strip() for needle in needles):
        raise TaskError(f"the needle file {path} needs at least one needle, each with a cue and an answer.")
    return needles


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, no text")
    value.encode()  # JSON can hold half a surrogate pair, which no tokenizer takes
    return value


def build_needles(
    model: HookedModel,
    haystack: str,
    *,
    length: int,
    n: int,
    generator: torch.Generator,
    needles: Sequence[Needle] = NEEDLES,
    depths: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
) -> NeedleBatch:
    """``n`` prompts of exactly ``length`` tokens; needles and depths go through all pairs, the haystack part is random.

    The needle goes behind the last full stop before its depth. Tokens are joined from pieces, so the answer's
    span is exact by construction.

    Raises:
        TaskError: if the length is beyond the context, or too short for needle and question, or the haystack is
            shorter than the prompt, or a depth is not between 0 and 1.
    """
    check_depths(depths)
    _check_length(model, length, max(len(model.encode(" " + needle.answer)) for needle in needles))
    hay = model.encode(haystack)
    stops = full_stops(model, hay)
    parts = [_pieces(model, needle) for needle in needles]
    rows: list[_Prompt] = []
    pairs = len(needles) * len(depths)
    start = int(torch.randint(0, pairs, (1,), generator=generator))
    for index in (number % pairs for number in range(start, start + n)):
        which = index % len(needles)
        depth = depths[(index + index // math.lcm(len(needles), len(depths))) % len(depths)]
        rows.append(_prompt(model, parts[which], needles[which], hay, stops, length, depth, generator))
    return _stack(rows)


@dataclass(frozen=True)
class _Pieces:
    before: list[int]
    answer: list[int]
    after: list[int]
    tail: list[int]


@dataclass(frozen=True)
class _Prompt:
    tokens: list[int]
    answer: list[int]
    span: int
    depth: float
    needle: Needle


def check_depths(depths: Sequence[float]) -> None:
    """Refuse a depth outside the text.

    Raises:
        TaskError: if a depth is not between 0 and 1.
    """
    wrong = [depth for depth in depths if not 0 <= depth <= 1]
    if wrong:
        raise TaskError(f"a depth of {wrong[0]:g} is not in the text: depths go from 0 (start) to 1 (end).")


def _check_length(model: HookedModel, length: int, answer: int) -> None:
    if length + answer > model.shape.n_ctx:
        raise TaskError(
            f"a needle prompt of {length} tokens and its answer are beyond the context of {model.name!r}: "
            f"the limit is {model.shape.n_ctx} tokens, {model.shape.n_ctx - answer} for the prompt."
        )


def _pieces(model: HookedModel, needle: Needle) -> _Pieces:
    return _Pieces(
        before=model.encode(" " + needle.cue),
        answer=model.encode(" " + needle.answer),
        after=model.encode(needle.end),
        tail=model.encode(
            f"\n\nBased on the text above, answer the question.\nQuestion: {needle.question}\nAnswer: {needle.cue}"
        ),
    )


def full_stops(model: HookedModel, hay: list[int]) -> list[int]:
    """Positions in ``hay`` just behind a token that holds a full stop, in rising order."""
    ends = {token for token in set(hay) if "." in model.decode([token])}
    return [index + 1 for index, token in enumerate(hay) if token in ends]


def _prompt(
    model: HookedModel,
    parts: _Pieces,
    needle: Needle,
    hay: list[int],
    stops: list[int],
    length: int,
    depth: float,
    generator: torch.Generator,
) -> _Prompt:
    start = [] if model.bos is None else [model.bos]
    fixed = len(start) + len(parts.before) + len(parts.answer) + len(parts.after) + len(parts.tail)
    room = length - fixed
    if room < 0:
        raise TaskError(
            f"the needle {needle.name!r} and its question take {fixed} tokens: "
            f"a length of {length} is too short. Use at least {fixed}."
        )
    if room > len(hay):
        raise TaskError(
            f"the haystack has {len(hay)} tokens and a prompt of {length} needs {room}. "
            "Use a longer text or shorter prompts."
        )
    first = int(torch.randint(0, len(hay) - room + 1, (1,), generator=generator))
    target = first + int(depth * room)
    behind = [stop for stop in stops if first < stop <= target]
    cut = (behind[-1] if behind else target) - first
    piece = hay[first : first + room]
    tokens = [*start, *piece[:cut], *parts.before, *parts.answer, *parts.after, *piece[cut:], *parts.tail]
    return _Prompt(tokens, parts.answer, len(start) + cut + len(parts.before), depth, needle)


def _stack(rows: list[_Prompt]) -> NeedleBatch:
    longest = max(len(row.answer) for row in rows)
    padded = [row.answer + [row.answer[-1]] * (longest - len(row.answer)) for row in rows]
    return NeedleBatch(
        prompts=torch.tensor([row.tokens for row in rows]),
        answers=torch.tensor(padded),
        answer_lengths=torch.tensor([len(row.answer) for row in rows]),
        spans=torch.tensor([row.span for row in rows]),
        depths=tuple(row.depth for row in rows),
        names=tuple(row.needle.name for row in rows),
        texts=tuple(row.needle.answer for row in rows),
    )
