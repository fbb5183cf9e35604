"""What cutting the cells of a head does, claim by claim, beside cutting others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.views.numbers import MISSING, fixed, interval, p_text
from app.views.table import Column, Table
from app.views.variant_comparison import CELLS_MEANING, CompareRun
from circuits.comparison_results import CLAIMED, CONTROLS, Claim, Control, ControlName, ModelReport
from headscope.statistics import holm

P_MOST = 0.05
RANDOM: ControlName = "random"
EQUAL: ControlName = "equal weight"
RULE = (
    f"A claim is made where a head puts {CLAIMED} or more of what it moves on cells of one kind. Its cut counts where "
    f"the 95 % interval of the drop is above 0 and p is at most {P_MOST} after Holm's correction for the claims of its "
    "model. Random: as many other cells of the same rows. Equal weight: other cells of the same rows that together "
    "hold as much of what the rows move, which is stricter; where the claimed cells hold nearly all there are none."
)
COLUMNS = (
    Column("variant", "Variant"),
    Column("seed", "Seed", meaning="of the training"),
    Column("model", "Model", meaning="its name in the run"),
    Column("head", "Head"),
    Column("cells", "Cells", meaning=CELLS_MEANING),
    Column("moved", "Weight, moved", 3, "mean weight of these cells in what the head brings"),
    Column("share", "Weight, share", 3, "mean weight of these cells in where the head looks"),
    Column("accuracy", "Accuracy", 3, "of the untouched model, as the task judges answers"),
    Column("cut", "After the cut", 3, "accuracy with these cells of the head at 0"),
    Column("drop", "Drop", 3, "what the cut costs"),
    Column("low", "Drop, low", 3, "lower end of its 95 % bootstrap interval, paired by example"),
    Column("high", "Drop, high", 3, "upper end"),
    Column("cells_cut", "Cells cut", 1, "mean for each example"),
    Column("weight_cut", "Weight cut", 3, "what they hold of what their rows move, mean over the rows that are cut"),
    *(
        Column(f"{key}_{name}", f"{title}, {what}", 3, meaning)
        for key, title in (("random", "Random"), ("equal", "Equal weight"))
        for name, what, meaning in (
            ("drop", "drop", "mean cost of cutting these other cells"),
            ("least", "least", "the draw that costs least"),
            ("most", "most", "the draw that costs most"),
            ("weight", "weight", "what they hold of what the rows move; without draws: what they can hold"),
            ("draws", "draws", "cuts; 0 where there are no such cells"),
            ("p", "p", "one-sided: (1 + draws at least as harmful) / (1 + draws)"),
            ("p_holm", "p, Holm", "the same, corrected for the claims of the model"),
        )
    ),
    Column("equal_note", "Equal weight, note", meaning="why there is no such control"),
    Column("n", "n", meaning="examples"),
    Column("counts", "Counts", meaning="drop above 0 with its interval, corrected p against random cells at most 0.05"),
    Column("exceeds", "Beyond equal weight", meaning="the same against cells of equal weight; empty without them"),
)  # fmt: skip


@dataclass(frozen=True)
class Tested:
    """A claim, with p corrected for all claims of its model.

    Attributes:
        model: whose.
        claim: the claim.
        p: for each control, corrected by Holm's method; NaN where there is no such control.
    """

    model: ModelReport
    claim: Claim
    p: Mapping[ControlName, float]

    @property
    def counts(self) -> bool:
        """Whether cutting the cells costs something, and more than cutting as many others."""
        return self.claim.check.low > 0 and self.p[RANDOM] <= P_MOST

    @property
    def exceeds(self) -> bool | None:
        """Whether it costs more than cutting others of equal weight; None where there are none."""
        if np.isnan(self.p[EQUAL]):
            return None
        return self.claim.check.low > 0 and self.p[EQUAL] <= P_MOST

    @property
    def verdict(self) -> str:
        """What it costs more than cutting: ``both``, ``random``, ``random (no equal)``, ``neither``."""
        if not self.counts:
            return "neither"
        return {True: "both", False: "random", None: "random (no equal)"}[self.exceeds]

    @property
    def least_p(self) -> float:
        """The corrected p against random cells of a claim that no draw harms as much as."""
        return len(self.model.claims) / (1 + len(self.claim.check.control(RANDOM).accuracies))


def tested_claims(found: CompareRun) -> tuple[Tested, ...]:
    """Every claim of every model."""
    return tuple(one for model in found.models for one in claims_of(model))


def claims_of(model: ModelReport) -> tuple[Tested, ...]:
    """The claims of a model, with p corrected for them."""
    corrected = dict[ControlName, list[float]]()
    for name in CONTROLS:
        values = np.array([claim.check.control(name).p_value for claim in model.claims])
        there = np.isfinite(values)
        values[there] = holm(values[there].tolist())
        corrected[name] = values.tolist()
    return tuple(
        Tested(model, claim, {name: corrected[name][place] for name in CONTROLS})
        for place, claim in enumerate(model.claims)
    )


def claim_table(found: CompareRun) -> Table:
    """A row for each claim."""
    rows = tuple(_row(one) for one in tested_claims(found))
    return Table("Claims", COLUMNS, rows, {"rule": RULE})


def shown_claims(found: CompareRun) -> Table:
    """The same with value and interval in one cell, as it is read on screen and in the report."""
    columns = (
        Column("model", "Model"), Column("head", "Head"), Column("cells", "Cells"),
        Column("weight", "Weight: moved, share"), Column("accuracy", "Accuracy, after the cut"),
        Column("drop", "Drop"), Column("counts", "Costs more than"), Column("random", "Random cells: drop, range, p"),
        Column("equal", "Equal weight: drop, range, p"), Column("n", "n"),
    )  # fmt: skip
    rows = tuple(
        (
            found.label(one.model), one.claim.head, one.claim.cells,
            f"{fixed(one.claim.weight)}, {fixed(one.claim.share)}",
            f"{fixed(one.claim.check.accuracy)}, {fixed(one.claim.check.cut)}", drop_text(one.claim),
            one.verdict, _control_text(one, RANDOM), _control_text(one, EQUAL), one.claim.check.n,
        )
        for one in tested_claims(found)
    )  # fmt: skip
    return Table("Claims", columns, rows)


def drop_text(claim: Claim) -> str:
    """``0.045 [0.027, 0.062]``."""
    return f"{fixed(claim.check.drop)} {interval(claim.check.low, claim.check.high)}"


def _row(one: Tested) -> tuple[str | int | float | bool | None, ...]:
    model, claim, check = one.model, one.claim, one.claim.check
    return (
        model.variant, model.seed, model.name, claim.head, claim.cells, claim.weight, claim.share, check.accuracy,
        check.cut, check.drop, check.low, check.high, check.cells, check.weight,
        *_control_numbers(one, RANDOM), *_control_numbers(one, EQUAL), check.control(EQUAL).note, check.n, one.counts,
        one.exceeds,
    )  # fmt: skip


def _control_numbers(one: Tested, name: ControlName) -> tuple[float | int | None, ...]:
    check, control = one.claim.check, one.claim.check.control(name)
    if not control.accuracies:
        return None, None, None, control.weight, 0, None, None
    least, most = _range(check.accuracy, control)
    draws = len(control.accuracies)
    return check.accuracy - control.mean, least, most, control.weight, draws, control.p_value, one.p[name]


def _control_text(one: Tested, name: ControlName) -> str:
    check, control = one.claim.check, one.claim.check.control(name)
    if not control.accuracies:
        return "none: the others hold too little" if np.isfinite(control.weight) else MISSING
    least, most = _range(check.accuracy, control)
    told = f"{fixed(check.accuracy - control.mean)} ({fixed(least)} to {fixed(most)})"
    return f"{told}, p {p_text(one.p[name])} of {len(control.accuracies)}"


def _range(accuracy: float, control: Control) -> tuple[float, float]:
    return accuracy - max(control.accuracies), accuracy - min(control.accuracies)
