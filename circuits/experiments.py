"""What an ablation is measured by: teacher-forced accuracy or loss on the rows where a head class should matter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.clean_run import CleanRun
from circuits.interventions import Rows
from headscope.models.protocol import HookedModel
from headscope.tasks import build_needles, build_prose, build_repeated
from probes.probe import Bench

_ROWS_PER_FORWARD = 1024


@dataclass(frozen=True)
class Batch:
    """Teacher-forced tokens: row i predicts ``tokens[:, i + 1]`` where ``counted[:, i]``."""

    tokens: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]
    from_row: int = 0


@dataclass
class Experiment:
    """A metric over examples, computed from the first ablated layer on.

    Attributes:
        metric: its name, for reports.
        unit: its unit.
        harm: +1 if harm raises it (a loss), -1 if harm lowers it (an accuracy).
        rows: rows that an ablation acts on.
        note: what exactly is measured.
        measure: ``accuracy`` (share of counted tokens predicted first) or ``loss`` (mean cross-entropy).
        batches: the data.
    """

    metric: str
    unit: str
    harm: int
    rows: Rows
    note: str
    measure: Literal["accuracy", "loss"]
    batches: list[Batch]
    _clean: list[CleanRun] = field(default_factory=list["CleanRun"], repr=False)

    @property
    def decode_from(self) -> int | None:
        """First row that counts as decoding; the same in all batches of one prompt length."""
        return self.batches[0].from_row if self.rows == "decode" else None

    def prepare(self, model: HookedModel, layers: Collection[int]) -> Float[np.ndarray, " example"]:
        """Run every batch once untouched; returns the baseline, one value per example."""
        self._clean = [CleanRun(model, b.tokens, layers=layers, from_row=b.from_row) for b in self.batches]
        baseline = self._values(lambda run: run.logits)
        for run in self._clean:
            del run.logits
        return baseline

    def values(self, first_layer: int) -> Float[np.ndarray, " example"]:
        """The metric of each example, run on from ``first_layer``; call it inside ``with ablate(...)``."""
        return self._values(lambda run: run.logits_from(first_layer))

    def _values(self, logits_of: Callable[[CleanRun], Tensor]) -> Float[np.ndarray, " example"]:
        parts = [self._score(batch, logits_of(run)) for batch, run in zip(self.batches, self._clean, strict=True)]
        return torch.cat(parts).cpu().numpy().astype(np.float64)

    def _score(self, batch: Batch, logits: Float[Tensor, "batch row d_vocab"]) -> Float[Tensor, " batch"]:
        targets = batch.tokens[:, batch.from_row + 1 :].to(logits.device)
        counted = batch.counted[:, batch.from_row : -1].to(logits.device)
        logits = logits[:, :-1]
        if self.measure == "accuracy":
            each = (logits.argmax(-1) == targets).float()
        else:
            flat = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
            each = flat.view_as(targets)
        return (each * counted).sum(-1) / counted.sum(-1)


def _chunks(tokens: Tensor, counted: Tensor, from_row: int = 0) -> Iterator[Batch]:
    size = max(1, _ROWS_PER_FORWARD // (tokens.shape[1] - from_row))
    for first in range(0, len(tokens), size):
        yield Batch(tokens[first : first + size], counted[first : first + size], from_row)


def needle_accuracy(bench: Bench, *, n: int, length: int) -> Experiment:
    """Teacher-forced accuracy on the answer tokens of needle prompts, ablated while decoding only.

    The prompt is read untouched; from its last token on, the rows that produce the answer are ablated, as in Wu et
    al. 2024. Prompts are new draws: not those that the heads were scored on.
    """
    task = build_needles(
        bench.model,
        bench.held_out,
        length=length,
        n=n,
        generator=bench.generator("check needle"),
        needles=bench.needles,
        depths=bench.config.depths,
    )
    tokens = torch.cat([task.prompts, task.answers], 1)
    rows = torch.arange(tokens.shape[1])
    behind = rows[None] - (length - 1)
    counted = (behind >= 0) & (behind < task.answer_lengths[:, None])
    return Experiment(
        "needle accuracy",
        "share of answer tokens",
        -1,
        "decode",
        f"teacher-forced top-1 accuracy on the answer tokens of {n} needle prompts of {length} tokens; the "
        "haystack is a part of the text that no head was scored on, the needles are the same; the prompt is read "
        "untouched",
        "accuracy",
        list(_chunks(tokens, counted, length - 1)),
    )


def repeated_loss(bench: Bench, *, n: int) -> Experiment:
    """Cross-entropy on the second copy of random tokens: what induction predicts."""
    task = build_repeated(
        bench.model, n=n, period=bench.config.period, copies=2, generator=bench.generator("check repeated")
    )
    rows = torch.arange(task.tokens.shape[1])
    counted = (rows >= task.start + task.period) & (rows < task.tokens.shape[1] - 1)
    return Experiment(
        "second-copy loss",
        "nats per token",
        1,
        "all",
        f"cross-entropy on the second copy of {task.period} random tokens, without its first token, {n} sequences "
        "other than the heads were scored on",
        "loss",
        list(_chunks(task.tokens, counted.expand_as(task.tokens))),
    )


def text_loss(bench: Bench, *, n: int, length: int) -> Experiment:
    """Cross-entropy on passages of real text."""
    text = build_prose(bench.model, bench.held_out, n=n, length=length, generator=bench.generator("check prose"))
    return Experiment(
        "text loss",
        "nats per token",
        1,
        "all",
        f"cross-entropy on {len(text)} passages of {length} tokens, from the part of the text that no head was scored "
        "on",
        "loss",
        list(_chunks(text, torch.ones_like(text, dtype=torch.bool))),
    )
