"""Exact top keys: every row attends to the keys with the largest logits, the best that any choice of k keys can do.

IceFormer: Mao, Ester, Li 2024, arXiv 2405.02842: softmax over the k nearest keys of a query.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.policy import RowPolicy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.sparse_settings import TopKeysSettings
from headscope.models.protocol import HookedModel


def top_mask(scores: Float[Tensor, "*row candidate"], count: int) -> Bool[Tensor, "*row candidate"]:
    """Which candidates are among the ``count`` with the largest scores of their row; never one at minus infinity."""
    chosen = scores.detach().topk(min(count, scores.shape[-1]), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True) & (scores > -torch.inf)


def whole_cache(rows: Rows, besides: Int[Tensor, " row"] | int = 0) -> Int[Tensor, "batch kv_head row"]:
    """Entries of a cache that keeps every key which the model itself would, and ``besides`` to find them by."""
    batch, groups = rows.key.shape[:2]
    return (rows.positions + 1 - rows.first_shown + besides).expand(batch, groups, -1)


def dense(rows: Rows) -> Mixed:
    """Softmax over all keys."""
    return Mixed.over(rows, rows.causal[None, None], kept=whole_cache(rows))


class TopKeys(RowPolicy):
    """Each query head's rows attend to their k largest logits.

    The search is counted as exact, ``d_head`` multiply-adds per earlier key; IceFormer's approximate index (prioritised
    DCI over keys) needs fewer and finds most of them, so its accuracy is at most this.
    """

    name = "top-keys"

    def __init__(self, keys: int) -> None:
        """Attend to ``keys`` keys."""
        self.keys = keys

    @classmethod
    def build(cls, model: HookedModel, settings: TopKeysSettings, _: HeadSplit | None = None) -> TopKeys:  # noqa: ARG003
        """From settings."""
        return cls(settings.keys)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over the k largest logits."""
        searched = float((rows.positions + 1).float().mean()) * rows.key.shape[-1]
        return Mixed.over(rows, top_mask(rows.logits, self.keys), kept=whole_cache(rows), overhead=searched)
