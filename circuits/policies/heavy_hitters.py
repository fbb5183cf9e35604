"""H2O: keep the keys that have received most attention, and the newest.

Zhang et al. 2023, arXiv 2306.14048, section 4 and algorithm 1: the score of a key is the attention it has received
from all rows so far, ``S_j = sum_i A[i, j]``, with A the softmax over the keys that row i could see; when the cache is
full, the lowest score outside the recent window goes. The paper has one set per head; under grouped queries it is one
per key/value head, with A summed over the query heads of its group.
"""

from __future__ import annotations

from circuits.policies.eviction_settings import HeavyHitterSettings
from circuits.policies.head_split import HeadSplit
from circuits.policies.kept_set import KeptSet, check_budget
from circuits.policies.policy import Policy
from headscope.models.protocol import HookedModel


class HeavyHitters(Policy):
    """Each key/value head keeps ``heavy`` keys of most attention received so far, and the ``recent`` newest."""

    name = "h2o"
    eager = False

    def __init__(self, heavy: int, recent: int) -> None:
        """Keep ``heavy + recent`` keys.

        Raises:
            ConfigError: if that is none.
        """
        check_budget(heavy + recent, recent)
        self.heavy, self.recent = heavy, recent

    @classmethod
    def build(cls, model: HookedModel, settings: HeavyHitterSettings, _: HeadSplit | None = None) -> HeavyHitters:  # noqa: ARG003
        """From settings."""
        return cls(settings.heavy, settings.recent)

    def layer(self, index: int) -> KeptSet:  # noqa: ARG002
        """An empty cache."""
        return KeptSet(self.heavy + self.recent, recent=self.recent)
