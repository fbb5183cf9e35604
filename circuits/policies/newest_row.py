"""TOVA: drop what the newest row attends to least.

Oren et al. 2024, arXiv 2401.06104, section 3.2 (token omission via attention): when the cache is full, the key with
the lowest attention of the newest row goes, that row's own key included; no sink and no window is protected. As in
the paper, the attention is averaged over all heads of the layer, so that all of them keep the same tokens; as an option
over the query heads of each key/value head.
"""

from __future__ import annotations

from circuits.policies.eviction_settings import NewestRowSettings
from circuits.policies.head_split import HeadSplit
from circuits.policies.kept_set import KeptSet, check_budget
from circuits.policies.policy import Policy
from headscope.models.protocol import HookedModel


class NewestRow(Policy):
    """Each layer keeps ``budget`` keys, and drops what its newest row attends to least."""

    name = "tova"
    eager = False

    def __init__(self, budget: int, *, per_kv_head: bool = False) -> None:
        """Keep ``budget`` keys, the same ones for the whole layer unless told otherwise.

        Raises:
            ConfigError: if the budget is below 1.
        """
        check_budget(budget, 0)
        self.budget, self.per_kv_head = budget, per_kv_head

    @classmethod
    def build(cls, model: HookedModel, settings: NewestRowSettings, _: HeadSplit | None = None) -> NewestRow:  # noqa: ARG003
        """From settings."""
        return cls(settings.budget, per_kv_head=settings.unit == "key/value head")

    def layer(self, index: int) -> KeptSet:  # noqa: ARG002
        """An empty cache."""
        return KeptSet(self.budget, accumulate=False, whole_layer=not self.per_kv_head)
