"""The benchmark that says by which circuit a model recalls, on a circuit set by hand."""

from __future__ import annotations

import torch

from benchmarks.recall_circuits import Dissected, cuts_of, other_keys
from headscope.tasks.synthetic_catalog import make_task
from headscope.training.sweep import Cell, CellResult
from tests.planted_decoder import induction_decoder

TASK = make_task("mqar", d_vocab=26, length=24, pairs=3)


def test_other_keys_are_all_keys_but_the_one_that_is_asked_for() -> None:
    marks = TASK.batch(4, torch.Generator().manual_seed(0)).marks
    mask = other_keys(marks["query"], marks["key"]).mask(24)
    expected = torch.zeros_like(mask)
    for example in range(4):
        for query, own in zip(marks["query"][example], marks["key"][example], strict=True):
            for key in marks["key"][example]:
                expected[example, query, key] = bool(key != own)
    assert torch.equal(mask, expected)
    assert int(mask.sum()) == 4 * 3 * 2


def test_the_circuit_of_a_planted_decoder_is_the_one_that_was_set() -> None:
    cuts = cuts_of(
        induction_decoder(d_vocab=26, n_ctx=24), TASK.batch(16, torch.Generator().manual_seed(0)), TASK.scored
    )
    trained = CellResult(
        cell=Cell("softmax", 64, 0.003, 0), accuracy=1.0, held_out=1.0, loss=0.0, solved_at=0, steps=0, diverged=False,
        state_size=1, parameters=1,
    )  # fmt: skip
    assert Dissected(trained, cuts).circuit == "carry 1"
    assert {name for name, cut in cuts.items() if cut.drop > 0.5} == {"carry 1", "match +1"}
