"""Fourier transforms, pools and hierarchies: special cases whose M is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from headscope.mixers.building import build_mixer
from headscope.mixers.coefficient_attention import cosine_transform, haar_transform
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.registry import variant
from headscope.mixers.softmax import Softmax
from headscope.mixers.static_mixing import GlobalFilter
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from tests.mixer_operations import operations

HEADS, WIDTH, MODEL, LENGTH = 2, 4, 16, 12


def made(kind: str, *, n_ctx: int = LENGTH, **settings: Any) -> Any:
    torch.manual_seed(6)
    return build_mixer(kind, MixerShape(HEADS, WIDTH, WIDTH, MODEL, n_ctx), settings).double().requires_grad_(False)


def inputs(mixer: Any, *, causal: bool = True, length: int = LENGTH) -> MixerInput:
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 2, HEADS, length, WIDTH, generator=generator, dtype=torch.float64)
    stream = torch.randn(2, length, MODEL, generator=generator, dtype=torch.float64)
    return MixerInput(query, key, value, mixer.gates(stream), WIDTH**-0.5, causal=causal)


def close(one: Tensor, other: Tensor, bound: float = 1e-9) -> bool:
    return torch.allclose(one, other.expand_as(one), rtol=0, atol=bound)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
def test_a_mean_is_softmax_of_queries_that_ask_nothing(causal: bool) -> None:
    mixer = made("mean-pool")
    given = inputs(mixer, causal=causal)
    silent = replace(given, query=given.query * 0)
    assert close(mixer.mix(given).matrix, made("softmax").mix(silent).matrix)


def test_two_heads_on_transformed_channels_are_fnet() -> None:
    mixer = made("fourier-mixing")
    x = inputs(mixer).value[:, 0]
    channels = torch.fft.fft(x, dim=-1)
    value = torch.stack([channels.real, -channels.imag], 1)  # C_d x and S_d x
    z = mixer.operation(replace(inputs(mixer, causal=False), value=value))
    assert close(z.sum(1), torch.fft.fft2(x).real / math.sqrt(LENGTH))


def test_a_global_filter_of_ones_leaves_the_text_as_it_is() -> None:
    mixer = made("global-filter")
    mixer.spectrum.fill_(0.0)
    assert close(mixer.mix(inputs(mixer, causal=False)).matrix, torch.eye(LENGTH, dtype=torch.float64))


def test_a_global_filter_on_the_longest_text_multiplies_its_frequencies() -> None:
    mixer = made("global-filter")
    given = inputs(mixer, causal=False)
    real, imaginary = mixer.spectrum.unbind(1)
    filtered = torch.fft.rfft(given.value.mT) * torch.complex(1 + real, imaginary)
    assert close(mixer.operation(given), torch.fft.irfft(filtered, n=LENGTH).mT)


@pytest.mark.parametrize("size", [1, 7, 8, 12, 16])
def test_transforms_can_be_undone(size: int) -> None:
    for transform in (cosine_transform, haar_transform):
        rows = transform(size)
        assert close(rows.mT @ rows, torch.eye(size, dtype=torch.float64))


def test_the_first_coefficients_are_those_of_slow_change() -> None:
    ramp, size = torch.arange(16, dtype=torch.float64), 16
    for transform in (cosine_transform, haar_transform):
        energy = (transform(size) @ (ramp - ramp.mean())).square()
        assert float(energy[:4].sum() / energy.sum()) > 0.9


def test_high_frequencies_neither_enter_nor_leave_a_shortened_text() -> None:
    mixer = made("coefficient-attention", keep=0.25)
    matrix = mixer.mix(inputs(mixer, causal=False)).matrix
    high = cosine_transform(LENGTH)[3:]
    assert close(matrix @ high.mT, torch.zeros(1, dtype=torch.float64))
    assert close(high @ matrix, torch.zeros(1, dtype=torch.float64))


def test_one_coefficient_is_the_mean() -> None:
    mixer = made("coefficient-attention", keep=1 / LENGTH)
    assert close(mixer.mix(inputs(mixer, causal=False)).matrix, torch.tensor(1 / LENGTH, dtype=torch.float64))


def test_wavelets_keep_a_constant_text() -> None:
    mixer = made("coefficient-attention", transform="haar", keep=1 / 16)
    given = inputs(mixer, causal=False, length=16)
    assert close(mixer.mix(given).matrix, torch.tensor(1 / 16, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "causal"), [("funnel", False), ("hourglass", True)])
def test_blocks_of_one_token_are_softmax(kind: str, causal: bool) -> None:
    mixer = made(kind, stride=1)
    given = inputs(mixer, causal=causal)
    assert close(mixer.mix(given).matrix, made("softmax").mix(given).matrix)


@pytest.mark.parametrize(("kind", "causal"), [("funnel", False), ("hourglass", True)])
def test_rows_of_a_block_are_alike(kind: str, causal: bool) -> None:
    mixer = made(kind, stride=3)
    rows = mixer.mix(inputs(mixer, causal=causal)).matrix.unflatten(2, (-1, 3))
    assert close(rows, rows[..., :1, :])


def test_hourglass_reads_up_to_the_first_token_of_a_block_and_no_further() -> None:
    mixer = made("hourglass", stride=4)
    seen = mixer.mix(inputs(mixer)).matrix > 0
    place = torch.arange(LENGTH)
    assert torch.equal(seen, (place <= (place[:, None] // 4) * 4).expand_as(seen))


def test_hourglass_loses_only_what_lies_before_the_text() -> None:
    mixer = made("hourglass", stride=4)
    sums = mixer.mix(inputs(mixer)).matrix.sum(-1)
    assert close(sums[:, :, :4], torch.tensor(0.25, dtype=torch.float64))
    assert bool((sums[:, :, 4:] > 0.25).all())


def test_segments_of_one_token_are_softmax() -> None:
    mixer = made("token-pooling")
    given = inputs(mixer)
    all_end = replace(given, gates={"boundary": torch.ones_like(given.gates["boundary"])})
    assert close(mixer.mix(all_end).matrix, made("softmax").mix(given).matrix)


def test_a_text_without_ends_is_not_read() -> None:
    mixer = made("token-pooling")
    given = inputs(mixer)
    none_ends = replace(given, gates={"boundary": -torch.ones_like(given.gates["boundary"])})
    assert close(mixer.mix(none_ends).matrix, torch.zeros(1, dtype=torch.float64))


def test_tokens_read_the_last_finished_segment() -> None:
    mixer = made("token-pooling")
    given = inputs(mixer)
    boundary = -torch.ones_like(given.gates["boundary"])
    boundary[..., [2, 6]] = 1
    matrix = mixer.mix(replace(given, gates={"boundary": boundary})).matrix
    assert close(matrix[..., :2, :], torch.zeros(1, dtype=torch.float64))
    assert close(matrix[..., 2:6, :3], torch.tensor(1 / 3, dtype=torch.float64))
    assert close(matrix[..., 6:, :], matrix[..., 6:7, :])
    assert close(matrix[..., 6:, :].sum(-1), torch.ones(1, dtype=torch.float64))


def test_a_surer_end_draws_more() -> None:
    mixer = made("token-pooling")
    given = inputs(mixer)
    even, sure = torch.ones_like(given.gates["boundary"]), torch.ones_like(given.gates["boundary"])
    sure[..., 4] = 3
    plain, drawn = (mixer.mix(replace(given, gates={"boundary": gate})).matrix for gate in (even, sure))
    assert bool((drawn[..., 5:, 4] > plain[..., 5:, 4]).all())


def test_ponet_with_pools_of_one_token_adds_the_token_to_the_mean() -> None:
    mixer = made("ponet", segment=1, window=0)
    given = inputs(mixer, causal=False)
    silent = replace(given, query=given.query * 0)
    gate = given.gates["row_gate"]
    assert close(mixer.operation(silent), given.value.mean(2, keepdim=True) * gate + given.value * gate + given.value)


def test_ponet_s_local_pool_sees_the_largest_neighbour() -> None:
    mixer = made("ponet", window=2)
    given = inputs(mixer, causal=False)
    closed = replace(given, gates={"row_gate": given.gates["row_gate"] * 0})
    pooled = torch.nn.functional.max_pool1d(given.value.flatten(0, 1).mT, 5, stride=1, padding=2).mT
    assert close(mixer.operation(closed), pooled.unflatten(0, (2, HEADS)))


def test_ffn_like_attention_with_one_tap_is_a_feed_forward_network_of_each_channel() -> None:
    mixer = made("convolution-ffn", width=1)
    given = inputs(mixer)
    first, second = mixer.taps[..., 0][:, :, None]
    assert close(mixer.operation(given), second * gelu(first * given.value))


def test_spectformer_filters_first_and_attends_later() -> None:
    sizes = {"d_vocab": 11, "d_model": MODEL, "n_heads": HEADS, "n_ctx": LENGTH, "causal": False}
    model: Any = Decoder(DecoderConfig.parse(sizes | dict(variant("spectformer").config)))
    assert [type(block.attn.mixer) for block in model.blocks] == [GlobalFilter, Softmax]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("hourglass", {"stride": 5}),
        ("hourglass", {"stride": 40}),
        ("convolution-ffn", {"width": 3}),
        ("coefficient-attention", {"transform": "haar", "keep": 0.3}),
        ("coefficient-attention", {"keep": 1.0}),
        ("funnel", {"stride": 5}),
        ("ponet", {"segment": 5, "window": 3}),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(f"{name}={value}" for name, value in given.items()),
)
def test_other_settings_mix_as_their_naive_twin_does(kind: str, settings: dict[str, Any]) -> None:
    mixer = made(kind, **settings)
    given = inputs(mixer, causal=mixer.causal)
    assert close(mixer.operation(given), operations()[kind](mixer, given))


@pytest.mark.parametrize("stride", [1, 3, 40])
def test_hourglass_decodes_with_any_stride(stride: int) -> None:
    mixer = made("hourglass", stride=stride)
    given = inputs(mixer)
    expected, state = mixer.operation(given), mixer.start(given.token(0))
    for at in range(LENGTH):
        z, state = mixer.step(state, given.token(at))
        assert close(z, expected[:, :, at : at + 1])
        assert sum(part.numel() for part in state.values()) == 2 * mixer.state_size(at + 1)
