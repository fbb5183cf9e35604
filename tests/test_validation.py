"""The causal check: what it measures, which heads it draws at random, and how often its p value alarms for nothing."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import ablate, validate, validation
from circuits.experiments import Experiment, needle_accuracy, repeated_loss, text_loss
from circuits.validation import random_like, steps_of
from headscope.checks import AblationPoint, CausalCheck
from headscope.errors import UnknownNameError, UnsupportedError
from headscope.heads import Head, HeadScores, ScoreDefinition
from headscope.models.bridged import BridgedModel
from headscope.models.planted import build_planted
from headscope.tasks import build_repeated
from probes.probe import Bench, ProbeConfig

Tiny = Callable[[str], BridgedModel]
Planted = Callable[..., BridgedModel]
CONFIG = ProbeConfig(seed=0, lengths=(128,))


def floor(point: AblationPoint) -> float:
    """The smallest p value that a point's random sets can give."""
    return 1 / (1 + len(point.random_values))


def scores_of(members: Collection[Head], head_class: str, shape: tuple[int, int] = (3, 8)) -> HeadScores:
    """A score that is high for the members, the first the highest, and zero for all others."""
    values = np.zeros(shape)
    for rank, head in enumerate(members):
        values[head] = 1 - rank / 1000
    definition = ScoreDefinition(
        head_class,
        head_class,
        "share",
        "1 for members",
        "by hand",
        "0 to 1",
        "none",
        threshold=0.5,
        head_class=head_class,
    )
    return HeadScores(definition, "a model", values, values, values, np.ones(shape, dtype=np.int64), shape[1])


def truth(head_class: str, seed: int = 0) -> list[Head]:
    """The heads of a class of the planted model."""
    return sorted(build_planted("all", seed).truth[head_class])


def labels(check: CausalCheck) -> list[list[str]]:
    """The ablated heads of each point."""
    return [list(point.heads) for point in check.points]


any_layer_sizes = st.tuples(st.integers(1, 6), st.integers(1, 8))


@given(shape=any_layer_sizes, seed=st.integers(0, 99), data=st.data())
def test_random_heads_match_the_layers_and_leave_out_the_ablated_ones(
    shape: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    everything = [Head(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    members = data.draw(st.permutations(everything))[: data.draw(st.integers(0, len(everything)))]
    heads = members[: data.draw(st.integers(0, min(len(members), len(everything) // 2)))]
    drawn = random_like(
        heads, members=members, n_layers=shape[0], n_heads=shape[1], generator=np.random.default_rng(seed)
    )
    assert len(set(drawn)) == len(drawn) == len(heads)
    assert not set(drawn) & set(heads)
    assert set(drawn) <= set(everything)
    wanted, found = (Counter(head.layer for head in part) for part in (heads, drawn))
    outsiders = Counter(head.layer for head in everything if head not in members)
    free = Counter(head.layer for head in everything if head not in heads)
    if all(free[layer] >= count for layer, count in wanted.items()):
        assert found == wanted  # no layer needs to borrow
    if all(outsiders[layer] >= count for layer, count in wanted.items()):
        assert not set(drawn) & set(members)


def test_random_heads_come_from_the_seed_alone() -> None:
    heads = [Head(1, 0), Head(1, 2), Head(4, 3)]
    draw = functools.partial(random_like, heads, members=heads, n_layers=6, n_heads=9)
    first = [draw(generator=np.random.default_rng(seed)) for seed in range(20)]
    assert first == [draw(generator=np.random.default_rng(seed)) for seed in range(20)]
    assert len({tuple(sorted(drawn)) for drawn in first}) > 15


def test_every_other_head_of_the_layer_is_equally_likely() -> None:
    generator, members = np.random.default_rng(0), [Head(2, 0), Head(2, 5)]
    drawn = [
        random_like(members[:1], members=members, n_layers=4, n_heads=9, generator=generator)[0] for _ in range(1400)
    ]
    counts = Counter(drawn)
    assert set(counts) == {Head(2, head) for head in range(9) if head not in (0, 5)}
    # binomial(1400, 1/7): mean 200, deviation 13; 5 deviations alarm for nothing in 1 of 250,000 runs
    assert max(abs(count - 200) for count in counts.values()) < 65


def test_a_full_layer_lends_from_its_members_first_and_then_from_the_nearest_layer() -> None:
    generator = np.random.default_rng(0)
    layer = [Head(1, head) for head in range(4)]
    with_members = random_like(layer[:2], members=layer, n_layers=5, n_heads=4, generator=generator)
    assert set(with_members) == set(layer[2:])
    borrowed = random_like(layer, members=layer, n_layers=5, n_heads=4, generator=generator)
    assert {head.layer for head in borrowed} == {0}


@given(ks=st.lists(st.integers(1, 50), min_size=1, max_size=5), size=st.integers(0, 60))
def test_steps_never_exceed_the_class_and_end_with_all_of_it(ks: list[int], size: int) -> None:
    steps = steps_of(ks, size)
    assert steps == sorted(set(steps))
    assert all(1 <= step <= size for step in steps)
    assert set(ks) & set(range(size + 1)) <= set(steps) <= {*ks, size}
    assert bool(steps) == bool(size)
    if steps:
        assert steps[-1] == min(size, max(ks))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(0, []), (1, [1]), (3, [1, 3]), (5, [1, 5]), (7, [1, 5, 7]), (20, [1, 5, 20]), (99, [1, 5, 20])],
)
def test_steps_of_the_default_sizes(size: int, wanted: list[int]) -> None:
    assert steps_of((1, 5, 20), size) == wanted


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("head_class", ["induction", "retrieval"])
def test_the_planted_classes_harm_more_than_any_random_draw(planted: Planted, head_class: str, seed: int) -> None:
    model, members = planted("all", seed), truth(head_class, seed)
    check = validate(Bench(model, CONFIG), scores_of(members, head_class))
    assert labels(check) == [[str(head) for head in members]]
    (point,) = check.points
    assert point.p_value == floor(point)
    assert 2 <= len(point.random_values) <= 7 < check.n_draws  # each other head of its layer once, no member
    if head_class == "retrieval":
        assert check.baseline == 1.0
        assert point.value < 0.2
        assert point.random_mean > 0.8
    else:
        assert point.value > check.baseline + 2
        assert point.random_mean < check.baseline + 1


@pytest.mark.parametrize("head_class", validation.EXPERIMENTS)
def test_every_class_has_a_check_that_runs_and_states_what_it_is(planted: Planted, head_class: str) -> None:
    members = truth(head_class)
    check = validate(Bench(planted("all"), CONFIG), scores_of(members, head_class), draws=3)
    assert check.head_class == check.score == head_class
    assert (check.n_draws, check.seed, check.ablation) == (3, 0, "zero")
    assert check.harm == (-1 if head_class == "retrieval" else 1)
    assert check.rows == ("decode" if head_class == "retrieval" else "all")
    assert check.baseline_low <= check.baseline <= check.baseline_high
    assert [point.k for point in check.points] == steps_of((1, 5, 20), len(members))
    for point in check.points:
        assert point.low <= point.value <= point.high
        assert point.random_low <= point.random_mean <= point.random_high
        assert min(point.random_values) <= point.random_low
        assert point.p_value in {count / 4 for count in (1, 2, 3, 4)}


def by_hand(model: BridgedModel, experiment: Experiment, heads: Iterable[Head]) -> float:
    """The metric on whole forward passes, a token at a time."""
    examples: list[float] = []
    for batch in experiment.batches:
        with ablate(model, heads, rows=experiment.rows, decode_from=experiment.decode_from):
            chances = model.logits(batch.tokens).double().log_softmax(-1)
        for row, tokens in enumerate(batch.tokens):
            where = [i for i in range(len(tokens) - 1) if batch.counted[row, i]]
            logs = [chances[row, i] for i in where]
            right = [int(log.argmax()) == int(tokens[i + 1]) for i, log in zip(where, logs, strict=True)]
            loss = [-float(log[tokens[i + 1]]) for i, log in zip(where, logs, strict=True)]
            examples.append(float(np.mean(right if experiment.measure == "accuracy" else loss)))
    return float(np.mean(examples))


@pytest.mark.parametrize("kind", ["needle", "repeated", "text"])
def test_the_metric_equals_the_one_computed_by_hand_on_whole_forward_passes(planted: Planted, kind: str) -> None:
    model, bench = planted("all"), Bench(planted("all"), CONFIG)
    experiment = {
        "needle": lambda: needle_accuracy(bench, n=5, length=100),
        "repeated": lambda: repeated_loss(bench, n=5),
        "text": lambda: text_loss(bench, n=5, length=30),
    }[kind]()
    baseline = experiment.prepare(model, [0, 1, 2])
    assert len(baseline) == 5
    assert baseline.mean() == pytest.approx(by_hand(model, experiment, []), abs=1e-4)
    for heads in ([Head(0, 3)], [Head(1, 1), Head(2, 2)], truth("retrieval"), truth("induction")):
        with ablate(model, heads, rows=experiment.rows, decode_from=experiment.decode_from):
            value = experiment.values(min(heads).layer).mean()
        assert value == pytest.approx(by_hand(model, experiment, heads), abs=1e-4)


def test_what_counts_is_the_answer_and_the_second_copy_without_its_first_token(planted: Planted) -> None:
    bench = Bench(planted("all"), CONFIG)
    for batch in needle_accuracy(bench, n=6, length=100).batches:
        assert batch.from_row == 99  # the last prompt token, which produces the first answer token
        assert not batch.counted[:, :99].any()
        assert batch.counted[:, 99].all()
        assert not batch.counted[:, -1].any()
    for batch in repeated_loss(bench, n=6).batches:
        start = batch.tokens.shape[1] - 2 * CONFIG.period
        counted = batch.counted[0].nonzero().flatten().tolist()
        assert counted == list(range(start + CONFIG.period, batch.tokens.shape[1] - 1))
        predicted = batch.tokens[:, [row + 1 for row in counted]]
        assert torch.equal(predicted, batch.tokens[:, start + 1 : start + CONFIG.period])


def test_the_check_uses_other_examples_than_the_scores(planted: Planted) -> None:
    bench = Bench(planted("all"), CONFIG)
    checked = torch.cat([batch.tokens for batch in repeated_loss(bench, n=6).batches])
    drawn = build_repeated(
        bench.model, n=6, period=CONFIG.period, copies=2, generator=bench.generator("repeated tokens")
    )
    scored = drawn.tokens
    assert not (checked[:, None] == scored[None]).all(-1).any()


def test_a_check_is_the_same_when_it_is_repeated(planted: Planted) -> None:
    scores = scores_of(truth("induction"), "induction")
    first, second = (validate(Bench(planted("all"), CONFIG), scores, draws=4) for _ in range(2))
    assert first == second
    other = validate(Bench(planted("all"), ProbeConfig(seed=1, lengths=(128,))), scores, draws=4)
    assert other.points[0].random_values != first.points[0].random_values


def test_progress_counts_every_evaluation_to_the_end(planted: Planted) -> None:
    steps: list[tuple[int, int]] = []
    members = [*truth("induction"), *truth("sink")]
    validate(
        Bench(planted("all"), CONFIG),
        scores_of(members, "sink"),
        draws=3,
        ks=(1, 2),
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(2, 8), (3, 8), (4, 8), (6, 8), (7, 8), (8, 8)]


def test_a_class_without_members_has_a_baseline_and_no_points(planted: Planted) -> None:
    check = validate(Bench(planted("all"), CONFIG), scores_of([], "sink"))
    assert check.points == ()
    assert check.baseline > 0
    assert check.note == "no head reaches the threshold 0.5"


def test_a_class_without_an_experiment_is_refused(planted: Planted) -> None:
    with pytest.raises(
        UnknownNameError, match=r"no head class with a causal check is called 'sinks'\. Did you mean 'sink'"
    ):
        validate(Bench(planted("all"), CONFIG), scores_of([], "sinks"))


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_an_ablation_that_needs_a_reference_is_refused(planted: Planted, how: str) -> None:
    with pytest.raises(UnsupportedError, match="reference batch"):
        validate(Bench(planted("all"), CONFIG), scores_of(truth("sink"), "sink"), ablation=how)


@dataclass
class Additive(Experiment):
    """Every head has an effect of its own, effects add up, and no model is run: the null hypothesis made flesh."""

    effects: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))
    ablated: list[Head] = field(default_factory=list)

    def prepare(self, *_: Any) -> np.ndarray:
        """Nothing ablated, no harm done."""
        return np.zeros(2)

    def values(self, first_layer: int) -> np.ndarray:
        """The sum of the effects of the ablated heads."""
        assert first_layer == min(self.ablated).layer
        return np.full(2, sum(self.effects[head] for head in self.ablated))


def test_a_model_whose_heads_cannot_be_ablated_is_refused(tiny: Tiny) -> None:
    bench, experiment = Bench(tiny("gpt_neo, no registry")), Additive("harm", "one", 1, "all", "", "loss", [])
    with pytest.raises(UnsupportedError, match="cannot be ablated"):
        validate(bench, scores_of([Head(0, 0)], "sink", (2, 4)), experiment=experiment)


@pytest.fixture
def additive(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CausalCheck]:
    """A function that validates given members of a model of any shape, whose heads have given effects."""

    def check(effects: np.ndarray, members: list[Head], seed: int, **options: Any) -> CausalCheck:
        model = copy.copy(planted("all"))
        model.shape = replace(model.shape, n_layers=effects.shape[0], n_heads=effects.shape[1], n_kv_heads=1)
        experiment = Additive("harm", "one", 1, "all", "", "loss", [], effects=effects)

        @contextmanager
        def pretend(_: BridgedModel, heads: list[Head], *__: Any, **___: Any) -> Iterator[None]:
            experiment.ablated = list(heads)
            yield

        monkeypatch.setattr(validation, "ablate", pretend)
        bench = Bench(model, ProbeConfig(seed=seed))
        return validate(bench, scores_of(members, "sink", effects.shape), experiment=experiment, **options)

    return check


def test_the_strongest_heads_are_ablated_and_compared_with_as_many_others(
    additive: Callable[..., CausalCheck],
) -> None:
    effects = np.zeros((6, 9))
    members = [Head(5, 1), Head(0, 0), Head(2, 8), Head(2, 3), Head(1, 1), Head(5, 5), Head(4, 4)]
    for rank, head in enumerate(members):
        effects[head] = 10.0 ** (6 - rank)
    check = additive(effects, members, 0)
    assert labels(check) == [[str(head) for head in members[:k]] for k in (1, 5, 7)]
    assert [point.value for point in check.points] == pytest.approx([1e6, 1111100, 1111111])
    assert [point.p_value for point in check.points] == [floor(point) for point in check.points]
    assert [len(point.random_values) for point in check.points] == [
        7,
        20,
        20,
    ]  # its layer has seven heads outside the class
    assert all(value == 0 for point in check.points for value in point.random_values)  # no member was drawn


@pytest.mark.parametrize("n_members", [13, 20, 24])
def test_no_more_heads_are_ablated_than_are_left_to_draw(additive: Callable[..., CausalCheck], n_members: int) -> None:
    members = [Head(layer, head) for head in range(8) for layer in range(3)][:n_members]
    check = additive(np.ones((3, 8)), members, 0)
    assert [point.k for point in check.points] == [1, 5, 12]
    for point in check.points:  # where every head does the same, as many heads do the same
        assert point.random_values == (point.k,) * len(point.random_values)
        assert point.p_value == 1


def p_values(additive: Callable[..., CausalCheck], shape: tuple[int, int], n_members: int, runs: int) -> np.ndarray:
    """p values [run, k] of classes drawn at random among heads with random effects: the null hypothesis."""
    generator, found = np.random.default_rng(0), list[list[float]]()
    for seed in range(runs):
        order = generator.permutation(shape[0] * shape[1])[:n_members]
        members = [Head(int(i) // shape[1], int(i) % shape[1]) for i in order]
        check = additive(generator.normal(size=shape), members, seed, ks=(1, 5))
        found.append([point.p_value for point in check.points])
    return np.array(found)


@pytest.mark.parametrize(
    ("shape", "n_members"), [((30, 9), 20), ((12, 12), 10)], ids=["30 layers of 9", "12 layers of 12"]
)
def test_under_the_null_hypothesis_p_values_are_nearly_uniform(
    additive: Callable[..., CausalCheck], shape: tuple[int, int], n_members: int
) -> None:
    """k = 1 is exact; a larger class no better than chance reaches p <= 0.05 in about one of ten checks.

    That is twice what the figure says, and known: the random sets leave out the class. Measured on 600 runs at
    k = 5: 0.063 for 30 x 9 heads with normal effects, 0.098 with heavy tails, 0.077 and 0.1 for 12 x 12; at most 0.16
    for 3 x 8. A single head is compared with each of its layer's others once, so it never gets there: 0.
    The bound is five standard deviations of 200 runs above 0.1, so it alarms for nothing in fewer than 1 of 10,000
    runs of other seeds.
    """
    found = p_values(additive, shape, n_members, 200)
    assert found.min() >= 1 / 21
    assert found.max() <= 1
    assert (abs(found.mean(0) - 0.54) < 0.11).all()  # uniform over its steps: mean 0.52 to 0.56, deviation 0.021
    assert ((found <= 0.05).mean(0) <= (0, 0.21)).all()
    assert (abs((found <= 0.5).mean(0) - 0.48) < 0.18).all()
