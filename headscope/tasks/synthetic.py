"""What small models are trained on: tasks that make their own batches, with the answer known at every position.

A `SyntheticTask` draws a `SyntheticBatch` from a generator, on the generator's device, as often as training asks for
one. Most tasks are of tokens; two have vectors for inputs, and one of these asks for a number. All of them are listed
by `headscope.tasks.synthetic_catalog`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from headscope.config import Config

NOTHING_ASKED = -100
"""The target of a position that is not asked, as `torch.nn.functional.cross_entropy` ignores it."""

S = TypeVar("S", bound=Config)


@dataclass(frozen=True)
class SyntheticBatch:
    """Examples of one length, with what is asked and where the answer can be read.

    Position marks are ``(B, Q)`` and belong together: column q of ``query`` is the row that needs the answer, column q
    of any other is the position that the mark's name says, -1 where there is none. Token marks are ``(B, T)`` or
    ``(B, T, ...)``. Each task's docstring names its marks.

    Attributes:
        tokens: the ids that are read, or None where the inputs are vectors.
        targets: the id that each position must predict, `NOTHING_ASKED` where none; 0 where a number is asked.
        marks: named positions and named facts about tokens.
        inputs: the vectors that are read in place of tokens, or None.
        values: the numbers that each position must predict, or None; NaN where none.
        asked: the asked positions, where each example has equally many, else None.
    """

    tokens: Int[Tensor, "B T"] | None
    targets: Int[Tensor, "B T"]
    marks: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    inputs: Float[Tensor, "B T d_in"] | None = None
    values: Float[Tensor, "B T d_out"] | None = None
    asked: Int[Tensor, "B A"] | None = None

    @property
    def given(self) -> Int[Tensor, "B T"] | Float[Tensor, "B T d_in"]:
        """What a model reads: the tokens, or the vectors in place of them."""
        read = self.tokens if self.inputs is None else self.inputs
        assert read is not None  # one of the two is there
        return read

    @property
    def is_asked(self) -> Bool[Tensor, "B T"]:
        """Which positions have a target."""
        return self.targets != NOTHING_ASKED

    def cells(self, mark: str) -> tuple[Int[Tensor, " cell"], Int[Tensor, " cell"], Int[Tensor, " cell"]]:
        """Example, row and key of every cell from a query to the position of ``mark``."""
        keys, rows = self.marks[mark], self.marks["query"]
        found = keys >= 0
        return found.nonzero()[:, 0], rows[found], keys[found]


class Scored(NamedTuple):
    """What each example scored.

    Attributes:
        points: right answers, or what of a sum of squares is explained; this can be negative.
        possible: answers that are judged, or the whole sum; 0 for an example without any.
    """

    points: Float[Tensor, " B"]
    possible: Float[Tensor, " B"]

    @classmethod
    def of(cls, right: Bool[Tensor, "B T"], judged: Bool[Tensor, "B T"]) -> Scored:
        """A point for each judged position that is right."""
        return cls((right & judged).sum(1).double(), judged.sum(1).double())

    @property
    def accuracy(self) -> float:
        """Sum over sum: every answer counts alike, whichever example it is of; NaN where nothing was judged."""
        return float(self.points.sum() / self.possible.sum())


class SyntheticTask(ABC, Generic[S]):
    """A task by its settings.

    Attributes:
        settings_type: the settings it takes.
        settings: those it was made with.
    """

    settings_type: ClassVar[type[Config]]

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """Token ids; 0 where the inputs are vectors."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Positions T of an example."""

    @property
    def d_input(self) -> int:
        """Width of the input vectors; 0 where tokens are read."""
        return 0

    @property
    def d_output(self) -> int:
        """Numbers a model answers at each position: logits, or the value that is asked."""
        return self.d_vocab

    @property
    def held_out(self) -> SyntheticTask[S]:
        """The task to evaluate on: itself, where every example is drawn anew."""
        return self

    @abstractmethod
    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples, on the generator's device."""

    def loss(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> Float[Tensor, ""]:
        """Cross-entropy in nats, mean over the asked positions."""
        return cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=NOTHING_ASKED)

    def scored(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> Scored:
        """Of each example, the asked positions whose largest logit is the target."""
        return Scored.of(logits.argmax(-1) == batch.targets, batch.is_asked)

    def accuracy(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> float:
        """What is scored of what could be, over all examples."""
        return self.scored(logits, batch).accuracy

    def changed(self, **settings: Any) -> SyntheticTask[S]:
        """The same task with some settings changed, such as longer texts than those it was trained on.

        Raises:
            ConfigError: for a setting that the task does not have, or with an impossible value.
        """
        return type(self)(type(self.settings).parse(self.settings.model_dump() | settings))

    def of_length(self, length: int) -> SyntheticTask[S]:
        """The same task with texts of another length T: the ``length`` of its settings, where they have one.

        Raises:
            ConfigError: if the task has no texts of this length.
        """
        return self.changed(length=length)

    @classmethod
    def describe(cls) -> str:
        """What the task is, with an example."""
        return inspect.getdoc(cls) or ""


def exact_accuracy(logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> float:
    """Share of the examples that are right at every asked position."""
    right = (logits.argmax(-1) == batch.targets) | ~batch.is_asked
    return float(right.all(1).double().mean())
