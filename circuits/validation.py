"""No score without a cause: ablate a head class, and equally many random heads of the same layers."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuits.experiments import Experiment, needle_accuracy, repeated_loss, text_loss
from circuits.interventions import Ablation, ablate
from headscope.checks import AblationPoint, CausalCheck
from headscope.errors import ConfigError, UnknownNameError
from headscope.heads import Head, HeadScores
from headscope.models.protocol import HookedModel
from headscope.statistics import bootstrap_scalar, permutation_p
from probes.probe import Bench, OnStep, no_progress

_NEEDLES, _NEEDLE_LENGTH = 12, 512
_SEQUENCES, _PASSAGES, _PASSAGE_LENGTH = 8, 8, 48
_TRIES_PER_DRAW = 20

EXPERIMENTS: dict[str, Callable[[Bench], Experiment]] = {
    "retrieval": lambda bench: needle_accuracy(bench, n=_NEEDLES, length=_needle_length(bench)),
    "induction": lambda bench: repeated_loss(bench, n=_SEQUENCES),
    "duplicate-token": lambda bench: repeated_loss(bench, n=_SEQUENCES),
    "copying": lambda bench: repeated_loss(bench, n=_SEQUENCES),
    "sink": lambda bench: text_loss(bench, n=_PASSAGES, length=_PASSAGE_LENGTH),
    "previous-token": lambda bench: text_loss(bench, n=_PASSAGES, length=_PASSAGE_LENGTH),
    "local": lambda bench: text_loss(bench, n=_PASSAGES, length=_PASSAGE_LENGTH),
}


def _needle_length(bench: Bench) -> int:
    """The longest asked-for needle length up to 512, else the shortest."""
    short = [length for length in bench.lengths if length <= _NEEDLE_LENGTH]
    return max(short) if short else min(bench.lengths)


def random_like(
    heads: Sequence[Head],
    *,
    members: Sequence[Head],
    n_layers: int,
    n_heads: int,
    generator: np.random.Generator,
) -> list[Head]:
    """As many random heads of the same layers: none of ``heads``, other members of the class only if a layer has no
    others left, heads of the nearest layers only if the layer has none at all.
    """
    taken, drawn = set(heads), list[Head]()
    for layer, count in sorted(Counter(head.layer for head in heads).items()):
        near = sorted(range(n_layers), key=lambda other: (abs(other - layer), other))
        pool: list[Head] = []
        for other in near:
            free = [Head(other, h) for h in range(n_heads) if Head(other, h) not in taken]
            strangers = [head for head in free if head not in set(members)]
            for group in (strangers, [head for head in free if head in set(members)]):
                pool += [group[i] for i in generator.permutation(len(group))]
            if len(pool) >= count:
                break
        chosen = pool[:count]
        taken.update(chosen)
        drawn += chosen
    return drawn


def steps_of(ks: Sequence[int], n_members: int) -> list[int]:
    """The k that make sense for a class: those up to its size, and its whole size if that is below the largest."""
    inside = sorted({k for k in ks if 1 <= k <= n_members})
    whole = min(n_members, max(ks))
    return sorted({*inside, whole}) if n_members else []


def validate(
    bench: Bench,
    scores: HeadScores,
    *,
    ks: Sequence[int] = (1, 5, 20),
    draws: int = 20,
    ablation: Ablation | str = Ablation.ZERO,
    experiment: Experiment | None = None,
    on_step: OnStep = no_progress,
) -> CausalCheck:
    """Ablate the top k heads of the score's class for each k, and ``draws`` random sets of k heads per k.

    The p value is one-sided: how often a random set harms at least as much, (1 + count) / (1 + sets). The sets differ
    from each other, so a single head is compared with each other head of its layer once, and its p value cannot fall
    below 1 / (1 + those). Random sets leave out the class, which makes the contrast clear and the test lenient: a class
    no better than chance reached p <= 0.05 in 6 to 10 % of simulated checks of 30 x 9 and 12 x 12 heads, and in up to
    16 % with 3 x 8 heads (tests/test_validation.py).

    Args:
        bench: the model and how it is measured.
        scores: a score whose definition names a class and a threshold.
        ks: numbers of heads; those beyond the class, or half of the model, are replaced by that number.
        draws: random sets per k, at least 1; below 20 the p value cannot reach 0.05.
        ablation: zero, uniform or to_bos (those that need no reference batch).
        experiment: what to measure; by default the one of the class.
        on_step: called with (done, total) evaluations.

    Raises:
        UnknownNameError: if the class has no experiment.
        UnsupportedError: if the model's heads cannot be ablated.
        ConfigError: if ``draws`` is below 1.
    """
    if draws < 1:
        raise ConfigError(f"a check needs at least 1 random draw, not {draws}.")
    head_class, members = scores.definition.head_class or "", scores.members()
    experiment = experiment or _experiment_of(head_class, bench)
    generator = np.random.default_rng([bench.config.seed, zlib.crc32(head_class.encode())])
    runner = _Runner(bench.model, experiment, Ablation(ablation), bench.config.seed)
    room = bench.model.shape.n_layers * bench.model.shape.n_heads // 2  # as many must be left to draw from
    sets = _head_sets(members, steps_of(ks, min(len(members), room)), draws, bench.model, generator)
    baseline = experiment.prepare(bench.model, {min(heads).layer for pair in sets for heads in pair})
    points = _points(runner, sets, baseline, on_step)
    value, low, high = bootstrap_scalar(baseline, generator=np.random.default_rng(bench.config.seed))
    return CausalCheck(
        head_class=head_class,
        score=scores.name,
        metric=experiment.metric,
        unit=experiment.unit,
        harm=experiment.harm,
        ablation=Ablation(ablation).value,
        rows=experiment.rows,
        baseline=value,
        baseline_low=low,
        baseline_high=high,
        n=len(baseline),
        n_draws=draws,
        seed=bench.config.seed,
        points=tuple(points),
        note=experiment.note if members else f"no head reaches the threshold {scores.definition.threshold}",
    )


def _experiment_of(head_class: str, bench: Bench) -> Experiment:
    if head_class not in EXPERIMENTS:
        raise UnknownNameError.of("head class with a causal check", head_class, EXPERIMENTS)
    return EXPERIMENTS[head_class](bench)


def _points(
    runner: _Runner, sets: list[list[list[Head]]], baseline: Float[np.ndarray, " example"], on_step: OnStep
) -> list[AblationPoint]:
    """Evaluate every set; a point per k."""
    points, done, total = list[AblationPoint](), 0, sum(len(pair) for pair in sets)
    for top, *randoms in sets:
        values, means = runner.run(top), list[float]()
        for heads in randoms:
            means.append(float(runner.run(heads).mean()))
            on_step(done + len(means) + 1, total)
        done += len(randoms) + 1
        points.append(runner.point(top, values, baseline, means))
    return points


def _head_sets(
    members: list[Head], steps: list[int], draws: int, model: HookedModel, generator: np.random.Generator
) -> list[list[list[Head]]]:
    """For each k: the top k, then random sets, each different; all there are where they are fewer than ``draws``."""
    shape, sets = model.shape, list[list[list[Head]]]()
    for k in steps:
        found: dict[frozenset[Head], list[Head]] = {}
        for _ in range(_TRIES_PER_DRAW * draws):
            drawn = random_like(
                members[:k], members=members, n_layers=shape.n_layers, n_heads=shape.n_heads, generator=generator
            )
            found.setdefault(frozenset(drawn), drawn)
            if len(found) == draws:
                break
        sets.append([members[:k], *found.values()])
    return sets


@dataclass(frozen=True)
class _Runner:
    """Evaluates head sets on one experiment."""

    _model: HookedModel
    _experiment: Experiment
    _ablation: Ablation
    _seed: int

    def run(self, heads: Sequence[Head]) -> Float[np.ndarray, " example"]:
        experiment = self._experiment
        with ablate(self._model, heads, self._ablation, rows=experiment.rows, decode_from=experiment.decode_from):
            return experiment.values(min(heads).layer)

    def point(
        self,
        top: Sequence[Head],
        values: Float[np.ndarray, " example"],
        baseline: Float[np.ndarray, " example"],
        randoms: list[float],
    ) -> AblationPoint:
        """The point of one k; its interval is paired: that of the change of each example, added to the baseline."""
        change = bootstrap_scalar(values - baseline, generator=np.random.default_rng(self._seed))
        untouched = float(baseline.mean())
        spread = np.percentile(randoms, [2.5, 97.5])
        return AblationPoint(
            k=len(top),
            heads=tuple(str(head) for head in top),
            value=untouched + change.mean,
            low=untouched + change.low,
            high=untouched + change.high,
            random_values=tuple(randoms),
            random_mean=float(np.mean(randoms)),
            random_low=float(spread[0]),
            random_high=float(spread[1]),
            p_value=permutation_p(float(values.mean()), randoms, self._experiment.harm),
        )
