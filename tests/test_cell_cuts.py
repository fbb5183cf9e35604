"""Cutting cells: what a hand-set circuit uses is lost with them and kept without others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from circuits.cell_cuts import Cells, check_cells, column_cells, cut_logits, match_cells, offset_cells
from circuits.comparison import Compared, correct_share, describe_model
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.tasks.synthetic import SyntheticBatch
from headscope.tasks.synthetic_catalog import make_task
from tests.planted_decoder import induction_decoder

D_VOCAB, LENGTH = 12, 24


def recall(n: int = 24, seed: int = 0) -> SyntheticBatch:
    """Associative recall that the planted decoder can do: a filler is never followed by a key's own value."""
    task = make_task("mqar", d_vocab=26, length=LENGTH, pairs=3)
    return task.batch(n, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def planted() -> Decoder:
    return induction_decoder(d_vocab=26, n_ctx=LENGTH)


def test_the_planted_decoder_solves_recall(planted: Decoder) -> None:
    batch = recall()
    assert float(correct_share(planted(batch.given), batch).mean()) == 1.0


@pytest.mark.parametrize(("head", "offset"), [("L0H0", 1), ("L1H0", 1)], ids=["previous token", "value of the match"])
def test_the_cells_of_the_circuit_are_needed_and_others_are_not(planted: Decoder, head: str, offset: int) -> None:
    batch = recall()
    if head == "L0H0":
        cells = offset_cells(batch.targets, offset)
    else:
        cells = match_cells(batch.marks["query"], batch.marks["key"], offset)
    found = check_cells(
        planted, batch, Head.parse(head), cells, correct=correct_share, generator=torch.Generator().manual_seed(1)
    )
    assert found.accuracy == 1.0
    assert found.cut < 0.2
    assert found.low > 0.7
    assert min(found.random) == 1.0  # M is 0 there
    assert found.p_value == pytest.approx(1 / 21)
    assert found.n == 24


def test_cells_that_the_circuit_does_not_use_cost_nothing(planted: Decoder) -> None:
    batch = recall()
    cells = match_cells(batch.marks["query"], batch.marks["key"], 0)
    found = check_cells(
        planted, batch, Head(1, 0), cells, correct=correct_share, generator=torch.Generator().manual_seed(1), draws=5
    )
    assert (found.drop, found.p_value) == (0.0, 1.0)


@pytest.mark.parametrize("mixer", ["softmax", "delta", "minimal-gated"])
def test_a_cut_is_the_pattern_with_these_cells_at_zero(mixer: str) -> None:
    model = Decoder(DecoderConfig.parse({"d_vocab": 26, "n_ctx": LENGTH, "d_model": 16, "mixer": mixer})).eval()
    batch = recall(3)
    cells = match_cells(batch.marks["query"], batch.marks["key"], 1)

    def naive(matrix: Tensor, hook: object) -> Tensor:  # noqa: ARG001
        edited = matrix.clone()
        for example in range(len(edited)):
            for row, column in zip(batch.marks["query"][example], batch.marks["key"][example] + 1, strict=True):
                edited[example, 1, ..., row, column] = 0
        return edited

    with torch.no_grad():
        expected = model.run_with_hooks(batch.given, fwd_hooks=[("blocks.1.attn.hook_pattern", naive)])
        assert torch.allclose(cut_logits(model, batch, Head(1, 1), cells), expected, atol=1e-6)
        assert not torch.allclose(expected, model(batch.given), atol=1e-4)
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


def test_other_cells_are_drawn_evenly_from_the_rest_of_the_row() -> None:
    rows, columns = torch.tensor([[4, 2, 0]]).expand(6000, 3), torch.tensor([[1, 2, 0]]).expand(6000, 3)
    drawn = Cells(rows, columns, torch.ones_like(rows, dtype=torch.bool)).others(torch.Generator().manual_seed(0))
    for at, allowed in ((0, [0, 2, 3, 4]), (1, [0, 1])):
        counts = torch.bincount(drawn.columns[:, at], minlength=6) / 6000
        assert torch.nonzero(counts).flatten().tolist() == allowed
        assert torch.allclose(counts[allowed], torch.tensor(1 / len(allowed)), atol=0.03)
    assert not bool(drawn.real[:, 2].any()), "the first row has no other column"


def test_cells_are_those_that_their_names_say() -> None:
    tokens = torch.zeros(1, 5, dtype=torch.long)
    one = offset_cells(tokens, 2)
    assert one.columns[one.real].tolist() == [0, 1, 2]
    first = column_cells(tokens, 0)
    assert first.rows[first.real].tolist() == [1, 2, 3, 4]
    match = match_cells(torch.tensor([[3, 4, 4]]), torch.tensor([[1, -1, 4]]), 1)
    assert match.real.tolist() == [[True, False, False]], "none without a match, none after the row"


def test_a_mixer_without_m_has_no_cells() -> None:
    model = Decoder(DecoderConfig.parse({"d_vocab": 26, "n_ctx": LENGTH, "d_model": 16, "mixer": "lstm"})).eval()
    batch = recall(2)
    with pytest.raises(UnsupportedError, match="no cells to cut"):
        check_cells(
            model,
            batch,
            Head(0, 0),
            offset_cells(batch.targets, 1),
            correct=correct_share,
            generator=torch.Generator(),
        )


def test_a_description_names_the_planted_heads_and_their_cause(planted: Decoder) -> None:
    task = make_task("mqar", d_vocab=26, length=LENGTH, pairs=3)
    report = describe_model(Compared("planted", "softmax", 0, planted), task, n=16, draws=19, lengths=(20, 40))
    first, second = report.heads
    assert first.offsets["moved"][1] > 0.99
    assert second.matches["moved"][2] > 0.99  # one after the match
    assert {(claim.head, claim.cells) for claim in report.claims} == {("L0H0", "offset 1"), ("L1H0", "match +1")}
    assert all(claim.drop > 0.7 and claim.random_drop == 0 and claim.p_value == 0.05 for claim in report.claims)
    assert report.accuracy == (1.0, 1.0, 1.0)
    assert report.lengths[20].mean == 1.0
    assert report.lengths[40].mean != report.lengths[40].mean, "it has no positions that far"
    assert report.state_size == LENGTH * 2 * (26 + 26)
    assert [first.row_mass, second.negative, first.null_mass] == [pytest.approx(1.0), 0.0, None]


def test_a_model_without_m_is_described_without_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuits.comparison.CLAIMED", 0.0)
    task = make_task("mqar", d_vocab=16, length=12, pairs=2)
    for mixer, claims in (("lstm", False), ("softmax", True)):
        model = Decoder(DecoderConfig.parse({"d_vocab": 16, "n_ctx": 12, "d_model": 8, "mixer": mixer}))
        report = describe_model(Compared(mixer, mixer, 0, model), task, n=2, draws=1)
        assert bool(report.claims) == claims
