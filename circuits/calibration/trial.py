"""Does calibration help? Judged on a test set that no selection has seen, beside its controls.

The controls that the paper leaves out: as many random heads of the same layers, all heads of the range, and the
opposite calibration (sinks are fed) of the chosen heads. Every change is paired, with a bootstrap interval and
McNemar's exact p. A caller that wants to stop and resume calls the pieces: `refuse_overlap`, `select_heads`, `arms_of`,
`run_arm`, `summed_up`; `run_trial` calls them in a row.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from circuits.calibration.head_selection import select_heads
from circuits.calibration.judges import Judge
from circuits.calibration.judging import answers_under
from circuits.calibration.results import Answers, Arm, ArmResult, Selection, TrialResult
from circuits.calibration.settings import TrialSettings
from headscope.errors import TaskError
from headscope.heads import Head
from headscope.models.protocol import HookedModel
from headscope.statistics import Interval, bootstrap_groups, mcnemar_p, permutation_p
from probes.probe import OnStep, no_progress


def run_trial(
    model: HookedModel,
    selection_set: Judge,
    test_set: Judge,
    settings: TrialSettings,
    *,
    generator: np.random.Generator,
    on_step: OnStep = no_progress,
) -> TrialResult:
    """Choose heads on one set, judge them and every control on the other.

    Args:
        model: the model.
        selection_set: heads are chosen on it.
        test_set: all arms are judged on it.
        settings: of selection and controls.
        generator: draws the random heads.
        on_step: called with (done, total): selection counts for half.

    Raises:
        TaskError: if the sets share an item.
        HeadIndexError: for a head that the model does not have.
        ConfigError: if the layer range is empty.
        UnsupportedError: if the model's attention does not go through the seam.
    """
    refuse_overlap(selection_set, test_set)
    half = 1000
    chosen = select_heads(
        model, selection_set, settings.calibration, on_step=lambda done, total: on_step(half * done // total, 2 * half)
    )
    arms = arms_of(chosen, settings, generator)
    answers = list[Answers]()
    for index, arm in enumerate(arms):
        answers.append(run_arm(model, test_set, arm, settings) if arm.heads or not answers else answers[0])
        on_step(half + half * (index + 1) // len(arms), 2 * half)
    return summed_up(model, test_set, chosen, arms, answers, settings)


def refuse_overlap(selection_set: Judge, test_set: Judge) -> None:
    """Refuse a test set that selection has seen.

    Raises:
        TaskError: if the sets share an item (a prompt, or what it was made from).
    """
    shared = sorted(selection_set.identities & test_set.identities)
    if shared:
        raise TaskError(
            f"the selection set and the test set share {len(shared)} items, among them {shared[0][:60]!r}: heads would "
            "be judged on what they were chosen for. Split the items first (headscope.tasks.labelled.split)."
        )


def arms_of(selection: Selection, settings: TrialSettings, generator: np.random.Generator) -> tuple[Arm, ...]:
    """The baseline, the chosen heads and the controls; those without heads equal the baseline.

    Args:
        selection: the chosen heads.
        settings: of the controls.
        generator: draws the random heads.
    """
    beta, heads = settings.calibration.act.beta, selection.heads
    draws = partial(random_heads, heads, selection.candidates, generator)
    return (
        Arm("baseline", "baseline", (), 1.0),
        Arm("selected heads", "selected", heads, beta),
        *(Arm(f"random heads {i + 1}", "random", draws(), beta) for i in range(settings.random_draws if heads else 0)),
        Arm("all heads", "all", selection.candidates, beta),
        Arm("opposite", "opposite", heads, settings.opposite),
    )


def random_heads(heads: Sequence[Head], candidates: Sequence[Head], generator: np.random.Generator) -> tuple[Head, ...]:
    """As many random candidates of the same layers: others than ``heads``, and those only where a layer has too few."""
    drawn = list[Head]()
    for layer, count in sorted(Counter(head.layer for head in heads).items()):
        inside = [head for head in candidates if head.layer == layer]
        groups = [[head for head in inside if head not in heads], [head for head in inside if head in heads]]
        pool = [group[i] for group in groups for i in generator.permutation(len(group))]
        drawn += pool[:count]
    return tuple(drawn)


def run_arm(
    model: HookedModel, test_set: Judge, arm: Arm, settings: TrialSettings, *, on_step: OnStep = no_progress
) -> Answers:
    """Answers to the test set under one arm."""
    act = settings.calibration.act.model_copy(update={"beta": arm.beta})
    return answers_under(model, test_set, arm.heads, act, batch_size=settings.calibration.batch_size, on_step=on_step)


def compare(arm: Arm, answers: Answers, baseline: Answers, *, seed: int = 0) -> ArmResult:
    """An arm against the uncalibrated model, item by item; intervals draw whole groups of items that are alike.

    McNemar's p takes items for independent: where items are alike it is too small.

    Args:
        arm: the arm.
        answers: its answers.
        baseline: those of the uncalibrated model to the same items.
        seed: of the bootstrap.
    """
    right, before = answers.correct, baseline.correct
    gained, lost = int((right & ~before).sum()), int((before & ~right).sum())

    def interval(samples: Float[np.ndarray, " item"], what: str) -> Interval:
        generator = np.random.default_rng([seed, zlib.crc32(what.encode())])
        return bootstrap_groups(samples, baseline.groups, generator=generator)

    return ArmResult(
        arm,
        answers,
        accuracy=interval(right.astype(np.float64), "accuracy"),
        change=interval(right.astype(np.float64) - before, "change"),
        margin_change=interval(answers.margins - baseline.margins, "margin"),
        gained=gained,
        lost=lost,
        p_value=mcnemar_p(gained, lost),
    )


def summed_up(
    model: HookedModel,
    test_set: Judge,
    selection: Selection,
    arms: Sequence[Arm],
    answers: Sequence[Answers],
    settings: TrialSettings,
) -> TrialResult:
    """The result of a trial, from the answers of all its arms, the baseline's first."""
    seed = settings.calibration.seed
    results = tuple(compare(arm, found, answers[0], seed=seed) for arm, found in zip(arms, answers, strict=True))
    randoms = [result.answers.accuracy for result in results if result.arm.kind == "random"]
    (chosen,) = (result for result in results if result.arm.kind == "selected")
    p_random = permutation_p(chosen.answers.accuracy, randoms, 1) if randoms else float("nan")
    return TrialResult(model.name, test_set.name, selection, results, p_random)
