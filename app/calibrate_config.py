"""The settings of a calibrate run, without torch: a command and a form can be made from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from circuits.calibration.settings import CalibrationSettings, SelectionSettings, TrialSettings
from circuits.policies.settings import ActSettings
from headscope.config import Config
from headscope.errors import ConfigError, UnknownNameError
from headscope.tasks.labelled_catalog import LABELLED, LM_EVAL


class CalibrateConfig(Config):
    """Everything that decides the numbers of a calibrate run.

    Attributes:
        model: catalogue name, Hugging Face id or folder.
        sets: data sets; all six if empty.
        shots: worked examples in every prompt.
        select: items on which heads are chosen, per data set.
        test: other items on which the choice is judged.
        act: what calibration does to a head: beta, alpha or threshold, which sinks.
        selection: how heads are chosen.
        random_draws: sets of as many random heads of the same layers.
        opposite_beta: beta of the opposite calibration; None takes 2 - beta.
        seeds: splits and demonstrations; each seed is a trial of its own (the paper: 5).
        texts: prompts of each set whose sinks are looked at.
        batch_size: prompts in a forward pass.
        seed: first seed.
        device: auto, cpu, cuda ...
        dtype: float32, bfloat16 or float16.
    """

    model: str
    sets: tuple[str, ...] = ()
    shots: int = Field(default=4, ge=0, le=64)
    select: int = Field(default=48, ge=4, le=100_000)
    test: int = Field(default=96, ge=4, le=100_000)
    act: ActSettings = ActSettings()
    selection: SelectionSettings = SelectionSettings(method="first-order", top=16)
    random_draws: int = Field(default=5, ge=0, le=1_000)
    opposite_beta: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    seeds: int = Field(default=1, ge=1, le=1_000)
    texts: int = Field(default=8, ge=2, le=1_000)
    batch_size: int = Field(default=16, ge=1, le=4_096)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @field_validator("sets")
    @classmethod
    def _known_sets(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        for name in sets:
            if name not in LABELLED and not name.startswith(LM_EVAL):
                raise UnknownNameError.of("data set", name, LABELLED, f"Tasks of lm-eval are called {LM_EVAL}<task>.")
        if len(set(sets)) < len(sets):
            raise ValueError("give each once")
        return sets

    @field_validator("act")
    @classmethod
    def _changes_something(cls, act: ActSettings) -> ActSettings:
        if act.beta == 1:
            raise ConfigError(
                "beta 1 changes nothing: attention to sinks is multiplied by beta. Give one below 1, which weakens "
                "them (0.4 in the paper), or above 1, which feeds them."
            )
        return act

    @property
    def chosen(self) -> tuple[str, ...]:
        """The data sets of the run."""
        return self.sets or tuple(LABELLED)

    @property
    def trial(self) -> TrialSettings:
        """Settings of every trial."""
        calibration = CalibrationSettings(
            act=self.act, selection=self.selection, batch_size=self.batch_size, seed=self.seed
        )
        return TrialSettings(calibration=calibration, random_draws=self.random_draws, opposite_beta=self.opposite_beta)
