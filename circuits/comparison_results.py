"""What a comparison of small models found, as plain data; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headscope.statistics import Interval


@dataclass(frozen=True)
class HeadProfile:
    """One head of one model, in both views of M (see `headscope.readings.mixing`).

    Attributes:
        head: ``L0H1``.
        offsets: by view, mean weight from row i to ``i - d`` for d = 0 ... 8.
        matches: by view, mean weight from asked rows to ``match + d``, d = -1 ... 4; empty if the task has no matches.
        first: by view, mean weight on position 0 over later rows.
        first_uniform: what uniform rows would put there.
        first_norm: norm of position 0's value through W_O over the mean of the others.
        row_mass: mean sum of a row of M, with its signs.
        null_mass: mean mass that goes to nothing, or None.
        negative: mean share of ``|M|`` that is negative.
        support: mean effective number of columns of a row.
        usage: mean weight that head mixing gives it, or None where all heads count alike.
    """

    head: str
    offsets: Mapping[str, tuple[float, ...]]
    matches: Mapping[str, tuple[float, ...]]
    first: Mapping[str, float]
    first_uniform: float
    first_norm: float
    row_mass: float
    null_mass: float | None
    negative: float
    support: float
    usage: float | None = None


@dataclass(frozen=True)
class Claim:
    """Cells that a head is said to use, and what cutting them does.

    Attributes:
        head: ``L0H1``.
        cells: ``offset 1``, ``match +1``, ``first token``.
        weight: mean weight of these cells in the moved view.
        share: in the share view.
        accuracy: of the untouched model.
        cut: with the cells at 0.
        low: lower end of the 95 % interval of what the cut costs.
        high: upper end.
        random: with as many other cells of the same rows at 0, each draw.
        p_value: one-sided, of the cut among the draws.
        n: examples.
    """

    head: str
    cells: str
    weight: float
    share: float
    accuracy: float
    cut: float
    low: float
    high: float
    random: tuple[float, ...]
    p_value: float
    n: int

    @property
    def drop(self) -> float:
        """What the cut costs."""
        return self.accuracy - self.cut

    @property
    def random_drop(self) -> float:
        """What a random cut costs, mean over draws."""
        return self.accuracy - sum(self.random) / len(self.random)


@dataclass(frozen=True)
class ModelReport:
    """One trained model on the task.

    Attributes:
        name: what it is called.
        variant: of the registry.
        seed: of its training.
        kind: how its M comes about (of the first layer's mixer).
        accuracy: share of right answers, with an interval over examples.
        n: examples.
        state_size: numbers kept to read one more token after a text of the task.
        parameters: trained numbers.
        heads: every head.
        claims: cells tested.
        lengths: accuracy on texts of other lengths; NaN where the model cannot read them.
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
    lengths: Mapping[int, Interval]
