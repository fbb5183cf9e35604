"""Flash and dense readings of given attention: they answer alike, and as the closed forms say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headscope import kernels
from headscope.attention import AttentionCall
from headscope.readings import DenseReading, FlashReading, Reading, flash

TOLERANCE = 1e-4
both_methods = pytest.mark.parametrize("method", ["flash", "dense"])


def cells_of(size: int) -> tuple[Tensor, Tensor]:
    """Some cells, above the diagonal too."""
    drawn = torch.randint(0, size, (2, 3 * size), generator=torch.Generator().manual_seed(size))
    return drawn[0], drawn[1]


def numbers_of(size: int) -> Tensor:
    """Per-key numbers of the kinds that probes ask for: position, membership in a span, and any."""
    position = torch.arange(size).float()
    some = torch.randn(size, generator=torch.Generator().manual_seed(size))
    return torch.stack([position, (position % 3 == 0).float(), some], 1)


def answers(reading: Reading, size: int) -> dict[str, Tensor]:
    """Every answer but the top key, which is no sum."""
    return {
        "cell mass": reading.cell_mass(*cells_of(size)),
        "row entropy": reading.row_entropy(),
        "attended mean": reading.attended_mean(numbers_of(size)),
        "column mass": reading.column_mass(numbers_of(size)),
        "offset mass": reading.offset_mass(),
        "value norm": reading.value_norm(),
    }


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Equal to 1e-4: absolutely, but relative to the number where it is larger than 1 (distances, sums)."""
    for question, answer in wanted.items():
        assert found[question].dtype == torch.float32, question
        assert torch.equal(found[question].isnan(), answer.isnan()), f"{question}: other rows are NaN"
        gap = ((found[question] - answer).abs() / answer.abs().clamp_min(1)).nan_to_num(0)
        assert gap.max() < TOLERANCE, f"{question} is off by {gap.max():.1e}"


def call_of(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> AttentionCall:
    """What the seam would show of this attention."""
    z, lse = kernels.chunked_attention(query, key, value, scale)
    return AttentionCall(0, query, key, value, scale, z=z, lse=lse)


def pattern_of(call: AttentionCall) -> Tensor:
    """The pattern in float64, as the definition says."""
    group_of = [head * call.key.shape[1] // call.query.shape[1] for head in range(call.query.shape[1])]
    logits = call.scale * call.query.double() @ call.key.double()[:, group_of].mT
    return logits.masked_fill(torch.ones(logits.shape[-2:]).triu(1).bool(), -torch.inf).softmax(-1)


def draw_call(
    *, batch: int = 2, groups: int = 2, group_size: int = 2, size: int = 20, d_head: int = 8, gain: float = 1.0
) -> AttentionCall:
    """Random attention."""
    generator = torch.Generator().manual_seed(size)
    heads = (groups * group_size, groups, groups)
    query, key, value = (torch.randn(batch, n, size, d_head, generator=generator) for n in heads)
    return call_of(query * gain, key, value, d_head**-0.5)


def both_readings(call: AttentionCall, lengths: Tensor | None = None) -> tuple[FlashReading, DenseReading]:
    """The two readings of one call."""
    batch, _, size, _ = call.query.shape
    lengths = torch.full((batch,), size) if lengths is None else lengths
    return FlashReading(call, lengths), DenseReading(pattern_of(call), call.value, lengths)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    group_size=st.integers(1, 3),
    size=st.integers(1, 40),
    d_head=st.integers(1, 20),
    gain=st.sampled_from([0.1, 1.0, 10.0]),
    data=st.data(),
)
def test_flash_and_dense_answer_alike_at_any_shape_and_length(data: st.DataObject, **sizes: Any) -> None:
    call = draw_call(**sizes)
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, sizes["size"]), min_size=3, max_size=3)))
    fast, dense = both_readings(call, lengths[: sizes["batch"]])
    assert_same(answers(fast, sizes["size"]), answers(dense, sizes["size"]))
    rows = torch.arange(sizes["size"]).expand(sizes["batch"], -1)
    strongest = dense.pattern.gather(-1, fast.top_key(rows)[..., None])[..., 0]
    assert (dense.pattern.amax(-1) - strongest).max() < 1e-5  # the same key, or one that is as strong to rounding


@pytest.mark.parametrize(("row_chunk", "cell_chunk"), [(1, 1), (7, 5), (20, 60), (64, 4096)])
def test_the_chunks_of_the_flash_reading_do_not_matter(
    row_chunk: int, cell_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "_ROW_CHUNK", row_chunk)
    monkeypatch.setattr(flash, "_CELL_CHUNK", cell_chunk)
    fast, dense = both_readings(draw_call(size=20), torch.tensor([20, 13]))
    assert_same(answers(fast, 20), answers(dense, 20))


def test_more_numbers_than_head_dimensions_are_read_in_parts() -> None:
    fast, dense = both_readings(draw_call(d_head=3), torch.tensor([20, 13]))
    numbers = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    found = {"mean": fast.attended_mean(numbers), "column": fast.column_mass(numbers)}
    assert_same(found, {"mean": dense.attended_mean(numbers), "column": dense.column_mass(numbers)})


def test_values_of_another_width_than_the_keys_change_no_answer_but_their_norm() -> None:
    call = draw_call()
    wide = torch.randn(2, 2, 20, 13, generator=torch.Generator().manual_seed(0))
    fast, dense = both_readings(call_of(call.query, call.key, wide, call.scale))
    assert_same(answers(fast, 20), answers(dense, 20))


@pytest.mark.parametrize("gain", [100.0, 1000.0], ids=["logits of 300", "logits of 3000"])
def test_large_logits_cost_the_entropy_no_more_than_their_rounding(gain: float) -> None:
    call = draw_call(gain=gain, size=40)
    fast, dense = both_readings(call)
    largest = float((call.scale * call.query @ call.key.repeat_interleave(2, 1).mT).abs().max())
    # lse - mean logit is a difference of numbers as large as the logits: 1e-6 of them is lost, 1e-4 from 100 on
    assert (fast.row_entropy() - dense.row_entropy()).abs().max() < 1e-6 * largest
    assert fast.row_entropy().min() >= 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_call_of_any_number_format_is_read_in_float32(dtype: torch.dtype) -> None:
    source = draw_call()
    coarse = call_of(*(part.to(dtype) for part in (source.query, source.key, source.value)), source.scale)
    fast = FlashReading(replace(coarse, lse=coarse.lse.to(dtype)), torch.tensor([20, 13]))
    _, dense = both_readings(coarse, torch.tensor([20, 13]))
    assert_same(answers(fast, 20), answers(dense, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_decoding_call_is_read_at_its_own_positions(dtype: torch.dtype) -> None:
    whole = draw_call(size=20)
    query, key, value = (part.to(dtype) for part in (whole.query, whole.key, whole.value))
    reading = FlashReading(call_of(query[:, :, -3:], key, value, whole.scale), torch.tensor([20, 20]))
    pattern = pattern_of(call_of(query, key, value, whole.scale))
    rows = torch.tensor([[17, 19], [19, 18]])
    wanted = torch.stack([pattern[row, :, rows[row]].argmax(-1) for row in range(2)])
    assert torch.equal(reading.top_key(rows), wanted)
    assert (
        reading.lse - call_of(query.float(), key.float(), value.float(), whole.scale).lse[:, :, -3:]
    ).abs().max() < 1e-5


def test_entropy_stays_between_nothing_and_the_logarithm_of_the_visible_keys() -> None:
    reading, _ = both_readings(draw_call(size=40, gain=10.0))
    entropy = reading.row_entropy()
    assert entropy.min() >= 0
    assert (entropy <= torch.log(torch.arange(40) + 1.0) + 1e-5).all()
    assert entropy[..., 0].max() < 1e-5
    assert math.isclose(
        float(both_readings(constructed("uniform"))[0].row_entropy().max()), math.log(SIZE), abs_tol=1e-5
    )


SIZE = 9
POSITIONS = torch.arange(SIZE).float()
BEFORE = (POSITIONS - 1).clamp_min(0)
HARMONIC = 1 / (POSITIONS + 1)
ZERO = torch.zeros(SIZE)
FIRST = torch.eye(SIZE)[0]


def constructed(name: str) -> AttentionCall:
    """Attention whose pattern is known: keys are one-hot, and a query meets one of them with a logit of 50, or none."""
    key = torch.eye(SIZE)
    aims = {"identity": key, "uniform": 0 * key, "previous": key[BEFORE.long()], "first": key[:1].expand(SIZE, -1)}
    value = torch.zeros(SIZE, SIZE)
    value[:, 0], value[:, 1] = 3 * POSITIONS, 4 * POSITIONS
    query, key, value = (part.expand(2, heads, -1, -1) for part, heads in ((50 * aims[name], 4), (key, 2), (value, 2)))
    return call_of(query, key, value)


# pattern -> M, row entropy, attended position, mass per column, mass per offset, top key
CLOSED: dict[str, tuple[Tensor, ...]] = {
    "identity": (torch.eye(SIZE), ZERO, POSITIONS, torch.ones(SIZE), FIRST, POSITIONS),
    "uniform": (
        HARMONIC[:, None] * torch.ones(SIZE, SIZE).tril(),
        torch.log(POSITIONS + 1),
        POSITIONS / 2,
        HARMONIC.flip(0).cumsum(0).flip(0),
        HARMONIC.flip(0).cumsum(0).flip(0) / SIZE,
        ZERO,
    ),
    "previous": (
        torch.eye(SIZE)[BEFORE.long()],
        ZERO,
        BEFORE,
        torch.tensor([2.0, *[1.0] * (SIZE - 2), 0.0]),  # row 0 has only itself
        torch.tensor([1.0, SIZE - 1.0, *[0.0] * (SIZE - 2)]) / SIZE,
        BEFORE,
    ),
    "first": (FIRST.expand(SIZE, -1), ZERO, ZERO, SIZE * FIRST, torch.full((SIZE,), 1 / SIZE), ZERO),
}


@pytest.mark.parametrize("name", CLOSED)
@both_methods
def test_constructed_patterns_have_the_answers_of_their_closed_forms(method: str, name: str) -> None:
    reading: Reading = both_readings(constructed(name))[method == "dense"]
    pattern, entropy, position, column, offset, top = CLOSED[name]
    rows, keys = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    found = {
        "cells": reading.cell_mass(rows.flatten(), keys.flatten()),
        "entropy": reading.row_entropy(),
        "position": reading.attended_mean(POSITIONS[:, None])[..., 0],
        "column": reading.column_mass(torch.ones(SIZE, 1))[..., 0],
        "offset": reading.offset_mass(),
        "top": reading.top_key(torch.arange(SIZE).expand(2, -1)).float(),
        "norm": reading.value_norm(),
    }
    closed = (pattern.flatten(), entropy, position, column, offset, top, 5 * POSITIONS)
    assert_same(found, {name: form.expand(2, 4, -1) for name, form in zip(found, closed, strict=True)})


@pytest.mark.parametrize("name", CLOSED)
@both_methods
def test_weights_choose_which_rows_count_in_a_column(method: str, name: str) -> None:
    reading: Reading = both_readings(constructed(name))[method == "dense"]
    sums = reading.column_mass(torch.eye(SIZE))  # a weighting for each row alone gives that row of M
    assert_same({"rows": sums.mT}, {"rows": CLOSED[name][0].expand(2, 4, -1, -1)})


@both_methods
def test_padded_rows_are_nan_and_padded_columns_empty(method: str) -> None:
    lengths = torch.tensor([20, 13])
    reading: Reading = both_readings(draw_call(size=20), lengths)[method == "dense"]
    found = answers(reading, 20)
    padded = torch.arange(20) >= lengths[:, None]
    for question in ("row entropy", "attended mean", "value norm"):
        missing = found[question].isnan().transpose(1, 2).flatten(2)
        assert torch.equal(missing.all(-1), padded), question
        assert torch.equal(missing.any(-1), padded), question
    assert torch.equal(found["cell mass"].isnan().any(1), padded[:, cells_of(20)[0]])
    assert torch.equal(found["cell mass"].isnan().all(1), padded[:, cells_of(20)[0]])
    assert (found["column mass"].transpose(1, 2)[padded] == 0).all()
    assert (found["offset mass"].transpose(1, 2)[padded] == 0).all()
    assert not found["column mass"].isnan().any()
    assert reading.offset_mass().sum(-1).allclose(torch.ones(2, 4))  # each real row has a mass of 1
