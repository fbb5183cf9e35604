"""Cutting cells: what a hand-set circuit uses is lost with them and kept without others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from circuits.cell_controls import Lacking, equal_weight_cells, held, random_cells, seen_cells
from circuits.cell_cuts import Cells, carry_cells, check_cells, column_cells, cut_logits, match_cells, offset_cells
from circuits.comparison_results import CutCheck
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.readings.mixing import read_mixing
from headscope.tasks.synthetic import SyntheticBatch
from headscope.tasks.synthetic_catalog import make_task
from tests.planted_decoder import induction_decoder

LENGTH = 24
TASK = make_task("mqar", d_vocab=26, length=LENGTH, pairs=3)


def recall(n: int = 24, seed: int = 0) -> SyntheticBatch:
    """Associative recall that the planted decoder can do: a filler is never followed by a key's own value."""
    return TASK.batch(n, torch.Generator().manual_seed(seed))


def check(model: Decoder, batch: SyntheticBatch, head: Head, cells: Cells, draws: int = 20) -> CutCheck:
    """The cut of the cells beside its controls."""
    layer = read_mixing(model, batch.given)[head.layer]
    generator = torch.Generator().manual_seed(1)
    return check_cells(model, batch, layer, head, cells, judge=TASK.scored, generator=generator, draws=draws)


@pytest.fixture(scope="module")
def planted() -> Decoder:
    return induction_decoder(d_vocab=26, n_ctx=LENGTH)


def test_the_planted_decoder_solves_recall(planted: Decoder) -> None:
    batch = recall()
    assert TASK.accuracy(planted(batch.given), batch) == 1.0


_NEEDED = [
    ("L0H0", lambda batch: offset_cells(batch.targets, 1)),
    ("L0H0", lambda batch: carry_cells(batch.marks["query"], batch.marks["key"], 1)),
    ("L1H0", lambda batch: match_cells(batch.marks["query"], batch.marks["key"], 1)),
]


@pytest.mark.parametrize(
    ("head", "named"), _NEEDED, ids=["previous token", "previous token of the pairs", "value of the match"]
)
def test_the_cells_of_the_circuit_are_needed_and_others_are_not(
    planted: Decoder, head: str, named: Callable[[SyntheticBatch], Cells]
) -> None:
    batch = recall()
    cells = named(batch)
    found = check(planted, batch, Head.parse(head), cells)
    random, equal = found.controls
    assert found.accuracy == 1.0
    assert found.cut < 0.2
    assert found.low > 0.7
    assert min(random.accuracies) == 1.0  # M is 0 there
    assert random.p_value == pytest.approx(1 / 21)
    assert (found.n, found.weight, random.weight) == (24, pytest.approx(1.0), pytest.approx(0.0, abs=1e-6))
    assert (equal.accuracies, equal.name) == ((), "equal weight"), "the head has nothing elsewhere"
    assert "0.00 of what they move, the claimed 1.00" in equal.note


def test_cells_that_the_circuit_does_not_use_cost_nothing(planted: Decoder) -> None:
    batch = recall()
    cells = match_cells(batch.marks["query"], batch.marks["key"], 0)
    found = check(planted, batch, Head(1, 0), cells, draws=5)
    assert (found.drop, found.controls[0].p_value) == (0.0, 1.0)


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
        assert torch.allclose(cut_logits(model, batch, Head(1, 1), cells.mask(LENGTH)), expected, atol=1e-6)
        assert not torch.allclose(expected, model(batch.given), atol=1e-4)
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


def test_a_token_that_is_read_again_is_cut_in_both_columns() -> None:
    config = {
        "d_vocab": 26,
        "n_ctx": LENGTH,
        "d_model": 16,
        "causal": False,
        "mixer": {"kind": "prefix-linear", "settings": {"prefix": 4}},
    }
    model = Decoder(DecoderConfig.parse(config)).eval()
    batch = recall(2)
    (mix, _) = (layer.mix for layer in read_mixing(model, batch.given))
    assert mix.columns == ("past",) * 4
    mask = torch.zeros(2, LENGTH, LENGTH, dtype=torch.bool)
    mask[:, 10, 2] = True
    again = LENGTH + mix.column_positions.index(2)

    def naive(matrix: Tensor, hook: object) -> Tensor:  # noqa: ARG001
        edited = matrix.clone()
        edited[:, 0, 10, [2, again]] = 0
        return edited

    with torch.no_grad():
        expected = model.run_with_hooks(batch.given, fwd_hooks=[("blocks.0.attn.hook_pattern", naive)])
        assert torch.allclose(cut_logits(model, batch, Head(0, 0), mask, mix), expected, atol=1e-6)
        assert not torch.allclose(cut_logits(model, batch, Head(0, 0), mask), expected, atol=1e-5)


def test_other_cells_are_drawn_evenly_from_the_rest_of_the_row() -> None:
    rows, columns = torch.tensor([[4, 2, 0]]).expand(6000, 3), torch.tensor([[1, 2, 0]]).expand(6000, 3)
    mask = Cells(rows, columns, torch.ones_like(rows, dtype=torch.bool)).mask(6)
    drawn = random_cells(mask, torch.Generator().manual_seed(0), seen_cells(mask, causal=True))
    assert not bool((drawn & mask).any())
    for row, allowed in ((4, [0, 2, 3, 4]), (2, [0, 1])):
        assert drawn[:, row].sum(-1).eq(1).all(), "one for one"
        shares = drawn[:, row].double().mean(0)
        assert torch.nonzero(shares).flatten().tolist() == allowed
        assert torch.allclose(
            shares[allowed], torch.full((len(allowed),), 1 / len(allowed), dtype=torch.float64), atol=0.03
        )
    assert not bool(drawn[:, [0, 1, 3, 5]].any()), "row 0 has no other column, the others no claimed cell"


def test_a_row_with_two_claimed_cells_loses_two_others() -> None:
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[0, 4, [0, 1]] = mask[0, 1, [0, 1]] = True
    drawn = random_cells(mask, torch.Generator().manual_seed(0), seen_cells(mask, causal=True))
    assert drawn[0].sum(-1).tolist() == [0, 0, 0, 0, 2]
    assert not bool((drawn & mask).any())


def test_cells_of_equal_weight_hold_what_the_claimed_ones_do() -> None:
    generator = torch.Generator().manual_seed(0)
    moved = torch.rand(8, 30, 30, generator=generator).tril()
    moved[:, range(2, 30), range(1, 29)] *= 8
    moved = moved / moved.sum(-1, keepdim=True)
    mask = torch.zeros_like(moved, dtype=torch.bool)
    mask[:, range(20, 30), range(19, 29)] = True
    found = equal_weight_cells(mask, moved, generator, seen_cells(mask, causal=True), draws=3)
    assert not isinstance(found, Lacking)
    draws = list(found)
    for cells in draws:
        assert not bool((cells & (mask | ~torch.ones_like(mask).tril())).any())
        assert not bool(cells[:, :20].any()), "only rows with claimed cells"
        apart = ((moved * cells).sum(-1) - (moved * mask).sum(-1))[:, 20:].abs()
        short = ((moved * mask).sum(-1) - (moved * cells).sum(-1))[:, 20:, None]
        free = torch.ones_like(mask).tril()[:, 20:] & ~(mask | cells)[:, 20:]
        nearer = ((short - moved[:, 20:]).abs() < short.abs() - 1e-6) & free
        assert not bool(nearer.any()), "no row comes nearer by one more cell"
        assert float(apart.mean()) < 0.02
        assert held(cells, moved, mask.any(-1)) == pytest.approx(held(mask, moved, mask.any(-1)), abs=0.01)
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize(("own", "there"), [(0.4, True), (0.55, True), (0.6, False), (0.9, False)])
def test_where_the_claimed_cells_hold_most_there_are_no_equal_ones(own: float, there: bool) -> None:
    moved = torch.full((1, 11, 11), (1 - own) / 10)
    moved[0, 10, 5] = own
    mask = torch.zeros(1, 11, 11, dtype=torch.bool)
    mask[0, 10, 5] = True
    generator = torch.Generator().manual_seed(0)
    found = equal_weight_cells(mask, moved, generator, seen_cells(mask, causal=True), draws=1)
    assert isinstance(found, Lacking) != there
    if isinstance(found, Lacking):
        assert found.weight == pytest.approx(1 - own)
        assert f"{1 - own:.2f} of what they move, the claimed {own:.2f}" in found.note


@pytest.mark.parametrize("causal", [True, False], ids=["later tokens hidden", "both ways"])
def test_controls_are_drawn_from_what_a_row_sees(causal: bool) -> None:
    mask = torch.zeros(400, 6, 6, dtype=torch.bool)
    mask[:, 2, 1] = True
    seen = seen_cells(mask, causal=causal)
    places = [0, 2] if causal else [0, 2, 3, 4, 5]
    generator = torch.Generator().manual_seed(0)
    drawn = random_cells(mask, generator, seen)[:, 2]
    assert drawn.any(0).nonzero().flatten().tolist() == places
    moved = torch.full(mask.shape, 0.1)
    found = equal_weight_cells(mask, moved, generator, seen, draws=1)
    assert not isinstance(found, Lacking)
    assert next(found)[:, 2].any(0).nonzero().flatten().tolist() == places


def test_weights_that_are_equal_only_in_the_mean_are_not_equal() -> None:
    """Half of the rows have others that hold twice as much, half have none."""
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 3, 1] = True
    moved = torch.zeros(2, 4, 4)
    moved[:, 3, 1] = 0.4
    moved[0, 3, 0] = 0.79
    found = equal_weight_cells(mask, moved, torch.Generator().manual_seed(0), seen_cells(mask, causal=True), draws=1)
    assert isinstance(found, Lacking)
    assert found.weight == pytest.approx(0.395), "which is within a fifth of 0.4"


def test_cells_are_those_that_their_names_say() -> None:
    tokens = torch.zeros(1, 5, dtype=torch.long)
    one = offset_cells(tokens, 2)
    assert one.columns[one.real].tolist() == [0, 1, 2]
    first = column_cells(tokens, 0)
    assert first.rows[first.real].tolist() == [1, 2, 3, 4]
    match = match_cells(torch.tensor([[3, 4, 4]]), torch.tensor([[1, -1, 4]]), 1)
    assert match.real.tolist() == [[True, False, False]], "none without a match, none after the row"
    carried = carry_cells(torch.tensor([[3, 4, 2]]), torch.tensor([[1, -1, 1]]), 1)
    assert (carried.rows.tolist()[0][0], carried.columns.tolist()[0][0]) == (2, 1)
    assert carried.real.tolist() == [[True, False, False]], "none without a match, none in the row that asks"


def test_a_mixer_without_m_has_no_cells() -> None:
    model = Decoder(DecoderConfig.parse({"d_vocab": 26, "n_ctx": LENGTH, "d_model": 16, "mixer": "lstm"})).eval()
    batch = recall(2)
    with pytest.raises(UnsupportedError, match="no cells to cut"):
        check(model, batch, Head(0, 0), offset_cells(batch.targets, 1))
