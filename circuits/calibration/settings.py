"""The settings of a calibration: what is done to a head, how heads are chosen, the controls. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from circuits.policies.settings import ActSettings
from headscope.config import Config

Method = Literal["per head", "greedy", "first-order"]
Criterion = Literal["accuracy", "margin"]


class SelectionSettings(Config):
    """How heads are chosen on the selection set.

    Attributes:
        method: ``per head``: each alone, keep those that help (the released code); ``greedy``: one after another while
            the set as a whole gains; ``first-order``: those whose derivative of the margin is positive.
        criterion: what ``per head`` compares: accuracy (released) or the mean margin.
        top: at most so many heads, the strongest (None: all that help). For ``greedy`` where it stops.
        prefilter: where the candidates of ``greedy`` come from.
        candidates: how many of them it tries at every step.
    """

    method: Method = "per head"
    criterion: Criterion = "accuracy"
    top: int | None = Field(default=None, ge=1)
    prefilter: Literal["per head", "first-order"] = "first-order"
    candidates: int = Field(default=16, ge=1)


class CalibrationSettings(Config):
    """Of a calibration and its selection.

    Attributes:
        act: what is done to a head; its ``heads`` are what is chosen among (None: all of the layer range).
        selection: how heads are chosen.
        batch_size: items of one forward pass.
        seed: of bootstrap intervals.
    """

    act: ActSettings = ActSettings()
    selection: SelectionSettings = SelectionSettings()
    batch_size: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0)


class TrialSettings(Config):
    """Of a calibration judged on a test set with controls.

    Attributes:
        calibration: the calibration.
        random_draws: sets of random heads of the same layers.
        opposite_beta: beta of the opposite calibration; None takes ``2 - beta``, at least 0.
    """

    calibration: CalibrationSettings = CalibrationSettings()
    random_draws: int = Field(default=5, ge=0)
    opposite_beta: float | None = Field(default=None, gt=1, allow_inf_nan=False)

    @property
    def opposite(self) -> float:
        """Beta of the opposite calibration."""
        return max(0.0, 2 - self.calibration.act.beta) if self.opposite_beta is None else self.opposite_beta
