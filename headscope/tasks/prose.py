"""Passages of real text, cut to an exact number of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from headscope.errors import TaskError
from headscope.models.protocol import HookedModel

_LONGEST_WORD = 40  # characters


def build_prose(
    model: HookedModel, haystack: str, *, n: int, length: int, generator: torch.Generator
) -> Int[Tensor, "batch pos"]:
    """``n`` passages of ``length`` tokens, the start token included where the model has one.

    Passages start at word boundaries spread evenly over the text, shifted by one random offset; no two are the same
    stretch of text.

    Raises:
        TaskError: if the text is too short, or the length is beyond the model's context.
    """
    if length > model.shape.n_ctx:
        raise TaskError(f"{length} tokens are beyond the context of {model.name!r} ({model.shape.n_ctx} tokens).")
    body = length - (0 if model.bos is None else 1)
    reach = body * 16  # characters; no tokenizer at hand needs more for this many tokens of prose
    room = len(haystack) - reach
    if room < n:
        raise TaskError(
            f"the haystack has {len(haystack)} characters: too short for {n} different passages of {length} tokens. "
            "Use a longer text or shorter prompts."
        )
    offset = int(torch.randint(0, room, (1,), generator=generator))
    rows: list[list[int]] = []
    for index in range(n):
        at = (offset + index * room // n) % room
        at = max(at, haystack.find(" ", at, at + _LONGEST_WORD))
        tokens = model.encode(haystack[at : at + reach])[:body]
        if len(tokens) < body:
            raise TaskError(
                f"the haystack gives {len(tokens)} tokens where {body} are wanted. "
                "Use a longer text or shorter prompts."
            )
        rows.append(tokens if model.bos is None else [model.bos, *tokens])
    return torch.tensor(rows)
