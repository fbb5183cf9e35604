"""What the numbers of a run do not say: the reservations that every report carries."""

from __future__ import annotations

from collections.abc import Sequence

from app.views.causal import causal_rows, p_floor
from app.views.classes import HeadClass
from app.views.numbers import p_text
from headscope.checks import CausalCheck
from headscope.heads import HeadScores


def limits(scores: Sequence[HeadScores], classes: Sequence[HeadClass], checks: Sequence[CausalCheck]) -> list[str]:
    """The reservations that hold for these scores, classes and checks, a sentence or three each."""
    found: list[str] = []
    if scores:
        found += [_many_looks(scores[0].values.size, len(scores)), _sampling(), _groups(scores[0])]
    if classes:
        found.append(_thresholds())
    untested = [one.name for one in classes if one.check is None or not one.check.points]
    if untested:
        found.append(_untested(untested))
    if checks:
        found += [_floor(checks), _selection(), _controls(), _ablations(checks)]
    return [text for text in found if text]


def _many_looks(n_heads: int, n_scores: int) -> str:
    return (
        f"Multiple looks: {n_heads} heads are compared on {n_scores} scores. Each interval is of one head "
        "and one score, not simultaneous: about one interval in twenty misses its true value, and the "
        "strongest of many heads is on average a little weaker than it looks here."
    )


def _sampling() -> str:
    return (
        "The intervals are bootstrap intervals over the examples of this run: they say how another draw of "
        'such examples would differ, not another text, task, length or model. "exact" marks a value computed '
        "from weights or otherwise without sampling."
    )


def _groups(scores: HeadScores) -> str:
    if scores.n_kv_heads == scores.n_heads:
        return ""
    size = scores.n_heads // scores.n_kv_heads
    return (
        f"A key/value group has the value of the strongest of its {size} query heads, and that head's "
        "interval: the maximum of several noisy values is biased upwards."
    )


def _thresholds() -> str:
    return (
        "Classes are thresholds on a continuum; the thresholds are conventions of the literature or of this "
        "project, given with each definition, and heads close to one may fall on either side in another run."
    )


def _untested(names: Sequence[str]) -> str:
    return (
        f"No intervention tested {', '.join(names)}: those classes describe where heads look, not what the "
        "model needs them for."
    )


def _floor(checks: Sequence[CausalCheck]) -> str:
    rows = [row for check in checks for row in causal_rows(check)]
    floors = sorted({(row.n_draws, p_text(p_floor(row))) for row in rows})
    text = ", ".join(f"{p} with {draws} draws" for draws, p in floors)
    return (
        "The p values are one-sided permutation p values, (1 + draws at least as harmful) / (1 + draws): "
        f"they cannot fall below 1 / (draws + 1), here {text}. They are not corrected for the number of "
        "checks and of k. Random sets differ from each other and leave out the class, which makes the test lenient: "
        "in simulations a class no better than chance reached p <= 0.05 in 6 to 16 % of checks, most often where "
        "layers have few heads. The band around "
        "the random heads runs from the 2.5th to the 97.5th percentile of the sets; it is no interval of their mean."
    )


def _selection() -> str:
    return (
        "The heads of a check are the strongest by the score of the same run; the note of each check says "
        "which examples the effect is measured on. Where it does not say that they are others than those "
        "that ranked the heads, take the effect of the strongest heads as slightly flattered."
    )


def _controls() -> str:
    return (
        "Random heads are drawn from the layers of the ablated ones, outside the class as long as a layer "
        "has such heads: where a class fills its layers, the control holds members too and the contrast is "
        "smaller."
    )


def _ablations(checks: Sequence[CausalCheck]) -> str:
    names = ", ".join(sorted({f"{check.ablation.replace('_', ' ')} on {check.rows} rows" for check in checks}))
    return (
        f"The effect depends on the ablation ({names}): zero ablation also takes away what a head adds on "
        "average and so overstates its role; several heads removed together can hide or amplify one another."
    )
