"""Calibration as an estimator: fit on a selection set, apply to a model, score on a test set.

    calibrator = AttentionCalibrator().fit(model, InContextJudge(selection))
    calibrator.heads_, calibrator.scores_
    with calibrator.apply(model):
        model.plain(...)
    calibrator.score(model, InContextJudge(test))

A score on one test set is not a result: `circuits.calibration.trial` reports it beside its controls.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from circuits.calibration.act import Act, heads_by_layer
from circuits.calibration.head_selection import select_heads
from circuits.calibration.judges import Judge
from circuits.calibration.judging import answers_under
from circuits.calibration.results import Answers, Selection
from circuits.calibration.settings import CalibrationSettings
from circuits.calibration.sinks import Lengths
from circuits.policies.policy import Applied, applied
from headscope.errors import UnsupportedError
from headscope.heads import Head, HeadScores
from headscope.models.protocol import HookedModel
from probes.probe import OnStep, no_progress


class AttentionCalibrator:
    """ACT (Yu et al. 2024, arXiv 2406.15765): weaken sinks in the heads where that helps.

    Attributes:
        settings: as given.
        selection_: what `fit` found.
    """

    def __init__(self, settings: CalibrationSettings | None = None) -> None:
        """Nothing is run before `fit`."""
        self.settings = settings or CalibrationSettings()
        self.selection_: Selection | None = None

    def fit(self, model: HookedModel, train: Judge, *, on_step: OnStep = no_progress) -> AttentionCalibrator:
        """Choose heads on ``train``; see `circuits.calibration.head_selection.select_heads`.

        Returns:
            Itself.
        """
        self.selection_ = select_heads(model, train, self.settings, on_step=on_step)
        return self

    @property
    def heads_(self) -> tuple[Head, ...]:
        """The chosen heads, strongest first.

        Raises:
            UnsupportedError: before `fit`.
        """
        return self._fitted.heads

    @property
    def scores_(self) -> HeadScores:
        """What heads were chosen by, with n and interval.

        Raises:
            UnsupportedError: before `fit`.
        """
        return self._fitted.scores[0]

    @property
    def baseline_(self) -> Answers:
        """Answers of the uncalibrated model to the selection set.

        Raises:
            UnsupportedError: before `fit`.
        """
        return self._fitted.baseline

    def policy(self, model: HookedModel, *, lengths: Lengths = None) -> Act:
        """The chosen heads as a policy.

        Args:
            model: the model.
            lengths: tokens of each text's prompt, where texts are padded or answers follow; see `Act`.

        Raises:
            HeadIndexError: if the model lacks one of the heads.
            UnsupportedError: before `fit`.
        """
        return Act(self.settings.act, heads_by_layer(model, self.heads_), lengths=lengths)

    def apply(self, model: HookedModel, *, lengths: Lengths = None) -> AbstractContextManager[Applied]:
        """Run ``model.plain`` calibrated inside ``with``; see `policy` and `circuits.policies.policy.applied`."""
        return applied(model, self.policy(model, lengths=lengths))

    def answers(self, model: HookedModel, test: Judge, *, on_step: OnStep = no_progress) -> Answers:
        """Answers of the calibrated model.

        Raises:
            UnsupportedError: before `fit`.
        """
        return answers_under(
            model, test, self.heads_, self.settings.act, batch_size=self.settings.batch_size, on_step=on_step
        )

    def score(self, model: HookedModel, test: Judge) -> float:
        """Accuracy of the calibrated model, 0 to 1.

        Raises:
            UnsupportedError: before `fit`.
        """
        return self.answers(model, test).accuracy

    @property
    def _fitted(self) -> Selection:
        if self.selection_ is None:
            raise UnsupportedError("this calibrator has chosen no heads yet: call fit(model, selection set) first.")
        return self.selection_
