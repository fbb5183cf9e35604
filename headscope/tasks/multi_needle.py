"""Several needles in one haystack, of the same form and with different keys: some are asked for (RULER)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch
from headscope.tasks.hiding import Piece, Puzzle, Statement, check_told_apart, depths_behind, draw, lay_out
from headscope.tasks.needle import check_depths


@dataclass(frozen=True)
class NeedleForm:
    """How needles of one form are told, ``"{cue} {value}{end}"``, and asked for.

    Attributes:
        cue: how a statement begins, and how each value of the answer is begun; holds ``{key}``.
        question: asks for the values of ``{keys}``.
        keys: what ``{key}`` can be.
        values: words that values are made of; no word is in two values of a prompt.
        words: words in a value.
        end: what closes a statement.
    """

    cue: str
    question: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    words: int = 1
    end: str = "."


_CITIES = """
    Lisbon Oslo Cairo Lima Dublin Vienna Athens Havana Tokyo Delhi Berlin Madrid Rome Paris London Moscow Sydney
    Boston Denver Chicago Toronto Warsaw Geneva Milan
"""
_WORDS = """
    amber falcon granite willow copper saffron lantern thistle walrus cobalt marble pepper velvet anchor candle
    meadow orchid pebble raven silver thunder violet ribbon hammer ginger feather canyon button bottle basket
    tiger turtle tunnel temple sugar shadow rocket rabbit purple pillow pencil parrot orange onion mirror melon
    magnet ladder kettle jungle island honey harbor garlic garden forest finger eagle dragon desert cotton coffee
    cherry castle carpet cactus butter bridge bamboo apple
"""

CODES = NeedleForm(
    cue="The secret word for {key} is",
    question="What is the secret word for {keys}?",
    keys=tuple(_CITIES.split()),
    values=tuple(_WORDS.split()),
)
"""The form that is used by default: cities and words."""


def build_multi_needle(
    model: HookedModel,
    haystack: str,
    *,
    length: int,
    n: int,
    generator: torch.Generator,
    keys: int = 4,
    values: int = 1,
    asked: int = 1,
    depths: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    form: NeedleForm = CODES,
) -> AnswerBatch:
    """``n`` prompts of exactly ``length`` tokens with ``keys * values`` needles (arXiv 2404.06654, section 3.1).

    RULER's multi-key task is ``asked=1``, multi-query ``asked`` above 1, multi-value ``values`` above 1. The form and
    the words are ours. The answer goes through the asked keys in the order of the question::

        The secret word for Oslo is amber.          (hidden, with the others)
        What is the secret word for Oslo and Lima?  The secret word for Oslo is
        amber                                       (counts)
        . The secret word for Lima is                (given)
        copper                                      (counts)

    Several values of a key are joined by commas in the order in which they are hidden. The first needle asked for goes
    through ``depths`` in turn; further values of its key lie at random depths behind it, all else at random depths.

    Raises:
        TaskError: if the numbers cannot be had from the form's words, the tokenizer mixes words up, the length is
            beyond the context or too short, the haystack is too short, or a depth is not between 0 and 1.
    """
    check_depths(depths)
    _check_numbers(form, keys, values, asked)
    check_told_apart(model, [f" {key}" for key in form.keys])
    check_told_apart(model, [f" {value}" for value in form.values])
    start = int(torch.randint(0, len(depths), (1,), generator=generator))
    turns = [depths[index % len(depths)] for index in range(start, start + n)]
    puzzles = [_puzzle(model, form, keys, values, asked, depth, generator) for depth in turns]
    return lay_out(model, haystack, puzzles, length=length, generator=generator)


def _check_numbers(form: NeedleForm, keys: int, values: int, asked: int) -> None:
    if not 1 <= keys <= len(form.keys):
        raise TaskError(f"{keys} keys cannot be drawn from {len(form.keys)}: use 1 to {len(form.keys)}.")
    if not 1 <= asked <= keys:
        raise TaskError(f"{asked} keys cannot be asked for where {keys} are hidden: use 1 to {keys}.")
    most = len(form.values) // (form.words * keys)
    if not 1 <= values <= most:
        raise TaskError(
            f"{values} values of {form.words} words for each of {keys} keys cannot be drawn from {len(form.values)} "
            f"words: use 1 to {most} values, or fewer keys."
        )


def _puzzle(
    model: HookedModel, form: NeedleForm, keys: int, values: int, asked: int, depth: float, generator: torch.Generator
) -> Puzzle:
    """One example; the keys that are drawn first are asked for."""
    names = [form.keys[index] for index in draw(len(form.keys), keys, generator)]
    words = [form.values[index] for index in draw(len(form.values), keys * values * form.words, generator)]
    told = [" ".join(words[at : at + form.words]) for at in range(0, len(words), form.words)]
    statements: list[Statement] = []
    answer: list[Piece] = []
    for which, name in enumerate(names):
        places = [depth, *depths_behind(depth, values - 1, generator)]
        places = depths_behind(0.0, values, generator) if which else places
        cue = model.encode(" " + form.cue.format(key=name))
        for order, place in enumerate(places):
            value = model.encode(" " + told[which * values + order])
            if which < asked:
                answer += _joined(model, form, name, which, order)
                answer.append(Piece(value, len(statements), len(cue)))
            statements.append(Statement([*cue, *value, *model.encode(form.end)], place))
    return Puzzle(
        statements=tuple(statements),
        tail=model.encode(_tail(form, names[:asked])),
        answer=tuple(answer),
        name=", ".join(names[:asked]),
        text=", ".join(told[: asked * values]),
        depth=depth,
    )


def _joined(model: HookedModel, form: NeedleForm, name: str, which: int, order: int) -> list[Piece]:
    """What stands before a value in the answer, given to the model: nothing before the first."""
    text = "," if order else f"{form.end} {form.cue.format(key=name)}" if which else ""
    return [Piece(model.encode(text), counted=False)] if text else []


def _tail(form: NeedleForm, names: Sequence[str]) -> str:
    keys = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return (
        f"\n\nBased on the text above, answer the question.\nQuestion: {form.question.format(keys=keys)}\n"
        f"Answer: {form.cue.format(key=names[0])}"
    )
