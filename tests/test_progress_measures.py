"""Progress measures: a hand-set induction pair, one that knows the classes instead, naive loops; planted jumps."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope.errors import ConfigError, UnknownNameError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.tasks.in_context_classification import InContextClassification, InContextClassificationSettings
from headscope.tasks.synthetic import SyntheticBatch
from headscope.training.settings import TrainingConfig
from headscope.training.trainer import Point, Trainer
from probes.progress_measures import (
    Associations,
    Jump,
    ProgressMeasures,
    associations,
    context_chance,
    context_label,
    context_label_probability,
    find_jump,
    jump_of,
    uniform_associations,
)

LABELS, WIDTH, PAIRS, ROOM = 8, 63, 6, 17
LENGTH, SHARP = 2 * PAIRS + 1, 200.0
CONTENT = slice(ROOM, ROOM + WIDTH)
MEASURES = ("item_label", "target_item", "target_label", "right_label", "strength")


def task(**settings: Any) -> InContextClassification:
    small = {"classes": LABELS, "labels": LABELS, "width": WIDTH, "pairs": PAIRS, "most_pairs": 8, "noise": 0.0}
    return InContextClassification(InContextClassificationSettings(**(small | settings)))


def measures(n: int = 32, **settings: Any) -> ProgressMeasures:
    return ProgressMeasures.of(task(**settings), n=n, seed=0, device=torch.device("cpu"))


def means(asked: InContextClassification) -> tuple[Tensor, Tensor]:
    """Vectors of all labels and of all classes (one for each label), read off many examples."""
    batch = asked.batch(200, torch.Generator().manual_seed(5))
    assert batch.inputs is not None
    content, label = batch.inputs[:, :, CONTENT], batch.marks["label"]
    at_label, at_item = label >= 0, torch.zeros_like(label, dtype=torch.bool)
    at_item[:, :-1] = at_label[:, 1:]
    found: list[Tensor] = []
    for places in (at_label, at_item):
        vectors = torch.zeros(LABELS, WIDTH)
        vectors[label[at_label]] = content[places]
        found.append(vectors)
    return found[0], found[1]


def empty_decoder(**settings: Any) -> Decoder:
    """Two layers of one head, whose matrices are all 0."""
    sizes = {"d_input": ROOM + WIDTH, "d_output": LABELS, "n_ctx": LENGTH, "n_layers": 2, "n_heads": 1}
    model = Decoder(DecoderConfig.parse(sizes | settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
    return model


def induction_pair() -> Decoder:
    """L0H0 brings each token the one before it, L1H0 reads labels whose item is like the asked one and copies them.

    The stream holds position and content, the content before, and the answer. A null column takes the first row of
    L0H0, which has nothing before it.
    """
    size = ROOM + 3 * WIDTH
    before, answer = slice(ROOM + WIDTH, ROOM + 2 * WIDTH), slice(ROOM + 2 * WIDTH, size)
    mixers = ({"kind": "sink", "settings": {"logit": 30.0}}, "softmax")
    model = empty_decoder(d_model=size, d_head=WIDTH, d_key=WIDTH, mixer=mixers)
    first, second = (layer for layer in model.mixing_layers)
    content = torch.eye(WIDTH)
    with torch.no_grad():
        model.W_E[:, : ROOM + WIDTH] = torch.eye(ROOM + WIDTH)
        reads: Any = first.keys_values
        first.W_Q[0, :ROOM, :ROOM] = SHARP * torch.diag(torch.ones(ROOM - 1), -1)  # row i asks for position i - 1
        reads.W_K[0, :ROOM, :ROOM] = torch.eye(ROOM)
        reads.W_V[0, CONTENT] = content
        first.W_O[0, :, before] = content
        reads = second.keys_values
        second.W_Q[0, CONTENT] = SHARP * content
        reads.W_K[0, before] = content
        reads.W_V[0, CONTENT] = content
        second.W_O[0, :, answer] = content
        model.W_U[answer] = means(task())[0].mT
    return model


def class_reader() -> Decoder:
    """Has no heads that do anything and knows the label of every class."""
    model = empty_decoder(d_model=ROOM + WIDTH, d_head=4)
    with torch.no_grad():
        model.W_E.copy_(torch.eye(ROOM + WIDTH))
        model.W_U[CONTENT] = means(task())[1].mT
    return model


def test_a_planted_induction_pair_is_found_and_answers_in_the_context() -> None:
    measured = measures()
    found = measured(induction_pair(), 0)
    right = (measured.batches["in_context"].marks["answer"].sum(1)).float()
    for view in ("share", "moved"):
        assert found[f"{view}.item_label.L0H0"] == pytest.approx(1, abs=1e-3)
        assert found[f"{view}.right_label.L1H0"] == pytest.approx(1, abs=1e-3)
        assert found[f"{view}.target_label.L1H0"] == pytest.approx(1, abs=1e-3)
        assert found[f"{view}.target_item.L1H0"] == pytest.approx(0, abs=1e-3)
        assert found[f"{view}.strength.L1H0"] == pytest.approx(float((1 / right).mean()), abs=1e-3)
        assert found[f"{view}.item_label.L1H0"] < 0.5
        assert found[f"{view}.right_label.L0H0"] < 0.5
    assert found["accuracy.in_context"] == 1
    assert found["accuracy.swapped"] == 1
    assert found["context_label"] == 1
    assert found["accuracy.in_weights"] < 0.75  # the class is in the context by chance only


def test_a_planted_class_reader_answers_in_its_weights() -> None:
    measured = measures(64)
    found = measured(class_reader(), 0)
    assert found["accuracy.in_weights"] == 1
    assert found["accuracy.swapped"] == 0  # the label it knows is the one before
    assert found["accuracy.in_context"] < 0.4
    uniform = {name: found[f"uniform.{name}"] for name in MEASURES}
    for layer in range(2):
        heads = {name: found[f"share.{name}.L{layer}H0"] for name in MEASURES}
        assert heads == pytest.approx(uniform, abs=1e-6)
        assert found[f"moved.target_label.L{layer}H0"] == 0  # it writes nothing


@pytest.mark.parametrize("burstiness", [1, 2, 3])
def test_uniform_rows_have_their_closed_form(burstiness: int) -> None:
    """Row i has ``1 / (i + 1)`` for each token: labels stand at 1, 3, 5, ..."""
    batch = task(burstiness=burstiness, classes=64).batch(20, torch.Generator().manual_seed(1))
    found = uniform_associations(batch)
    even = torch.ones(20, 1)
    item_label = sum(1 / (2 * pair + 2) for pair in range(PAIRS)) / PAIRS
    torch.testing.assert_close(found.item_label, item_label * even)
    torch.testing.assert_close(found.target_label, PAIRS / LENGTH * even)
    torch.testing.assert_close(found.right_label[:, 0], batch.marks["answer"].sum(1) / LENGTH)
    torch.testing.assert_close(found.target_item[:, 0], batch.marks["same_class"].sum(1) / LENGTH)
    only_right = batch.marks["answer"].sum(1) == PAIRS
    torch.testing.assert_close(found.strength[:, 0], only_right / LENGTH)


def naive(weights: list[list[float]], items: list[int], labels: list[int], asked: tuple[int, int]) -> list[float]:
    """The measures of one head on one text, off its classes and labels."""
    last, (kind, label) = weights[-1], asked
    right = [last[2 * n + 1] for n in range(len(labels)) if labels[n] == label]
    wrong = [last[2 * n + 1] for n in range(len(labels)) if labels[n] != label]
    return [
        sum(weights[2 * n + 1][2 * n] for n in range(len(labels))) / len(labels),
        sum(last[2 * n] for n in range(len(items)) if items[n] == kind),
        sum(right) + sum(wrong),
        sum(right),
        (sum(right) / len(right) if right else 0) - (sum(wrong) / len(wrong) if wrong else 0),
    ]


@pytest.mark.parametrize("columns", [LENGTH, LENGTH + 3], ids=["tokens", "memory-behind-tokens"])
def test_associations_are_what_a_naive_loop_finds(columns: int) -> None:
    asked = task(classes=16, labels=4, bursty=0.5)  # several classes have the same label
    batch = asked.batch(12, torch.Generator().manual_seed(2))
    assert batch.inputs is not None
    vectors = [tuple(vector.tolist()) for vector in batch.inputs[:, ::2, CONTENT].flatten(0, 1)]
    kinds = {vector: kind for kind, vector in enumerate(dict.fromkeys(vectors))}
    weights = torch.rand(12, 2, LENGTH, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = associations(weights, batch)
    for b in range(12):
        items = [kinds[vector] for vector in vectors[b * (PAIRS + 1) : (b + 1) * (PAIRS + 1)]]
        labels, answer = batch.marks["label"][b, 1::2].tolist(), int(batch.targets[b, -1])
        for h in range(2):
            wanted = naive(weights[b, h].tolist(), items[:-1], labels, (items[-1], answer))
            assert [float(getattr(found, name)[b, h]) for name in MEASURES] == pytest.approx(wanted, rel=1e-9)


def context(labels: list[int], answer: int) -> SyntheticBatch:
    """One text with these labels."""
    marked = torch.full((1, 2 * len(labels) + 1), -1)
    marked[0, 1::2] = torch.tensor(labels)
    targets = torch.full_like(marked, -100)
    targets[0, -1] = answer
    return SyntheticBatch(None, targets, {"label": marked, "answer": marked == answer})


@pytest.mark.parametrize(
    ("named", "known"), [(0, True), (2, True), (1, False), (3, False)], ids=["first", "later", "between", "last"]
)
def test_an_answer_is_a_label_of_the_context_or_not(named: int, known: bool) -> None:
    logits = torch.zeros(1, 7, 4)
    logits[0, -1, named] = 2.0
    logits[0, :-1, 3 - named] = 9.0  # of rows that are not asked
    batch = context([2, 0, 2], answer=2)
    assert context_label(logits, batch).tolist() == [float(known)]
    power = math.exp(2.0)
    wanted = (power + 1) / (power + 3) if known else 2 / (power + 3)
    assert float(context_label_probability(logits, batch)) == pytest.approx(wanted)


def test_the_chance_in_a_context_is_the_share_of_its_right_labels() -> None:
    assert context_chance(context([2, 0, 2, 5], answer=2)).tolist() == [0.5]
    assert context_chance(context([2, 0], answer=7)).tolist() == [0.0]


def test_each_test_has_a_batch_of_its_kind() -> None:
    measured = measures(200, classes=64, fresh=0.3)
    assert sorted(measured.batches) == ["in_context", "in_weights", "swapped"]
    for name, batch in measured.batches.items():
        bursty = batch.marks["same_class"].any(1)
        assert bool(bursty.all()) == (name != "in_weights")
    for one, other in pairwise(measured.batches.values()):
        assert one.inputs is not None
        assert other.inputs is not None
        assert not torch.equal(one.inputs, other.inputs)


def test_the_number_of_labels_read_changes_no_measure_of_a_head() -> None:
    measured, model = measures(), induction_pair()
    before = measured(model, 0)
    with torch.no_grad():
        model.W_U.mul_(-1)
    after = measured(model, 0)
    kept = [name for name in before if name.startswith(("share", "moved", "uniform", "context_chance"))]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["accuracy.in_context"] == 0


def test_it_goes_along_with_a_training() -> None:
    config = TrainingConfig.parse(
        {
            "task": {"kind": "in-context-classification", "settings": task().settings.model_dump()},
            "decoder": {"n_layers": 2, "n_heads": 1, "d_model": 8},
            "steps": 2,
            "evaluate_every": 1,
            "batch": 4,
            "evaluated": 4,
        }
    )
    trainer = Trainer(config)
    assert isinstance(trainer.task, InContextClassification)
    measured = ProgressMeasures.of(trainer.task, n=4, seed=1, device=torch.device("cpu"))
    training = trainer.run(probe=measured)
    assert [point.step for point in training.curve] == [0, 1, 2]
    for point in training.curve:
        numbers = point.probes
        assert {"accuracy.in_context", "context_label", "moved.strength.L1H0"} <= numbers.keys()
        assert all(math.isfinite(value) for value in numbers.values())
    assert jump_of(training.curve, "uniform.target_label") is None


# jumps


STEPS = list(range(0, 2001, 10))


def logistic(middle: float, rate: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    return [low + (high - low) / (1 + math.exp(-rate * (step - middle))) for step in STEPS]


def jump(steps: list[int], values: list[float], smooth: int = 1) -> Jump:
    found = find_jump(steps, values, smooth=smooth)
    assert found is not None
    return found


@pytest.mark.parametrize("middle", [700, 1000, 1234])
@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_a_logistic_curve_jumps_at_its_middle(middle: float, rate: float) -> None:
    found = jump(STEPS, logistic(middle, rate, low=0.2, high=0.8))
    assert found.half == pytest.approx(middle, abs=0.5)
    assert found.steepest == pytest.approx(middle, abs=5)
    assert found.rate == pytest.approx(0.6 * rate / 4, rel=0.03)
    assert found.width == pytest.approx(2 * math.log(9) / rate, rel=0.03)
    assert (found.low, found.high) == pytest.approx((0.2, 0.8), abs=1e-5)


def test_a_step_lies_between_its_two_evaluations() -> None:
    found = jump([0, 100, 200, 300], [0.5, 0.5, 1.0, 1.0])
    wanted = Jump(low=0.5, high=1.0, start=110.0, half=150.0, end=190.0, steepest=150.0, rate=0.005)
    assert asdict(found) == pytest.approx(asdict(wanted))


def test_a_straight_line_has_its_half_in_the_middle() -> None:
    found = jump([0, 10, 40, 100], [0.0, 1.0, 4.0, 10.0])
    assert (found.start, found.half, found.end) == pytest.approx((10, 50, 90))
    assert found.rate == pytest.approx(0.1)


def test_slopes_are_per_step_where_evaluations_are_uneven() -> None:
    found = jump([0, 1, 100], [0.0, 0.3, 1.0])
    assert (found.steepest, found.rate) == pytest.approx((0.5, 0.3))


def test_what_falls_before_and_after_does_not_matter() -> None:
    """As in-context accuracy does that is learned abruptly and then lost."""
    rise = logistic(500, 0.05)
    after = [*rise[:101], *(1 - 0.9 * k / 100 for k in range(100))]
    found = jump(STEPS, [3.0, *after[1:]])
    assert found.half == pytest.approx(500, abs=0.5)
    assert found.high == pytest.approx(1, abs=1e-6)


def test_of_two_rises_the_greater_is_found() -> None:
    small, large = logistic(400, 0.05, high=0.3), logistic(1500, 0.05, high=0.6)
    dip = [a * (step < 1000) for step, a in zip(STEPS, small, strict=True)]
    found = jump(STEPS, [a + b for a, b in zip(dip, large, strict=True)])
    assert found.half == pytest.approx(1500, abs=0.5)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0], [3.0, 2.0, 2.0, 1.0], [math.nan] * 3], ids=str)
def test_nothing_that_rises_is_no_jump(values: list[float]) -> None:
    assert find_jump(range(len(values)), values) is None


def test_points_that_are_no_number_are_left_out() -> None:
    values = [0.5, math.nan, 0.5, 1.0, math.inf, 1.0, -math.inf]
    kept = [k for k, value in enumerate(values) if math.isfinite(value)]
    assert jump(list(range(7)), values) == jump(kept, [values[k] for k in kept])


def test_moving_and_stretching_a_curve_moves_and_stretches_its_jump() -> None:
    values = np.random.default_rng(0).normal(size=40).cumsum().tolist()
    steps = np.random.default_rng(1).integers(1, 9, 40).cumsum().tolist()
    one = jump(steps, values)
    other = jump([3 * step + 7 for step in steps], [2 * value - 5 for value in values])
    for name in ("start", "half", "end", "steepest"):
        assert getattr(other, name) == pytest.approx(3 * getattr(one, name) + 7)
    assert (other.low, other.high) == pytest.approx((2 * one.low - 5, 2 * one.high - 5))
    assert other.rate == pytest.approx(one.rate * 2 / 3)


def test_a_hump_that_comes_to_nothing_is_no_part_of_the_rise() -> None:
    assert jump([0, 1, 2, 3], [0.0, 0.6, 0.0, 1.0]).half == pytest.approx(2.5)
    found = jump([0, 1, 2, 3], [0.0, 0.3, 0.05, 1.0])  # comes to a tenth twice
    assert (found.low, found.start) == pytest.approx((0.0, 2 + 0.05 / 0.95))


@pytest.mark.parametrize("seed", range(6))
def test_the_rise_is_the_greatest_of_all_pairs(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 30, 25).astype(float).tolist()
    found = jump(list(range(25)), values)
    greatest = max(values[b] - values[a] for a in range(25) for b in range(a + 1, 25))
    assert found.high - found.low == greatest
    level = {name: float(np.interp(getattr(found, name), range(25), values)) for name in ("start", "half", "end")}
    shares = {"start": 0.1, "half": 0.5, "end": 0.9}
    assert level == pytest.approx({name: found.low + share * greatest for name, share in shares.items()})
    assert found.start <= found.half <= found.end


def test_noise_does_not_move_a_jump_that_is_smoothed() -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=len(STEPS))
    values = [a + float(b) for a, b in zip(logistic(1000, 0.05), noise, strict=True)]
    found = jump(STEPS, values, smooth=9)
    assert found.half == pytest.approx(1000, abs=30)
    assert found.steepest == pytest.approx(1000, abs=60)


def test_smoothing_is_the_mean_of_neighbours() -> None:
    assert jump([0, 1, 2, 3], [0.0, 0.0, 3.0, 5.0], smooth=3) == jump([0, 1, 2, 3], [0.0, 1.0, 8 / 3, 5.0])
    line = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert jump(list(range(5)), line, smooth=5) == jump(list(range(5)), line)


@pytest.mark.parametrize(
    ("steps", "values", "smooth"),
    [([0, 1], [0.0], 1), ([0, 0], [0.0, 1.0], 1), ([1, 0], [0.0, 1.0], 1), ([0, 1], [0.0, 1.0], 2), ([0], [0.0], 0)],
    ids=["lengths", "twice", "back", "even", "none"],
)
def test_a_curve_that_is_none_is_refused(steps: list[int], values: list[float], smooth: int) -> None:
    with pytest.raises(ConfigError):
        find_jump(steps, values, smooth=smooth)


def test_a_jump_of_a_training_is_read_off_its_points() -> None:
    def point(step: int, **probes: float) -> Point:
        return Point(step, 1.0, 0.0, 1.0, probes)

    curve = [point(0, a=0.0), point(10, b=1.0), point(20, a=0.0), point(30, a=1.0)]
    assert jump_of(curve, "a") == find_jump([0, 20, 30], [0.0, 0.0, 1.0])
    assert jump_of(curve, "b") is None
    with pytest.raises(UnknownNameError, match="c"):
        jump_of(curve, "c")
    with pytest.raises(UnknownNameError):
        jump_of([], "a")


def test_every_measure_is_a_field() -> None:
    assert tuple(Associations.__dataclass_fields__) == MEASURES
