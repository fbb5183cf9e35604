"""Flow attention: what flows into each row and out of each token is conserved."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.mixers.interface import Mix, Mixer, MixerInput, State
from headscope.mixers.kinds import MatrixKind, RowKind

_SMALL = 1e-12


class Flow(Mixer):
    """``M_ij = sigmoid(I'_i) phi(q_i) . phi(k_j) C_j / I_i`` with ``phi = sigmoid``.

    Flowformer (Wu et al. 2022, 2202.06258). ``I_i = phi(q_i) . sum phi(k)`` flows into row i and
    ``O_j = phi(k_j) . sum phi(q)`` out of token j; ``I'_i = phi(q_i) . sum phi(k) / O`` and
    ``O'_j = phi(k_j) . sum phi(q) / I`` are what remains when the other side is held at 1. Tokens compete,
    ``C_j = n softmax_j(O')``, with O' kept between -1 and 1 as in the released code. Causal: every sum
    and the softmax run up to the token itself, and means over n tokens stand for sums.
    """

    kind: MatrixKind = "linear"
    row_kind: RowKind = "positive"
    takes_scores: ClassVar[bool] = False

    def mix(self, given: MixerInput) -> Mix:
        """The flows, then the products."""
        query, key = given.query.sigmoid(), given.key.sigmoid()

        def summed(x: Tensor) -> Tensor:
            return x.cumsum(2) if given.causal else x.sum(2, keepdim=True)

        count = given.columns[:, None].to(key.dtype) + 1 if given.causal else float(key.shape[2])
        incoming = count / _dots(query, summed(key))
        outgoing = count / _dots(key, summed(query))
        allocation = (_dots(query, summed(key * outgoing)) / count).sigmoid()
        source = (_dots(key, summed(query * incoming)) / count).clamp(-1, 1).exp()
        competition = source / summed(source) * count
        return Mix((query * allocation * incoming / count) @ (key * competition).mT * given.visible, given.value)

    def start(self, token: MixerInput) -> State:
        """Empty sums."""
        batch, heads, _, width = token.key.shape
        names = ("keys", "queries", "weighted_keys", "weighted_queries")
        state = {name: token.key.new_zeros(batch, heads, 1, width) for name in names}
        state |= {"sources": token.key.new_zeros(batch, heads, 1, 1), "count": token.key.new_zeros(batch, 1, 1, 1)}
        return state | {"memory": token.key.new_zeros(batch, heads, width, token.value.shape[-1])}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Add the token to every sum, in order."""
        query, key = token.query.sigmoid(), token.key.sigmoid()
        count = state["count"] + 1
        keys, queries = state["keys"] + key, state["queries"] + query
        incoming, outgoing = count / _dots(query, keys), count / _dots(key, queries)
        weighted_keys = state["weighted_keys"] + key * outgoing
        weighted_queries = state["weighted_queries"] + query * incoming
        source = (_dots(key, weighted_queries) / count).clamp(-1, 1).exp()
        sources = state["sources"] + source
        memory = state["memory"] + (key * source / sources * count).mT @ token.value
        allocation = (_dots(query, weighted_keys) / count).sigmoid()
        new = {"keys": keys, "queries": queries, "weighted_keys": weighted_keys, "weighted_queries": weighted_queries}
        return (query * allocation * incoming / count) @ memory, new | {
            "sources": sources,
            "count": count,
            "memory": memory,
        }

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """For each head a matrix, three sums of features and one of sources; for each key head one sum; a count."""
        shape = self.shape
        return shape.n_heads * (shape.d_key * (shape.d_head + 3) + 1) + shape.keyed * shape.d_key + 1


def _dots(x: Tensor, sums: Tensor) -> Tensor:
    return torch.sum(x * sums, -1, keepdim=True).clamp_min(_SMALL)
