"""What a calibration finds: answers, chosen heads, a trial with its controls, where sinks sit. Plain data, no torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from headscope.heads import Head, HeadScores
from headscope.statistics import Interval

ArmKind = Literal["baseline", "selected", "random", "all", "opposite"]
SinkPlace = Literal["first", "punctuation", "early", "later"]
SINK_PLACES: tuple[SinkPlace, ...] = ("first", "punctuation", "early", "later")
"""Where a sink sits: token 0; punctuation or a line break; another of tokens 1 to 3; any other token."""


@dataclass(frozen=True)
class Answers:
    """What a model answered to each item.

    Attributes:
        predictions: the answer with the highest score.
        margins: score of the right answer minus that of the best wrong one.
        labels: the right answers.
        groups: what each item was made from; items of one group are alike. Empty if each stands for itself.
    """

    predictions: Int[np.ndarray, " item"]
    margins: Float[np.ndarray, " item"]
    labels: Int[np.ndarray, " item"]
    groups: tuple[str, ...] = ()

    @property
    def correct(self) -> Bool[np.ndarray, " item"]:
        """Which answers are right."""
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return float(self.correct.mean())

    @property
    def margin(self) -> float:
        """Mean margin."""
        return float(self.margins.mean())


@dataclass(frozen=True)
class GreedyStep:
    """One head that greedy selection took.

    Attributes:
        head: the head.
        accuracy: on the selection set, with it and all before it calibrated.
        margin: the same for the mean margin.
    """

    head: Head
    accuracy: float
    margin: float


@dataclass(frozen=True)
class Selection:
    """Heads chosen on a selection set.

    Attributes:
        method: how they were chosen.
        heads: the heads, strongest first (for greedy in the order they were taken).
        candidates: the heads that were chosen among.
        baseline: answers of the uncalibrated model.
        scores: what heads were chosen by, NaN for heads that were not tried: change of accuracy, change of the mean
            margin, or its derivative.
        steps: of greedy selection, else empty.
        evaluations: runs over the selection set (from some layer on) that it took.
    """

    method: str
    heads: tuple[Head, ...]
    candidates: tuple[Head, ...]
    baseline: Answers
    scores: tuple[HeadScores, ...]
    steps: tuple[GreedyStep, ...]
    evaluations: int


@dataclass(frozen=True)
class Arm:
    """One way to run the test set.

    Attributes:
        name: unique in its trial.
        kind: what it is for.
        heads: calibrated heads.
        beta: what weights on their sinks are multiplied by.
    """

    name: str
    kind: ArmKind
    heads: tuple[Head, ...]
    beta: float


@dataclass(frozen=True)
class ArmResult:
    """What an arm did on the test set, and against the uncalibrated model.

    Attributes:
        arm: the arm.
        answers: every answer.
        accuracy: share of right answers, with a 95 % bootstrap interval over items.
        change: mean paired change of accuracy against the baseline, with its interval.
        margin_change: the same for the margin.
        gained: items that are right now and were wrong.
        lost: items that were right and are wrong now.
        p_value: McNemar's exact two-sided p of gained against lost.
    """

    arm: Arm
    answers: Answers
    accuracy: Interval
    change: Interval
    margin_change: Interval
    gained: int
    lost: int
    p_value: float

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.answers.labels)


@dataclass(frozen=True)
class TrialResult:
    """A calibration judged on a test set that no selection has seen.

    Attributes:
        model: name of the model.
        task: name of the task.
        selection: how the heads were chosen.
        arms: the baseline first.
        p_random: one-sided p of the selected heads among random sets: ``(1 + sets at least as accurate) / (1 + sets)``;
            NaN without random sets.
    """

    model: str
    task: str
    selection: Selection
    arms: tuple[ArmResult, ...]
    p_random: float

    def of(self, kind: ArmKind) -> tuple[ArmResult, ...]:
        """The arms of a kind."""
        return tuple(result for result in self.arms if result.arm.kind == kind)


@dataclass(frozen=True)
class SinkSpot:
    """A sink of one head in one text.

    Attributes:
        text: index of the text in its batch.
        head: the head.
        position: of the sink.
        token: the token's text.
        place: which kind of place that is.
        mass: mean attention that it receives from the rows that can see it, 0 to 1.
    """

    text: int
    head: Head
    position: int
    token: str
    place: SinkPlace
    mass: float


@dataclass(frozen=True)
class SinkToken:
    """A token that is a sink of some heads, over a batch of texts.

    Attributes:
        token: its text.
        place: which kind of place it is in.
        count: head and text pairs in which it is a sink.
        mass: mean attention it receives there from the rows that can see it, 0 to 1.
    """

    token: str
    place: SinkPlace
    count: int
    mass: float


def count_tokens(spots: Iterable[SinkSpot | SinkToken]) -> tuple[SinkToken, ...]:
    """The tokens of sinks, those of most heads and texts first; counts made before can be counted together."""
    counts, masses = Counter[tuple[str, SinkPlace]](), defaultdict[tuple[str, SinkPlace], float](float)
    for spot in spots:
        count = spot.count if isinstance(spot, SinkToken) else 1
        counts[spot.token, spot.place] += count
        masses[spot.token, spot.place] += count * spot.mass
    made = [SinkToken(*key, count, masses[key] / count) for key, count in counts.items()]
    return tuple(sorted(made, key=lambda one: (-one.count, one.token)))


@dataclass(frozen=True)
class SinkMap:
    """Where the sinks of every head sit, over a batch of texts; the first sink, which ACT keeps, is counted.

    Attributes:
        model: name of the model.
        counts: sinks per text, mean over texts; the last axis is `SINK_PLACES`.
        mass: share of a row's attention that rests on them, mean over rows, then over texts.
        n_texts: number of texts.
        spots: every sink.
    """

    model: str
    counts: Float[np.ndarray, "layer head place"]
    mass: Float[np.ndarray, "layer head place"]
    n_texts: int
    spots: tuple[SinkSpot, ...]


@dataclass(frozen=True)
class ClassSinks:
    """Sinks of one class of heads, means over its heads.

    Attributes:
        head_class: its name.
        n_heads: how many heads.
        counts: sinks per text and head.
        mass: share of a row's attention on them.
    """

    head_class: str
    n_heads: int
    counts: Float[np.ndarray, " place"]
    mass: Float[np.ndarray, " place"]


@dataclass(frozen=True)
class BeforeAfter:
    """The attention of one head on one text, as it is and calibrated (no other head is).

    Attributes:
        head: the head.
        tokens: text of each token.
        before: the model's pattern.
        after: the calibrated pattern.
        sinks: calibrated sinks of each row; all rows the same where they are found once.
    """

    head: Head
    tokens: tuple[str, ...]
    before: Float[np.ndarray, "row key"]
    after: Float[np.ndarray, "row key"]
    sinks: Bool[np.ndarray, "row key"]
