"""How an induction head comes about in in-context classification: Reddy's progress measures, and where a curve jumps.

The circuit (Reddy 2023, arXiv 2312.03002): a head of the first layer lets each label read the item before it, a head of
the second lets the asked item look for labels that have read an item like it, and copies them. The measures follow it,
for every head of every layer and in both views of M (`headscope.readings.mixing`), on contexts of classes never seen:

- ``item_label`` (ILA): mean weight of a label's row on the item before it;
- ``target_item``: weight of the last row, the asked item's, on the items of its own class;
- ``target_label`` (TLA): its weight on all labels of the context;
- ``right_label`` (TILA): its weight on the labels that are right;
- ``strength``: mean weight on one right label less that on one wrong label, 0 where a text has none.

``right_label`` here is the weight on all right labels together; others take the mean of one. ``target_item`` here goes
by class; others take all items that share the right label. ``uniform`` rows would have one part in ``2 N + 1`` on each
token, so compare. Of the model: the accuracies of the paper's three tests, and ``context_label`` (CLA), the share of
answers that are a label of the context, right or wrong: naming any of them is what the plateau before the jump is made
of, with an accuracy of ``context_chance``. The abbreviations are those of replications of the paper; what they stand
for in them differs a little, and the definitions above are those computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.errors import ConfigError, UnknownNameError
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import read_mixing
from headscope.tasks.in_context_classification import InContextClassification
from headscope.tasks.synthetic import SyntheticBatch, SyntheticTask
from headscope.training.trainer import Point
from probes.mixing_profile import VIEWS, view_of

_TESTS = ("in_context", "swapped", "in_weights")


@dataclass(frozen=True)
class Associations:
    """Weights between items and labels; see the module's docstring."""

    item_label: Float[Tensor, "B H"]
    target_item: Float[Tensor, "B H"]
    target_label: Float[Tensor, "B H"]
    right_label: Float[Tensor, "B H"]
    strength: Float[Tensor, "B H"]


def associations(weights: Float[Tensor, "B H T K"], batch: SyntheticBatch) -> Associations:
    """All of them, of one layer's weights on a batch of in-context classification."""
    labels, right = batch.marks["label"] >= 0, batch.marks["answer"]
    target = weights[:, :, -1, : labels.shape[1]]
    before = weights.diagonal(-1, 2, 3)
    return Associations(
        item_label=_mean_on(before, labels[:, 1:]),
        target_item=_sum_on(target, batch.marks["same_class"]),
        target_label=_sum_on(target, labels),
        right_label=_sum_on(target, right),
        strength=_mean_on(target, right) - _mean_on(target, labels & ~right),
    )


def uniform_associations(batch: SyntheticBatch) -> Associations:
    """`associations` of even causal rows, with one head."""
    length = batch.targets.shape[1]
    rows = torch.ones(length, length, device=batch.targets.device).tril()
    rows = rows / rows.sum(-1, keepdim=True)
    return associations(rows.expand(len(batch.targets), 1, -1, -1), batch)


def _sum_on(weights: Float[Tensor, "B H K"], marked: Bool[Tensor, "B K"]) -> Float[Tensor, "B H"]:
    return torch.where(marked[:, None], weights, 0).sum(-1)


def _mean_on(weights: Float[Tensor, "B H K"], marked: Bool[Tensor, "B K"]) -> Float[Tensor, "B H"]:
    return _sum_on(weights, marked) / marked.sum(1, keepdim=True).clamp_min(1)


def context_labels(batch: SyntheticBatch, n_labels: int) -> Bool[Tensor, "B label"]:
    """Which labels stand in each context."""
    label = batch.marks["label"]
    found = torch.zeros(len(label), n_labels + 1, dtype=torch.bool, device=label.device)
    return found.scatter(1, label + 1, value=True)[:, 1:]  # column 0 takes the positions without a label


def context_label(logits: Float[Tensor, "B T label"], batch: SyntheticBatch) -> Float[Tensor, " B"]:
    """Whether the answer is a label of the context (CLA): 1 or 0 for each text."""
    known = context_labels(batch, logits.shape[2])
    return known.gather(1, logits[:, -1].argmax(-1, keepdim=True)).float().squeeze(1)


def context_label_probability(logits: Float[Tensor, "B T label"], batch: SyntheticBatch) -> Float[Tensor, " B"]:
    """Probability that the model gives to the labels of the context together."""
    return (logits[:, -1].float().softmax(-1) * context_labels(batch, logits.shape[2])).sum(-1)


def context_chance(batch: SyntheticBatch) -> Float[Tensor, " B"]:
    """Accuracy of naming the label at a random place of the context."""
    return batch.marks["answer"].sum(1) / (batch.marks["label"] >= 0).sum(1)


@dataclass(frozen=True)
class ProgressMeasures:
    """The probe: call it with a model and a step.

    Attributes:
        task: in-context classification as it is trained.
        batches: fixed examples of the paper's three tests, by name: ``in_context`` (classes never seen), ``swapped``
            (known classes with the labels of others) and ``in_weights`` (known classes, a context without help).
    """

    task: SyntheticTask[Any]
    batches: Mapping[str, SyntheticBatch]

    @classmethod
    def of(cls, task: InContextClassification, *, n: int, seed: int, device: torch.device) -> ProgressMeasures:
        """On ``n`` examples of each test, drawn with ``seed``."""
        generator = torch.Generator(device).manual_seed(seed)
        return cls(task, {test: task.evaluation(test).batch(n, generator) for test in _TESTS})

    def __call__(self, model: Decoder, step: int) -> dict[str, float]:  # noqa: ARG002
        """Every measure: ``accuracy.in_context``, ``context_label``, ``share.item_label.L0H0``, ..."""
        with torch.no_grad():
            logits = {test: model(batch.given) for test, batch in self.batches.items()}
        found = {f"accuracy.{test}": self.task.accuracy(logits[test], self.batches[test]) for test in logits}
        batch, answers = self.batches["in_context"], logits["in_context"]
        found["context_label"] = float(context_label(answers, batch).mean())
        found["context_label_probability"] = float(context_label_probability(answers, batch).mean())
        found["context_chance"] = float(context_chance(batch).mean())
        found |= {f"uniform.{name}": float(value) for name, value in _means(uniform_associations(batch)).items()}
        for layer in read_mixing(model, batch.given):
            for view in VIEWS:
                for name, values in _means(associations(view_of(layer, view), batch)).items():
                    heads = enumerate(values.tolist())
                    found |= {f"{view}.{name}.L{layer.layer}H{head}": value for head, value in heads}
        return found


def _means(found: Associations) -> dict[str, Float[Tensor, " H"]]:
    return {field.name: getattr(found, field.name).mean(0) for field in fields(found)}


@dataclass(frozen=True)
class Jump:
    """The greatest rise of a curve, in steps; between two evaluations the curve is a straight line.

    Attributes:
        low: value from which it rises.
        high: value to which it rises.
        start: last step before ``half`` at which a tenth of the rise is done.
        half: first step at which half of it is done: the half-time.
        end: first step after that at which nine tenths are done.
        steepest: middle of the two evaluations between which it rises fastest.
        rate: rise per step between these two.
    """

    low: float
    high: float
    start: float
    half: float
    end: float
    steepest: float
    rate: float

    @property
    def width(self) -> float:
        """Steps from a tenth to nine tenths: small beside ``half`` where the rise is abrupt."""
        return self.end - self.start


def find_jump(steps: Sequence[int], values: Sequence[float], *, smooth: int = 1) -> Jump | None:
    """The greatest rise ``v_b - v_a`` over all a before b: where it starts, is half done, ends, and is steepest.

    Points that are no number are left out. None where nothing rises. For a loss, give its negative. Of a logistic curve
    with rate k, ``half`` is its middle, ``rate`` k/4 of its height and ``width`` ``2 ln 9 / k``.

    Args:
        steps: of the evaluations, rising.
        values: one for each.
        smooth: values are first made the mean of so many neighbours, an odd number; fewer at both ends, evenly.

    Raises:
        ConfigError: for steps that do not rise or are not one for each value, or an even ``smooth``.
    """
    if len(steps) != len(values) or any(later <= step for step, later in pairwise(steps)):
        raise ConfigError(f"a curve needs rising steps, one for each value: given {len(steps)} and {len(values)}.")
    if smooth < 1 or smooth % 2 == 0:
        raise ConfigError(f"smooth {smooth} is no odd number: 1 leaves the curve as it is.")
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    x, y = x[np.isfinite(y)], _smoothed(y[np.isfinite(y)], smooth)
    place = _greatest_rise(y)
    return None if place is None else _jump(x[place], y[place])


def jump_of(points: Sequence[Point], name: str, *, smooth: int = 1) -> Jump | None:
    """`find_jump` of one number that a probe measured in a training.

    Raises:
        UnknownNameError: for a number that no evaluation has.
    """
    having = [point for point in points if name in point.probes]
    if not having:
        raise UnknownNameError.of("probe number", name, [] if not points else list(points[-1].probes))
    return find_jump([point.step for point in having], [point.probes[name] for point in having], smooth=smooth)


def _smoothed(values: Float[np.ndarray, " N"], smooth: int) -> Float[np.ndarray, " N"]:
    """Means over windows that are as wide on both sides, and narrower at the ends."""
    last = len(values) - 1
    reach = [min(smooth // 2, place, last - place) for place in range(len(values))]
    return np.array([values[place - d : place + d + 1].mean() for place, d in enumerate(reach)])


def _greatest_rise(values: Float[np.ndarray, " N"]) -> slice | None:
    """From the last lowest point to the first highest after it."""
    best, low, found = 0.0, 0, None
    for place, value in enumerate(values):
        if value <= values[low]:
            low = place
        elif value - values[low] > best:
            best, found = value - values[low], slice(low, place + 1)
    return found


def _jump(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> Jump:
    """Of a curve that starts at its lowest and ends at its highest value."""
    low, height = float(y[0]), float(y[-1] - y[0])
    half = _crossings(x, y, low + 0.5 * height)[0]
    slopes = np.diff(y) / np.diff(x)
    steepest = int(slopes.argmax())
    return Jump(
        low=low,
        high=float(y[-1]),
        start=max(step for step in _crossings(x, y, low + 0.1 * height) if step <= half),
        half=half,
        end=min(step for step in _crossings(x, y, low + 0.9 * height) if step >= half),
        steepest=float(x[steepest] + x[steepest + 1]) / 2,
        rate=float(slopes[steepest]),
    )


def _crossings(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], level: float) -> list[float]:
    """Where the curve comes up to a level from below."""
    up = np.flatnonzero((y[:-1] < level) & (y[1:] >= level))
    return [float(x[k] + (level - y[k]) / (y[k + 1] - y[k]) * (x[k + 1] - x[k])) for k in up]
