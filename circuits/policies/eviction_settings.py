"""The settings of the policies that evict by attention, without torch; see `circuits.policies.settings`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from circuits.policies.settings import PolicySettings


class HeavyHitterSettings(PolicySettings):
    """Of H2O.

    Attributes:
        heavy: keys of most attention received that stay.
        recent: most recent tokens that stay, the row itself included.
    """

    heavy: int = Field(default=128, ge=0)
    recent: int = Field(default=128, ge=1)

    def sized(self, budget: int) -> PolicySettings:
        """Half of the budget for each, as in the paper."""
        recent = max(1, budget // 2)
        return self.model_copy(update={"heavy": max(0, budget - recent), "recent": recent})


class NewestRowSettings(PolicySettings):
    """Of TOVA.

    Attributes:
        budget: keys that stay.
        unit: ``layer``: all heads of a layer keep the same tokens, by the mean over its heads (the paper);
            ``key/value head``: each key/value head keeps its own.
    """

    budget: int = Field(default=256, ge=1)
    unit: Literal["layer", "key/value head"] = "layer"

    def sized(self, budget: int) -> PolicySettings:
        """The budget."""
        return self.model_copy(update={"budget": budget})


class MergingSettings(HeavyHitterSettings):
    """Of D2O: H2O's, and how evicted tokens are merged.

    Attributes:
        memory: weight of the newest similarity in the moving average that is the threshold (the paper's beta).
        threshold: a fixed threshold on the cosine instead; above 1 nothing is ever merged.
        layer_budgets: keys that each layer keeps, one number per layer, in place of ``heavy + recent`` for all (see
            `circuits.policies.layer_budgets.density_budgets`); shared out between heavy and recent in their proportion.
    """

    memory: float = Field(default=0.5, ge=0, le=1)
    threshold: float | None = Field(default=None, ge=-1)
    layer_budgets: tuple[int, ...] | None = Field(default=None, min_length=1)

    def sized(self, budget: int) -> PolicySettings:
        """Half of the budget for each; budgets of layers keep their proportions and get this mean."""
        sized = super().sized(budget)
        if self.layer_budgets is None:
            return sized
        mean = sum(self.layer_budgets) / len(self.layer_budgets)
        layers = tuple(max(1, round(one * budget / mean)) for one in self.layer_budgets)
        return sized.model_copy(update={"layer_budgets": layers})


class PromptVoteSettings(PolicySettings):
    """Of SnapKV.

    Attributes:
        budget: keys of the prompt that stay, the window included.
        window: last rows of the prompt, which vote and stay.
        kernel: width of the pooling over neighbours, an odd number; 1 does not pool.
        pooling: ``max`` or ``mean`` over the kernel.
    """

    budget: int = Field(default=256, ge=1)
    window: int = Field(default=32, ge=1)
    kernel: int = Field(default=7, ge=1)
    pooling: Literal["max", "mean"] = "max"

    @model_validator(mode="after")
    def _fit(self) -> PromptVoteSettings:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is an odd number, not {self.kernel}")
        if self.budget < self.window:
            raise ValueError(f"budget ({self.budget}) is at least window ({self.window})")
        return self

    def sized(self, budget: int) -> PolicySettings:
        """The budget; a window that would fill more than half of it shrinks to half."""
        return self.model_copy(update={"budget": budget, "window": max(1, min(self.window, budget // 2))})


class GateSettings(PolicySettings):
    """Of the eviction gates, without training.

    Attributes:
        grace: rows, its own included, that see a key before its gate decides.
        threshold: least attention received in that time, in multiples of an even share; below it the key is evicted.
            0 evicts nothing; very large leaves a window.
    """

    grace: int = Field(default=32, ge=1)
    threshold: float = Field(default=0.3, ge=0)


class RecycledSettings(PolicySettings):
    """Of Recycled Attention.

    Attributes:
        top: keys of the last full row that the rows after it attend to, besides the tokens since.
        stride: a row in so many attends in full; 1: every row.
    """

    top: int = Field(default=128, ge=1)
    stride: int = Field(default=16, ge=1)

    def sized(self, budget: int) -> PolicySettings:
        """Top keys and half of a stride of tokens fill the budget: what a recycled row attends to on average."""
        return self.model_copy(update={"top": max(1, budget - self.stride // 2)})
