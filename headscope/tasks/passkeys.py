"""Passkeys in a haystack, all asked for at the end: what DuoAttention finds the heads on that need all keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch
from headscope.tasks.hiding import Piece, Puzzle, Statement, check_told_apart, draw, lay_out

_NATO = """
    alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec
    romeo sierra tango uniform victor whiskey xray yankee zulu
"""
_ORDINALS = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
"""

NATO_WORDS = tuple(_NATO.split())
"""The words that passkeys are made of."""

ORDINALS = tuple(_ORDINALS.split())
"""How passkeys are numbered."""

_DEPTHS = torch.linspace(0.05, 0.95, 1000, dtype=torch.float64)
_BLANK = "\n\n"


@dataclass(frozen=True)
class PasskeyForm:
    """How passkeys are told and asked for; the passkey follows both texts.

    Attributes:
        needle: begins a statement; holds ``{ordinal}``.
        question: asks for a passkey; holds ``{ordinal}``.
        alphabet: the words of passkeys.
    """

    needle: str = "Remember this sequence of words, it's the {ordinal} passkey to the vault:"
    question: str = "Based on the content of the text, what is the {ordinal} passkey to the vault?\nPasskey:"
    alphabet: tuple[str, ...] = NATO_WORDS


VAULT = PasskeyForm()
"""The form that is used by default."""


def passkey_lengths(low: int, high: int, count: int = 50) -> tuple[int, ...]:
    """``count`` sequence lengths, evenly from ``low`` to ``high`` tokens (50 from 1,000 on in the release).

    Raises:
        TaskError: if ``low`` is above ``high``, or there are none.
    """
    if not 1 <= low <= high or count < 1:
        raise TaskError(f"{count} lengths from {low} to {high} cannot be had: use at least 1, from short to long.")
    return tuple(torch.linspace(low, high, count, dtype=torch.float64).round().long().tolist())


def build_passkeys(
    model: HookedModel,
    haystack: str,
    *,
    length: int,
    n: int,
    generator: torch.Generator,
    passkeys: int = 10,
    words: int = 32,
    form: PasskeyForm = VAULT,
) -> AnswerBatch:
    """``n`` sequences of ``length`` tokens, questions and answers included (arXiv 2410.10819, section 2.2).

    Each has ``passkeys`` passkeys of ``words`` words, drawn with replacement, hidden at different random ones of 1,000
    depths between 0.05 and 0.95 and numbered by position. Behind the haystack all questions follow with their
    answers; every token of these is a label, as in the release (``duo_attn/data.py``)::

        ... \\n\\n Remember this sequence of words, it's the first passkey to the vault: kilo echo ... \\n\\n ...
        Based on the content of the text, what is the first passkey to the vault? \\n Passkey: kilo echo ... \\n\\n

    ``batch.labels`` are those tokens: the released loss compares the hidden states at these very positions, not at the
    rows before them, which ``batch.counted`` is for. Only words have a ``batch.source`` from 0 up. The wording is the
    release's without its misspelling and its markup for a book. Where words differ in tokens, the prompts are as
    long as the longest answers leave, and the others are padded on the right.

    Raises:
        TaskError: if there are no passkeys or words, more passkeys than ordinals, the tokenizer mixes words or
            ordinals up, or the length is too short for all or beyond the context, or the haystack is too short.
    """
    if not 1 <= passkeys <= len(ORDINALS) or words < 1:
        raise TaskError(
            f"{passkeys} passkeys of {words} words cannot be made: use 1 to {len(ORDINALS)} passkeys of 1 word or more."
        )
    ordinals = ORDINALS[:passkeys]
    check_told_apart(model, [f" {word}" for word in form.alphabet])
    for text in (form.needle, form.question):
        check_told_apart(model, [text.format(ordinal=ordinal) for ordinal in ordinals])
    puzzles = [_puzzle(model, form, ordinals, words, generator) for _ in range(n)]
    longest = max(len(one.answer_tokens) for one in puzzles)
    _check_length(model, length, longest, puzzles, passkeys, words)
    return lay_out(model, haystack, puzzles, length=length - longest, generator=generator, at_stops=False)


def _puzzle(
    model: HookedModel, form: PasskeyForm, ordinals: Sequence[str], words: int, generator: torch.Generator
) -> Puzzle:
    depths = sorted(_DEPTHS[draw(len(_DEPTHS), len(ordinals), generator)].tolist())
    blank = model.encode(_BLANK)
    statements: list[Statement] = []
    answer: list[Piece] = []
    texts: list[str] = []
    for index, (ordinal, depth) in enumerate(zip(ordinals, depths, strict=True)):
        drawn = torch.randint(0, len(form.alphabet), (words,), generator=generator).tolist()
        texts.append(" ".join(form.alphabet[word] for word in drawn))
        passkey = model.encode(" " + texts[-1])
        before = [*blank, *model.encode(form.needle.format(ordinal=ordinal))]
        statements.append(Statement([*before, *passkey, *blank], depth))
        question = Piece(model.encode(form.question.format(ordinal=ordinal)))
        answer += [question, Piece(passkey, index, len(before)), Piece(blank)]
    return Puzzle(tuple(statements), blank, tuple(answer), ", ".join(ordinals), "; ".join(texts), depths[0])


def _check_length(
    model: HookedModel, length: int, longest: int, puzzles: Sequence[Puzzle], passkeys: int, words: int
) -> None:
    fixed = max(sum(len(part.tokens) for part in one.statements) + len(one.tail) for one in puzzles)
    least = longest + fixed + (model.bos is not None)
    if length < least:
        raise TaskError(
            f"{passkeys} passkeys of {words} words take {least} tokens with their questions: {length} are too few. "
            f"Use at least {least}, fewer passkeys or fewer words."
        )
    if length > model.shape.n_ctx:
        raise TaskError(f"{length} tokens are beyond the context of {model.name!r} ({model.shape.n_ctx} tokens).")
