"""Which key/value heads keep everything and which are cut short. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from headscope.errors import ConfigError
from headscope.heads import HeadScores


@dataclass(frozen=True)
class HeadSplit:
    """An assignment of key/value heads.

    Attributes:
        full: True for heads with a full cache.
        rule: how it was made, for reports.
    """

    full: Bool[np.ndarray, "layer kv_head"]
    rule: str

    @property
    def share(self) -> float:
        """Share of key/value heads with a full cache, 0 to 1."""
        return float(self.full.mean())

    @property
    def count(self) -> int:
        """How many have one."""
        return int(self.full.sum())


def fitting_split(name: str, split: HeadSplit | None, shape: tuple[int, int]) -> HeadSplit:
    """The assignment of a policy that needs one.

    Args:
        name: of the policy.
        split: what it was given.
        shape: layers of the model, and key/value heads per layer.

    Raises:
        ConfigError: if there is none, or it is that of another model.
    """
    if split is None:
        raise ConfigError(f"the policy {name!r} needs to know which heads keep everything: give it a split of heads.")
    if split.full.shape != shape:
        raise ConfigError(
            f"the split of heads is {split.full.shape[0]} layers x {split.full.shape[1]} key/value heads, and the "
            f"model has {shape[0]} x {shape[1]}."
        )
    return split


def count_of(share: float, total: int) -> int:
    """How many of ``total`` heads a share means: rounded, half up.

    Raises:
        ConfigError: if the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"a share of heads is from 0 to 1, not {share:g}.")
    return int(share * total + 0.5)


def strongest_split(scores: HeadScores, share: float) -> HeadSplit:
    """The key/value heads with the highest scores keep everything.

    A score per query head counts for its group by the group's strongest head (RazorAttention, arXiv 2407.15891); ties
    go to the lower layer, then the lower head; heads without a score (NaN) come last. This is DuoAttention's quantile
    rule (arXiv 2410.10819, section 2.3) with a rule for ties in place of its random noise.

    Args:
        scores: of query heads or of key/value heads.
        share: of key/value heads that keep everything, 0 to 1.
    """
    groups = scores.by_kv_head() if scores.n_heads != scores.n_kv_heads else scores
    full = np.zeros(groups.values.shape, dtype=bool)
    for head in groups.ranked()[: count_of(share, full.size)]:
        full[head] = True
    return HeadSplit(full, f"{scores.name}, strongest {share:.0%}")


def random_split(n_layers: int, n_kv_heads: int, share: float, generator: np.random.Generator) -> HeadSplit:
    """As many key/value heads, drawn at random from all layers: the control."""
    full = np.zeros(n_layers * n_kv_heads, dtype=bool)
    full[generator.permutation(full.size)[: count_of(share, full.size)]] = True
    return HeadSplit(full.reshape(n_layers, n_kv_heads), f"random {share:.0%}")
