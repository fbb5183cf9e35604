"""Several trainings of several variants: which cells there are, and what they come to; no torch.

Learning rate decides who wins a comparison (softmax was seen to take 400 steps at one rate and more than 2,400 at
another), so every variant is trained at several rates, and its row is that of its best rate: the one with the highest
held-out accuracy, mean over seeds, among those at which none diverged. What is reported is the accuracy on fresh
examples, which decided nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.registry import variant
from headscope.models.decoder.config import DecoderConfig
from headscope.statistics import Interval, bootstrap_scalar
from headscope.training.settings import TaskChoice, TrainingConfig


class SweepConfig(Config):
    """Every variant at every width, rate and seed.

    Attributes:
        task: what is learned.
        task_settings: the task's own settings.
        variants: names of the registry.
        widths: of the stream, d_model.
        rates: learning rates.
        seeds: trainings of each, from ``seed`` on.
        layers: blocks.
        heads: heads in each.
        decoder: other settings of the decoder, under those of the variant.
        steps: most steps of one training.
        batch: examples of a step.
        warmup: steps over which the rate rises.
        evaluate_every: steps between two evaluations.
        evaluated: held-out examples.
        stop_at: accuracy that ends a training.
        pictures: evaluations whose mixing matrices are kept, spread over a training; 0 keeps none and leaves out the
            measures of heads, too.
        weights: whether trained weights are kept.
        seed: the first seed.
        device: auto, cpu, cuda.
        workers: trainings at once, each in a process and on one thread of its own, on a GPU up to eight in a process.
            The numbers are the same.
    """

    task: str = "mqar"
    task_settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    variants: tuple[str, ...] = Field(default=("softmax",), min_length=1)
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(default=(64,), min_length=1)
    rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(3e-3,), min_length=1)
    seeds: int = Field(default=3, ge=1, le=1000)
    layers: int = Field(default=2, ge=1, le=64)
    heads: int = Field(default=1, ge=1, le=64)
    decoder: dict[str, Any] = Field(default_factory=dict[str, Any])
    steps: int = Field(default=2000, ge=1)
    batch: int = Field(default=64, ge=1)
    warmup: int = Field(default=100, ge=0)
    evaluate_every: int = Field(default=50, ge=1)
    evaluated: int = Field(default=256, ge=1)
    stop_at: float = Field(default=0.99, gt=0)
    pictures: int = Field(default=0, ge=0, le=200)
    weights: bool = True
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = "auto"
    workers: int = Field(default=1, ge=1, le=256)

    @field_validator("variants")
    @classmethod
    def _trainable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        entries = [variant(name) for name in names]
        for entry in entries:
            if entry.status != "built":
                raise ConfigError(f"the variant {entry.name!r} cannot be trained ({entry.status}): {entry.note}")
        return tuple(dict.fromkeys(entry.name for entry in entries))

    @field_validator("widths", "rates")
    @classmethod
    def _told_apart(cls, values: tuple[int | float, ...]) -> tuple[int | float, ...]:
        """One given twice counts once: its trainings would be the same, and no further seeds."""
        once = tuple(dict.fromkeys(values))
        if len({f"{value:g}" for value in once}) < len(once):
            raise ConfigError(
                f"{', '.join(map(repr, once))} are too near to one another: they differ after six digits."
            )
        return once

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All trainings: of each variant and width, each rate for each seed."""
        seeds = range(self.seed, self.seed + self.seeds)
        return tuple(
            Cell(name, width, rate, seed)
            for name in self.variants
            for width in self.widths
            for rate in self.rates
            for seed in seeds
        )

    def training(self, cell: Cell) -> TrainingConfig:
        """The settings of one training.

        Raises:
            ConfigError: for settings of the decoder that do not exist or cannot go together.
        """
        entry = variant(cell.variant)
        sizes = {"n_layers": self.layers, "n_heads": self.heads, "d_model": cell.width, "causal": entry.causal}
        return TrainingConfig(
            task=TaskChoice(kind=self.task, settings=self.task_settings),
            decoder=DecoderConfig.parse(sizes | self.decoder | dict(entry.config)),
            lr=cell.rate,
            steps=self.steps,
            batch=self.batch,
            warmup=self.warmup,
            evaluate_every=self.evaluate_every,
            evaluated=self.evaluated,
            stop_at=self.stop_at,
            seed=cell.seed,
        )


@dataclass(frozen=True)
class Cell:
    """One training of a sweep."""

    variant: str
    width: int
    rate: float
    seed: int

    @property
    def stage(self) -> str:
        """Its name in a run: ``softmax.64.0.003.1``."""
        return f"{self.variant}.{self.width}.{self.rate:g}.{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What one training came to.

    Attributes:
        cell: which training.
        accuracy: accuracy at the end on fresh examples, 0 to 1; 0 where it diverged.
        held_out: accuracy on the examples that stop a training and choose a rate.
        loss: held-out loss at the end, nats per answer; NaN where it diverged.
        solved_at: steps until ``stop_at`` was reached, or None.
        steps: steps taken.
        diverged: whether a loss was no number.
        state_size: numbers kept after a whole text of the task to read one more token, all layers.
        parameters: trained numbers.
    """

    cell: Cell
    accuracy: float
    held_out: float
    loss: float
    solved_at: int | None
    steps: int
    diverged: bool
    state_size: int
    parameters: int


@dataclass(frozen=True)
class VariantResult:
    """A variant at one width: its best rate, over seeds.

    Attributes:
        variant: its name.
        width: d_model.
        rate: the learning rate with the highest held-out accuracy, mean over seeds (among equals the fewest steps);
            one at which a training diverged only where there is no other.
        accuracy: mean over seeds, with a bootstrap interval over them (too narrow with fewer than ten).
        accuracies: of each seed.
        solved: seeds that reached ``stop_at``.
        steps: median steps of those, or None.
        state_size: see `CellResult`.
        parameters: see `CellResult`.
        rates: held-out accuracy of every rate, mean over seeds.
    """

    variant: str
    width: int
    rate: float
    accuracy: Interval
    accuracies: tuple[float, ...]
    solved: int
    steps: float | None
    state_size: int
    parameters: int
    rates: Mapping[float, float]


def best_rates(results: Sequence[CellResult]) -> list[VariantResult]:
    """The best rate of every variant and width, in the order of the cells."""
    groups: dict[tuple[str, int], dict[float, list[CellResult]]] = {}
    for result in results:
        rates = groups.setdefault((result.cell.variant, result.cell.width), {})
        rates.setdefault(result.cell.rate, []).append(result)
    return [_best(name, width, rates) for (name, width), rates in groups.items()]


def _best(name: str, width: int, rates: Mapping[float, list[CellResult]]) -> VariantResult:
    means = {rate: float(np.mean([one.held_out for one in found])) for rate, found in rates.items()}
    diverged = {rate: any(one.diverged for one in found) for rate, found in rates.items()}
    rate = min(rates, key=lambda one: (diverged[one], -means[one], float(np.mean([r.steps for r in rates[one]]))))
    found = rates[rate]
    accuracies = tuple(one.accuracy for one in found)
    solved = [one.solved_at for one in found if one.solved_at is not None]
    return VariantResult(
        variant=name,
        width=width,
        rate=rate,
        accuracy=bootstrap_scalar(np.array(accuracies), generator=np.random.default_rng(0)),
        accuracies=accuracies,
        solved=len(solved),
        steps=float(np.median(solved)) if solved else None,
        state_size=found[0].state_size,
        parameters=found[0].parameters,
        rates=means,
    )
