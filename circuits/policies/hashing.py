"""Keys of the row's hash bucket, and a sample of the others that stands for all of them.

HyperAttention: Han et al. 2024, arXiv 2310.05869, algorithms 1 to 4: locality-sensitive hashing finds large entries,
uniform sampling of columns estimates the rest.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.masks import sinks_and_recent
from circuits.policies.policy import RowPolicy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.sparse_settings import HashingSettings
from circuits.policies.top_keys import whole_cache
from headscope.models.protocol import HookedModel


class Hashing(RowPolicy):
    """HyperAttention, row by row: the bucket's newest keys and recent keys exactly, the rest by a weighted sample.

    ``M_ij ~ exp(l_ij) w_ij`` with w = 1 for recent keys and those of the bucket, ``1 / p_i`` for sampled ones and 0
    for the others: numerator and normaliser are unbiased over samples. ``p_i = min(1, samples / (i + 1))``, and key j
    is in the sample of every row i with ``u_j < p_i`` for a number u_j drawn once per head and position.

    Unlike the paper, which sorts queries and keys by bucket, cuts the sorted list into blocks of equal size and halves
    the text recursively to be causal: a row takes the newest keys of exactly its own bucket, so that it depends on
    nothing after it; recent keys are always in; samples are the same for all rows as far as their rates allow. As in
    the paper, a first token that takes much of every row is seen only where it shares the bucket or is drawn. Each
    query head chooses for itself. The cache holds the codes, ``bits`` bits a key, besides all keys.
    """

    name = "hyper"

    def __init__(self, bits: int, block: int, recent: int, samples: int, seed: int = 0) -> None:
        """See `HashingSettings`."""
        self.bits, self.block, self.recent, self.samples, self.seed = bits, block, recent, samples, seed

    @classmethod
    def build(cls, model: HookedModel, settings: HashingSettings, _: HeadSplit | None = None) -> Hashing:  # noqa: ARG003
        """From settings."""
        return cls(settings.bits, settings.block, settings.recent, settings.samples, settings.seed)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax with weights over the keys found and the keys sampled."""
        exact = self.exact(rows)
        rate = (self.samples / (rows.positions + 1).float()).clamp_max(1)
        sampled = (self._draws(rows) < rate[:, None]) & ~exact
        logits = torch.where(sampled, rows.logits - rate.clamp_min(1e-9).log()[:, None], rows.logits)
        width, numbers = rows.key.shape[-1], 16 * rows.key.shape[-1] * rows.key.element_size()  # bits of an entry
        codes = ((rows.positions + 1 - rows.first_shown) * self.bits + numbers - 1) // numbers
        cost = self.bits * width * (1 + rows.key.shape[1] / rows.query.shape[1])
        return Mixed.over(rows, exact | sampled, logits=logits, kept=whole_cache(rows, codes), overhead=cost)

    def exact(self, rows: Rows) -> Bool[Tensor, "batch head row key"]:
        """Recent keys, and the newest others of the row's bucket."""
        planes = self._planes(rows)
        queries = codes_of(rows.query, planes)
        keys = codes_of(rows.key, planes).repeat_interleave(rows.query.shape[1] // rows.key.shape[1], dim=1)
        near = sinks_and_recent(rows, 0, self.recent)
        same = (queries[..., None] == keys[:, :, None]) & ~near & torch.isfinite(rows.logits)
        newer = same.flip(-1).cumsum(-1).flip(-1)  # of the bucket, at or after each key
        return near | (same & (newer <= self.block))

    def _planes(self, rows: Rows) -> Float[Tensor, "bits d_head"]:
        """The hyperplanes of a layer."""
        drawn = np.random.default_rng((self.seed, rows.layer)).standard_normal((self.bits, rows.key.shape[-1]))
        return torch.from_numpy(drawn).to(rows.key.device, torch.float32)

    def _draws(self, rows: Rows) -> Float[Tensor, "head 1 key"]:
        """u: the number of each head and position, whatever comes later."""
        size = (rows.key.shape[2], rows.query.shape[1])
        drawn = np.random.default_rng((self.seed, rows.layer, 1)).random(size)
        return torch.from_numpy(drawn.T[:, None].astype(np.float32)).to(rows.key.device)


def codes_of(
    x: Float[Tensor, "batch head pos d_head"], planes: Float[Tensor, "bits d_head"]
) -> Int[Tensor, "batch head pos"]:
    """Buckets: on which side of each hyperplane a vector lies, as a binary number.

    Two vectors at an angle t share a bit with probability ``1 - t / pi`` (Charikar 2002).
    """
    sides = (x.detach().float() @ planes.T > 0).long()
    return (sides << torch.arange(len(planes), device=x.device)).sum(-1)
