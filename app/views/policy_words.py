"""What a policies run found, in sentences: for its page, its report and those who do not see the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.views.numbers import fixed, interval, percent, signed
from app.views.policies import PolicyRun
from app.views.policy_heads import Assignment
from app.views.policy_points import FULL, MEASURES, REGIMES, RULES, Axis, Point, decimals_for, policy_title
from app.views.policy_tables import bar_text, by_regime
from app.views.policy_verdicts import Verdict, bar_of, draws_that_reach, verdicts_of, wasteful_curves
from circuits.policies.results import Arm, Regime

_LEAST: dict[Axis, str] = {"bytes": "The smallest cache", "keys": "Fewest keys", "flops": "Fewest operations"}
_OF: dict[Axis, str] = {"bytes": "its bytes", "keys": "the keys attended", "flops": "attention's operations"}
_ACTS: dict[Regime, str] = {
    "always": "while reading",
    "after the prompt": "after a prompt read in full, so its peak is a full cache",
}


def verdict(found: PolicyRun, task: str, length: int, axis: Axis = "bytes") -> str:
    """Which policy gets by with least, beside random heads; empty where nothing can be said.

    It begins with the task: ``On needle, 512 tokens, the full cache's accuracy is 0.900 (n = 20).`` Off the bytes axis
    it says so for each regime, since keys and operations are counted over the rows on which a policy acts.
    """
    full, verdicts = found.full(task, length), verdicts_of(found, task, length, axis)
    if full is None:
        return ""
    told = (
        f"On {task}, {length:,} tokens, the full cache's {MEASURES[found.measure(task)]} is "
        f"{fixed(full.value, decimals_for(full.value))} (n = {full.n})"
    )
    if bar_of(found, task, length) is None:
        return (
            f"{told}. The full cache gets nothing right, so there is nothing to keep: a shorter or easier task may do."
        )
    if not verdicts:
        return (
            f"{told}. No policy that was run takes less than the full cache here.{_keepers(found, task, length, axis)}"
        )
    parts = [f"{told}."]
    for regime, own in by_regime(verdicts, axis).items():
        chosen = [one for one in own if not found.is_random(one.curve)]
        when = "" if regime is None else f", policies that act {REGIMES[regime]}"
        parts.append(f"{_LEAST[axis]} {bar_text(found, task)}{when}: {_best(found, chosen, axis)}.")
        parts += _control(found, task, length, [one for one in own if found.is_random(one.curve)], axis)
    return " ".join(parts) + _keepers(found, task, length, axis)


def _least(verdicts: Sequence[Verdict], axis: Axis) -> list[Verdict]:
    """Those that take least, fewest keys attended first."""
    reached = [(one, one.smallest) for one in verdicts if one.smallest is not None]
    least = min((point.shares[axis] for _, point in reached), default=0.0)
    ties = [(one, point) for one, point in reached if point.shares[axis] <= least + 1e-9]
    return [one for one, _ in sorted(ties, key=lambda pair: pair[1].shares["keys"])]


def _best(found: PolicyRun, verdicts: Sequence[Verdict], axis: Axis) -> str:
    """The setting that takes least, those that take as little, and the least by interval of all."""
    least = _least(verdicts, axis)
    if not least or least[0].smallest is None:
        return "none of those tried"
    point = least[0].smallest
    decimals = decimals_for(point.value)
    change = f"{signed(point.change, decimals)} {interval(point.change_low, point.change_high, decimals)}"
    alike = [
        f"{found.title(one.curve)} ({one.smallest.setting}; {_ACTS[one.regime]}), {fixed(one.smallest.value, decimals)}"
        for one in least[1:]
        if one.smallest is not None
    ]
    also = f"; as little: {'; '.join(alike)}" if alike else ""
    return (
        f"{percent(point.shares[axis])} of {_OF[axis]} by {found.title(point.curve)} ({point.setting}), "
        f"{_ACTS[point.regime]}: {fixed(point.value, decimals)}, change {change}{also}; "
        f"by interval: {_by_interval(found, point.curve, verdicts, axis)}"
    )


def _by_interval(found: PolicyRun, curve: str, verdicts: Sequence[Verdict], axis: Axis) -> str:
    """The least share whose interval reaches the bar too, and whose it is where that is another curve."""
    sure = [(one.sure.shares[axis], one.curve != curve, one.curve) for one in verdicts if one.sure is not None]
    if sure:
        share, is_other, name = min(sure)
        return percent(share) + (f" by {found.title(name)}" if is_other else "")
    few = max((one.too_few for one in verdicts), default=0)
    return f"too few prompts (n = {few})" if few else "none of those tried"


def _control(found: PolicyRun, task: str, length: int, verdicts: Sequence[Verdict], axis: Axis) -> list[str]:
    """What random heads do on average, and in how many draws."""
    if not verdicts:
        return []
    least = _least(verdicts, axis)
    if least and least[0].smallest is not None:
        point = least[0].smallest
        told = (
            f"on average {percent(point.shares[axis])} of {_OF[axis]} by {found.title(least[0].curve)} "
            f"({point.setting}), {fixed(point.value, decimals_for(point.value))}"
        )
    else:
        told = "on average none"
    reach, drawn = draws_that_reach(found, task, length, [one.curve for one in verdicts])
    return [f"Random heads in place of chosen ones: {told}; {reach} of {drawn} {'draw' if drawn == 1 else 'draws'}."]


def _keepers(found: PolicyRun, task: str, length: int, axis: Axis) -> str:
    """On the bytes axis: that policies that drop nothing cannot save any."""
    names = dict.fromkeys(policy_title(curve.split("/")[0]) for curve in wasteful_curves(found, task, length, axis))
    return f" Not judged by bytes, as they drop nothing here: {', '.join(names)}." if axis == "bytes" and names else ""


def regime_text(points: Iterable[Point]) -> str:
    """Which policies act from which token on."""
    by_regime = dict[str, list[str]]()
    for point in points:
        if point.arm.policy != FULL:
            by_regime.setdefault(REGIMES[point.regime], []).append(policy_title(point.arm.policy))
    if len(by_regime) == 1:
        return f"All policies drawn act {next(iter(by_regime))}."
    parts = [f"{when}: {', '.join(dict.fromkeys(names))}" for when, names in by_regime.items()]
    return f"Act {'; '.join(parts)} (hollow marks: after the prompt)." if parts else ""


def assignment_text(found: Assignment) -> str:
    """How many heads an arm keeps whole and how they were chosen, in a sentence or two."""
    total, arm = found.full.size, found.arm
    share = percent(found.count / total)
    told = f"{found.count} of {total} key/value heads ({share}) have a full cache, {rule_text(arm)}; they are framed."
    scores = found.scores
    if scores is None:
        return told
    return f"{told} Colour: {scores.definition.title} of the strongest query head of each group."


def rule_text(arm: Arm) -> str:
    """How the heads of an arm were chosen: ``heads by retrieval score``, ``random heads, draw 2``."""
    return RULES.get(arm.rule, f"heads by {arm.rule}") + (f", draw {arm.draw + 1}" if arm.draw >= 0 else "")
