"""The settings of a training, without torch."""

from __future__ import annotations

from math import cos, pi
from typing import Any

from pydantic import Field

from headscope.config import Config
from headscope.models.decoder.config import DecoderConfig


class TaskChoice(Config):
    """Which task, and its settings.

    Attributes:
        kind: its name.
        settings: its own settings, by name.
    """

    kind: str = "mqar"
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])


class TrainingConfig(Config):
    """One training: AdamW with a warm-up and a cosine to zero, batches made as they are needed.

    Attributes:
        task: what is learned.
        decoder: what learns it; ``d_vocab`` and ``n_ctx`` are the task's where they are smaller than it needs.
        lr: highest learning rate.
        steps: most steps.
        batch: examples of a step.
        warmup: steps over which the rate rises.
        weight_decay: of AdamW, on matrices.
        clip: highest norm of the gradient.
        evaluate_every: steps between two evaluations.
        evaluated: held-out examples of an evaluation, the same each time.
        stop_at: training ends at the first evaluation with this accuracy; above 1 it never ends early.
        seed: of the weights, of the batches and of the held-out examples, which are three different draws.
    """

    task: TaskChoice = TaskChoice()
    decoder: DecoderConfig = DecoderConfig()
    lr: float = Field(default=3e-3, gt=0)
    steps: int = Field(default=2000, ge=1)
    batch: int = Field(default=64, ge=1)
    warmup: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    evaluate_every: int = Field(default=50, ge=1)
    evaluated: int = Field(default=256, ge=1)
    stop_at: float = Field(default=0.99, gt=0)
    seed: int = Field(default=0, ge=0)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + cos(pi * share))
