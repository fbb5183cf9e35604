"""Descriptions of small models: the planted heads are found and no others, and answers are judged as the task does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from circuits.comparison import Compared, accuracy_at, describe_model, draws_of, example_generator
from circuits.comparison_results import ModelReport
from circuits.head_claims import claimed_cells
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.tasks.synthetic import SyntheticBatch
from headscope.tasks.synthetic_catalog import make_task
from tests.planted_decoder import induction_decoder

LENGTH = 24
TASK = make_task("mqar", d_vocab=30, length=LENGTH, pairs=3)


@pytest.fixture(scope="module")
def planted() -> ModelReport:
    model = induction_decoder(d_vocab=30, n_ctx=LENGTH)
    return describe_model(Compared("planted", "softmax", 0, model), TASK, n=16, draws=19, lengths=(20, 26, 3, 25, 40))


def test_the_planted_heads_are_found_and_nothing_else(planted: ModelReport) -> None:
    first, second = planted.heads
    assert (claimed_cells(first), claimed_cells(second)) == (("offset 1", "carry 1"), ("match +1",))
    assert first.offsets["moved"][1] > 0.99
    assert second.matches["moved"][2] > 0.99  # one after the match
    assert [first.row_mass, second.negative, first.null_mass] == [pytest.approx(1.0), 0.0, None]
    assert planted.accuracy == (1.0, 1.0, 1.0)
    assert planted.state_size == LENGTH * 2 * (30 + 30)


def test_each_planted_head_is_needed_and_no_other_cell_is(planted: ModelReport) -> None:
    assert [(claim.head, claim.cells) for claim in planted.claims] == [
        ("L0H0", "offset 1"),
        ("L0H0", "carry 1"),
        ("L1H0", "match +1"),
    ]
    for claim in planted.claims:
        random, equal = claim.check.controls
        assert claim.check.drop > 0.7
        assert (random.mean, random.p_value) == (1.0, pytest.approx(1 / 29))
        assert (equal.accuracies, bool(equal.note)) == ((), True)


def test_the_cause_of_a_planted_head_goes_with_it() -> None:
    model = induction_decoder(d_vocab=30, n_ctx=LENGTH)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()  # every row looks evenly
    report = describe_model(Compared("broken", "softmax", 0, model), TASK, n=16, draws=3)
    assert "offset 1" not in claimed_cells(report.heads[0])
    assert report.accuracy.mean < 0.5


def test_even_rows_of_a_short_text_claim_no_first_token() -> None:
    """They put (1/2 + ... + 1/6) / 5 = 0.29 there, which is more than makes a claim elsewhere."""
    model = induction_decoder(d_vocab=30, n_ctx=LENGTH)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
    task = make_task("mqar", d_vocab=30, length=6, pairs=1)
    head = describe_model(Compared("even", "softmax", 0, model), task, n=8, draws=1).heads[0]
    assert head.first["share"] == pytest.approx(head.first_uniform) == pytest.approx(0.29)
    assert "first token" not in claimed_cells(head)
    assert head.bars["first token"] == pytest.approx(0.25 + 0.75 * 0.29)


def test_a_length_without_an_accuracy_says_why(planted: ModelReport) -> None:
    scores = planted.lengths
    assert (scores[20].accuracy.mean, scores[20].reason) == (1.0, "")
    for length in (26, 3, 25, 40):
        assert math.isnan(scores[length].accuracy.mean)
    assert scores[26].reason.startswith("the model reads no texts of 26 tokens: ")
    assert "24" in scores[26].reason, "so many positions has it learned"
    assert scores[25].reason == "the task has no texts of 25 tokens: length 25 is odd: make it even"
    assert scores[3].reason == (
        "the task has no texts of 3 tokens: the setting 'length' cannot be 3: it should be greater than or equal to 4"
    )
    assert scores[40].reason == "the task has no texts of 40 tokens: d_vocab 30 is not above length 40"


def test_a_task_whose_length_is_no_setting_is_asked_for_it() -> None:
    task = make_task("copying")
    model = Decoder(DecoderConfig.parse({"d_vocab": task.d_vocab, "n_ctx": task.length, "d_model": 8}))
    assert "length" not in type(task.settings).model_fields
    assert accuracy_at(model, task, task.length - 8, n=2, seed=0).reason == ""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mqar", {"d_vocab": 26, "length": 24, "pairs": 3}),
        ("linear-regression", {}),
        ("bigram-backcopy", {}),
        ("regular-languages", {}),
    ],
)
def test_answers_are_judged_as_the_task_does(name: str, settings: dict[str, Any]) -> None:
    task = make_task(name, **settings)
    batch = task.held_out.batch(6, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, task.length, task.d_output, generator=generator)
    logits[:3] = best_answers(logits[:3], batch)
    points, possible = task.scored(logits, batch)
    assert len(points) == len(possible) == 6
    assert task.accuracy(logits, batch) == pytest.approx(float(points.sum() / possible.sum()))
    assert (points / possible)[:3].tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert float((points / possible)[3:].mean()) < 0.9
    if batch.values is None:
        alone = [task.accuracy(logits[at : at + 1], one_example(batch, at)) for at in range(6)]
        np.testing.assert_allclose((points / possible).numpy(), alone)


def test_an_accuracy_counts_answers_and_not_examples() -> None:
    """Bigram-Backcopy asks some texts more often than others: a mean over texts is another number."""
    task = make_task("bigram-backcopy")
    model = Decoder(DecoderConfig.parse({"d_vocab": task.d_vocab, "n_ctx": task.length, "d_model": 8, "n_heads": 1}))
    report = describe_model(Compared("m", "softmax", 0, model), task, n=40, draws=1, seed=5)
    batch = task.held_out.batch(40, example_generator(5))
    with torch.no_grad():
        logits = model(batch.given)
    points, possible = task.scored(logits, batch)
    assert report.accuracy.mean == pytest.approx(task.accuracy(logits, batch))
    shares = (points / possible)[possible > 0]
    assert report.accuracy.mean != pytest.approx(float(shares.mean()), abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2, 7])
def test_the_examples_of_a_comparison_are_none_of_a_training(seed: int) -> None:
    task = make_task("mqar", d_vocab=64, length=32, pairs=4)
    own = task.batch(64, example_generator(seed)).given
    for trained in range(10):
        for kind in range(3):  # batches, held-out examples and those of the test
            other = task.batch(64, torch.Generator().manual_seed(3 * trained + kind)).given
            assert not torch.equal(own, other)


def best_answers(logits: torch.Tensor, batch: SyntheticBatch) -> torch.Tensor:
    """Logits that are right wherever something is asked of the first three examples."""
    if batch.values is not None:
        return batch.values[:3].nan_to_num(0.0)
    return torch.nn.functional.one_hot(batch.targets[:3].clamp_min(0), logits.shape[-1]).float()


def one_example(batch: SyntheticBatch, at: int) -> SyntheticBatch:
    """One example of a batch of tokens."""
    assert batch.tokens is not None
    rows = slice(at, at + 1)
    marks = {name: mark[rows] for name, mark in batch.marks.items()}
    return SyntheticBatch(batch.tokens[rows], batch.targets[rows], marks)


def test_more_claims_have_more_draws_so_that_corrected_p_can_fall_below_005() -> None:
    assert [draws_of(40, claims) for claims in (0, 1, 2, 3, 5)] == [40, 40, 40, 60, 100]
    assert all(claims / (1 + draws_of(40, claims)) < 0.05 for claims in range(1, 30))


def test_a_model_without_m_is_described_without_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuits.comparison.claimed_cells", lambda _: ("offset 1", "match +1"))
    task = make_task("mqar", d_vocab=16, length=12, pairs=2)
    for mixer, claims in (("lstm", False), ("softmax", True)):
        model = Decoder(DecoderConfig.parse({"d_vocab": 16, "n_ctx": 12, "d_model": 8, "mixer": mixer}))
        report = describe_model(Compared(mixer, mixer, 0, model), task, n=2, draws=1)
        assert bool(report.claims) == claims


def test_rows_that_look_evenly_make_no_claim() -> None:
    model = induction_decoder(d_vocab=30, n_ctx=LENGTH)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
    report = describe_model(Compared("even", "softmax", 0, model), TASK, n=16, draws=1)
    assert report.heads[0].carries["share"][0] > 0.2, "though the rows of values have much on their keys"
    assert not [claim for claim in report.claims if claim.head == "L0H0"]


def test_every_step_is_told() -> None:
    steps = list[tuple[int, int]]()
    model = Compared("planted", "softmax", 0, induction_decoder(d_vocab=30, n_ctx=LENGTH))
    describe_model(model, TASK, n=4, draws=1, lengths=(20,), on_step=lambda *at: steps.append(at))
    assert steps == [(done, 5) for done in range(1, 6)], "profiles, three claims, a length"
