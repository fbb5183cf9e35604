"""The attention kernels against plain softmax attention in float64, built with T x T matrices."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headscope import kernels

ANY_GAIN = 5e-5  # gain 10 makes logits of 100, whose float32 rounding alone moves exp() by 1e-5
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
every_size = pytest.mark.parametrize("size", [1, 2, 63, 256, 257], ids=lambda size: f"T{size}")
both_paths = pytest.mark.parametrize("attend", [kernels.flash_attention, kernels.chunked_attention])
shapes = {
    "batch": st.integers(1, 3),
    "groups": st.integers(1, 3),
    "group_size": st.integers(1, 3),
    "size": st.integers(1, 40),
    "d_head": st.integers(1, 20),
    "gain": st.sampled_from([0.1, 1.0, 10.0]),
    "seed": st.integers(0, 99),
}


def plain_logits(query: Tensor, key: Tensor, scale: float, *, window: int | None = None, softcap: float = 0) -> Tensor:
    """Masked logits of every query head in float64, as the definition says."""
    n_heads, size = query.shape[1], key.shape[2]
    group_of = [head * key.shape[1] // n_heads for head in range(n_heads)]
    logits = torch.einsum("bhqd,bhkd->bhqk", query.double(), key.double()[:, group_of]) * scale
    if softcap:
        logits = (logits / softcap).tanh() * softcap
    distance = torch.arange(size)[:, None] - torch.arange(size)
    visible = (distance >= 0) & (distance < (window or size))
    return logits.masked_fill(~visible[size - query.shape[2] :], -torch.inf)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, **options: Any) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp in float64."""
    logits, groups = plain_logits(query, key, scale, **options), value.shape[1]
    heads = value.double().unflatten(1, (groups, 1)).expand(-1, -1, query.shape[1] // groups, -1, -1).flatten(1, 2)
    return logits.softmax(-1) @ heads, logits.logsumexp(-1)


def draw(
    *,
    batch: int = 2,
    groups: int = 2,
    group_size: int = 3,
    size: int,
    d_head: int = 16,
    gain: float = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values."""
    generator = torch.Generator().manual_seed(seed)
    heads = (groups * group_size, groups, groups)
    query, key, value = (torch.randn(batch, n, size, d_head, generator=generator) for n in heads)
    return query * gain, key, value


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Relative to the larger of 1 and the wanted number."""
    assert found.shape == wanted.shape
    gap = (found.double() - wanted).abs() / wanted.abs().clamp_min(1)
    assert gap.max() < tolerance, f"off by {gap.max():.1e}"


@both_paths
@every_dtype
@every_size
def test_output_and_normaliser_equal_plain_softmax_attention(
    attend: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype, size: int
) -> None:
    query, key, value = (part.to(dtype) for part in draw(size=size))
    out, lse = attend(query, key, value, 0.25)
    wanted, normaliser = plain_attention(query, key, value, 0.25)
    assert out.dtype == dtype
    assert_close(out, wanted, TOLERANCE[dtype])
    # for 16-bit inputs torch's fused operator takes a faster exponential, good to 6e-5
    assert_close(lse, normaliser, 1e-5 if dtype.itemsize > 2 else 1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**shapes)
def test_flash_equals_its_naive_twin_at_any_shape(**sizes: Any) -> None:
    query, key, value = draw(**sizes)
    scale = sizes["d_head"] ** -0.5
    fast, slow = (path(query, key, value, scale) for path in (kernels.flash_attention, kernels.chunked_attention))
    wanted = plain_attention(query, key, value, scale)
    for part in (0, 1):
        assert_close(fast[part], wanted[part], ANY_GAIN)
        assert_close(slow[part], wanted[part], ANY_GAIN)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**shapes)
def test_column_sums_equal_the_transposed_pattern_at_any_shape(**sizes: Any) -> None:
    query, key, _ = draw(**sizes)
    weights = torch.randn(*query.shape, generator=torch.Generator().manual_seed(1))
    scale = sizes["d_head"] ** -0.5
    wanted = plain_logits(query, key, scale).softmax(-1).mT @ weights.double()
    assert_close(kernels.flash_column_sums(query, key, scale, weights), wanted, ANY_GAIN)
    assert_close(kernels.chunked_column_sums(query, key, scale, weights), wanted, ANY_GAIN)


@every_size
def test_column_sums_hold_across_row_chunks(size: int) -> None:
    query, key, _ = draw(size=size)
    weights = torch.rand(*query.shape, generator=torch.Generator().manual_seed(1))
    wanted = plain_logits(query, key, 0.25).softmax(-1).mT @ weights.double()
    assert_close(kernels.flash_column_sums(query, key, 0.25, weights), wanted, 1e-5)
    assert_close(kernels.chunked_column_sums(query, key, 0.25, weights), wanted, 1e-5)


def test_the_naive_column_sums_take_any_number_of_weightings() -> None:
    query, key, _ = draw(size=9)
    ones = torch.ones(2, 6, 9, 1)
    sums = kernels.chunked_column_sums(query, key, 0.25, ones)
    assert sums.sum((2, 3)).allclose(torch.tensor(9.0))  # each row gives away a mass of 1


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_chunk_of_rows_does_not_matter(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = draw(size=63)
    wanted = plain_attention(query, key, value, 0.25, window=20)
    monkeypatch.setattr(kernels, "_ROW_CHUNK", chunk)
    found = kernels.chunked_attention(query, key, value, 0.25, window=20)
    assert_close(found[0], wanted[0], 1e-5)
    assert_close(found[1], wanted[1], 1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 40),
    queries=st.integers(1, 40),
    window=st.none() | st.integers(1, 45),
    softcap=st.none() | st.sampled_from([0.5, 5.0]),
)
def test_decoding_windows_and_caps_equal_a_plainly_masked_softmax(
    size: int, queries: int, window: int | None, softcap: float | None
) -> None:
    query, key, value = draw(size=size, gain=3.0)
    query = query[:, :, -queries:]
    wanted = plain_attention(query, key, value, 0.25, window=window, softcap=softcap or 0)
    found = kernels.chunked_attention(query, key, value, 0.25, window=window, softcap=softcap)
    assert_close(found[0], wanted[0], 1e-5)
    assert_close(found[1], wanted[1], 1e-5)


def test_decoding_a_row_at_a_time_equals_the_whole_text_at_once() -> None:
    query, key, value = draw(size=12)
    whole, normaliser = kernels.flash_attention(query, key, value, 0.25)
    for row in range(12):
        seen = slice(row + 1)
        out, lse = kernels.chunked_attention(query[:, :, row : row + 1], key[:, :, seen], value[:, :, seen], 0.25)
        assert_close(out[:, :, 0], whole[:, :, row].double(), 1e-5)
        assert_close(lse[:, :, 0], normaliser[:, :, row].double(), 1e-5)


@both_paths
def test_no_row_depends_on_what_comes_after_it(attend: Callable[..., tuple[Tensor, Tensor]]) -> None:
    query, key, value = draw(size=70)
    before, lse = attend(query, key, value, 0.25)
    for part in (query, key, value):
        part[:, :, 50:] = torch.randn(part[:, :, 50:].shape, generator=torch.Generator().manual_seed(9)) * 5
    after, changed = attend(query, key, value, 0.25)
    assert torch.equal(before[:, :, :50], after[:, :, :50])
    assert torch.equal(lse[:, :, :50], changed[:, :, :50])
    assert not torch.equal(before[:, :, 50:], after[:, :, 50:])


@both_paths
def test_logits_of_ten_thousand_neither_overflow_nor_lose_the_winner(
    attend: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    query, key, value = draw(size=30, gain=1e4)
    out, lse = attend(query, key, value, 1.0)
    wanted, normaliser = plain_attention(query, key, value, 1.0)
    logits = plain_logits(query, key, 1.0)
    assert ((lse - normaliser).abs() / logits.nan_to_num(neginf=0).abs().amax(-1)).max() < 1e-6
    settled = logits.softmax(-1).amax(-1) > 1 - 1e-9  # the other rows are a matter of rounding
    assert settled.float().mean() > 0.9
    assert_close(out[settled], wanted[settled], 1e-5)


@both_paths
def test_values_of_another_width_than_the_keys_are_mixed_too(attend: Callable[..., tuple[Tensor, Tensor]]) -> None:
    query, key, _ = draw(size=20)
    value = torch.randn(2, 2, 20, 5, generator=torch.Generator().manual_seed(1))
    out, lse = attend(query, key, value, 0.25)
    wanted, normaliser = plain_attention(query, key, value, 0.25)
    assert_close(out, wanted, 1e-5)
    assert_close(lse, normaliser, 1e-5)


@both_paths
def test_memory_layout_does_not_matter(attend: Callable[..., tuple[Tensor, Tensor]]) -> None:
    parts = draw(size=33)
    strided = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in parts]  # as a model hands them over
    assert not strided[0].is_contiguous()
    for found, wanted in zip(attend(*strided, 0.25), attend(*parts, 0.25), strict=True):
        assert torch.equal(found, wanted)


def test_flash_gradients_equal_those_of_plain_attention() -> None:
    parts = [part.requires_grad_() for part in draw(size=21)]
    wanted = torch.autograd.grad(plain_attention(*parts, 0.25)[0].square().sum(), parts)
    found = torch.autograd.grad(kernels.flash_attention(*parts, 0.25)[0].square().sum(), parts)
    for fast, plain in zip(found, wanted, strict=True):
        assert_close(fast, plain.double(), 1e-4)


def test_query_head_h_reads_key_value_head_h_over_group_size() -> None:
    per_kv_head = torch.arange(3.0)[None, :, None, None].expand(1, 3, 2, 4)
    assert kernels.expand_kv(per_kv_head, 6)[0, :, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert kernels.expand_kv(per_kv_head, 3) is per_kv_head


@pytest.mark.parametrize("twin", [kernels.chunked_attention, kernels.chunked_column_sums, kernels.causal_logits])
def test_a_naive_twin_has_at_most_thirty_lines(twin: Callable[..., Any]) -> None:
    source = inspect.getsource(inspect.unwrap(twin))
    body = source.replace(f'"""{twin.__doc__}"""', "")
    assert len([line for line in body.splitlines() if line.strip()]) <= 30
