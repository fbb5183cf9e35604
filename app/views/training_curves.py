"""Learning curves of a variant over the seeds of its training: each, their mean, and its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from app.views.training import Trained, TrainRun
from headscope.statistics import bootstrap_mean
from headscope.training.sweep import VariantResult


@dataclass(frozen=True)
class MeanCurve:
    """Trainings of one variant at one width and rate, and their mean.

    Attributes:
        best: the variant at that width.
        trained: its trainings, a seed each.
        steps: all steps at which any of them was evaluated.
        accuracy: mean accuracy at each; a training that had ended counts with its last value.
        loss: mean loss, in the same way.
        ends: by ``accuracy`` and ``loss``, the ends of their 95 % bootstrap intervals over seeds; NaN with one seed.
    """

    best: VariantResult
    trained: tuple[Trained, ...]
    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    ends: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]


def mean_curve(run: TrainRun, best: VariantResult) -> MeanCurve:
    """The trainings of a variant at its best rate, and their mean."""
    trained = run.of(best.variant, best.width, best.rate)
    steps = sorted({point.step for one in trained for point in one.curve})
    found = {
        name: bootstrap_mean(
            np.stack(
                [held({point.step: float(getattr(point, name)) for point in one.curve}, steps) for one in trained]
            ),
            generator=np.random.default_rng(0),
        )
        for name in ("accuracy", "loss")
    }
    means = {name: tuple(map(float, one.mean)) for name, one in found.items()}
    ends = {name: (tuple(map(float, one.low)), tuple(map(float, one.high))) for name, one in found.items()}
    return MeanCurve(best, trained, tuple(steps), means["accuracy"], means["loss"], ends)


def held(known: Mapping[int, float], steps: Sequence[int]) -> Float[np.ndarray, " step"]:
    """The value at each step: that of the last evaluation up to there; NaN before the first."""
    last, found = float("nan"), list[float]()
    for step in steps:
        last = known.get(step, last)
        found.append(last)
    return np.array(found)
