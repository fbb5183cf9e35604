"""What cutting the cells of a head does, claim by claim, and what that says of a variant."""

from __future__ import annotations

from collections.abc import Sequence

from app.views.numbers import fixed, interval, p_text
from app.views.table import Column, Table
from app.views.variant_comparison import CompareRun
from circuits.comparison_results import Claim, ModelReport

P_MOST, CLAIMED = 0.05, 0.25
COLUMNS = (
    Column("variant", "Variant"),
    Column("seed", "Seed", meaning="of the training"),
    Column("model", "Model", meaning="its name in the run"),
    Column("head", "Head"),
    Column("cells", "Cells", meaning="offset d: d places before; match d: d behind the earlier same token"),
    Column("moved", "Weight, moved", 3, "mean weight of these cells in what the head brings"),
    Column("share", "Weight, share", 3, "mean weight of these cells in where the head looks"),
    Column("accuracy", "Accuracy", 3, "of the untouched model, share of right answers"),
    Column("cut", "After the cut", 3, "accuracy with these cells of the head at 0"),
    Column("drop", "Drop", 3, "what the cut costs"),
    Column("low", "Drop, low", 3, "lower end of its 95 % bootstrap interval, paired by example"),
    Column("high", "Drop, high", 3, "upper end"),
    Column("random_drop", "Random drop", 3, "mean cost of cutting as many other cells of the same rows"),
    Column("random_least", "Random, least", 3, "the draw that costs least"),
    Column("random_most", "Random, most", 3, "the draw that costs most"),
    Column("p", "p", 3, "one-sided: (1 + draws at least as harmful) / (1 + draws)"),
    Column("draws", "Draws", meaning="random cuts"),
    Column("n", "n", meaning="examples"),
    Column("counts", "Matters", meaning="interval of the drop above 0, and p at most 0.05"),
)
RULE = (
    f"A claim is made where a head puts {CLAIMED} or more of what it moves on cells of one kind. Its cut counts as "
    f"mattering where the 95 % interval of the drop is above 0 and p is at most {P_MOST} against random cuts of as "
    "many other cells of the same rows."
)


def counts(claim: Claim) -> bool:
    """Whether cutting the cells costs something, and more than cutting others."""
    return claim.low > 0 and claim.p_value <= P_MOST


def all_claims(found: CompareRun) -> tuple[tuple[ModelReport, Claim], ...]:
    """Every claim with its model."""
    return tuple((model, claim) for model in found.models for claim in model.claims)


def claim_table(found: CompareRun) -> Table:
    """A row for each claim."""
    rows = tuple(
        (
            model.variant, model.seed, model.name, claim.head, claim.cells, claim.weight, claim.share, claim.accuracy,
            claim.cut, claim.drop, claim.low, claim.high, claim.random_drop, claim.accuracy - max(claim.random),
            claim.accuracy - min(claim.random), claim.p_value, len(claim.random), claim.n, counts(claim),
        )
        for model, claim in all_claims(found)
    )  # fmt: skip
    return Table("Claims", COLUMNS, rows, {"rule": RULE})


def shown_claims(found: CompareRun) -> Table:
    """The same with value and interval in one cell, as it is read on screen and in the report."""
    columns = (
        Column("model", "Model"), Column("head", "Head"), Column("cells", "Cells"),
        Column("weight", "Weight: moved, share"), Column("accuracy", "Accuracy, after the cut"),
        Column("drop", "Drop"), Column("random", "Random drop: mean, range"), Column("p", "p"),
        Column("n", "n"), Column("counts", "Matters"),
    )  # fmt: skip
    rows = tuple(
        (
            found.label(model), claim.head, claim.cells, f"{fixed(claim.weight)}, {fixed(claim.share)}",
            f"{fixed(claim.accuracy)}, {fixed(claim.cut)}", drop_text(claim),
            f"{fixed(claim.random_drop)} {_range(claim)}", f"{p_text(claim.p_value)} of {len(claim.random)}",
            claim.n, "yes" if counts(claim) else "no",
        )
        for model, claim in all_claims(found)
    )  # fmt: skip
    return Table("Claims", columns, rows)


def verdicts(found: CompareRun) -> tuple[tuple[str, str], ...]:
    """Each variant, and a sentence on what its trainings show."""
    return tuple((name, _verdict(models)) for name, models in found.variants.items())


def finding(found: CompareRun) -> str:
    """In how many trainings of each variant any cut counts; empty where nothing is in."""
    told = ", ".join(
        f"{name} {sum(any(map(counts, one.claims)) for one in models)} of {len(models)}"
        for name, models in found.variants.items()
    )
    return f"Trainings with a head whose cut costs more than random cuts: {told}." if told else ""


def cautions(found: CompareRun) -> str:
    """What holds of all the claims: how many were tested, what the draws allow, heads that stand in for each other."""
    claims = all_claims(found)
    if not claims:
        return ""
    parts = [f"{len(claims)} {'claim was' if len(claims) == 1 else 'claims were'} tested, without correction."]
    draws = min(len(claim.random) for _, claim in claims)
    if 1 / (1 + draws) > P_MOST:
        parts.append(f"With {draws} random cuts p is never below {p_text(1 / (1 + draws))}: no cut can count.")
    if any(_doubled(model) for model in found.models):
        parts.append(
            "Heads of one model that read the same cells may stand in for each other: one cut tells too little."
        )
    return " ".join(parts)


def drop_text(claim: Claim) -> str:
    """``0.045 [0.027, 0.062]``."""
    return f"{fixed(claim.drop)} {interval(claim.low, claim.high)}"


def _verdict(models: Sequence[ModelReport]) -> str:
    many = f"{len(models)} {'training' if len(models) == 1 else 'trainings'}"
    told = f"{many}, accuracy {', '.join(fixed(one.accuracy.mean) for one in models)}."
    if all(one.kind == "jacobian" for one in models):
        return f"{told} It is not linear in its values, so no cells can be cut."
    kinds = sorted({claim.cells for one in models for claim in one.claims}, key=_order)
    if not kinds:
        return f"{told} No head puts {CLAIMED} of what it moves on one of the kinds of cells looked at."
    return " ".join([told, *(_kind(models, cells) for cells in kinds)])


def _kind(models: Sequence[ModelReport], cells: str) -> str:
    own = {one.name: [claim for claim in one.claims if claim.cells == cells] for one in models}
    n, read = len(models), sum(bool(claims) for claims in own.values())
    sure = sum(any(map(counts, claims)) for claims in own.values())
    model, worst = max(
        ((one, claim) for one in models for claim in own[one.name]), key=lambda pair: (counts(pair[1]), pair[1].drop)
    )
    where = f"{worst.head} of seed {model.seed}"
    most = f"{drop_text(worst)} ({where}; random cuts {fixed(worst.random_drop)}, p = {p_text(worst.p_value)})"
    name = f"{cells[:1].upper()}{cells[1:]}"
    if not sure:
        return f"{name}: read by a head in {read} of {n}, but no cut costs more than random cuts do; up to {most}."
    told = f"{name}: read by a head in {read} of {n}; cutting it costs more than random cuts in {sure} of {n}"
    return f"{told}, up to {most}."


def _order(cells: str) -> tuple[int, int]:
    """Offsets, then matches, then the first token."""
    kind, _, number = cells.partition(" ")
    return ("offset", "match", "first").index(kind), 0 if kind == "first" else int(number)


def _doubled(model: ModelReport) -> bool:
    cells = [claim.cells for claim in model.claims]
    return len(set(cells)) < len(cells)


def _range(claim: Claim) -> str:
    least, most = claim.accuracy - max(claim.random), claim.accuracy - min(claim.random)
    return f"({fixed(least)} to {fixed(most)})"
