"""Where recurrences must reduce to one another, and what is special about each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from headscope.errors import ConfigError
from headscope.mixers.building import build_mixer
from headscope.mixers.decay import decayed_products, earlier_products
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.jacobian import jacobian_matrix
from headscope.mixers.log_linear import fenwick_levels
from tests.mixer_operations import operations

BATCH, HEADS, SIZE, WIDTH = 1, 2, 12, 4


def made(kind: str, *, size: int = SIZE, d_key: int = WIDTH, **settings: Any) -> tuple[Any, MixerInput]:
    """A mixer and random input for it."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        mixer = build_mixer(kind, MixerShape(HEADS, WIDTH, d_key, 8, 16), settings).double().eval()
    keys, values = (BATCH, HEADS, size, d_key), (BATCH, HEADS, size, WIDTH)
    gates = {name: gate.detach() for name, gate in mixer.gates(draw(BATCH, size, 8)).items()}
    return mixer.requires_grad_(False), MixerInput(draw(*keys), draw(*keys), draw(*values), gates, d_key**-0.5)


def gated(given: MixerInput, **gates: float | Tensor) -> MixerInput:
    """Other gates: constants, or tensors."""
    filled = {
        name: gate if isinstance(gate, Tensor) else torch.full_like(given.gates[name], gate)
        for name, gate in gates.items()
    }
    return replace(given, gates={**given.gates, **filled})


def orthonormal(given: MixerInput) -> MixerInput:
    """With keys that are unit vectors along the axes: no more than there are channels."""
    key = torch.eye(given.key.shape[-1], dtype=torch.float64)[: given.key.shape[2]]
    return replace(given, key=key.expand_as(given.key))


def products(given: MixerInput) -> Tensor:
    return (given.query @ given.key.mT * given.scale).tril()


def unit(given: MixerInput) -> MixerInput:
    return replace(given, query=normalize(given.query, dim=-1), key=normalize(given.key, dim=-1))


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other.expand_as(one), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("strength", [0.1, 3.0, 300.0], ids=["weak-decay", "decay", "forgets-at-once"])
def test_products_under_channel_decays_are_those_of_the_definition(size: int, strength: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, decay = torch.randn(3, 2, size, 3, generator=generator, dtype=torch.float64)
    decay = -decay.abs() * strength
    expected, before = torch.zeros(2, 2, size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(i + 1):
            expected[:, i, j] = (query[:, i] * key[:, j] * decay[:, j + 1 : i + 1].sum(1).exp()).sum(-1)
            if j < i:
                before[:, i, j] = (query[:, i] * key[:, j] * decay[:, j + 1 : i].sum(1).exp()).sum(-1)
    same(decayed_products(query, key, decay), expected)
    same(earlier_products(query, key, decay), before)


def test_products_under_channel_decays_have_finite_gradients_when_everything_is_forgotten() -> None:
    query, key, decay = torch.ones(3, 1, 40, 2).unbind()
    decay = (decay * -1e4).requires_grad_()
    decayed_products(query, key, decay).sum().backward()
    assert decay.grad is not None
    assert bool(decay.grad.isfinite().all())


def test_delta_rule_with_orthonormal_keys_and_beta_one_is_linear_attention() -> None:
    mixer, given = made("delta", size=8, d_key=8, activation="none")
    given = orthonormal(gated(unit(given), beta=1.0))
    same(mixer.mix(given).matrix, products(given))


def test_delta_rule_overwrites_the_value_under_a_key() -> None:
    mixer, given = made("delta", size=3, activation="none")
    key = given.key[:, :, :1].expand(-1, -1, 3, -1)
    matrix = mixer.mix(gated(replace(given, key=key, query=key), beta=1.0)).matrix
    same(matrix[:, :, 2] / given.scale, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def test_delta_rule_with_beta_two_turns_what_is_stored_into_its_negative() -> None:
    mixer, given = made("delta", size=2, activation="none", strength=2)
    key = given.key[:, :, :1].expand(-1, -1, 2, -1)
    beta = torch.tensor([1.0, 2.0], dtype=torch.float64).expand(BATCH, HEADS, 2)
    matrix = mixer.mix(gated(replace(given, key=key, query=key), beta=beta)).matrix
    same(matrix[:, :, 1] / given.scale, torch.tensor([-1.0, 2.0], dtype=torch.float64))


def test_gated_delta_rule_without_decay_is_the_delta_rule() -> None:
    mixer, given = made("delta", decay="head")
    plain, _ = made("delta")
    same(mixer.mix(gated(given, log_decay=0.0)).matrix, plain.mix(given).matrix)


def test_channel_decays_that_agree_are_the_decay_of_the_head() -> None:
    mixer, given = made("delta", decay="head")
    channel, _ = made("delta", decay="channel")
    decay = given.gates["log_decay"][..., None].expand(-1, -1, -1, WIDTH)
    same(channel.mix(gated(given, log_decay=decay)).matrix, mixer.mix(given).matrix)


def test_comba_with_full_removal_and_no_correction_is_the_delta_rule() -> None:
    mixer, given = made("delta", decay="head", closed_loop=True)
    mixer.removal.fill_(60.0)
    mixer.correction.zero_()
    plain, _ = made("delta")
    same(mixer.mix(gated(given, log_decay=0.0)).matrix, plain.mix(given).matrix)


@pytest.mark.parametrize("decay", ["none", "head", "channel"])
@pytest.mark.parametrize("closed_loop", [False, True], ids=["open", "closed-loop"])
@pytest.mark.parametrize("strength", [1, 2])
def test_all_settings_of_the_delta_rule_agree_with_its_recurrence(decay: str, closed_loop: bool, strength: int) -> None:
    mixer, given = made("delta", decay=decay, closed_loop=closed_loop, strength=strength, size=20)
    same(mixer.mix(given).z, operations()["delta"](mixer, given))


def test_kimi_delta_attention_survives_channels_that_forget_at_once() -> None:
    mixer, given = made("delta", decay="channel", size=20)
    given = gated(given, log_decay=given.gates["log_decay"] * 400)
    same(mixer.mix(given).z, operations()["delta"](mixer, given))


@pytest.mark.parametrize("decay", ["head", "channel"])
def test_gated_linear_attention_with_a_constant_decay_is_retention(decay: str) -> None:
    mixer, given = made("gated-linear", decay=decay)
    given = gated(given, log_decay=-0.3)
    same(mixer.mix(given).matrix, products(given) * (-0.3 * given.offsets.double()).exp().tril())


def test_mamba2_with_a_constant_step_is_retention_with_a_skip() -> None:
    mixer, given = made("mamba2")
    given = gated(given, step=0.5, log_decay=-0.2)
    skip = torch.diag_embed(mixer.skip[:, None].expand(HEADS, SIZE))
    same(mixer.mix(given).matrix, products(given) * 0.5 * (-0.2 * given.offsets.double()).exp().tril() + skip)


def test_rwkv6_with_a_bonus_of_one_and_no_decay_is_linear_attention() -> None:
    mixer, given = made("rwkv6")
    mixer.bonus.fill_(1.0)
    same(mixer.mix(gated(given, log_decay=0.0)).matrix, products(given))


def test_rwkv5_decays_are_the_same_for_all_tokens() -> None:
    _, given = made("rwkv6", dynamic=False)
    decay = given.gates["log_decay"]
    same(decay, decay[:, :, :1])
    assert float(decay[0, 0, 0].max() - decay[0, 0, 0].min()) > 0.1


def test_rwkv7_with_full_rates_and_no_decay_is_the_delta_rule() -> None:
    mixer, given = made("rwkv7", bonus=False)
    mixer.removal.fill_(1.0)
    given = gated(unit(given), log_decay=0.0, rate=1.0)
    plain, _ = made("delta", activation="none")
    same(
        mixer.mix(given).matrix,
        plain.mix(replace(given, gates={"beta": torch.ones(BATCH, HEADS, SIZE).double()})).matrix,
    )


def test_rwkv7_without_rates_is_gated_linear_attention() -> None:
    mixer, given = made("rwkv7", bonus=False)
    mixer.replacement.zero_()
    plain, _ = made("gated-linear")
    same(mixer.mix(gated(given, rate=0.0)).matrix, plain.mix(given).matrix)


@pytest.mark.parametrize("steps", ["channel", "head"])
def test_longhorn_with_one_channel_of_keys_is_the_delta_rule(steps: str) -> None:
    mixer, given = made("longhorn", d_key=1, steps=steps)
    given = replace(given, key=given.key.sign(), query=given.query.sign())
    plain, _ = made("delta", d_key=1, activation="none")
    beta = given.gates["beta"]
    step = (beta / (1 + beta)).unsqueeze(-1) if steps == "head" else beta / (1 + beta)
    found = mixer.mix(given).matrix
    for channel in range(step.shape[-1]):
        expected = plain.mix(replace(given, gates={"beta": step[..., channel]})).matrix
        same(found if steps == "head" else found[:, :, channel], expected)


def test_mlstm_with_small_inputs_is_gated_linear_attention() -> None:
    mixer, given = made("mlstm")
    plain, _ = made("gated-linear", decay="head")
    given = gated(given, log_input=-12.0)
    same(mixer.mix(given).matrix, plain.mix(given).matrix * torch.tensor(-12.0, dtype=torch.float64).exp())


def test_mlstm_with_huge_inputs_has_rows_that_sum_to_one_or_minus_one() -> None:
    mixer, given = made("mlstm")
    matrix = mixer.mix(gated(given, log_input=given.gates["log_input"] + 2000)).matrix
    same(matrix.sum(-1).abs(), torch.ones((), dtype=torch.float64))


def test_mesa_with_a_huge_ridge_is_gated_linear_attention() -> None:
    mixer, given = made("mesa", least=1e9)
    mixer.ridge.fill_(-60.0)
    query, key = (normalize(torch.nn.functional.silu(x), dim=-1) for x in (given.query, given.key))
    plain, _ = made("gated-linear", decay="head")
    expected = plain.mix(replace(given, query=query, key=key, scale=1.0)).matrix * given.gates["beta"][..., None, :]
    same(mixer.mix(given).matrix * 1e9, expected)


def test_mesa_recalls_exactly_what_independent_keys_stored() -> None:
    mixer, given = made("mesa", size=WIDTH, least=1e-13)
    mixer.ridge.fill_(-60.0)
    query = given.key[:, :, :1].expand_as(given.key)  # the last row asks with the first key, which no other key spans
    matrix = mixer.mix(gated(replace(given, query=query), log_decay=0.0, beta=1.0)).matrix
    torch.testing.assert_close(
        matrix[0, :, -1], torch.eye(SIZE).double()[:1, :WIDTH].expand(HEADS, -1), atol=1e-6, rtol=0
    )


def test_levels_of_the_fenwick_tree() -> None:
    levels = fenwick_levels(torch.arange(8))
    assert levels[6].tolist()[:7] == [3, 3, 3, 3, 2, 2, 0]
    assert levels[7].tolist() == [3, 3, 3, 3, 2, 2, 1, 0]
    assert levels[4].tolist()[:5] == [3, 3, 3, 3, 0]


@pytest.mark.parametrize("rule", ["mamba2", "gated_delta"])
def test_log_linear_attention_with_equal_weights_is_its_rule(rule: str) -> None:
    mixer, given = made("log-linear", rule=rule)
    same(mixer.mix(gated(given, level=1.0)).matrix, mixer.rule.mix(given).matrix)


def test_log_linear_attention_keeps_a_state_for_each_binary_digit() -> None:
    mixer, given = made("log-linear")
    state = mixer.start(given.token(0))
    for at in range(7):
        _, state = mixer.step(state, given.token(at))
    assert sorted(state) == ["0", "1", "2"]
    _, state = mixer.step(state, given.token(7))
    assert sorted(state) == ["3"]


def test_log_linear_attention_reads_texts_longer_than_it_was_built_for() -> None:
    mixer, given = made("log-linear", size=40)
    assert bool(mixer.mix(given).matrix.isfinite().all())
    state, rows = mixer.start(given.token(0)), []
    for at in range(40):
        z, state = mixer.step(state, given.token(at))
        rows.append(z)
    same(torch.cat(rows, 2), mixer.mix(given).z)


def softmax(scores: Tensor) -> Tensor:
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def test_path_without_reflections_is_softmax() -> None:
    mixer, given = made("path")
    same(mixer.mix(gated(given, beta=0.0)).matrix, softmax(given.scores))


def test_path_with_equal_mirrors_reflects_keys_at_odd_distances_only() -> None:
    mixer, given = made("path")
    mirror = given.gates["direction"][:, :, :1]
    found = mixer.mix(gated(given, beta=2.0, direction=mirror.expand(-1, -1, SIZE, -1))).matrix
    reflected = given.key - 2 * (given.key @ mirror.mT) * mirror
    odd = given.query @ reflected.mT * given.scale
    same(found, softmax(torch.where(given.offsets % 2 == 1, odd, given.scores)))


def test_path_with_a_forget_gate_and_no_reflections_is_the_forgetting_transformer() -> None:
    mixer, given = made("path", forget=True)
    total = given.gates["log_decay"].cumsum(-1)
    found = mixer.mix(gated(given, beta=0.0)).matrix
    same(found, softmax(given.scores + total[..., :, None] - total[..., None, :]))


def test_delta_former_that_takes_nothing_out_is_softmax() -> None:
    mixer, given = made("delta-former")
    same(mixer.mix(gated(given, beta=0.0)).matrix, softmax(given.scores))


def test_one_slot_of_averages_is_the_running_mean() -> None:
    mixer, given = made("slots", slots=1, gate="average")
    same(
        mixer.mix(gated(given, slot_score=0.7)).matrix,
        torch.ones(SIZE, SIZE).double().tril() / (given.rows + 1)[:, None],
    )


def test_slots_that_all_tokens_fill_alike_do_not_ask_the_query() -> None:
    mixer, given = made("slots")
    given = gated(given, log_decay=-0.4)
    other = replace(given, query=given.query.flip(2) * 3)
    same(mixer.mix(given).matrix, mixer.mix(other).matrix)


def test_delta_product_whose_later_steps_do_nothing_is_the_delta_rule() -> None:
    mixer, given = made("delta-product")
    beta = torch.stack([given.gates["beta"][..., 0], torch.zeros(BATCH, HEADS, SIZE).double()], -1)
    mix = mixer.mix(gated(given, beta=beta))
    plain, _ = made("delta", decay="head", strength=2)
    same(mix.matrix[..., :SIZE], plain.mix(gated(given, beta=beta[..., 0])).matrix)
    same(mix.matrix[..., SIZE:], torch.zeros((), dtype=torch.float64))
    assert mix.column_positions == tuple(range(SIZE))
    assert len(mix.columns) == SIZE


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("decay", ["none", "head"])
def test_delta_product_agrees_with_its_recurrence(steps: int, decay: str) -> None:
    mixer, given = made("delta-product", steps=steps, decay=decay)
    same(mixer.mix(given).z, operations()["delta-product"](mixer, given))


def test_titans_without_momentum_and_decay_is_the_delta_rule() -> None:
    mixer, given = made("titans")
    plain, _ = made("delta")
    found = mixer.mix(gated(given, log_momentum=-torch.inf, log_decay=0.0)).matrix
    same(found, plain.mix(gated(given, beta=given.gates["rate"])).matrix)


def test_momentum_repeats_each_step_as_a_geometric_series() -> None:
    mixer, given = made("titans", size=6, d_key=6)
    key = torch.eye(6, dtype=torch.float64).expand_as(given.key)
    given = replace(given, key=key, query=key.flip(2))
    matrix = mixer.mix(gated(given, log_momentum=-0.7, log_decay=0.0, rate=0.1)).matrix / given.scale
    ratio = torch.tensor(-0.7, dtype=torch.float64).exp()
    series = 0.1 * (1 - ratio ** (given.offsets + 1)) / (1 - ratio)
    same(matrix, (series * torch.eye(6).double().flip(0)).tril())


def test_titans_gate_is_a_window_or_the_memory() -> None:
    mixer, given = made("titans-gate", window=3)
    far = given.offsets >= 3
    window = given.scores.masked_fill(far | (given.offsets < 0), -torch.inf).softmax(-1)
    same(mixer.mix(gated(given, window=1.0)).matrix, window)
    same(mixer.mix(gated(given, window=0.0)).matrix, mixer.memory.mix(given).matrix)


def test_titans_context_that_ignores_its_memory_is_softmax_in_segments() -> None:
    mixer, given = made("titans-context", segment=5)
    given = replace(given, query=given.query.abs())
    segment = given.columns // 5
    scores = given.scores.masked_fill(segment[:, None] != segment, -torch.inf)
    same(mixer.mix(gated(given, context_key=-1e6)).matrix, softmax(scores))


def test_titans_context_has_nothing_to_retrieve_in_its_first_segment() -> None:
    mixer, given = made("titans-context", segment=SIZE)
    context = given.query @ given.gates["context_key"].mT * given.scale
    both = torch.cat([given.scores, context], -1).masked_fill(torch.cat([given.offsets < 0] * 2, -1), -torch.inf)
    same(mixer.mix(given).matrix, both.softmax(-1)[..., :SIZE])


def test_test_time_training_on_single_tokens_is_the_delta_rule() -> None:
    mixer, given = made("ttt", mini_batch=1)
    plain, _ = made("delta", activation="none")
    same(mixer.mix(given).matrix, plain.mix(gated(given, beta=given.gates["rate"])).matrix)


def test_test_time_training_on_one_batch_is_linear_attention() -> None:
    mixer, given = made("ttt", mini_batch=SIZE)
    given = unit(given)
    same(mixer.mix(given).matrix, products(given) * given.gates["rate"][..., None, :])


def z_of(kind: str, given: MixerInput, **settings: Any) -> Tensor:
    mixer, own = made(kind, **settings)
    return mixer.operation(replace(given, gates={**own.gates, **given.gates}))


def test_huber_loss_below_its_threshold_is_the_squared_error() -> None:
    _, given = made("fast-weights", loss="huber", retention="decay")
    below = gated(given, threshold=1e6)
    same(z_of("fast-weights", below, loss="huber", retention="decay"), z_of("fast-weights", below, retention="decay"))


def test_second_powers_are_twice_the_squared_error() -> None:
    _, given = made("fast-weights", loss="lp", power=2.0)
    halved = gated(given, rate=given.gates["rate"] / 2)
    same(z_of("fast-weights", halved, loss="lp", power=2.0), z_of("fast-weights", given))


def test_dividing_by_the_second_norm_to_the_power_zero_is_plain_decay() -> None:
    _, given = made("fast-weights", retention="lq", norm=2.0)
    same(z_of("fast-weights", given, retention="lq", norm=2.0), z_of("fast-weights", given, retention="decay"))


def test_memora_keeps_distributions() -> None:
    mixer, given = made("fast-weights", retention="kl")
    state = mixer.start(given.token(0))
    for at in range(SIZE):
        _, state = mixer.step(state, given.token(at))
        for name in ("weight0", "weight1"):
            same(state[name].exp().sum(-2), torch.ones((), dtype=torch.float64))


def test_a_memory_that_learns_nothing_is_moved_by_no_value() -> None:
    mixer, given = made("fast-weights", size=4, retention="decay")
    same(jacobian_matrix(mixer, gated(given, rate=0.0)), torch.zeros((), dtype=torch.float64))
    assert float(jacobian_matrix(mixer, given).tril().abs().max()) > 0.01


def test_a_value_above_the_threshold_of_yaad_moves_nothing() -> None:
    mixer, given = made("fast-weights", size=4, loss="huber", retention="decay")
    assert float(jacobian_matrix(mixer, gated(given, threshold=1e6)).max()) > 0.01
    same(jacobian_matrix(mixer, gated(given, threshold=1e-9)), torch.zeros((), dtype=torch.float64))


def test_a_memory_that_adds_its_input_wants_keys_as_wide_as_values() -> None:
    with pytest.raises(ConfigError, match="d_key 3 must equal d_head 4"):
        made("fast-weights", d_key=3)


def test_an_lstm_that_forgets_at_once_and_hears_nothing_back_sees_its_own_token() -> None:
    mixer, given = made("lstm", size=5)
    mixer.back.zero_()
    matrix = jacobian_matrix(mixer, gated(given, forget=-1e3))
    same(matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1)), torch.zeros((), dtype=torch.float64))
    assert float(matrix.diagonal(dim1=-2, dim2=-1).min()) > 0


def test_a_bidirectional_lstm_reads_a_turned_text_as_the_other_cell_would() -> None:
    mixer, given = made("bidirectional-lstm")
    names = ("input", "forget", "output")
    swapped = {name: given.gates[f"back_{name}"] for name in names} | {
        f"back_{name}": given.gates[name] for name in names
    }
    turned = replace(given, value=given.value.flip(2), gates={name: gate.flip(2) for name, gate in swapped.items()})
    found = mixer.operation(given)
    mixer.onward, mixer.backward_cell = mixer.backward_cell, mixer.onward
    same(mixer.operation(turned).flip(2), found)


def test_slstm_with_an_open_output_gate_is_a_mean_of_candidates() -> None:
    mixer, given = made("slstm")
    mixer.back.zero_()
    z = mixer.operation(gated(given, input=0.3, forget=1e3, output=1e3))
    same(z, torch.tanh(given.value).cumsum(2) / (given.rows + 1)[:, None])


@pytest.mark.parametrize("gate", [{"input": 900.0}, {"input": -900.0}], ids=["huge", "tiny"])
def test_slstm_with_extreme_input_gates_stays_finite(gate: dict[str, float]) -> None:
    mixer, given = made("slstm")
    assert bool(mixer.operation(gated(given, **gate)).isfinite().all())


def test_the_jacobian_of_a_recurrence_that_is_linear_in_its_values_is_the_size_of_its_matrix() -> None:
    mixer, given = made("titans-context", size=6, segment=2)
    same(jacobian_matrix(mixer, given), mixer.mix(given).matrix.abs())
