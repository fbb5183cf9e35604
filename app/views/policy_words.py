"""What a policies run found, in sentences: for its page, its report and those who do not see the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.views.numbers import fixed, percent
from app.views.policies import PolicyRun, Verdict
from app.views.policy_heads import Assignment
from app.views.policy_points import FULL, MEASURES, REGIMES, RULES, Point, policy_title
from app.views.policy_tables import bar_text
from circuits.policies.results import Arm


def verdict(found: PolicyRun, task: str, length: int) -> str:
    """Which policy gets by with the smallest cache, beside random heads; empty where nothing can be said.

    It begins with the task: ``On needle, 512 tokens, the full cache's accuracy is 0.900 (n = 20).``
    """
    full, verdicts = found.full(task, length), found.verdicts(task, length)
    if full is None:
        return ""
    told = (
        f"On {task}, {length:,} tokens, the full cache's {MEASURES[found.measure(task)]} is {fixed(full.value)} "
        f"(n = {full.n})"
    )
    if not full.value > 0:
        return (
            f"{told}. The full cache gets nothing right, so there is nothing to keep: a shorter or easier task may do."
        )
    chosen = [one for one in verdicts if not found.is_random(one.curve)]
    random = [one for one in verdicts if found.is_random(one.curve)]
    return f"{told}. The smallest cache {bar_text(found, task)}: {_best(found, chosen)}.{_control(found, random)}"


def _best(found: PolicyRun, verdicts: Sequence[Verdict]) -> str:
    reached = [(one, one.smallest) for one in verdicts if one.smallest is not None]
    if not reached:
        return "none of those tried"
    curve, point = min(((one.curve, point) for one, point in reached), key=lambda pair: pair[1].shares["bytes"])
    return (
        f"{percent(point.shares['bytes'])} of its bytes by {found.title(curve)} ({point.setting}), {fixed(point.value)}"
    )


def _control(found: PolicyRun, verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    return f" Random heads in place of chosen ones: {_best(found, verdicts)}."


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
