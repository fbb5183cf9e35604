"""Softmax and its normalisers: limiting cases, and what is special about each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headscope.errors import ConfigError
from headscope.mixers.building import build_mixer
from headscope.mixers.interface import Mixer, MixerInput, MixerShape
from headscope.mixers.jacobian import jacobian_matrix
from headscope.mixers.registry import variant
from headscope.models.decoder.decoder import Decoder
from tests.mixer_cases import HEADS, LENGTH, MODEL, N_CTX, make_case, small_config

WIDTH = small_config(variant("softmax")).head_width
SHAPE = MixerShape(HEADS, WIDTH, WIDTH, MODEL, N_CTX)
both_ways = pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])


def mixer(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_mixer(kind, SHAPE, settings).double()


def given(*, causal: bool = True) -> MixerInput:
    """Queries, keys and values alone."""
    return make_case(variant("softmax"), causal=causal).given


def matrix(made: Mixer, case: MixerInput) -> Tensor:
    with torch.no_grad():
        return made.mix(case).matrix


def softmax(case: MixerInput) -> Tensor:
    return matrix(mixer("softmax"), case)


def fill(parameter: Tensor, value: float | Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value, dtype=parameter.dtype).expand_as(parameter))


def eye(size: int = LENGTH) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def as_float(case: MixerInput) -> MixerInput:
    return replace(case, query=case.query.float(), key=case.key.float(), value=case.value.float())


def every_score(case: MixerInput, score: float) -> MixerInput:
    """The same case where every query meets every key with this score."""
    ones = torch.ones_like(case.query) * WIDTH**-0.5
    return replace(case, query=ones * score, key=ones, scale=1.0)


# null columns and memories


def test_a_sink_far_below_all_scores_is_softmax() -> None:
    torch.testing.assert_close(matrix(mixer("sink", logit=-60.0), given()), softmax(given()))


@both_ways
@pytest.mark.parametrize("logit", [0.0, 1.5], ids=["off-by-one", "higher"])
def test_a_sink_is_softmax_times_a_sigmoid_of_the_log_normaliser(causal: bool, logit: float) -> None:
    case = given(causal=causal)
    log_sum = case.scores.masked_fill(~case.visible, -torch.inf).logsumexp(-1, keepdim=True)
    want = softmax(case) * (log_sum - logit).sigmoid()
    torch.testing.assert_close(matrix(mixer("sink", logit=logit), case), want)


def test_sinks_learned_by_each_head_are_those_of_gpt_oss() -> None:
    made, case = mixer("sink", learned=True), given()
    fill(made.logit, torch.tensor([-1.0, 2.0]))
    scores = case.scores.masked_fill(~case.visible, -torch.inf)
    sinks = made.logit.detach().reshape(1, -1, 1, 1).expand(scores.shape[0], -1, LENGTH, 1)
    want = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    torch.testing.assert_close(matrix(made, case), want)
    assert mixer("sink").state_dict().keys() == {"logit"}
    assert not list(mixer("sink").parameters())


def test_memories_of_no_score_and_no_value_are_the_off_by_one_softmax() -> None:
    made, case = mixer("memory-key-values", memories=1), given()
    fill(made.memory_key, 0.0)
    fill(made.memory_value, 0.0)
    mix = made.mix(case)
    torch.testing.assert_close(mix.z.detach(), mixer("sink").mix(case).z)
    assert (mix.columns, mix.column_positions, mix.n_tokens) == (("memory",), (-1,), LENGTH)


def test_every_row_sees_every_memory_and_a_hook_sees_only_the_tokens_scores() -> None:
    seen: list[torch.Size] = []
    case = replace(given(), edit_scores=lambda scores: (seen.append(scores.shape), scores)[1])
    weights = matrix(mixer("memory-key-values", memories=3), case)
    assert weights.shape[-1] == LENGTH + 3
    assert bool((weights[..., LENGTH:] > 0).all())
    assert [shape[-1] for shape in seen] == [LENGTH]


# functions of each score by itself


@both_ways
def test_sigmoid_rows_of_equal_scores_of_0_sum_to_n_over_n_plus_1(causal: bool) -> None:
    case = every_score(given(causal=causal), 0.0)
    seen = case.visible.sum(-1).double()
    sums = matrix(mixer("sigmoid"), case).sum(-1)
    torch.testing.assert_close(sums, (seen / (seen + 1)).expand_as(sums))


def test_sigmoid_without_biases_is_the_sigmoid_of_each_score() -> None:
    want = given().scores.sigmoid().tril()
    torch.testing.assert_close(matrix(mixer("sigmoid", length_bias=False), given()), want)


def test_a_learned_bias_of_the_logarithm_undoes_that_of_the_length() -> None:
    made, case = mixer("sigmoid", learned_bias=True), given()
    fill(made.bias, torch.tensor(7.0).log())
    want = mixer("sigmoid", length_bias=False).mix(case).matrix
    torch.testing.assert_close(matrix(made, case)[:, :, 6], want[:, :, 6], atol=1e-7, rtol=1e-6)  # the row that sees 7


@pytest.mark.parametrize(
    ("power", "length_power", "want"), [(1, 1.0, 2 / 9), (2, 1.0, 4 / 9), (1, 0.0, 2), (3, 0.5, 8 / 3)]
)
def test_relu_weights_of_scores_of_2_in_a_row_that_sees_9(power: int, length_power: float, want: float) -> None:
    weights = matrix(mixer("relu", power=power, length_power=length_power), every_score(given(), 2.0))
    torch.testing.assert_close(weights[:, :, 8, :9], torch.full_like(weights[:, :, 8, :9], want))


def test_relu_gives_nothing_to_negative_scores() -> None:
    assert float(matrix(mixer("relu"), every_score(given(), -1.0)).abs().max()) == 0


def test_polynomial_of_scores_of_2_leaves_1_over_1_plus_16_n_to_the_null_column() -> None:
    mix = mixer("polynomial").mix(every_score(given(), 2.0))
    assert mix.null_mass is not None
    want = 1 / (1 + 16 * torch.arange(1, LENGTH + 1, dtype=torch.float64))
    torch.testing.assert_close(mix.null_mass, want.expand_as(mix.null_mass))


def test_polynomial_is_the_same_for_scores_of_either_sign() -> None:
    case = given()
    torch.testing.assert_close(
        matrix(mixer("polynomial"), case), matrix(mixer("polynomial"), replace(case, query=-case.query))
    )


# softplus


@both_ways
@pytest.mark.parametrize("reweight", [False, True], ids=["lssa", "lssar"])
def test_equal_keys_get_equal_softplus_weights(causal: bool, reweight: bool) -> None:
    case = given(causal=causal)
    case = replace(case, key=case.key[:, :, :1].expand_as(case.key))
    weights = matrix(mixer("lssa", reweight=reweight), case)
    visible = case.visible.double()
    want = (visible / visible.sum(-1, keepdim=True)).expand_as(weights)
    torch.testing.assert_close(weights, want)
    single = matrix(mixer("lssa", reweight=reweight).float(), as_float(case))
    torch.testing.assert_close(single.double(), want, atol=1e-6, rtol=0)  # rounding errors are not sharpened


def test_softplus_weights_of_the_same_and_the_opposite_direction() -> None:
    case = given()
    direction = case.query[:, :, :1].expand_as(case.query)
    sign = torch.where(torch.arange(LENGTH) % 2 == 0, 1.0, -1.0).double()[:, None]
    weights = matrix(mixer("lssa"), replace(case, query=direction, key=direction * sign))
    scale = math.log(WIDTH) * math.log(4)
    same, opposite = math.log1p(math.exp(scale)), math.log1p(math.exp(-scale))
    want = torch.tensor([same, opposite, same, opposite], dtype=torch.float64) / (2 * (same + opposite))
    torch.testing.assert_close(weights[:, :, 3, :4], want.expand(2, HEADS, -1))


def test_softplus_weights_do_not_depend_on_the_length_of_queries_and_keys() -> None:
    case = given()
    other = replace(case, query=case.query * 3, key=case.key * 0.2, scale=5.0)
    torch.testing.assert_close(matrix(mixer("lssa"), case), matrix(mixer("lssa"), other))


def test_re_weighting_keeps_order_and_drops_what_lies_below_the_mean() -> None:
    case = given()
    plain, sharp = matrix(mixer("lssa"), case)[:, :, 3:], matrix(mixer("lssa", reweight=True, power=3), case)[:, :, 3:]
    seen = case.visible[3:].sum(-1, keepdim=True)
    assert torch.equal(sharp > 0, plain * seen > 1)
    assert torch.equal(sharp.argmax(-1), plain.argmax(-1))
    assert bool((sharp.amax(-1) > plain.amax(-1)).all())


def test_re_weighting_by_a_high_power_attends_to_the_best_key_alone() -> None:
    case = given()
    cosines = torch.cosine_similarity(case.query[:, :, :, None], case.key[:, :, None], dim=-1)
    best = cosines.masked_fill(~case.visible, -torch.inf).argmax(-1)
    weights = matrix(mixer("lssa", reweight=True, power=20_000), case)
    assert torch.equal(weights.argmax(-1), best)
    assert float(weights.amax(-1).min()) > 0.99


# forget gates


def forgetting(log_forget: Tensor | float) -> Tensor:
    case = given()
    gate = torch.as_tensor(log_forget, dtype=torch.float64).expand(2, HEADS, LENGTH)
    return matrix(mixer("forgetting"), replace(case, gates={"log_forget": gate}))


def test_attention_that_forgets_nothing_is_softmax() -> None:
    torch.testing.assert_close(forgetting(0.0), softmax(given()))


def test_a_constant_forget_gate_is_alibi() -> None:
    case = given()
    slopes = torch.tensor([0.5, 0.0625], dtype=torch.float64)
    alibi = replace(case, bias=-(slopes[:, None, None] * case.offsets)[None])
    torch.testing.assert_close(forgetting(-slopes[:, None]), softmax(alibi))


def test_a_gate_that_closes_cuts_off_all_before_it() -> None:
    gate = torch.zeros(LENGTH, dtype=torch.float64)
    gate[7] = -1e4
    weights = forgetting(gate)
    assert float(weights[:, :, 7:, :7].abs().max()) == 0
    torch.testing.assert_close(weights[:, :, :7], softmax(given())[:, :, :7])


def test_the_forget_gate_of_cable_is_the_same() -> None:
    case = make_case(variant("fox"))
    made: Any = case.mixer
    with torch.no_grad():
        logits = (case.stream @ made.W_forget + made.b_forget).mT
        bias = (-torch.nn.functional.softplus(-logits)).cumsum(-1)
        plain = replace(case.given, gates={}, bias=bias[..., :, None] - bias[..., None, :])
    torch.testing.assert_close(matrix(made, case.given), softmax(plain))


# stick-breaking


def test_a_stick_that_is_taken_whole_goes_to_the_token_before() -> None:
    weights = matrix(mixer("stick-breaking"), every_score(given(), 50.0))
    torch.testing.assert_close(weights, eye().roll(1, 0).tril().expand_as(weights))


def test_a_stick_that_nobody_takes_stays_with_the_row_or_with_nothing() -> None:
    case = every_score(given(), -50.0)
    own = matrix(mixer("stick-breaking", rest="self"), case)
    torch.testing.assert_close(own, eye().expand_as(own))
    assert float(matrix(mixer("stick-breaking"), case).abs().max()) < 1e-15


def test_a_stick_of_halves_is_halved_at_every_token() -> None:
    weights = matrix(mixer("stick-breaking"), every_score(given(), 0.0))
    back = given().offsets.double()
    want = torch.where(back > 0, 0.5**back, 0.0)
    torch.testing.assert_close(weights, want.expand_as(weights))


# one query for all rows


def test_a_constant_query_is_softmax_with_the_same_query_in_every_row() -> None:
    case = make_case(variant("aaren"))
    made: Any = case.mixer
    with torch.no_grad():
        key = torch.einsum("btm,hme->bhte", case.stream, made.W_K)
        query = made.query[None, :, None].expand_as(key)
    torch.testing.assert_close(matrix(made, case.given), softmax(replace(case.given, query=query, key=key)))


def test_a_constant_query_decodes_scores_of_any_size_with_a_state_that_does_not_grow() -> None:
    case = make_case(variant("aaren"), dtype=torch.float32)
    score = torch.tensor([-900.0, 900.0, 899.0, -5.0]).repeat(LENGTH // 4).expand(2, HEADS, LENGTH)
    case = replace(case.given, gates={"token_score": score})
    made = mixer("constant-query")
    state, rows = made.start(case.token(0)), []
    for at in range(LENGTH):
        z, state = made.step(state, case.token(at))
        rows.append(z)
    torch.testing.assert_close(torch.cat(rows, 2), made.mix(case).z)
    assert made.state_size(10) == made.state_size(1000) == HEADS * (WIDTH + 2)


def test_a_constant_query_leaves_out_the_queries_of_the_layer() -> None:
    names = [name for name, _ in Decoder(small_config(variant("aaren"))).named_parameters()]
    assert not any(name.endswith(("attn.W_Q", "keys_values.W_K")) for name in names)


# rows that may be negative


@both_ways
def test_standardised_rows_have_mean_b_and_deviation_g(causal: bool) -> None:
    made, case = mixer("standardised"), given(causal=causal)
    fill(made.gain, torch.tensor([1.0, 2.5]))
    fill(made.bias, torch.tensor([0.25, -1.0]))
    weights = matrix(made, case)
    for row in range(3, LENGTH):
        seen = weights[:, :, row, : row + 1 if causal else LENGTH]
        torch.testing.assert_close(seen.mean(-1), made.bias.detach().expand(2, -1))
        want = made.gain.detach().expand(2, -1)
        torch.testing.assert_close(seen.std(-1, unbiased=False), want, rtol=1e-2, atol=0)
    if causal:  # one token deviates from nothing
        torch.testing.assert_close(weights[:, :, 0, 0], made.bias.detach().expand(2, -1))


def test_standardised_rows_do_not_see_a_constant_in_the_scores() -> None:
    case = given()
    moved = replace(case, edit_scores=lambda scores: scores + 3)
    torch.testing.assert_close(matrix(mixer("standardised"), case), matrix(mixer("standardised"), moved))


@pytest.mark.parametrize(("power", "divisor"), [(-40.0, 1.0), (40.0, 9.0), (0.0, 3.0)], ids=["none", "mean", "root"])
def test_cosines_are_divided_by_a_power_of_the_length(power: float, divisor: float) -> None:
    made, case = mixer("cosine"), given()
    fill(made.length_power, power)
    cosines = torch.cosine_similarity(case.query[:, :, :, None], case.key[:, :, None], dim=-1)
    torch.testing.assert_close(matrix(made, case)[:, :, 8, :9], cosines[:, :, 8, :9] / divisor)


def test_a_differential_without_its_second_map_is_softmax_on_the_even_channels() -> None:
    made, case = mixer("differential"), given()
    for parameter in (made.left, made.right):
        fill(parameter, 0.0)
    made.start_share = 0.0
    first = replace(case, query=case.query[..., ::2], key=case.key[..., ::2], scale=(WIDTH // 2) ** -0.5)
    torch.testing.assert_close(matrix(made, case), softmax(first))


def test_a_differential_of_equal_halves_leaves_1_minus_lambda_of_their_softmax() -> None:
    made, case = mixer("differential"), given()
    query, key = (x[..., ::2].repeat_interleave(2, -1) for x in (case.query, case.key))
    weights = matrix(made, replace(case, query=query, key=key))
    share = float(made.share.detach())
    want = softmax(replace(case, query=query, key=key, scale=case.scale * 2**-0.5))
    torch.testing.assert_close(weights, (1 - share) * want)
    assert share == pytest.approx(0.2, abs=0.1)


def test_a_differential_of_turned_queries_and_keys_sees_only_how_far_apart_they_are() -> None:
    made, case = mixer("differential"), given()

    def turned(x: Tensor, first: int) -> Tensor:
        angle = (torch.arange(LENGTH) + first)[:, None] * torch.tensor([1.0, 0.5, 0.25, 0.1], dtype=torch.float64)
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    here, there = (replace(case, query=turned(case.query, at), key=turned(case.key, at)) for at in (0, 17))
    torch.testing.assert_close(matrix(made, here), matrix(made, there))


@pytest.mark.parametrize(("layer", "start"), [(0, 0.2), (1, 0.8 - 0.6 * 0.740818), (30, 0.8)])
def test_the_share_of_a_differential_starts_higher_in_later_layers(layer: int, start: float) -> None:
    made: Any = build_mixer("differential", replace(SHAPE, layer=layer), {})
    assert made.start_share == pytest.approx(start, abs=1e-4)


def test_a_differential_refuses_keys_of_odd_width() -> None:
    with pytest.raises(ConfigError, match="give an even one"):
        build_mixer("differential", replace(SHAPE, d_key=3), {})


# positions


def test_softmax_times_ones_is_softmax_and_times_one_distance_keeps_that_distance() -> None:
    made, case = mixer("toeplitz-softmax"), given()
    torch.testing.assert_close(matrix(made, case), softmax(case))
    fill(made.factor, 0.0)
    with torch.no_grad():
        made.factor[:, SHAPE.n_ctx - 1 + 1] = 2.0  # the token before
    want = torch.where(case.offsets == 1, 2 * softmax(case), 0.0)
    torch.testing.assert_close(matrix(made, case), want)


def test_distances_beyond_the_longest_share_its_factor() -> None:
    made: Any = build_mixer("toeplitz-softmax", replace(SHAPE, n_ctx=4), {}).double()
    with torch.no_grad():
        made.factor[:, -1] = 5.0
    case = given()
    want = torch.where(case.offsets >= 3, 5 * softmax(case), softmax(case))
    torch.testing.assert_close(matrix(made, case), want)


@both_ways
def test_a_closed_positional_gate_is_softmax(causal: bool) -> None:
    torch.testing.assert_close(
        matrix(mixer("gated-positional", gate=-60.0), given(causal=causal)), softmax(given(causal=causal))
    )


def test_an_open_positional_gate_reads_no_content_and_head_h_looks_h_back() -> None:
    weights = matrix(mixer("gated-positional", gate=60.0, locality=20.0), given())
    for head in range(HEADS):
        want = eye().roll(head, 0)[HEADS:]
        torch.testing.assert_close(weights[:, head, HEADS:], want.expand(2, -1, -1), atol=1e-7, rtol=0)


# learned rows


def test_a_learned_row_operator_of_rank_n_with_the_identity_is_the_full_one() -> None:
    low, full, case = mixer("fourier-rows", rank=SHAPE.n_ctx), mixer("fourier-rows", rank=None), given()
    fill(low.cosine, full.cosine)
    fill(low.sine, full.sine)
    fill(low.W_row, eye(SHAPE.n_ctx))
    torch.testing.assert_close(matrix(low, case), matrix(full, case))


def test_a_full_row_operator_of_one_sine_on_the_diagonal_is_the_sine_of_each_score() -> None:
    made, case = mixer("fourier-rows", rank=None, frequencies=2), given()
    fill(made.cosine, 0.0)
    fill(made.sine, torch.stack([torch.zeros(SHAPE.n_ctx, SHAPE.n_ctx), torch.eye(SHAPE.n_ctx)], -1))
    torch.testing.assert_close(matrix(made, case), (2 * case.scores).sin().tril())


# pairs and networks


@both_ways
@pytest.mark.parametrize("scale", ["width", "root"])
def test_pairs_whose_second_token_says_nothing_are_softmax_over_the_first(causal: bool, scale: str) -> None:
    case = given(causal=causal)
    ones = torch.ones_like(case.key)
    pairs = replace(case, gates={"second_key": ones, "second_value": ones})
    weights = matrix(mixer("tensor", scale=scale), pairs)
    want = softmax(replace(case, scale=1 / WIDTH if scale == "width" else WIDTH**-0.5))
    torch.testing.assert_close(weights, want[:, :, None].expand_as(weights))


def test_three_way_attention_is_the_same_with_first_and_second_tokens_exchanged() -> None:
    case = make_case(variant("tensor"))
    second = case.given.gates
    swapped = replace(
        case.given,
        key=second["second_key"],
        value=second["second_value"],
        gates={"second_key": case.given.key, "second_value": case.given.value},
    )
    with torch.no_grad():
        torch.testing.assert_close(case.mixer.operation(swapped), case.mixer.operation(case.given))


def test_a_sparse_network_of_no_share_is_softmax_and_its_jacobian_is_the_weights() -> None:
    made, case = mixer("isomorphic", sparse=True), make_case(variant("softmax"), length=5).given
    fill(made.share, 0.0)
    torch.testing.assert_close(made.operation(case).detach(), softmax(case) @ case.value)
    torch.testing.assert_close(jacobian_matrix(made, case).detach(), softmax(case))


def test_edges_above_a_threshold_of_1_leave_only_the_self_loop() -> None:
    made, case = mixer("isomorphic", sparse=True, threshold=1.0), make_case(variant("softmax"), length=5).given
    rest = jacobian_matrix(made, case).detach() - softmax(case)
    assert float((rest - rest.tril().triu()).abs().max()) < 1e-12
    assert float(rest.diagonal(dim1=-2, dim2=-1).abs().min()) > 1e-4


def test_a_network_reads_what_attention_gives_and_its_own_value_as_often_as_its_self_loop_says() -> None:
    made, case = mixer("isomorphic"), given()
    attended = softmax(case) @ case.value
    for self_loop in (-1.0, 0.5):
        fill(made.self_loop, self_loop)
        alone = replace(case, value=attended + (1 + self_loop) * case.value)  # a row that sees itself only
        alone = replace(alone, edit_scores=lambda scores: scores.masked_fill(eye() == 0, -torch.inf))
        want = made.operation(case)
        fill(made.self_loop, -1.0)
        torch.testing.assert_close(made.operation(alone), want)


# sparse rows


@pytest.mark.parametrize(
    ("gap", "sparsemax", "entmax"),
    [(0.0, 0.5, 0.5), (0.6, 0.2, None), (1.0, 0.0, None), (2.0, 0.0, 0.0)],
)
def test_a_row_of_two_scores_a_gap_apart(gap: float, sparsemax: float, entmax: float | None) -> None:
    one = torch.ones(1, 1, 2, 1, dtype=torch.float64)
    key = torch.tensor([0.0, gap], dtype=torch.float64).reshape(1, 1, 2, 1)
    case = MixerInput(one, key, one)
    lower = [float(matrix(mixer("entmax", form=form), case)[0, 0, 1, 0]) for form in ("sparsemax", "entmax")]
    assert lower[0] == pytest.approx(sparsemax, abs=1e-12)
    if entmax is not None:
        assert lower[1] == pytest.approx(entmax, abs=1e-12)
    else:  # the roots of both weights are gap / 2 apart
        assert (1 - lower[1]) ** 0.5 - lower[1] ** 0.5 == pytest.approx(gap / 2)


def test_sparsemax_is_sparser_than_entmax_and_entmax_than_softmax() -> None:
    case = replace(given(), scale=2.0)
    counts = [float((matrix(mixer("entmax", form=form), case) > 0).sum()) for form in ("sparsemax", "entmax")]
    assert counts[0] < counts[1] < float((softmax(case) > 0).sum())


# decoding, and what the registry says


@pytest.mark.parametrize("name", ["learned-sink", "mem-kv", "fox", "stick-breaking", "urpe", "gpsa", "karat", "gin"])
def test_the_last_rows_alone_are_the_last_rows_of_all(name: str) -> None:
    case = make_case(variant(name))
    last = replace(case.given, query=case.given.query[:, :, -3:])
    with torch.no_grad():
        torch.testing.assert_close(case.mixer.operation(last), case.mixer.operation(case.given)[:, :, -3:])


@pytest.mark.parametrize("name", ["lssa", "sigmoid", "differential", "gpsa", "nap", "fox", "entmax"])
def test_a_bias_of_positions_reaches_the_weights(name: str) -> None:
    case = make_case(variant(name))
    bias = torch.where(case.given.offsets == 2, 4.0, 0.0).double()[None, None]
    plain, biased = matrix(case.mixer, case.given), matrix(case.mixer, replace(case.given, bias=bias))
    assert float((biased - plain)[:, :, 2:].abs().amax()) > 0.05
    torch.testing.assert_close(biased[:, :, :2], plain[:, :, :2])
