"""Learning curves of one variant at every learning rate that was tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.views.training import Trained, TrainRun
from app.views.training_curves import held
from headscope.training.sweep import VariantResult


@dataclass(frozen=True)
class RateCurve:
    """Trainings of one variant at one width and rate.

    Attributes:
        rate: learning rate.
        is_best: whether it is the variant's best.
        held_out: held-out accuracy at the end, mean over seeds, by which the best is chosen.
        trained: the trainings, a seed each.
        steps: all steps at which any of them was evaluated.
        accuracy: mean held-out accuracy at each; a training that had ended counts with its last value.
        loss: mean held-out loss, in the same way; NaN where one of them has none.
    """

    rate: float
    is_best: bool
    held_out: float
    trained: tuple[Trained, ...]
    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]


def rate_curves(found: TrainRun, best: VariantResult) -> tuple[RateCurve, ...]:
    """Those of a variant at its width, small rates first."""
    return tuple(_curve(found, best, rate) for rate in sorted(best.rates))


def _curve(found: TrainRun, best: VariantResult, rate: float) -> RateCurve:
    trained = found.of(best.variant, best.width, rate)
    steps = sorted({point.step for one in trained for point in one.curve})
    accuracy = [held({point.step: point.accuracy for point in one.curve}, steps) for one in trained]
    loss = [held({point.step: point.loss for point in one.curve}, steps) for one in trained]
    means = [tuple(map(float, np.mean(values, axis=0))) for values in (accuracy, loss)]
    return RateCurve(rate, rate == best.rate, best.rates[rate], trained, tuple(steps), means[0], means[1])
