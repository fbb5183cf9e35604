"""Products of decays between two tokens, and what recurrences with decays make of them.

A state that shrinks by ``a_t = exp(log_decay_t)`` at every token t holds what token j wrote, times
``prod_{j < t <= i} a_t``, when token i reads it. Decays are one number for each head and token, or one for each channel
of the key; their products are always taken as sums of logarithms between two tokens, so that nothing overflows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 16


def decay_between(log_decay: Float[Tensor, "*batch T"]) -> Float[Tensor, "*batch T T"]:
    """``exp(sum_{j < t <= i} log_decay_t)`` for ``j <= i``, else 0."""
    return log_decay_between(log_decay).exp()


def log_decay_between(log_decay: Float[Tensor, "*batch T"]) -> Float[Tensor, "*batch T T"]:
    """``sum_{j < t <= i} log_decay_t`` for ``j <= i``, else minus infinity.

    Every cell sums its own terms: a difference of two sums from the first token would lose digits in long texts.
    """
    size = log_decay.shape[-1]
    ones = torch.ones(size, size, dtype=torch.bool, device=log_decay.device)
    terms = log_decay[..., :, None].expand(*log_decay.shape, size).masked_fill(~ones.tril(-1), 0.0)
    return terms.cumsum(-2).masked_fill(~ones.tril(), -torch.inf)


def decayed_products(
    query: Float[Tensor, "*batch T E"], key: Float[Tensor, "*batch T E"], log_decay: Tensor | None
) -> Float[Tensor, "*batch T T"]:
    """``sum_e q_ie k_je prod_{j < t <= i} a_te`` for ``j <= i``, else 0.

    Args:
        query: what reads the state.
        key: what wrote to it.
        log_decay: (..., T) one decay for all channels, (..., T, E) one for each, or None for no decay.
    """
    if log_decay is None:
        return (query @ key.mT).tril()
    if log_decay.ndim < query.ndim:
        return (query @ key.mT) * decay_between(log_decay)
    starts = range(0, query.shape[-2], _BLOCK)
    return torch.cat([_row_block(query, key, log_decay, start) for start in starts], -2)


def earlier_products(
    query: Float[Tensor, "*batch T E"], key: Float[Tensor, "*batch T E"], log_decay: Tensor | None
) -> Float[Tensor, "*batch T T"]:
    """As `decayed_products`, of a query that reads the state before its own token's decay and writing: ``j < i``."""
    if query.shape[-2] == 1:
        return (query @ key.mT) * 0
    if log_decay is not None:
        axis = -1 if log_decay.ndim < query.ndim else -2
        log_decay = log_decay.narrow(axis, 0, log_decay.shape[axis] - 1)
    return pad(decayed_products(query[..., 1:, :], key[..., :-1, :], log_decay), (0, 1, 1, 0))


def _row_block(query: Tensor, key: Tensor, log_decay: Tensor, start: int) -> Tensor:
    """Rows ``start`` to ``start + _BLOCK`` of `decayed_products` under a decay for each channel.

    Between a row and a column of an earlier block lies the first row of the block: the product of decays is split
    there into two factors that are both at most 1.
    """
    size = query.shape[-2]
    stop = min(start + _BLOCK, size)
    query, decays = query[..., start:stop, :], log_decay[..., start:stop, :]
    within = log_decay_between(decays.mT).exp().movedim(-3, -1)
    own = torch.einsum("...ie,...je,...ije->...ij", query, key[..., start:stop, :], within)
    own = pad(own, (0, size - stop))
    if not start:
        return own
    to_row = decays.cumsum(-2).exp()
    after = pad(log_decay[..., 1:start, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2).exp()
    return torch.cat([(query * to_row) @ (key[..., :start, :] * after).mT, own], -1)
