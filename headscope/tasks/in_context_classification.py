"""In-context classification of Gaussian items: learned in the context or in the weights (Reddy 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from headscope.config import Config
from headscope.errors import ConfigError, UnknownNameError
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import (
    choose,
    cumulative,
    draw_integers,
    draw_normal,
    draw_subset,
    draw_uniform,
)

_EVALUATIONS = ("in_context", "swapped", "in_weights")


class InContextClassificationSettings(Config):
    """Of in-context classification; the paper's letters in brackets.

    Attributes:
        classes: classes of items (K), a multiple of ``labels``.
        labels: labels (L); class k has label ``k mod labels``.
        width: numbers of an item or a label (D).
        pairs: items with their labels before the question (N).
        most_pairs: room for positions (N_max): an example starts at a random one of ``2 most_pairs + 1``.
        burstiness: so often comes each class of a bursty context (B); 0: none is bursty.
        bursty: share of contexts that are bursty and hold the class that is asked (p_B).
        fresh: share of contexts whose classes were never seen before (p_C); these are always bursty.
        fresh_classes: classes that the fresh contexts of a batch draw from.
        zipf: class k comes with probability as ``(k + 1) ** -zipf`` (alpha).
        noise: spread of the items of a class (epsilon).
        swapped: labels of the context are one further than in training, and so is the answer.
        seed: of the classes and labels.
    """

    classes: int = Field(default=1024, ge=1)
    labels: int = Field(default=32, ge=2)
    width: int = Field(default=63, ge=1)
    pairs: int = Field(default=8, ge=2)
    most_pairs: int = Field(default=32, ge=2)
    burstiness: int = Field(default=2, ge=0)
    bursty: float = Field(default=1.0, ge=0, le=1)
    fresh: float = Field(default=0.0, ge=0, le=1)
    fresh_classes: int = Field(default=128, ge=1)
    zipf: float = Field(default=0.0, ge=0)
    noise: float = Field(default=0.1, ge=0)
    swapped: bool = False
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> InContextClassificationSettings:
        for name in ("classes", "fresh_classes"):
            if getattr(self, name) % self.labels:
                raise ValueError(f"{name} {getattr(self, name)} is no multiple of labels {self.labels}")
        if self.pairs % self.copies or self.copies >= self.pairs:
            raise ValueError(
                f"burstiness {self.burstiness} does not go with {self.pairs} pairs: use a divisor below it, or 0 with "
                "an even number of pairs"
            )
        if self.pairs > self.most_pairs:
            raise ValueError(f"pairs {self.pairs} are more than most_pairs {self.most_pairs}")
        return self

    @property
    def copies(self) -> int:
        """Items of each class in a bursty context; half of all in fresh contexts where ``burstiness`` is 0."""
        return self.burstiness or self.pairs // 2


@dataclass(frozen=True)
class _Means:
    """Class and label means, and the cumulative frequency of classes."""

    classes: Float[Tensor, "K D"]
    labels: Float[Tensor, "L D"]
    levels: Float[Tensor, " K"]


@lru_cache(maxsize=16)
def _means(classes: int, labels: int, width: int, zipf: float, seed: int, device: torch.device) -> _Means:
    """The same on every device and for every evaluation; NumPy's generator, so that no batch's seed repeats them."""
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((labels + classes, width))).float()
    drawn = drawn * width**-0.5
    frequency = torch.arange(1, classes + 1, dtype=torch.float64) ** -zipf
    parts = drawn[labels:], drawn[:labels], cumulative(frequency)
    return _Means(*(part.to(device) for part in parts))


class InContextClassification(SyntheticTask[InContextClassificationSettings]):
    """Items and their labels, then an item whose label is asked; items and labels are vectors (2312.03002)::

        inputs    x1 l1  x2 l2  x3 l3  x4 l4  x       (x1, x3, x of class 7; x2, x4 of class 30)
        targets   .  .   .  .   .  .   .  .   label of class 7

    An item of class k is ``(mu_k + noise * eta) / sqrt(1 + noise^2)``, with ``mu_k`` and ``eta`` normal of variance
    ``1 / width``; a label is its mean, without noise. Each input is a one-hot position, from a random first position
    on, joined to the item or label. In a bursty context ``pairs / burstiness`` classes, drawn from their frequencies
    with replacement, come ``burstiness`` times each in random order, and the item that is asked is of one of them; in
    others all classes are drawn independently, so that the context tells nothing. Following the author's generator.

    It can be solved in the context, or by learning the classes: `evaluation` tells which. The author reads the labels
    off three ReLU layers behind two layers of attention, without norms.

    Marks: ``query``, the last position; ``label``, the label of each label position, -1 elsewhere; ``same_class``, the
    items of the class that is asked; ``answer``, the positions that hold the right label.
    """

    settings_type: ClassVar[type[Config]] = InContextClassificationSettings

    @property
    def d_vocab(self) -> int:
        """None: inputs are vectors."""
        return 0

    @property
    def length(self) -> int:
        """Positions."""
        return 2 * self.settings.pairs + 1

    def of_length(self, length: int) -> SyntheticTask[InContextClassificationSettings]:
        """Texts of ``(length - 1) / 2`` pairs and the question.

        Raises:
            ConfigError: if the length is even, or the settings do not go with so many pairs.
        """
        if length % 2 == 0:
            raise ConfigError(f"in-context classification has no texts of {length} tokens: give an odd length.")
        return self.changed(pairs=length // 2)

    @property
    def d_input(self) -> int:
        """A one-hot position and an item or label."""
        return 2 * self.settings.most_pairs + 1 + self.settings.width

    @property
    def d_output(self) -> int:
        """Labels."""
        return self.settings.labels

    def evaluation(self, kind: str) -> SyntheticTask[InContextClassificationSettings]:
        """The author's tests, on the same classes.

        ``in_context``: classes never seen, bursty. ``swapped``: known classes with the labels of other classes, bursty;
        the label of the context is right. ``in_weights``: known classes that do not help one another (each item of the
        context is of the class that is asked with its frequency only, so the context can hold it by chance).

        Raises:
            UnknownNameError: for another kind.
        """
        if kind not in _EVALUATIONS:
            raise UnknownNameError.of("evaluation", kind, _EVALUATIONS)
        if kind == "in_weights":
            return self.changed(bursty=0.0, fresh=0.0, swapped=False)
        fresh = float(kind == "in_context")
        return self.changed(burstiness=self.settings.copies, bursty=1.0, fresh=fresh, swapped=kind == "swapped")

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        settings = self.settings
        means = _means(
            settings.classes, settings.labels, settings.width, settings.zipf, settings.seed, generator.device
        )
        new = draw_normal((settings.fresh_classes, settings.width), generator) * settings.width**-0.5
        known, target = self._classes(n, means.levels, generator)
        uniform = cumulative(torch.ones(settings.fresh_classes, device=generator.device))
        fresh, fresh_target = self._bursty(n, uniform, generator)
        is_fresh = draw_uniform((n, 1), generator) < settings.fresh
        classes = torch.cat([known, target], 1)
        unseen = torch.cat([fresh, fresh_target], 1)
        mean = torch.where(is_fresh[..., None], new[unseen], means.classes[classes])
        noise = settings.noise * settings.width**-0.5 * draw_normal((n, settings.pairs + 1, settings.width), generator)
        items = (mean + noise) / (1 + settings.noise**2) ** 0.5
        chosen = torch.where(is_fresh, unseen, classes)
        labels = (chosen + int(settings.swapped)) % settings.labels
        content = torch.stack([items, means.labels[labels]], 2).flatten(1, 2)[:, :-1]  # no label for the last item
        inputs = torch.cat([self._positions(n, generator), content], 2)
        return self._asked(inputs, chosen, labels)

    def _bursty(
        self, n: int, levels: Float[Tensor, " K"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "n N"], Int[Tensor, "n 1"]]:
        """Contexts of repeated classes, and a class of each."""
        settings = self.settings
        drawn = choose(levels, draw_uniform((n, settings.pairs // settings.copies), generator))
        shuffled = draw_subset(settings.pairs, n, settings.pairs, generator)
        context = drawn.repeat(1, settings.copies).gather(1, shuffled)
        return context, context.gather(1, draw_integers((n, 1), 0, settings.pairs - 1, generator))

    def _classes(
        self, n: int, levels: Float[Tensor, " K"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "n N"], Int[Tensor, "n 1"]]:
        """Contexts of known classes, and the class that is asked."""
        context, target = self._bursty(n, levels, generator)
        single = choose(levels, draw_uniform((n, self.settings.pairs + 1), generator))
        share = self.settings.bursty if self.settings.burstiness else 0.0
        is_bursty = draw_uniform((n, 1), generator) < share
        return torch.where(is_bursty, context, single[:, 1:]), torch.where(is_bursty, target, single[:, :1])

    def _positions(self, n: int, generator: torch.Generator) -> Float[Tensor, "n T P"]:
        """One-hot positions that follow one another from a random first one on."""
        room = 2 * self.settings.most_pairs + 1
        first = draw_integers((n, 1), 0, room - self.length, generator)
        place = first + torch.arange(self.length, device=first.device)
        return (place[..., None] == torch.arange(room, device=first.device)).float()

    def _asked(
        self, inputs: Float[Tensor, "n T d_in"], classes: Int[Tensor, "n items"], labels: Int[Tensor, "n items"]
    ) -> SyntheticBatch:
        """The batch of these inputs, whose last item is asked."""
        n, none = len(inputs), torch.full_like(classes, -1)
        label = torch.stack([none, labels], 2).flatten(1)[:, :-1]
        same = torch.stack([classes == classes[:, -1:], none >= 0], 2).flatten(1)[:, :-1]
        same[:, -1] = False
        targets = torch.full((n, self.length), NOTHING_ASKED, device=inputs.device)
        targets[:, -1] = labels[:, -1]
        query = torch.full_like(classes[:, :1], self.length - 1)
        marks = {"query": query, "label": label, "same_class": same, "answer": label == labels[:, -1:]}
        return SyntheticBatch(None, targets, marks, inputs=inputs, asked=query)
