"""Variables that are set to one another, hidden in a haystack: a value has to be followed over several hops (RULER)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch
from headscope.tasks.hiding import Piece, Puzzle, Statement, check_told_apart, depths_behind, draw, lay_out
from headscope.tasks.needle import check_depths

_LETTERS, _DIGITS = 3, 5
_MOST = 50  # variables in a prompt

Ask = Literal["value", "variables"]


def build_variable_tracking(
    model: HookedModel,
    haystack: str,
    *,
    length: int,
    n: int,
    generator: torch.Generator,
    hops: int = 1,
    chains: int = 2,
    ask: Ask = "value",
    depths: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
) -> AnswerBatch:
    """``n`` prompts of exactly ``length`` tokens with ``chains`` chains (arXiv 2404.06654, section 3.2).

    A chain of ``hops`` hops has ``hops + 1`` variables, as in RULER, here 2::

        VAR KFB = 40217.  ...  VAR QTS = KFB.  ...  VAR BMA = QTS.

    ``ask="value"`` asks for the value of the last variable of one chain: a model has to follow every hop, and with
    ``hops=0`` to copy only. It is judged by exact answers: of a number that has begun, the other digits are found by
    copying alone. A model that names any number of the text is right once in ``chains``, so one chain asks for no
    following. ``ask="variables"`` is RULER's question, all variables that hold a value, answered in the
    order of the text. Names (three capitals), values (five digits) and wording are ours. The first statement of the
    chain that is asked about goes through ``depths`` in turn; the others of a chain lie at random depths behind their
    predecessor, other chains at random depths.

    Raises:
        TaskError: if there are no or too many variables, the tokenizer mixes names or values up, the length is
            beyond the context or too short, the haystack is too short, or a depth is not between 0 and 1.
    """
    check_depths(depths)
    if hops < 0 or chains < 1 or chains * (hops + 1) > _MOST:
        raise TaskError(
            f"{chains} chains of {hops} hops cannot be made: use at least 1 chain and 0 hops, and at most {_MOST} "
            "variables, hops + 1 in each chain."
        )
    start = int(torch.randint(0, len(depths), (1,), generator=generator))
    turns = [depths[index % len(depths)] for index in range(start, start + n)]
    puzzles = [_puzzle(model, hops, chains, ask, depth, generator) for depth in turns]
    batch = lay_out(model, haystack, puzzles, length=length, generator=generator)
    return replace(batch, measure="exact") if ask == "value" else batch


def _puzzle(model: HookedModel, hops: int, chains: int, ask: Ask, depth: float, generator: torch.Generator) -> Puzzle:
    """One example; the first chain is asked about."""
    size = hops + 1
    names = _names(chains * size, generator)
    values = [str(10 ** (_DIGITS - 1) + index) for index in draw(9 * 10 ** (_DIGITS - 1), chains, generator)]
    check_told_apart(model, [f" {text}" for text in (*names, *values)])
    statements: list[Statement] = []
    for chain in range(chains):
        own = names[chain * size : (chain + 1) * size]
        places = depths_behind(0.0, size, generator) if chain else [depth, *depths_behind(depth, hops, generator)]
        for name, held, place in zip(own, [values[chain], *own], places, strict=False):
            statements.append(Statement(_assignment(model, name, held), place))
    own = names[:size]
    if ask == "value":
        piece = Piece(model.encode(f" {values[0]}"), 0, len(_assigned(model, own[0])))
        tail, answer, text, name = _value_question(own[-1]), [piece], values[0], own[-1]
    else:
        tail, answer, text, name = _variables_question(values[0]), _listed(model, own), ", ".join(own), values[0]
    return Puzzle(tuple(statements), model.encode(tail), tuple(answer), name, text, depth)


def _names(count: int, generator: torch.Generator) -> list[str]:
    """Different names of three capitals, no two that begin with the same two."""
    letters = string.ascii_uppercase
    pairs = draw(len(letters) ** 2, count, generator)
    ends = torch.randint(0, len(letters), (count,), generator=generator).tolist()
    return [letters[pair // 26] + letters[pair % 26] + letters[end] for pair, end in zip(pairs, ends, strict=True)]


def _assigned(model: HookedModel, name: str) -> list[int]:
    return [*model.encode(" VAR"), *model.encode(f" {name}"), *model.encode(" =")]


def _assignment(model: HookedModel, name: str, held: str) -> list[int]:
    return [*_assigned(model, name), *model.encode(f" {held}"), *model.encode(".")]


def _listed(model: HookedModel, names: Sequence[str]) -> list[Piece]:
    """The names, joined by commas that are given."""
    before = len(model.encode(" VAR"))
    pieces: list[Piece] = []
    for index, name in enumerate(names):
        joint = [Piece(model.encode(", VAR"), counted=False)] if index else []
        pieces += [*joint, Piece(model.encode(f" {name}"), index, before)]
    return pieces


def _value_question(name: str) -> str:
    return (
        "\n\nBased on the assignments of variables in the text above, answer the question.\n"
        f"Question: What is the value of VAR {name}?\nAnswer: The value of VAR {name} is"
    )


def _variables_question(value: str) -> str:
    return (
        "\n\nBased on the assignments of variables in the text above, answer the question.\n"
        f"Question: Which variables have the value {value}?\nAnswer: The value {value} is held by VAR"
    )
