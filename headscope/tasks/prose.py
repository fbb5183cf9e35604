"""Passages of real text, cut to an exact number of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel

_LONGEST_WORD = 40  # characters
_CHARACTERS_PER_TOKEN = 16  # no tokenizer at hand needs more for prose


def build_prose(
    model: HookedModel, haystack: str, *, n: int, length: int, generator: torch.Generator
) -> Int[Tensor, "batch pos"]:
    """Up to ``n`` passages of ``length`` tokens, the start token included where the model has one.

    The text is cut into equal stretches and each passage lies inside its own, from a random word boundary on: no two
    share a character. Where the text is too short for ``n`` of them there are fewer, at least two.

    Raises:
        TaskError: if the text is too short for two, or the length is beyond the model's context.
    """
    if length > model.shape.n_ctx:
        raise TaskError(f"{length} tokens are beyond the context of {model.name!r} ({model.shape.n_ctx} tokens).")
    start = [] if model.bos is None else [model.bos]
    count = n
    while count >= min(n, 2):
        rows = _passages(model, haystack, count, length - len(start), generator)
        if rows is not None:
            return torch.tensor([[*start, *row] for row in rows])
        count = count * 3 // 4
    raise TaskError(
        f"this part of the haystack has {len(haystack)} characters: too short for two passages of {length} tokens. "
        "Use a longer text or shorter passages."
    )


def _passages(
    model: HookedModel, haystack: str, n: int, body: int, generator: torch.Generator
) -> list[list[int]] | None:
    """``n`` passages, each inside its own stretch of the text; None if one does not fit."""
    stretch = len(haystack) // n
    window = min(stretch, body * _CHARACTERS_PER_TOKEN)
    rows: list[list[int]] = []
    for index in range(n):
        end = (index + 1) * stretch
        at = end - stretch + int(torch.randint(0, stretch - window + 1, (1,), generator=generator))
        at = max(at, haystack.find(" ", at, at + _LONGEST_WORD))
        row = model.encode(haystack[at : min(at + window, end)])[:body]
        if len(row) < body:
            return None
        rows.append(row)
    return rows
