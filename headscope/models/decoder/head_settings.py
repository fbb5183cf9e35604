"""The settings of every way to weight heads or make them of experts; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from headscope.config import Config
from headscope.errors import UnknownNameError


class NoSettings(Config):
    """Of heads that all count the same."""


class MoHSettings(Config):
    """Of a mixture of heads.

    Attributes:
        shared: heads that are always on, the first ones; a quarter of all by default (none of two heads).
        top_k: how many of the others are on for each token; half of them by default.
        scaled: weights of the chosen heads are divided by their sum, and all weights multiplied by how many heads they
            are shared among, so that their mean is one: the authors' code; else the weights are those of the paper.
    """

    shared: int | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=1)
    scaled: bool = False


class ExpertHeadsSettings(Config):
    """Of heads that are experts.

    Attributes:
        heads_each: heads of one expert: head h belongs to expert ``h % experts``, so that experts share keys where
            ``sharing.key_heads`` is this number.
        top_k: experts that a token uses; all (a soft mixture) by default.
    """

    heads_each: int = Field(default=1, ge=1)
    top_k: int | None = Field(default=None, ge=1)


class SwitchHeadSettings(Config):
    """Of heads whose values and outputs are made of experts.

    Attributes:
        experts: of each head, for values and for outputs.
        top_k: how many of them a token uses.
    """

    experts: int = Field(default=4, ge=1)
    top_k: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _enough(self) -> SwitchHeadSettings:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is above experts {self.experts}")
        return self


class ExpanderSettings(Config):
    """Of one head for each token and an output network that all heads share.

    Attributes:
        hidden: width of that network.
    """

    hidden: int = Field(default=32, ge=1)


HEAD_SETTINGS: Mapping[str, type[Config]] = {
    "all": NoSettings,
    "moh": MoHSettings,
    "experts": ExpertHeadsSettings,
    "switch": SwitchHeadSettings,
    "shrp": ExpanderSettings,
}
"""The settings of each kind of head mixing."""


class HeadMixingSettings(Config):
    """How heads are weighted, chosen or made of experts for each token.

    Attributes:
        kind: ``all``: heads add up; ``moh``: shared and routed heads; ``experts``: routed groups of heads; ``switch``:
            routed values and outputs in every head; ``shrp``: one head for each token.
        settings: its own settings, by name.
    """

    kind: str = "all"
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])

    @model_validator(mode="after")
    def _known(self) -> HeadMixingSettings:
        if self.kind not in HEAD_SETTINGS:
            raise UnknownNameError.of("head mixing", self.kind, HEAD_SETTINGS)
        self.parsed()
        return self

    def parsed(self) -> Config:
        """The kind's own settings, checked.

        Raises:
            ConfigError: for a setting that it does not have, or with an impossible value.
        """
        return HEAD_SETTINGS[self.kind].parse(self.settings)
