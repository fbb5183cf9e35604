"""Linear, low-rank and kernel attention where they become something known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, layer_norm, normalize

from headscope.errors import ConfigError, UnsupportedError
from headscope.mixers.building import build_mixer
from headscope.mixers.interface import Mixer, MixerInput, MixerShape
from headscope.mixers.low_rank import segment_means
from headscope.mixers.retention import log_decays
from tests.mixer_operations import operations

HEADS, WIDTH, LENGTH = 2, 4, 8
SHAPE = MixerShape(HEADS, WIDTH, WIDTH, 8, LENGTH)


def built(kind: str, shape: MixerShape = SHAPE, **settings: Any) -> Mixer:
    torch.manual_seed(0)
    return build_mixer(kind, shape, settings).double().eval()


def given(*, causal: bool = True, size: float = 1.0, seed: int = 0, length: int = LENGTH) -> MixerInput:
    generator = torch.Generator().manual_seed(seed)
    parts = (torch.randn(1, HEADS, length, WIDTH, generator=generator).double() for _ in range(3))
    query, key, value = parts
    return MixerInput(query * size, key * size, value, scale=WIDTH**-0.5, causal=causal)


def matrix(mixer: Mixer, call: MixerInput) -> Tensor:
    with torch.no_grad():
        return mixer.mix(call).matrix


def softmax(call: MixerInput) -> Tensor:
    return matrix(built("softmax"), call)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# Features


@pytest.mark.parametrize("size", [0.1, 0.2, 0.4])
def test_taylor_misses_softmax_by_less_than_the_third_power_of_the_scores(size: float) -> None:
    call = given(size=size)
    largest = float(call.scores.abs().max())
    assert 0 < distance(matrix(built("taylor"), call), softmax(call)) < largest**3 / 3


def test_taylor_shift_does_not_see_the_length_of_queries_and_keys() -> None:
    call, mixer = given(), built("taylor", inputs="unit")
    longer = replace(call, query=call.query * 7, key=call.key * 0.3)
    assert distance(matrix(mixer, call), matrix(mixer, longer)) < 1e-12


def test_taylor_shift_without_temperature_is_a_running_mean() -> None:
    mixer = built("taylor", inputs="unit")
    assert isinstance(mixer.temperature, Tensor)
    mixer.temperature.data.zero_()
    mean = torch.ones(LENGTH, LENGTH).double().tril() / torch.arange(1, LENGTH + 1)[:, None]
    assert distance(matrix(mixer, given()), mean) < 1e-9


def test_rebased_does_not_see_the_sign_of_a_query() -> None:
    call, mixer = given(), built("taylor", polynomial="square", inputs="norm")
    assert distance(matrix(mixer, call), matrix(mixer, replace(call, query=-call.query))) < 1e-12


def test_rebased_is_the_square_of_scores_of_normalised_queries_and_keys() -> None:
    call = given()
    normed = replace(call, query=layer_norm(call.query, (WIDTH,)), key=layer_norm(call.key, (WIDTH,)))
    expected = (normed.scores**2).tril()
    found = matrix(built("taylor", polynomial="square", inputs="norm"), call)
    assert distance(found, expected / expected.sum(-1, keepdim=True)) < 1e-9


def test_a_spiky_hedgehog_compares_largest_and_smallest_channels() -> None:
    mixer, call = built("hedgehog"), given(causal=False, length=40)
    mixer.weight.data *= 1e4
    same = sum(
        (pick(call.query, -1)[..., :, None] == pick(call.key, -1)[..., None, :]).double()
        for pick in (torch.argmax, torch.argmin)
    )
    assert bool((same.sum(-1) > 0).all())
    assert distance(matrix(mixer, call), same / same.sum(-1, keepdim=True)) < 1e-6


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
def test_many_positive_random_features_are_softmax(causal: bool) -> None:
    call = given(size=0.4, causal=causal)
    errors = [distance(matrix(built("random-features", count=count), call), softmax(call)) for count in (16, 16384)]
    assert errors[1] < 0.01 < errors[0]


def test_many_sines_and_cosines_are_a_gaussian_kernel_of_unit_vectors() -> None:
    call = given()
    query, key = normalize(call.query, dim=-1), normalize(call.key, dim=-1)
    kernel = (-torch.cdist(query, key).square() / 2).exp().tril()
    found = matrix(built("fourier-features", count=16384), call)
    assert distance(found, kernel / kernel.sum(-1, keepdim=True)) < 0.02


def test_a_constant_gate_is_a_constant_decay() -> None:
    call, keep = given(), 0.8
    gated, plain = (built(kind, count=512) for kind in ("gated-fourier-features", "fourier-features"))
    gated.directions.copy_(plain.directions)
    forget = torch.full((1, HEADS, LENGTH), keep, dtype=torch.float64)
    weights = matrix(plain, call) * keep ** call.offsets.clamp_min(0).double()
    found = matrix(gated, replace(call, gates={"forget": forget}))
    assert distance(found, weights / weights.sum(-1, keepdim=True)) < 1e-9


def test_a_gate_that_forgets_all_leaves_the_token_itself() -> None:
    forget = torch.full((1, HEADS, LENGTH), 1e-12, dtype=torch.float64)
    found = matrix(built("gated-fourier-features"), replace(given(), gates={"forget": forget}))
    assert distance(found, torch.eye(LENGTH)) < 1e-6


# Positions


def test_relative_features_without_biases_are_performer_on_unit_vectors() -> None:
    call, mixer, performer = given(), built("relative-features"), built("random-features")
    performer.directions.copy_(mixer.directions)
    unit = replace(call, query=normalize(call.query, dim=-1), key=normalize(call.key, dim=-1), scale=1.0)
    assert distance(matrix(mixer, call), matrix(performer, unit)) < 1e-9


def test_a_large_bias_at_distance_one_is_a_previous_token_head() -> None:
    mixer = built("relative-features")
    assert isinstance(mixer.bias, Tensor)
    mixer.bias.data[:, SHAPE.n_ctx - 1 + 1] = 40.0
    found = matrix(mixer, given())
    assert float(found.diagonal(-1, -2, -1).min()) > 1 - 1e-6


def test_retention_without_decay_is_linear_attention() -> None:
    mixer, call = built("retention"), given()
    mixer.log_decay.zero_()
    assert distance(matrix(mixer, call), matrix(built("linear", features="identity", normalise=False), call)) < 1e-12


@pytest.mark.parametrize("rotation", ["none", "pairs", "first_layer"])
def test_retention_sees_only_how_far_apart_tokens_are(rotation: str) -> None:
    call = given()
    same = replace(call, query=call.query[:, :, :1].expand_as(call.query), key=call.key[:, :, :1].expand_as(call.key))
    found = matrix(built("retention", rotation=rotation), same)
    for apart in range(LENGTH):
        along = found.diagonal(-apart, -2, -1)
        assert distance(along, along[..., :1]) < 1e-9, apart
    assert (distance(found[..., 1, 0] / found[..., 0, 0], built("retention").log_decay.exp()) < 1e-9) == (
        rotation == "none"
    )


def test_transnormer_llm_turns_in_its_first_layer_only() -> None:
    layers = [built("retention", replace(SHAPE, layer=at, n_layers=3), rotation="first_layer") for at in range(3)]
    assert [len(list(mixer.parameters())) for mixer in layers] == [1, 0, 0]
    assert [mixer.state_size(9) for mixer in layers] == [64, 32, 32]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_sloped_decays_are_those_of_minimax(layer: int) -> None:
    minimax = pytest.importorskip("transformers.models.minimax.modeling_minimax")
    config = minimax.MiniMaxConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=3, head_dim=8)
    slopes = minimax.MiniMaxLightningAttention(config, layer).get_slope_rate().flatten()
    shape = MixerShape(4, 8, 8, 32, 16, layer=layer, n_layers=3)
    assert distance(log_decays("sloped", shape), -slopes) < 1e-6


@pytest.mark.parametrize("kind", ["retention", "layered", "sloped"])
def test_decays_lie_between_nothing_and_one(kind: str) -> None:
    decays = torch.stack([log_decays(kind, replace(SHAPE, layer=at, n_layers=4)) for at in range(4)]).exp()
    assert bool(((decays > 0) & (decays <= 1)).all())


def test_cosformer_in_a_long_context_is_linear_attention_of_positive_parts() -> None:
    call = given()
    positive = replace(call, query=call.query.relu() + 0.1, key=call.key.relu() + 0.1)
    weights = (positive.query @ positive.key.mT).tril()
    found = matrix(built("cosformer", replace(SHAPE, n_ctx=10**6)), positive)
    assert distance(found, weights / weights.sum(-1, keepdim=True)) < 1e-9


def test_cosformer_gives_a_row_nothing_where_no_products_are_positive() -> None:
    call = given()
    assert distance(matrix(built("cosformer"), replace(call, query=-call.query.abs())), torch.zeros(())) == 0


# Latent states, flows, codewords


def test_latte_with_one_state_pools_by_key_whatever_the_query() -> None:
    shape = replace(SHAPE, d_key=1)
    call = given()
    one = replace(call, query=call.query[..., :1], key=call.key[..., :1])
    expected = one.key.mT.expand(-1, -1, LENGTH, -1).masked_fill(~call.visible, -torch.inf).softmax(-1)
    assert distance(matrix(built("latte", shape), one), expected) < 1e-9


def test_latte_of_a_sure_query_is_the_softmax_of_one_channel_of_the_keys() -> None:
    call, channel = given(causal=False), 2
    sure = replace(call, query=torch.zeros_like(call.query).index_fill(-1, torch.tensor(channel), 50.0))
    expected = call.key[..., channel].softmax(-1)[:, :, None].expand(-1, -1, LENGTH, -1)
    assert distance(matrix(built("latte"), sure), expected) < 1e-9


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
def test_flow_between_equal_tokens_is_a_mean_times_the_sigmoid_of_one(causal: bool) -> None:
    call = given(causal=causal)
    equal = replace(call, query=torch.ones_like(call.query), key=torch.ones_like(call.key) * 2)
    share = call.visible.double() / call.visible.sum(-1, keepdim=True)
    assert distance(matrix(built("flow"), equal), share / (1 + math.exp(-1))) < 1e-9


def test_a_codebook_of_all_keys_is_softmax() -> None:
    call, mixer = given(), built("vector-quantised", codewords=LENGTH)
    assert isinstance(mixer.codebook, Tensor)
    mixer.codebook.data.copy_(call.key[0])
    assert distance(matrix(mixer, call), softmax(call)) < 1e-12


def test_straight_through_gradients_are_those_of_attention_to_the_codewords() -> None:
    call, mixer = given(), built("vector-quantised")
    gradients = []
    for training in (True, False):
        mixer.train(training)
        key = call.key.clone().requires_grad_()
        z = mixer.mix(replace(call, key=key)).z
        gradients.append(torch.autograd.grad(z.square().sum(), key)[0] if training else z.requires_grad)
    assert isinstance(mixer.codebook, Tensor)
    nearest = torch.cdist(call.key, mixer.codebook.detach()[None]).argmin(-1)
    words = mixer.codebook.detach()[torch.arange(HEADS)[:, None], nearest].requires_grad_()
    z = built("softmax").mix(replace(call, key=words)).z
    assert distance(gradients[0], torch.autograd.grad(z.square().sum(), words)[0]) < 1e-9


def test_galerkin_of_normalised_values_is_galerkin_keys() -> None:
    call = given()
    normed = replace(call, value=layer_norm(call.value, (WIDTH,), eps=0))
    with torch.no_grad():
        z, linear = (built("galerkin", normed=which).operation(normed) for which in ("key_value", "key"))
    assert distance(z, linear) < 1e-4


def test_fourier_type_is_mean_linear_attention_of_normalised_queries_and_keys() -> None:
    call = given(causal=False)
    normed = layer_norm(call.query, (WIDTH,)) @ layer_norm(call.key, (WIDTH,)).mT
    assert distance(matrix(built("galerkin"), call), normed / LENGTH) < 1e-9


def test_lama_of_equal_scores_is_a_running_mean() -> None:
    call = given()
    equal = replace(call, gates={"importance": torch.full((1, HEADS, LENGTH), 0.3, dtype=torch.float64)})
    mean = torch.ones(LENGTH, LENGTH).double().tril() / torch.arange(1, LENGTH + 1)[:, None]
    assert distance(matrix(built("global-context"), equal), mean) < 1e-12


def test_lama_scores_are_a_bilinear_form_of_rank_one_in_context_and_token() -> None:
    mixer = built("global-context")
    stream = torch.randn(1, LENGTH, SHAPE.d_model, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        found = mixer.gates(stream)["importance"]
        for head in range(HEADS):
            form = torch.outer(mixer.left[head], mixer.right[head])
            assert distance(found[0, head], torch.tanh(mixer.context @ form @ stream[0].T)) < 1e-12


# Texts that are read as a whole


def jrt(stream: Tensor, prefix: int) -> Tensor:
    mixer = built("prefix-linear", prefix=prefix)
    call = replace(given(causal=False), query=stream[:, None, :, :WIDTH].expand(-1, HEADS, -1, -1))
    call = replace(call, key=call.query * 0.5, value=call.query + 1, gates=mixer.gates(stream))
    with torch.no_grad():
        return mixer.operation(call)


def test_only_the_prefix_of_jrt_is_seen_ahead_of_time() -> None:
    prefix = 3
    stream = torch.randn(1, LENGTH, SHAPE.d_model, generator=torch.Generator().manual_seed(2)).double()
    before = jrt(stream, prefix)
    for changed in range(LENGTH):
        other = stream.clone()
        other[:, changed] += 1
        moved = (jrt(other, prefix) - before).abs().amax((0, 1, 3)) > 1e-9
        first = 0 if changed < prefix else changed
        assert moved.tolist() == [row >= first for row in range(LENGTH)], changed


def test_columns_of_the_second_reading_stand_for_the_tokens_of_the_prefix() -> None:
    mixer = built("prefix-linear", prefix=3)
    stream = torch.zeros(1, LENGTH, SHAPE.d_model, dtype=torch.float64)
    mix = mixer.mix(replace(given(causal=False), gates=mixer.gates(stream)))
    assert (mix.columns, mix.column_positions, mix.n_tokens) == (("past",) * 3, (0, 1, 2), LENGTH)


def test_linformer_with_identities_is_softmax() -> None:
    mixer, call = built("linformer", rank=LENGTH), given(causal=False)
    assert isinstance(mixer.projections, Tensor)
    mixer.projections.data.copy_(torch.eye(LENGTH).repeat(2, 1, 1))
    assert distance(matrix(mixer, call), softmax(call)) < 1e-12


def test_nystrom_with_every_token_a_landmark_is_softmax() -> None:
    call = given(causal=False, size=2.0)
    found = matrix(built("nystrom", rank=LENGTH, kernel=0, iterations=40), call)
    assert distance(found, softmax(call)) < 1e-6


def test_the_convolution_of_nystrom_adds_its_filter_along_diagonals() -> None:
    mixer, call = built("nystrom", kernel=3), given(causal=False)
    band = matrix(mixer, call)
    assert isinstance(mixer.filter, Tensor)
    taps = mixer.filter.detach().clone()
    mixer.filter.data.zero_()
    band = band - matrix(mixer, call)
    for tap, apart in enumerate((1, 0, -1)):
        assert distance(band.diagonal(apart, -2, -1), taps[:, tap, None]) < 1e-12
    assert distance(band.tril(-2) + band.triu(2), torch.zeros(())) < 1e-12


def test_agents_of_equal_queries_are_softmax() -> None:
    call = given(causal=False)
    equal = replace(call, query=call.query[:, :, :1].expand_as(call.query))
    assert distance(matrix(built("agent", rank=3), equal), softmax(equal)) < 1e-12


def test_segments_of_equal_length_are_average_pooling() -> None:
    x = given(length=12).query
    expected = adaptive_avg_pool1d(x.flatten(0, 1).mT, 4).mT.unflatten(0, (1, HEADS))
    assert distance(segment_means(x, 4), expected) < 1e-12


@pytest.mark.parametrize("length", [3, 7, 10])
def test_every_token_is_in_one_segment(length: int) -> None:
    one_hot = torch.eye(length).double()[None, None]
    means = segment_means(one_hot, 4)
    assert means.shape[2] == min(length, 4)
    assert ((means > 0).sum(2) == 1).all()
    assert distance(means.sum(-1), torch.ones(())) < 1e-12


def test_compressed_attention_without_compression_is_softmax() -> None:
    mixer, call = built("compressed", kernel=1, stride=1), given(causal=False)
    assert isinstance(mixer.filters, Tensor)
    mixer.filters.data.fill_(1)
    found = matrix(mixer, call)
    assert distance(found, softmax(call)[:, :, None].expand_as(found)) < 1e-12


def test_hrrformer_with_impulses_compares_each_value_with_the_sum_of_all() -> None:
    call = given(causal=False)
    impulse = torch.zeros_like(call.query)
    impulse[..., 0] = 1
    total = normalize(call.value.sum(2, keepdim=True), dim=-1)
    weights = (normalize(call.value, dim=-1) * total).sum(-1).softmax(-1)
    with torch.no_grad():
        z = built("holographic").operation(replace(call, query=impulse, key=impulse))
    assert distance(z, weights[..., None] * call.value) < 1e-9


# Settings and widths that no entry has

UNUSUAL: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"normalise": False}),
    ("taylor", {"inputs": "norm"}),
    ("taylor", {"polynomial": "square", "inputs": "unit"}),
    ("hedgehog", {"width": 3}),
    ("random-features", {"count": 7}),
    ("fourier-features", {"count": 7}),
    ("gated-fourier-features", {"count": 7}),
    ("relative-features", {"count": 3}),
    ("retention", {"decay": "layered", "rotation": "pairs"}),
    ("retention", {"features": "silu", "rotation": "first_layer"}),
    ("retention", {"decay": "sloped"}),
    ("cosformer", {}),
    ("latte", {}),
    ("flow", {}),
    ("galerkin", {"normed": "key_value"}),
    ("vector-quantised", {"codewords": 3}),
    ("global-context", {}),
    ("prefix-linear", {"prefix": 5}),
    ("prefix-linear", {"prefix": 50}),
    ("linformer", {"rank": 3}),
    ("nystrom", {"rank": 3, "kernel": 0}),
    ("nystrom", {"rank": 3, "kernel": 4, "iterations": 2}),
    ("agent", {"rank": 3}),
    ("compressed", {"kernel": 4, "stride": 2}),
    ("compressed", {"kernel": 2, "stride": 7}),
]


@pytest.mark.parametrize(("kind", "settings"), UNUSUAL, ids=lambda part: str(part).replace("'", ""))
def test_other_settings_and_unequal_widths_agree_with_the_naive_twin(kind: str, settings: dict[str, Any]) -> None:
    mixer = built(kind, replace(SHAPE, d_key=6, layer=0, n_layers=2), **settings)
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, HEADS, LENGTH, width, generator=generator).double() for width in (6, 6, WIDTH))
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        gates = mixer.gates(torch.randn(2, LENGTH, SHAPE.d_model, generator=generator).double())
        call = MixerInput(query, key, value, gates, 0.4, causal=mixer.causal)
        expected = operations()[kind](mixer, call)
        assert distance(mixer.operation(call), expected) < 1e-7
        if mixer.decodes:
            state, rows = mixer.start(call.token(0)), []
            for at in range(LENGTH):
                z, state = mixer.step(state, call.token(at))
                rows.append(z)
            assert distance(torch.cat(rows, 2), expected) < 1e-7
            assert sum(part.numel() for part in state.values()) == 2 * mixer.state_size(LENGTH)


# What cannot be


@pytest.mark.parametrize("kind", ["linformer", "cosformer"])
def test_a_text_longer_than_the_context_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedError, match="n_ctx 8"):
        built(kind).mix(given(causal=kind == "cosformer", length=9))


def test_decoding_refuses_the_token_after_the_context() -> None:
    mixer, call = built("cosformer"), given(length=9)
    state = mixer.start(call.token(0))
    for at in range(8):
        _, state = mixer.step(state, call.token(at))
    with pytest.raises(UnsupportedError, match=r"n_ctx 8, and the text has 9 tokens: give a shorter text"):
        mixer.step(state, call.token(8))


@pytest.mark.parametrize(
    ("kind", "shape", "settings", "reason"),
    [
        ("retention", replace(SHAPE, d_key=3), {"rotation": "pairs"}, "odd"),
        ("holographic", replace(SHAPE, d_key=3), {}, "must be the same"),
    ],
    ids=["odd-rotation", "unequal-binding"],
)
def test_impossible_widths_are_refused(kind: str, shape: MixerShape, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        built(kind, shape, **settings)
