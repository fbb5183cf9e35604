"""Read a prompt in chunks and decode greedily, through any cache."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel

from circuits.policies.dropping_cache import DroppingCache
from headscope.errors import ConfigError


def read_prompt(
    model: PreTrainedModel, cache: Cache, tokens: Int[Tensor, "batch pos"], *, chunk: int | None = None
) -> Float[Tensor, "batch d_vocab"]:
    """Read a prompt into a cache, ``chunk`` tokens at a time, without gradients; gives the logits of its last row.

    Raises:
        ConfigError: for a chunk below 1, or one that is shorter than the prompt where the plan reads it whole.
    """
    size = tokens.shape[1] if chunk is None else chunk
    if size < 1:
        raise ConfigError(f"a prompt is read at least one token at a time, not {size}.")
    if isinstance(cache, DroppingCache) and cache.plan.late and size < tokens.shape[1]:
        raise ConfigError(f"this plan reads its prompt whole before it drops anything, not {size} tokens at a time.")
    logits = torch.empty(0)
    for start in range(0, tokens.shape[1], size):
        logits = _last_logits(model, cache, tokens[:, start : start + size])
    return logits


def decode(model: PreTrainedModel, cache: Cache, first: Int[Tensor, " batch"], steps: int) -> Int[Tensor, "batch step"]:
    """The ``steps`` most likely tokens after ``first``, one by one, which the cache has not seen yet."""
    found, token = list[Tensor](), first
    for _ in range(steps):
        token = _last_logits(model, cache, token[:, None]).argmax(-1)
        found.append(token)
    return torch.stack(found, 1)


@torch.no_grad()
def _last_logits(model: PreTrainedModel, cache: Cache, tokens: Int[Tensor, "batch pos"]) -> Tensor:
    return model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
