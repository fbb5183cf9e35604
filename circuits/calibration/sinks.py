"""Attention sinks as ACT finds them: columns that receive more than their share, per head and per text.

The mean attention that token t receives is ``s_t = sum_{i >= t} A[i, t] / (T - t)``, over the rows that can see it;
sinks are ``S = {t : s_t > theta}`` with ``theta = alpha / T`` (the paper, alpha = 5) or a fixed bound (the released
scripts, 0.1); the two agree at T = 50. Source: Yu et al. 2024, arXiv 2406.15765; GATECH-EIC/ACT.

Pitfalls: everything depends on T. The last few tokens are seen by few rows, so one row can make a sink of them. Padded
rows must carry no weight: T is each text's own length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.settings import ActSettings
from headscope.attention import AttentionInput, refuse_policy, softmax_rows
from headscope.errors import UnsupportedError
from headscope.kernels import expand_kv

_ROW_CHUNK = 256
_GOLDEN = (5**0.5 - 1) / 2  # multiples of it, without their whole parts, are spread evenly
Lengths = Int[Tensor, " batch"] | int | None
"""Tokens of each text that sinks are found from: one number for all, or None for every token of the call."""


def lengths_of(lengths: Lengths, batch: int, size: int, device: torch.device) -> Int[Tensor, " batch"]:
    """A length for each text of a batch.

    Raises:
        UnsupportedError: if there is not one for each text, or one is not from 1 to ``size``.
    """
    if lengths is None or isinstance(lengths, int):
        found = torch.full((batch,), size if lengths is None else lengths, device=device)
    else:
        found = lengths.to(device)
    if found.shape != (batch,) or not bool(((found >= 1) & (found <= size)).all()):
        raise UnsupportedError(
            f"sinks of {batch} texts are to be found from their first {found.tolist()} tokens, and the first call "
            f"reads {size}. Read the whole prompt in one call, and give each text a length from 1 to {size}; or use "
            "sinks='so far', which needs neither."
        )
    return found


def only_heads(call: AttentionInput, heads: Sequence[int]) -> AttentionInput:
    """The same call for some query heads only, each with keys and values of its own.

    Raises:
        UnsupportedError: for a call in which a policy attends.
    """
    refuse_policy(call)
    index = torch.tensor(list(heads), device=call.query.device)
    n_heads = call.query.shape[1]
    key, value = (expand_kv(part, n_heads)[:, index] for part in (call.key, call.value))
    query = call.query[:, index]
    return AttentionInput(call.layer, query, key, value, call.scale, call.window, call.softcap)


@torch.no_grad()
def received_mass(call: AttentionInput, lengths: Lengths = None) -> Float[Tensor, "batch head key"]:
    """Mean attention that each token receives from the rows that can see it, without the whole T x T matrix.

    **Definition**: ``s_t = sum_{t <= i < T} A[i, t] / (T - t)``; 0 for tokens from T on. **Range**: 0 to 1.

    Args:
        call: a call that reads texts from their first token.
        lengths: T of each text; later rows carry no weight.
    """
    batch, n_heads, size, _ = call.query.shape
    real = lengths_of(lengths, batch, size, call.query.device)
    total = torch.zeros(batch, n_heads, size, device=call.query.device)
    for first in range(0, size, _ROW_CHUNK):
        last = min(first + _ROW_CHUNK, size)
        pattern = pattern_rows(call, first, last)
        counted = torch.arange(first, last, device=real.device) < real[:, None]
        total[..., :last] += (pattern * counted[:, None, :, None]).sum(2)
    seen_by = real[:, None] - torch.arange(size, device=real.device)
    return total / seen_by.clamp_min(1)[:, None]


def pattern_rows(call: AttentionInput, first: int, last: int) -> Float[Tensor, "batch head row key"]:
    """A of rows ``first ... last - 1`` of a call, over the keys up to the last of them."""
    return softmax_rows(call, first, last)


def sinks_among(
    mass: Float[Tensor, "*rest key"], sizes: Int[Tensor, " *rest"], settings: ActSettings
) -> Bool[Tensor, "*rest key"]:
    """Columns above the bound, without the first (`ActSettings.keep_first`) and those that few rows see.

    Args:
        mass: mean attention received.
        sizes: T that the bound ``alpha / T`` takes, broadcast over keys.
        settings: the rule.
    """
    bound = settings.alpha / sizes[..., None] if settings.threshold is None else settings.threshold
    found = mass > bound
    if settings.keep_first:
        found = found & (found.cumsum(-1) > 1)
    if settings.least_share:
        seen_by = sizes[..., None] - torch.arange(mass.shape[-1], device=mass.device)
        found = found & (seen_by >= settings.least_share * sizes[..., None])
    return found


def find_sinks(call: AttentionInput, settings: ActSettings, lengths: Lengths = None) -> Bool[Tensor, "batch head key"]:
    """Sinks of each text and head, from all rows of the text.

    Args:
        call: a call that reads texts from their first token.
        settings: the rule.
        lengths: see `received_mass`.
    """
    batch, n_heads, size, _ = call.query.shape
    real = lengths_of(lengths, batch, size, call.query.device)
    mass, sizes = received_mass(call, real), real[:, None].expand(batch, n_heads)
    found = sinks_among(mass, sizes, settings)
    return found if settings.columns == "sinks" else _as_many_others(found, mass, settings, sizes)


def _as_many_others(
    sinks: Bool[Tensor, "batch head key"],
    mass: Float[Tensor, "batch head key"],
    settings: ActSettings,
    sizes: Int[Tensor, "batch head"],
) -> Bool[Tensor, "batch head key"]:
    """As many columns that are above no bound, in a scattered order that is the same for every head and text."""
    keys = torch.arange(sinks.shape[-1], device=sinks.device)
    bound = settings.alpha / sizes[..., None] if settings.threshold is None else settings.threshold
    able = (mass <= bound) & (keys > 0) & (keys < sizes[..., None])
    order = ((keys + 1) * _GOLDEN).frac().expand(sinks.shape).masked_fill(~able, -1.0)
    rank = order.argsort(-1, descending=True).argsort(-1)
    return able & (rank < sinks.sum(-1, keepdim=True))
