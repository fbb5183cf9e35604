"""A comparison in sentences: what the trainings of each variant show, and what to be careful about."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.views.numbers import fixed, interval, p_text
from app.views.variant_census import RoleCount, VariantAccuracy, role_counts, variant_accuracies
from app.views.variant_comparison import CompareRun
from app.views.variant_cuts import P_MOST, claims_of, tested_claims
from circuits.comparison_results import CLAIMED, ModelReport


def verdicts(found: CompareRun) -> tuple[tuple[str, str], ...]:
    """Each variant, and a few sentences on what its trainings show."""
    roles = role_counts(found)
    return tuple(
        (one.variant, _verdict(one, found.variants[one.variant], [row for row in roles if row.variant == one.variant]))
        for one in variant_accuracies(found)
    )


def finding(found: CompareRun) -> str:
    """In how many trainings of each variant any cut counts; empty where nothing is in."""
    told = ", ".join(
        f"{name} {sum(any(claim.counts for claim in claims_of(one)) for one in models)} of {len(models)}"
        for name, models in found.variants.items()
    )
    return f"Trainings with a head whose cut costs more than random cuts: {told}." if told else ""


def cautions(found: CompareRun) -> str:
    """What holds of all the claims: how many were tested, what the draws allow, heads that stand in for each other."""
    claims = tested_claims(found)
    if not claims:
        return ""
    least = max(one.least_p for one in claims)
    parts = [
        f"{len(claims)} {'claim was' if len(claims) == 1 else 'claims were'} tested; p is corrected for the claims of "
        f"one model (Holm) and with this many draws never below {p_text(min(one.least_p for one in claims))}"
        + (
            f" (in some {p_text(least)}: no cut of such a model can count, give more --draws)."
            if least > P_MOST
            else "."
        )
    ]
    if any(_doubled(model) for model in found.models):
        parts.append(
            "Heads of one model that read the same cells may stand in for each other: one cut tells too little."
        )
    return " ".join(parts)


def _verdict(one: VariantAccuracy, models: Sequence[ModelReport], roles: Sequence[RoleCount]) -> str:
    n = len(models)
    each = ", ".join(map(fixed, one.accuracies))
    mean = "" if n == 1 else f"mean {fixed(one.accuracy.mean)} {interval(*one.accuracy[1:])} over trainings: "
    told = f"{n} {'training' if n == 1 else 'trainings'}, accuracy {mean}{each}."
    found = [row for row in roles if row.found]
    if not found:
        return f"{told} No head puts {CLAIMED} of what it moves on one of the kinds of cells looked at."
    if not any(row.cut for row in found):
        names = "; ".join(f"{_title(row)} in {row.found} of {n}" for row in found)
        return f"{told} Heads: {names}. It is not linear in its values, so no cells can be cut."
    return " ".join([told, *(_role(row) for row in found)])


def _role(row: RoleCount) -> str:
    title = _title(row)
    where = f"in layer {row.layers[0]}" if len(row.layers) == 1 else f"in layers {' and '.join(map(str, row.layers))}"
    told = f"{title[:1].upper()}{title[1:]}: {row.found} of {row.seeds} have such a head, {where}"
    if not row.cut:
        return f"{told}; it was not cut."
    ends = " (1 training, no interval)" if math.isnan(row.drop.low) else f" {interval(*row.drop[1:])}"
    beside = f"more than random cells in {row.counts} of {row.cut}"
    equal = (
        f"more than cells of equal weight in {row.exceeds} of {row.equals}"
        if row.equals
        else "no cells of equal weight to compare with"
    )
    return f"{told}; cutting it drops accuracy by {fixed(row.drop.mean)}{ends}, {beside}, {equal}."


def _title(row: RoleCount) -> str:
    return row.role if row.role == row.cells else f"{row.role} ({row.cells})"


def _doubled(model: ModelReport) -> bool:
    cells = [claim.cells for claim in model.claims]
    return len(set(cells)) < len(cells)
