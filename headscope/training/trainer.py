"""Training one decoder: batches made as they are needed, an evaluation now and then, probes as callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.tasks.synthetic import SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_catalog import make_task
from headscope.training.captured_step import CapturedStep
from headscope.training.settings import TrainingConfig
from headscope.training.side_by_side import to_end

Probe = Callable[[Decoder, int], Mapping[str, float]]
"""What is measured at an evaluation: named numbers of a model at a step."""


@dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
        step: steps taken before it.
        loss: held-out cross-entropy in nats per answer.
        accuracy: share of held-out answers that are right.
        train_loss: mean training loss since the last evaluation; NaN at step 0.
        probes: what the probes measured.
    """

    step: int
    loss: float
    accuracy: float
    train_loss: float
    probes: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        config: its settings.
        curve: its evaluations, the first before any step.
        tested: accuracy at the end on as many fresh examples, which decided nothing; 0 where it diverged.
        solved_at: steps until the accuracy reached ``stop_at``, or None.
        diverged: whether it ended because a loss was no number.
        seconds: time from its first step to its end, in which others may have trained on the same device.
    """

    config: TrainingConfig
    curve: tuple[Point, ...]
    tested: float
    solved_at: int | None
    diverged: bool
    seconds: float

    @property
    def held_out(self) -> float:
        """Held-out accuracy at the end, by which a training stops and a rate is chosen; 0 where it diverged."""
        return 0.0 if self.diverged else self.curve[-1].accuracy


class Trainer:
    """A model, its optimiser and its place in the training; `run` goes on from there.

    Attributes:
        config: the settings.
        task: makes the batches.
        model: the decoder, on its device.
        step: steps taken.
        curve: evaluations so far.
    """

    def __init__(self, config: TrainingConfig, *, device: str | torch.device = "cpu") -> None:
        """Build the task and the model.

        Raises:
            HeadscopeError: for a task, a mixer or a setting that does not exist or cannot go together.
        """
        self.config, self.device = config, torch.device(device)
        self.task = make_task(config.task.kind, **config.task.settings)
        self.model = Decoder(fitted(config, self.task)).to(self.device)
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, config.weight_decay),
            lr=torch.tensor(config.lr, device=self.device),
            capturable=self.device.type == "cuda",
        )
        self.generator = torch.Generator(self.device).manual_seed(3 * config.seed)
        self.held_out = self._examples(3 * config.seed + 1)
        self.step, self.curve, self.seconds, self.diverged = 0, list[Point](), 0.0, False
        self._captured: CapturedStep | None = None

    def run(
        self,
        *,
        probe: Probe | None = None,
        on_step: Callable[[int, int], None] | None = None,
        on_point: Callable[[Trainer], None] | None = None,
    ) -> Training:
        """Train until the task is solved, the steps are taken or the loss is no number.

        Args:
            probe: measured at every evaluation.
            on_step: called with (done, total) steps.
            on_point: called after every evaluation: the place to save from.
        """
        steps = self.steps(probe=probe, on_point=on_point)
        return to_end(steps, None if on_step is None else lambda done: on_step(done, self.config.steps))

    def steps(
        self, *, probe: Probe | None = None, on_point: Callable[[Trainer], None] | None = None
    ) -> Generator[int, None, Training]:
        """`run` a step at a time: yields the number of steps taken after each, and returns the training.

        On CUDA, steps that are taken on a stream other than the default one stay on that stream.
        """
        started, before = time.monotonic(), self.seconds
        losses, since = torch.zeros((), device=self.device), 0
        try:
            while True:
                if self._is_due():
                    mean = float(losses) / since if since else float("nan")
                    self._evaluate(mean, probe)
                    losses, since = torch.zeros((), device=self.device), 0
                    self.seconds = before + time.monotonic() - started
                    if on_point is not None:
                        on_point(self)
                if self._is_over():
                    return self.result()
                losses += self._train_once()
                since += 1
                self.step += 1
                yield self.step
        finally:
            self._release()

    def result(self) -> Training:
        """The training as it stands, tested on fresh examples."""
        solved = next((point.step for point in self.curve if point.accuracy >= self.config.stop_at), None)
        tested = 0.0 if self.diverged else self._measure(self._examples(3 * self.config.seed + 2))[1]
        return Training(self.config, tuple(self.curve), tested, solved, self.diverged, self.seconds)

    def _examples(self, seed: int) -> list[SyntheticBatch]:
        """As many examples as an evaluation takes, in batches."""
        n, size, generator = self.config.evaluated, self.config.batch, torch.Generator(self.device).manual_seed(seed)
        return [self.task.held_out.batch(min(size, n - done), generator) for done in range(0, n, size)]

    def _measure(self, batches: list[SyntheticBatch]) -> tuple[float, float]:
        """Loss, mean over the answers, and accuracy: what all examples score of what they could, NaN without any."""
        self.model.eval()
        sums = list[Tensor]()
        with torch.no_grad():
            for batch in batches:
                logits, answered = self._answers(batch)
                n, scored = answered.is_asked.sum().double(), self.task.scored(logits, answered)
                loss = n * self.task.loss(logits, answered).double()
                sums.append(torch.stack([loss, n, scored.points.sum(), scored.possible.sum()]))
        loss, n, points, possible = torch.stack(sums).sum(0).tolist()  # a GPU is waited for once
        return loss / n, points / possible if possible else math.nan

    def _is_due(self) -> bool:
        at_rest = bool(self.curve) and self.curve[-1].step == self.step
        last = self.step == self.config.steps
        return not at_rest and (self.step % self.config.evaluate_every == 0 or last)

    def _is_over(self) -> bool:
        solved = bool(self.curve) and self.curve[-1].accuracy >= self.config.stop_at
        return solved or self.diverged or self.step >= self.config.steps

    def _evaluate(self, train_loss: float, probe: Probe | None) -> None:
        loss, accuracy = self._measure(self.held_out)
        probes = {} if probe is None else dict(probe(self.model, self.step))
        self.model.train()
        self.diverged = not math.isfinite(loss) or (self.step > 0 and not math.isfinite(train_loss))
        self.curve.append(Point(self.step, loss, accuracy, train_loss, probes))

    def _answers(self, batch: SyntheticBatch) -> tuple[Float[Tensor, "B A d_output"], SyntheticBatch]:
        """Logits at the asked rows and the batch of these rows alone; at all rows where their number varies."""
        stream = self.model.stream(batch.given)
        if batch.asked is None:
            return self.model.unembed(stream), batch
        rows = batch.asked[..., None]
        stream = stream.gather(1, rows.expand(-1, -1, stream.shape[-1]))
        values = batch.values
        if values is not None:
            values = values.gather(1, rows.expand(-1, -1, values.shape[-1]))
        targets = batch.targets.gather(1, batch.asked)
        answered = replace(batch, tokens=None, inputs=None, targets=targets, marks={}, values=values, asked=None)
        return self.model.unembed(stream), answered

    def loss(self, batch: SyntheticBatch) -> Float[Tensor, ""]:
        """The task's loss on a batch."""
        return self.task.loss(*self._answers(batch))

    def update(self, batch: SyntheticBatch) -> Float[Tensor, ""]:
        """One step of the optimiser; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.model.normalise_weights()
        return loss.detach()

    def _train_once(self) -> Float[Tensor, ""]:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(self.config.rate(self.step))
        if self.device.type != "cuda":
            return self.update(self._draw(self.generator))
        if self._captured is None:
            self._captured = CapturedStep(self._draw, self.update, self.optimizer, self.generator)
        loss = self._captured()
        self.generator = self._captured.generator
        return loss

    def _draw(self, generator: torch.Generator) -> SyntheticBatch:
        return self.task.batch(self.config.batch, generator)

    def _release(self) -> None:
        """Give the graphs' memory back now, not whenever Python finds that nobody needs them."""
        if self._captured is not None:
            self._captured.release()
            self._captured = None


def fitted(config: TrainingConfig, task: SyntheticTask[Any]) -> DecoderConfig:
    """The decoder's settings with the task's inputs, outputs and length, and the training's seed."""
    sizes = {
        "d_vocab": max(task.d_vocab, 2),
        "d_input": task.d_input,
        "d_output": task.d_output,
        "n_ctx": max(task.length, config.decoder.n_ctx),
        "seed": config.seed,
    }
    return DecoderConfig.parse(config.decoder.model_dump() | sizes)


def _groups(model: Decoder, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; gains, biases and single numbers do not."""
    matrices = [part for part in model.parameters() if part.ndim >= 2]
    others = [part for part in model.parameters() if part.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
