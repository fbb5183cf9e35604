"""Top keys found by halving: a search tree over the text whose branches are judged by the key in their middle.

HiP: Lee et al. 2024, arXiv 2406.09827, section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.policy import RowPolicy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.sparse_settings import TreeSettings
from circuits.policies.top_keys import dense, whole_cache
from headscope.models.protocol import HookedModel


class TreeSearch(RowPolicy):
    """Rows attend to the k keys that a tree search finds, each query head by itself.

    The visible text is cut into k equal nodes. In each round every node is halved, a half is worth the logit of its
    middle key, and the k best halves stay, until all are single keys: ``log2(n / k)`` rounds of 2 k logits for n keys.
    A query is searched for alone (the paper's kernels search once for a block of 32 and take keys in pairs), so rows
    do not depend on each other.
    """

    name = "hip"

    def __init__(self, keys: int, dense_layers: int = 0) -> None:
        """Attend to ``keys`` keys, from layer ``dense_layers`` on."""
        self.keys, self.dense_layers = keys, dense_layers

    @classmethod
    def build(cls, model: HookedModel, settings: TreeSettings, _: HeadSplit | None = None) -> TreeSearch:  # noqa: ARG003
        """From settings."""
        return cls(settings.keys, settings.dense_layers)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over the keys found."""
        if rows.layer < self.dense_layers:
            return dense(rows)
        rounds = self._rounds(rows)
        cost = float(rounds.float().mean()) * 2 * self.keys * rows.key.shape[-1]
        return Mixed.over(rows, self.found(rows), kept=whole_cache(rows), overhead=cost)

    def found(self, rows: Rows) -> Bool[Tensor, "batch head row key"]:
        """The keys that the search ends with."""
        logits = rows.logits.detach()
        start, end = self._nodes(rows)
        shape = (*logits.shape[:3], self.keys)
        start, end = start.expand(shape), end.expand(shape)
        for _ in range(int(self._rounds(rows).max())):
            middle = (start + end + 1) // 2
            starts, ends = torch.cat([start, middle], -1), torch.cat([middle, end], -1)
            worth = logits.gather(-1, ((starts + ends) // 2).clamp_max(logits.shape[-1] - 1))
            best = worth.masked_fill(ends <= starts, -torch.inf).topk(self.keys, dim=-1).indices
            start, end = starts.gather(-1, best), ends.gather(-1, best)
        found = torch.zeros(logits.shape, dtype=torch.int32, device=logits.device)
        return found.scatter_add(-1, start.clamp_max(logits.shape[-1] - 1), (end > start).int()) > 0

    def _nodes(self, rows: Rows) -> tuple[Int[Tensor, "row node"], Int[Tensor, "row node"]]:
        """First key of each row's nodes, and the key after their last: the visible keys in equal parts."""
        first, count = _visible(rows)
        cuts = torch.arange(self.keys + 1, device=first.device) * count[:, None] // self.keys + first[:, None]
        return cuts[:, :-1], cuts[:, 1:]

    def _rounds(self, rows: Rows) -> Int[Tensor, " row"]:
        """Halvings until the largest node of each row is one key."""
        _, count = _visible(rows)
        largest = (count + self.keys - 1) // self.keys
        return largest.double().log2().ceil().long()


def _visible(rows: Rows) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """First key that each row can see (not 0 only under a sliding window), and how many it can see."""
    shown = torch.isfinite(rows.logits[0, 0])
    return shown.int().argmax(-1), shown.sum(-1)
