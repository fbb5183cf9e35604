"""The settings of a comparison of small models, without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.registry import variant
from headscope.models.checkpoint_index import PREFIX


class CompareConfig(Config):
    """Everything that decides the numbers of a comparison.

    Attributes:
        models: variants, or single checkpoints as ``checkpoint:<name>``.
        run: id of a train run that the models are taken from; the shipped checkpoints if None.
        task: which of the shipped checkpoints of a variant; a train run has one task.
        seeds: at most so many trainings of each variant.
        examples: fresh examples that each model is described and scored on.
        draws: cuts of other cells beside each claim, of each of the two controls; where a model makes more than two
            claims half as many for each of its claims, so that p corrected for them can still fall below 0.05.
        lengths: other lengths of the text to score on.
        seed: of the examples and cuts.
    """

    models: tuple[str, ...] = Field(min_length=1)
    run: str | None = None
    task: str = "mqar"
    seeds: int = Field(default=3, ge=1, le=1000)
    examples: int = Field(default=128, ge=2, le=100_000)
    draws: int = Field(default=40, ge=1, le=10_000)
    lengths: tuple[Annotated[int, Field(ge=2, le=65_536)], ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**31)

    @field_validator("models")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name.strip() for name in names):
            raise ConfigError("the name of a model is empty: give variants or checkpoint:<name>.")
        return tuple(dict.fromkeys(name if name.startswith(PREFIX) else variant(name).name for name in names))
