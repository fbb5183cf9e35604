"""Which heads to calibrate, chosen on a selection set: each alone, greedily, or by a derivative.

*Per head* is the released code's way (Yu et al. 2024, arXiv 2406.15765): calibrate one head at a time, keep those that
beat the uncalibrated model. It ignores how heads act together, and of many heads some beat it by luck: the gain on the
selection set says nothing; see `circuits.calibration.trial`. *Greedy* adds one head at a time. *First-order* takes the
derivative of the mean margin: one backward pass instead of a run per head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from circuits.calibration.act import heads_in_range
from circuits.calibration.judges import Judge
from circuits.calibration.judging import answers_under_each, margin_derivatives
from circuits.calibration.results import Answers, GreedyStep, Selection
from circuits.calibration.settings import CalibrationSettings
from headscope.heads import Head, HeadScores, ScoreDefinition
from headscope.models.protocol import HookedModel
from probes.probe import OnStep, no_progress, summarise

_SOURCE = "Yu et al. 2024 (ACT), arXiv 2406.15765"
_CAVEAT = "On the selection set: the best of many heads look better than they are. Depends on T, beta and the bound."
ACCURACY_CHANGE = ScoreDefinition(
    name="act_accuracy_change",
    title="Accuracy gained by calibration",
    unit="share correct",
    formula="accuracy with this head alone calibrated minus accuracy of the model",
    source=_SOURCE,
    reading="-1 to 1; above 0 the head's sinks hurt",
    probe="act",
    caveats=_CAVEAT,
)
MARGIN_CHANGE = ScoreDefinition(
    name="act_margin_change",
    title="Margin gained by calibration",
    unit="nats per token",
    formula="mean margin (right answer minus best wrong one) with this head alone calibrated, minus that of the model",
    source=_SOURCE,
    reading="any number; above 0 the head's sinks hurt",
    probe="act",
    caveats=_CAVEAT,
)
MARGIN_DERIVATIVE = ScoreDefinition(
    name="act_margin_derivative",
    title="First-order margin gained",
    unit="nats per token",
    formula="d mean margin / dc at c = 0 of z + c (z_ACT - z): sum over rows of grad_z . (z_ACT - z)",
    source="first-order form of " + _SOURCE,
    reading="any number; above 0 a little calibration helps",
    probe="act",
    caveats=_CAVEAT + " A tangent: it may be far from the whole step.",
)


def select_heads(
    model: HookedModel, judge: Judge, settings: CalibrationSettings, *, on_step: OnStep = no_progress
) -> Selection:
    """Choose heads on a selection set, by the method of the settings.

    Args:
        model: the model.
        judge: the selection set.
        settings: what is chosen among, and how.
        on_step: called with (done, total).

    Raises:
        HeadIndexError: for a head that the model does not have.
        ConfigError: if the layer range is empty.
        UnsupportedError: if the model's attention does not go through the seam.
    """
    ways = {"per head": select_per_head, "greedy": select_greedily, "first-order": select_by_derivative}
    return ways[settings.selection.method](model, judge, settings, on_step=on_step)


def select_per_head(
    model: HookedModel, judge: Judge, settings: CalibrationSettings, *, on_step: OnStep = no_progress
) -> Selection:
    """Heads that strictly beat the uncalibrated model, each calibrated alone; strongest first, ties by margin."""
    heads = heads_in_range(model, settings.act)
    baseline, each = answers_under_each(
        model, judge, heads, settings.act, batch_size=settings.batch_size, on_step=on_step
    )
    accuracy = _table(model, heads, [found.correct.astype(float) - baseline.correct for found in each])
    margin = _table(model, heads, [found.margins - baseline.margins for found in each])
    scores = (
        summarise(ACCURACY_CHANGE, accuracy, model, seed=settings.seed),
        summarise(MARGIN_CHANGE, margin, model, seed=settings.seed),
    )
    by, ties = scores if settings.selection.criterion == "accuracy" else scores[::-1]
    chosen = tuple(head for head in _strongest(heads, by, ties) if by.values[head] > 0)[: settings.selection.top]
    return Selection("per head", chosen, heads, baseline, scores, (), len(heads))


def select_by_derivative(
    model: HookedModel, judge: Judge, settings: CalibrationSettings, *, on_step: OnStep = no_progress
) -> Selection:
    """Heads with a positive derivative of the mean margin, strongest first."""
    heads = heads_in_range(model, settings.act)
    baseline, samples = margin_derivatives(
        model, judge, heads, settings.act, batch_size=settings.batch_size, on_step=on_step
    )
    score = summarise(MARGIN_DERIVATIVE, samples, model, seed=settings.seed)
    chosen = tuple(head for head in _strongest(heads, score) if score.values[head] > 0)[: settings.selection.top]
    return Selection("first-order", chosen, heads, baseline, (score,), (), 1)


def select_greedily(
    model: HookedModel, judge: Judge, settings: CalibrationSettings, *, on_step: OnStep = no_progress
) -> Selection:
    """One head after another, the best of the shortlist each time, while accuracy (at equal accuracy the margin) rises.

    The shortlist holds the strongest heads of the prefilter, whatever their sign.
    """
    before = select_per_head if settings.selection.prefilter == "per head" else select_by_derivative
    filtered = before(model, judge, settings)
    left = _strongest(filtered.candidates, *_criteria(filtered, settings))[: settings.selection.candidates]
    limit = min(settings.selection.top or len(left), len(left))
    total, done, chosen = sum(len(left) - taken for taken in range(limit)), 0, list[Head]()
    steps, current, runs = list[GreedyStep](), filtered.baseline, filtered.evaluations
    while len(chosen) < limit:
        _, each = answers_under_each(model, judge, left, settings.act, base=chosen, batch_size=settings.batch_size)
        runs, done = runs + len(left), done + len(left)
        on_step(done, total)
        best = max(range(len(left)), key=lambda place: _rank(each[place]))
        if _rank(each[best]) <= _rank(current):
            break
        current, head = each[best], left.pop(best)
        chosen.append(head)
        steps.append(GreedyStep(head, current.accuracy, current.margin))
    return Selection(
        "greedy", tuple(chosen), filtered.candidates, filtered.baseline, filtered.scores, tuple(steps), runs
    )


def _rank(answers: Answers) -> tuple[float, float]:
    return answers.accuracy, answers.margin


def _criteria(selection: Selection, settings: CalibrationSettings) -> tuple[HeadScores, ...]:
    """Scores in the order in which they count."""
    return selection.scores if settings.selection.criterion == "accuracy" else selection.scores[::-1]


def _strongest(heads: Sequence[Head], *scores: HeadScores) -> list[Head]:
    """Heads by the first score, ties by the next, then in order."""
    return sorted(heads, key=lambda head: (*(-float(score.values[head]) for score in scores), head))


def _table(
    model: HookedModel, heads: Sequence[Head], changes: Sequence[Float[np.ndarray, " item"]]
) -> Float[np.ndarray, "item layer head"]:
    """One value per item and head, NaN for heads that were not tried."""
    found = np.full((len(changes[0]), model.shape.n_layers, model.shape.n_heads), np.nan)
    for head, change in zip(heads, changes, strict=True):
        found[:, head.layer, head.head] = change
    return found
