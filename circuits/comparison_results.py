"""What a comparison of small models found, as plain data; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from headscope.statistics import Interval

ControlName = Literal["random", "equal weight"]
CONTROLS: tuple[ControlName, ...] = ("random", "equal weight")
CLAIMED = 0.25
"""Cells with this mean weight in the moved view make a claim; uniform rows of 32 columns have 0.03 in a cell."""


def bar_above(uniform: float) -> float:
    """Least weight of a claim on cells where uniform rows have much: above them as `CLAIMED` is above nothing."""
    return CLAIMED + (1 - CLAIMED) * uniform


@dataclass(frozen=True)
class HeadProfile:
    """One head of one model, in both views of M (see `headscope.readings.mixing`).

    Attributes:
        head: ``L0H1``.
        offsets: by view, mean weight from row i to ``i - d`` for d = 0 ... 8.
        matches: by view, mean weight from asked rows to ``match + d``, d = -1 ... 4; empty if the task has no matches.
        carries: by view, mean weight from the row ``match + d`` to the match, d = 1 ... 4; empty likewise.
        first: by view, mean weight on position 0 over later rows.
        first_uniform: what uniform rows would put there.
        first_norm: norm of position 0's value through W_O over the mean of the others.
        row_mass: mean sum of a row of M, with its signs.
        null_mass: mean mass that goes to nothing, or None.
        negative: mean share of ``|M|`` that is negative.
        support: mean effective number of columns of a row.
        usage: mean weight that head mixing gives it, or None where all heads count alike.
        carries_uniform: what uniform rows have for ``carries``; empty where unknown.
    """

    head: str
    offsets: Mapping[str, tuple[float, ...]]
    matches: Mapping[str, tuple[float, ...]]
    carries: Mapping[str, tuple[float, ...]]
    first: Mapping[str, float]
    first_uniform: float
    first_norm: float
    row_mass: float
    null_mass: float | None
    negative: float
    support: float
    usage: float | None = None
    carries_uniform: tuple[float, ...] = ()

    @property
    def bars(self) -> dict[str, float]:
        """Least weight of a claim, for cells where it is not `CLAIMED`: carries and the first token.

        Rows behind a match are early ones, and later rows of a short text are few: uniform rows have much there.
        """
        carries = {f"carry {d}": bar_above(even) for d, even in enumerate(self.carries_uniform, start=1)}
        return {**carries, "first token": bar_above(self.first_uniform)}


@dataclass(frozen=True)
class Control:
    """The same cut on other cells of the same rows of the same head, drawn again and again.

    Attributes:
        name: ``random``: as many cells, drawn evenly from the row's others. ``equal weight``: other cells of the row in
            random order, until they hold as much of what the row moves as the claimed ones.
        accuracies: after the cut, each draw; empty where there is no such control.
        weight: what they hold of what the rows move, mean over rows and draws, 0 to 1; NaN where none was measured.
        p_value: one-sided: (1 + draws at least as harmful as the claimed cut) / (1 + draws); NaN without draws.
        note: why there is no such control; empty where there is one.
    """

    name: ControlName
    accuracies: tuple[float, ...]
    weight: float
    p_value: float
    note: str = ""

    @property
    def mean(self) -> float:
        """Accuracy after the cut, mean over draws; NaN without draws."""
        return sum(self.accuracies) / len(self.accuracies) if self.accuracies else float("nan")


@dataclass(frozen=True)
class CutCheck:
    """A claim about a head's cells, tested.

    Attributes:
        accuracy: of the untouched model.
        cut: the same with the claimed cells at 0.
        low: lower end of the 95 % bootstrap interval of ``accuracy - cut``, paired by example.
        high: upper end.
        n: examples.
        cells: cells cut, mean for each example.
        weight: what they hold of what their rows move, mean over the rows that are cut, 0 to 1; NaN if not measured.
        controls: the same cut on other cells.
    """

    accuracy: float
    cut: float
    low: float
    high: float
    n: int
    cells: float
    weight: float
    controls: tuple[Control, ...]

    @property
    def drop(self) -> float:
        """What the cut costs."""
        return self.accuracy - self.cut

    def control(self, name: ControlName) -> Control:
        """One of the controls; one without draws where it was not made."""
        absent = Control(name, (), float("nan"), float("nan"), "not made by this version of the comparison")
        return next((one for one in self.controls if one.name == name), absent)


@dataclass(frozen=True)
class Claim:
    """Cells that a head is said to use, and what cutting them does.

    Attributes:
        head: ``L0H1``.
        cells: ``offset 1``, ``carry 1``, ``match +1``, ``first token``.
        weight: mean weight of these cells in the moved view, as the head's profile has it.
        share: in the share view.
        check: what cutting them does, beside cutting others.
    """

    head: str
    cells: str
    weight: float
    share: float
    check: CutCheck


@dataclass(frozen=True)
class LengthScore:
    """Accuracy on texts of one length, or why there is none.

    Attributes:
        accuracy: mean over examples with an interval; NaN where there is none.
        reason: why there is none; empty where there is one.
    """

    accuracy: Interval
    reason: str = ""


@dataclass(frozen=True)
class ModelReport:
    """One trained model on the task.

    Attributes:
        name: what it is called.
        variant: of the registry.
        seed: of its training.
        kind: how its M comes about; of layers that differ, each once.
        accuracy: as the task judges answers, with an interval over examples.
        n: examples.
        state_size: numbers kept to read one more token after a text of the task.
        parameters: trained numbers.
        heads: every head.
        claims: cells tested.
        lengths: accuracy on texts of other lengths.
    """

    name: str
    variant: str
    seed: int
    kind: str
    accuracy: Interval
    n: int
    state_size: int
    parameters: int
    heads: tuple[HeadProfile, ...]
    claims: tuple[Claim, ...]
    lengths: Mapping[int, LengthScore]
