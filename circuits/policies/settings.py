"""The settings of every policy, without torch: a command and a form can be made from them.

A *budget* is the number of tokens that every key/value head may keep (or every row may attend to); `sized` gives a
policy a budget. Defaults are those of each paper, made smaller where its window is longer than a small model's text.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from headscope.config import Config


class PolicySettings(Config):
    """What all settings offer."""

    def sized(self, budget: int) -> PolicySettings:  # noqa: ARG002
        """The same for another budget of tokens; policies without one stay as they are."""
        return self


class FullSettings(PolicySettings):
    """Of the full cache: none."""


class StreamingSettings(PolicySettings):
    """Of StreamingLLM.

    Attributes:
        sink: first tokens that stay.
        recent: most recent tokens that stay, the row itself included.
        positions: ``cache``: distances are those inside the cache (the paper); ``text``: those of the text.
    """

    sink: int = Field(default=4, ge=0)
    recent: int = Field(default=252, ge=1)
    positions: Literal["cache", "text"] = "cache"

    def sized(self, budget: int) -> PolicySettings:
        """At most a quarter of the budget for sinks, recent tokens fill it."""
        sink = min(self.sink, budget // 4)
        return self.model_copy(update={"sink": sink, "recent": max(1, budget - sink)})


class InfiniteSettings(PolicySettings):
    """Of LM-Infinite.

    Attributes:
        sink: first tokens that stay.
        recent: local window, the row itself included; not longer than a ceiling that is given.
        ceiling: largest distance, at least the window; None takes the window.
    """

    sink: int = Field(default=10, ge=0)
    recent: int = Field(default=246, ge=1)
    ceiling: int | None = Field(default=None, ge=1)

    def sized(self, budget: int) -> PolicySettings:
        """At most a quarter of the budget for first tokens, the window fills it; the ceiling is at least the window."""
        sink = min(self.sink, budget // 4)
        recent = max(1, budget - sink)
        ceiling = None if self.ceiling is None else max(self.ceiling, recent)
        return self.model_copy(update={"sink": sink, "recent": recent, "ceiling": ceiling})

    @model_validator(mode="before")
    @classmethod
    def _window_of_the_ceiling(cls, given: Any) -> Any:
        """A ceiling below the usual window brings its own."""
        if not isinstance(given, dict) or "recent" in given:
            return given
        ceiling, usual = given.get("ceiling"), cls.model_fields["recent"].default
        return {**given, "recent": ceiling} if isinstance(ceiling, int) and 1 <= ceiling < usual else given

    @model_validator(mode="after")
    def _ceiling_is_outside(self) -> InfiniteSettings:
        if self.ceiling is not None and self.ceiling < self.recent:
            raise ValueError(f"ceiling ({self.ceiling}) is at least recent ({self.recent}), or left out")
        return self


class DuoSettings(PolicySettings):
    """Of DuoAttention's deployment.

    Attributes:
        sink: first tokens that streaming heads keep.
        recent: most recent tokens that they keep, the row itself included.
    """

    sink: int = Field(default=64, ge=0)
    recent: int = Field(default=256, ge=1)

    def sized(self, budget: int) -> PolicySettings:
        """Streaming heads keep ``budget`` tokens, at most a quarter of them first ones."""
        sink = min(self.sink, budget // 4)
        return self.model_copy(update={"sink": sink, "recent": max(1, budget - sink)})


class SpanSettings(PolicySettings):
    """Of MoA before its search: one window for all heads.

    Attributes:
        sink: first tokens that stay.
        base: window in tokens.
        slope: what the window grows by per token of text.
    """

    sink: int = Field(default=4, ge=0)
    base: float = Field(default=128.0, ge=1)
    slope: float = Field(default=0.0, ge=0, le=1)

    def sized(self, budget: int) -> PolicySettings:
        """At most a quarter of the budget for first tokens, a window that fills it and does not grow."""
        sink = min(self.sink, budget // 4)
        return self.model_copy(update={"sink": sink, "base": float(max(1, budget - sink)), "slope": 0.0})


class ActSettings(PolicySettings):
    """Of attention calibration (ACT, Yu et al. 2024, arXiv 2406.15765).

    Attributes:
        beta: what the weights on sinks are multiplied by: below 1 weakens them, 1 is the model, above 1 feeds them.
        alpha: a column is a sink where the mean attention it receives exceeds ``alpha / T`` (the paper).
        threshold: a fixed bound in its place, or None (the released scripts: 0.1).
        keep_first: the first sink that is found, mostly the first token, is left as it is (the released code).
        receive_first: the first token takes its part of what the sinks lose (the released code).
        sinks: ``prompt``: found once, from all rows of the prompt, which has to be read in one call (the released
            code; rows look ahead inside the prompt); ``so far``: each row judges by the rows up to itself.
        least_share: a sink must be seen by this share of the rows; 0 is the rule as published, by which a token of the
            newest fifth (1 / alpha) that got one row's attention is a sink.
        columns: ``sinks``; or, as a control, ``others``: as many columns of the prompt that are none, scattered, and
            never the first.
        heads: heads to calibrate, written L5H1; None takes all of the layer range.
        skip_first: first layers that are left out of the range (released: layers 2 to L - 2).
        skip_last: last layers that are left out.
    """

    beta: float = Field(default=0.4, ge=0, allow_inf_nan=False)
    alpha: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    threshold: float | None = Field(default=None, gt=0, lt=1)
    keep_first: bool = True
    receive_first: bool = True
    sinks: Literal["prompt", "so far"] = "prompt"
    least_share: float = Field(default=0.0, ge=0, le=1)
    columns: Literal["sinks", "others"] = "sinks"
    heads: tuple[str, ...] | None = None
    skip_first: int = Field(default=2, ge=0)
    skip_last: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _others_need_the_prompt(self) -> ActSettings:
        if self.columns == "others" and self.sinks != "prompt":
            raise ValueError("columns of the prompt that are no sinks are known only with sinks='prompt'")
        return self
