"""What is measured of a model at every evaluation of a training: the heads of any task, and the task's own measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from headscope.models.decoder.decoder import Decoder
from headscope.tasks.bigram_backcopy import BigramBackcopy
from headscope.tasks.in_context_classification import InContextClassification
from headscope.tasks.linear_regression import LinearRegression
from headscope.tasks.synthetic import SyntheticTask
from headscope.training.trainer import Probe
from probes.dormant_heads import DormantHeads
from probes.mixing_curve import MixingCurve
from probes.progress_measures import ProgressMeasures
from probes.regression_heads import RegressionHeads


@dataclass(frozen=True)
class TrainingProbe:
    """The probe: call it with a model and a step.

    Attributes:
        mixing: profiles and pictures of every head.
        own: the measures of the task: dormant heads on Bigram-Backcopy, progress measures of in-context
            classification, weights and answers of linear regression; None where it has none.
        measured: examples of each batch that ``own`` looks at.
    """

    mixing: MixingCurve
    own: Probe | None
    measured: int

    @classmethod
    def of(cls, task: SyntheticTask[Any], *, n: int, seed: int, device: torch.device) -> TrainingProbe:
        """Heads on ``n`` examples of a task, drawn with ``seed``; its own measures on 16 times as many others."""
        mixing, measured = MixingCurve.of(task, n=n, seed=seed, device=device), 16 * n
        return cls(mixing, _own(task, n=measured, seed=seed + 1, device=device), measured)

    def __call__(self, model: Decoder, step: int) -> Mapping[str, float]:
        """The numbers of both, whose names differ."""
        own = {} if self.own is None else self.own(model, step)
        return self.mixing(model, step) | dict(own)


def _own(task: SyntheticTask[Any], *, n: int, seed: int, device: torch.device) -> Probe | None:
    if isinstance(task, BigramBackcopy):
        return DormantHeads.of(task, n=n, seed=seed, device=device)
    if isinstance(task, InContextClassification):
        return ProgressMeasures.of(task, n=n, seed=seed, device=device)
    if isinstance(task, LinearRegression):
        return RegressionHeads.of(task, n=n, seed=seed, device=device)
    return None
