"""Recurrences and convolutions with a matrix for each channel: special cases whose M is known, and long texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headscope.errors import ConfigError
from headscope.mixers.building import build_mixer
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.models.decoder.convolution import ShortConvolution
from tests.mixer_operations import operations
from tests.mixer_operations.channels import modal

HEADS, WIDTH, MODEL, LENGTH = 2, 4, 16, 12
FAR = 40.0


def made(kind: str, *, d_head: int = WIDTH, n_ctx: int = 32, **settings: Any) -> Any:
    torch.manual_seed(5)
    return build_mixer(kind, MixerShape(HEADS, d_head, d_head, MODEL, n_ctx), settings).double()


def inputs(mixer: Any, *, length: int = LENGTH, d_head: int = WIDTH, seed: int = 0) -> MixerInput:
    generator = torch.Generator().manual_seed(seed)
    mixer.requires_grad_(False)
    query, key, value = torch.randn(3, 2, HEADS, length, d_head, generator=generator, dtype=torch.float64)
    stream = torch.randn(2, length, MODEL, generator=generator, dtype=torch.float64)
    return MixerInput(query, key, value, mixer.gates(stream), d_head**-0.5)


def with_gates(given: MixerInput, **gates: Tensor) -> MixerInput:
    return replace(given, gates=gates)


def matrix(mixer: Any, given: MixerInput) -> Tensor:
    with torch.no_grad():
        return mixer.mix(given).matrix


def fill(*parameters: Tensor, value: float) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(value)


def close(one: Tensor, other: Tensor, bound: float = 1e-9) -> bool:
    return torch.allclose(one, other.expand_as(one), rtol=0, atol=bound)


LONG = {
    "mamba": ("mamba", {}),
    "decimamba": ("mamba", {"decimate": 1.0}),
    "mingru": ("minimal-gated", {}),
    "rg-lru": ("rg-lru", {}),
    "rwkv4": ("rwkv4", {}),
    "rwkv-perspectives": ("rwkv4", {"perspectives": 2}),
    "s4d": ("s4d", {}),
    "s4": ("hippo", {}),
    "lmu": ("hippo", {"measure": "legt"}),
    "h3": ("h3", {}),
    "hyena": ("hyena", {}),
    "mambaout": ("gated-convolution", {}),
    "extractor": ("gated-convolution", {"width": None, "gate": "identity", "length_scale": True}),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_text_is_read_by_parts_as_its_matrix_reads_it(name: str) -> None:
    kind, settings = LONG[name]
    mixer = made(kind, d_head=2, n_ctx=150, **settings)
    given = inputs(mixer, length=150, d_head=2)
    with torch.no_grad():
        assert close(mixer.operation(given), mixer.mix(given).z)


def test_mamba_with_one_step_and_rate_for_all_channels_is_mamba2() -> None:
    mamba, mamba2 = made("mamba"), made("mamba2")
    rates = torch.tensor([0.3, -0.4], dtype=torch.float64)
    with torch.no_grad():
        mamba.log_rate.copy_(rates[:, None, None].expand_as(mamba.log_rate))
        mamba2.log_rate.copy_(rates)
        mamba.skip.copy_(mamba2.skip[:, None].expand_as(mamba.skip))
    given = inputs(mamba)
    step = given.gates["step"][..., 0]
    one = matrix(mamba, with_gates(given, step=step[..., None].expand(-1, -1, -1, WIDTH)))
    other = matrix(mamba2, with_gates(given, step=step, log_decay=-rates.exp()[:, None] * step))
    assert close(one, other[:, :, None])


def test_mamba_that_forgets_nothing_is_linear_attention_of_what_was_written() -> None:
    mixer = made("mamba", skip=False)
    fill(mixer.log_rate, value=-FAR)
    given = inputs(mixer)
    scores = (given.query @ given.key.mT * given.scale).tril()[:, :, None]
    assert close(matrix(mixer, given), scores * given.gates["step"].mT[..., None, :])


def test_mamba_that_forgets_everything_keeps_the_diagonal() -> None:
    mixer = made("mamba", skip=False)
    fill(mixer.log_rate, value=FAR)
    given = inputs(mixer)
    own = (given.query * given.key).sum(-1)[:, :, None] * given.scale * given.gates["step"].mT
    assert close(matrix(mixer, given), torch.diag_embed(own))


def test_decimation_keeps_all_of_equal_tokens() -> None:
    mixer, plain = made("mamba", decimate=1.0), made("mamba")
    given = inputs(mixer)
    equal = with_gates(given, step=given.gates["step"][:, :, :1].expand(-1, -1, LENGTH, -1))
    assert close(matrix(mixer, equal), matrix(plain, equal))


def test_a_decimated_token_is_as_if_it_had_not_been_there() -> None:
    mixer = made("mamba", decimate=0.5)
    given, dropped = inputs(mixer), 5
    step = torch.full_like(given.gates["step"], 0.2)
    step[:, :, dropped] = 0.01
    kept = torch.tensor([t for t in range(LENGTH) if t != dropped])
    whole = matrix(mixer, with_gates(given, step=step))
    parts = {name: getattr(given, name)[:, :, kept] for name in ("query", "key", "value")}
    without = matrix(mixer, replace(given, gates={"step": step[:, :, kept]}, **parts))
    assert close(whole[..., kept, :][..., kept], without)
    assert close(whole[..., dropped + 1 :, dropped], torch.zeros(1, dtype=torch.float64))


def test_mingru_with_even_gates_halves_at_every_token() -> None:
    mixer = made("minimal-gated")
    given = inputs(mixer)
    even = with_gates(given, log_decay=torch.full_like(given.gates["log_decay"], 0.5).log())
    offsets = given.offsets.double()
    assert close(matrix(mixer, even), (0.5 ** (offsets + 1)).tril())


def test_mass_of_a_gated_row_is_what_is_not_left_of_the_empty_start() -> None:
    mixer = made("minimal-gated")
    given = inputs(mixer)
    left = given.gates["log_decay"].cumsum(2).exp().mT
    assert close(matrix(mixer, given).sum(-1), 1 - left)


def test_minlstm_with_alike_gates_keeps_half() -> None:
    mixer = made("minimal-gated", gates="two")
    with torch.no_grad():
        mixer.write.load_state_dict(mixer.forget.state_dict())
    decay = mixer.gates(torch.randn(2, LENGTH, MODEL, dtype=torch.float64))["log_decay"]
    assert close(decay.exp(), torch.tensor(0.5, dtype=torch.float64))


def test_hgrn_keeps_at_least_its_bound_and_without_one_is_mingru() -> None:
    bounded, plain = made("minimal-gated", bound=True), made("minimal-gated")
    stream = torch.randn(2, LENGTH, MODEL, dtype=torch.float64) * 4
    bounded.requires_grad_(False)
    fill(bounded.lower, value=1.0)
    low = torch.tensor(1.0).sigmoid()
    assert float(bounded.gates(stream)["log_decay"].exp().min()) >= low
    fill(bounded.lower, value=-FAR)
    bounded.forget.load_state_dict(plain.forget.state_dict())
    assert close(bounded.gates(stream)["log_decay"], plain.gates(stream)["log_decay"])


def test_rg_lru_with_open_inputs_keeps_unit_variance() -> None:
    mixer = made("rg-lru")
    given = inputs(mixer)
    log_decay = given.gates["log_decay"]
    opened = with_gates(given, log_decay=log_decay, input=torch.ones_like(log_decay))
    left = (2 * log_decay).cumsum(2).exp().mT
    assert close(matrix(mixer, opened).square().sum(-1), 1 - left)


def test_rwkv4_without_decay_and_bonus_is_a_softmax_of_keys_times_the_receptance() -> None:
    mixer = made("rwkv4")
    fill(mixer.log_rate, value=-FAR)
    fill(mixer.bonus, value=0.0)
    given = inputs(mixer)
    scores = given.key.mT[..., None, :].masked_fill(given.offsets < 0, -torch.inf)
    assert close(matrix(mixer, given), scores.softmax(-1) * given.query.sigmoid().mT[..., None])


def test_rows_of_rwkv4_sum_to_the_receptance() -> None:
    mixer = made("rwkv4")
    given = inputs(mixer)
    assert close(matrix(mixer, given).sum(-1), given.query.sigmoid().mT)


def test_rwkv4_does_not_overflow_where_the_paper_s_sums_do() -> None:
    mixer = made("rwkv4").float()
    given = inputs(mixer.double())
    large = replace(given, key=given.key * 300)
    with torch.no_grad():
        rows = [mixer.mix(large).z, mixer.operation(large)]
    assert all(bool(row.isfinite().all()) for row in rows)


def test_perspectives_that_shift_nothing_are_all_rwkv4() -> None:
    several, one = made("rwkv4", perspectives=3), made("rwkv4")
    fill(several.shift, value=FAR)
    given = inputs(several)
    assert close(matrix(several, given), matrix(one, given))


def test_s4d_s_filter_is_the_integral_of_its_continuous_one_over_each_token() -> None:
    mixer = made("s4d", order=3)
    part, parts = mixer.diagonal, 2000
    with torch.no_grad():
        poles = torch.complex(-part.log_damping.exp(), part.frequency)
        weights, dt = torch.complex(part.real, part.imaginary), part.log_step.exp()
        times = (torch.arange(6 * parts, dtype=torch.float64) + 0.5) / parts
        waves = (2 * weights[..., None] * torch.exp(poles[..., None] * dt[..., None, None] * times)).real.sum(-2)
        integral = waves.unflatten(-1, (6, parts)).mean(-1) * dt[..., None]
        kernel = mixer.kernel(6) - torch.nn.functional.pad(mixer.skip[..., None], (0, 5))
    assert close(kernel, integral, 1e-5)


def test_a_legendre_memory_of_a_constant_is_that_constant() -> None:
    mixer = made("hippo", measure="legt", order=4, window=6.0)
    fill(mixer.skip, value=0.0)
    fill(mixer.W_C, value=0.0)
    with torch.no_grad():
        mixer.W_C[..., 0] = 1
        steady = mixer.kernel(400).sum(-1)
        mixer.W_C[..., 0], mixer.W_C[..., 1] = 0, 1
        tilt = mixer.kernel(400).sum(-1)
    assert close(steady, torch.ones(1, dtype=torch.float64), 1e-6)
    assert close(tilt, torch.zeros(1, dtype=torch.float64), 1e-6)


def test_a_damped_average_that_does_not_turn_is_an_exponential_average() -> None:
    mixer = made("cema", order=1)
    fill(mixer.delta, value=FAR)
    fill(mixer.period, value=-FAR)
    fill(mixer.skip, value=0.0)
    with torch.no_grad():
        alpha, lags = mixer.alpha.sigmoid(), torch.arange(8)
        assert close(mixer.kernel(8), mixer.real * alpha * (1 - alpha) ** lags)


def test_laughing_hyena_with_a_constant_filter_is_linear_attention() -> None:
    mixer, linear = made("laughing-hyena", order=1), made("linear", features="identity", normalise=False)
    fill(mixer.log_rate, value=-FAR)
    fill(mixer.angle, mixer.imaginary, value=0.0)
    fill(mixer.real, value=1.0)
    given = inputs(mixer)
    assert close(matrix(mixer, given), matrix(linear, given))


def test_h3_without_shift_and_laughing_hyena_agree_in_heads_of_one_channel() -> None:
    h3, laughing = made("h3", d_head=1), made("laughing-hyena", d_head=1, order=8)
    fill(h3.taps, h3.skip, value=0.0)
    with torch.no_grad():
        h3.taps[..., 0] = 1
        modes = h3.diagonal()
        laughing.log_rate.copy_(modes.rate.log())
        for name in ("angle", "real", "imaginary"):
            getattr(laughing, name).copy_(getattr(modes, name))
    given = inputs(h3, d_head=1)
    assert close(matrix(h3, given)[:, :, 0], matrix(laughing, given))


def test_h3_s_first_state_space_moves_keys() -> None:
    mixer, given = made("h3"), inputs(made("h3"))
    moved = replace(given, key=given.key.roll(1, 2) * (given.columns > 0)[:, None])
    fill(mixer.taps, value=0.0)
    with torch.no_grad():
        mixer.taps[..., 0] = 1
        here = matrix(mixer, moved)
        mixer.taps.copy_(mixer.taps.roll(1, -1))
        assert close(matrix(mixer, given), here)


def test_hyena_with_two_filters_applies_the_first_to_the_values() -> None:
    mixer = made("hyena")
    given = inputs(mixer)
    with torch.no_grad():
        first = mixer.first(LENGTH)
        lags = given.offsets.clamp_min(0)
        convolved = torch.einsum("hdij,bhjd->bhid", first[..., lags].tril(), given.value)
        mixer.first = None
        assert close(made("hyena").operation(given), mixer.operation(replace(given, value=convolved)))


def test_a_convolution_without_gate_is_the_decoder_s_short_convolution() -> None:
    mixer = made("gated-convolution", width=4, gate="none")
    short = ShortConvolution(HEADS * WIDTH, 4).double()
    with torch.no_grad():
        short.filter.copy_(mixer.taps.flatten(0, 1).flip(-1))
        given = inputs(mixer)
        assert close(mixer.operation(given), short(given.value.transpose(1, 2)).transpose(1, 2))


def test_a_gated_convolution_sees_as_many_tokens_as_it_has_taps() -> None:
    mixer = made("gated-convolution", width=3)
    given = inputs(mixer)
    seen = matrix(mixer, given).abs() > 0
    assert torch.equal(seen, ((given.offsets >= 0) & (given.offsets < 3)).expand_as(seen))


def test_turning_a_text_in_a_circle_turns_what_orchid_makes_of_it() -> None:
    mixer = made("orchid")
    given = replace(inputs(mixer), causal=False)
    parts = {name: getattr(given, name).roll(3, 2) for name in ("query", "key", "value")}
    with torch.no_grad():
        assert close(mixer.operation(replace(given, **parts)), mixer.operation(given).roll(3, 2))
        assert close(matrix(mixer, replace(given, **parts)), matrix(mixer, given))


def test_hydra_below_the_diagonal_is_mamba2_and_above_it_mamba2_of_the_text_read_backward() -> None:
    hydra, mamba2 = made("quasiseparable"), made("mamba2", skip=False)
    given = replace(inputs(hydra), causal=False)
    whole = matrix(hydra, given)
    for way in (0, 1):
        with torch.no_grad():
            mamba2.log_rate.copy_(hydra.log_rate[:, way])
        step = given.gates["step"][..., way]
        half = slice(2 * way, 2 * way + 2)
        parts = {"query": given.query[..., half], "key": given.key[..., half], "value": given.value}
        if way:
            parts, step = {name: part.flip(2) for name, part in parts.items()}, step.flip(2)
        log_decay = -hydra.log_rate[:, way].exp()[:, None] * step
        one = matrix(mamba2, replace(given, gates={"step": step, "log_decay": log_decay}, **parts))
        if way:
            assert close(whole.triu(1), one.flip((-2, -1)).triu(1))
        else:
            assert close(whole.tril(-1), one.tril(-1))
    assert close(whole.diagonal(dim1=-2, dim2=-1), given.gates["own"])


def test_attamba_with_chunks_of_one_token_that_keep_nothing_is_softmax() -> None:
    mixer, softmax = made("attamba", chunk=1), made("softmax")
    given = inputs(mixer)
    written = with_gates(given, log_decay=torch.full_like(given.gates["log_decay"], -FAR))
    assert close(matrix(mixer, written), matrix(softmax, given))


def test_rows_of_attamba_that_see_only_their_own_chunk_are_its_recurrence() -> None:
    mixer, gated = made("attamba", chunk=LENGTH), made("minimal-gated", d_head=1)
    given = inputs(mixer)
    one = replace(given, value=given.value[..., :1], gates={"log_decay": given.gates["log_decay"][..., None]})
    assert close(matrix(mixer, given), matrix(gated, one)[:, :, 0])


def test_megalodon_without_average_is_softmax_of_unit_vectors_in_chunks() -> None:
    mixer = made("megalodon", chunk=5)
    fill(mixer.average.real, mixer.average.imaginary, value=0.0)
    given = inputs(mixer)
    unit = torch.nn.functional.normalize(given.gates["shared"], dim=-1)
    query, key = (unit * mixer.gain[way][:, None] + mixer.offset[way][:, None] for way in (0, 1))
    same = (given.columns[:, None] // 5 == given.columns // 5) & (given.offsets >= 0)
    with torch.no_grad():
        expected = (query @ key.mT).masked_fill(~same, -torch.inf).softmax(-1)
        assert close(matrix(mixer, given), expected)


def test_megalodon_s_average_carries_what_lies_before_a_chunk() -> None:
    mixer = made("megalodon", chunk=4)
    given = inputs(mixer)
    other = given.gates["shared"].clone()
    other[:, :, 1] += 1
    assert not close(matrix(mixer, with_gates(given, shared=other))[..., 6, :], matrix(mixer, given)[..., 6, :], 1e-4)


def test_a_steep_swish_recurrence_is_a_running_maximum() -> None:
    mixer = made("swish-recurrence")
    fill(mixer.slope, value=1e9)
    given = inputs(mixer)
    with torch.no_grad():
        assert close(mixer.operation(given), given.value.cummax(2).values.clamp_min(0), 1e-8)


def test_modes_are_the_powers_of_their_poles() -> None:
    mixer = made("laughing-hyena")
    with torch.no_grad():
        pole = torch.exp(torch.complex(-mixer.log_rate.exp(), mixer.angle))
        impulse = torch.zeros(1, HEADS, 9, 1, dtype=torch.float64)
        impulse[:, :, 0] = 1
        answer = modal(pole, torch.complex(mixer.real, mixer.imaginary), impulse)[0, :, :, 0]
        ones = torch.ones(1, HEADS, 9, WIDTH, dtype=torch.float64)
        given = MixerInput(ones, ones, ones, {}, 1 / WIDTH)
        assert close(matrix(mixer, given)[0, :, :, 0], answer)


@pytest.mark.parametrize("kind", ["rwkv4", "hyena", "h3", "orchid"])
def test_a_mixer_by_channel_refuses_keys_of_another_width(kind: str) -> None:
    with pytest.raises(ConfigError, match="d_key 2 must be d_head 4"):
        build_mixer(kind, MixerShape(HEADS, 4, 2, MODEL, 32), {})


def test_hydra_refuses_keys_that_cannot_be_halved() -> None:
    with pytest.raises(ConfigError, match="d_key 3 must be even"):
        build_mixer("quasiseparable", MixerShape(HEADS, 4, 3, MODEL, 32), {})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mamba", {"skip": False, "rank": 3}),
        ("mamba", {"decimate": 0.7, "skip": False}),
        ("minimal-gated", {"gates": "two", "bound": True}),
        ("rg-lru", {"sharpness": 2.0}),
        ("s4d", {"order": 1}),
        ("cema", {"order": 1}),
        ("hippo", {"order": 1}),
        ("hippo", {"measure": "legt", "order": 5, "window": 3.5}),
        ("hyena", {"bands": 1, "hidden": 3}),
        ("multi-hyena", {"bands": 2, "hidden": 5}),
        ("laughing-hyena", {"order": 1}),
        ("h3", {"shift": 1, "order": 2}),
        ("gated-convolution", {"width": 1, "gate": "none"}),
        ("gated-convolution", {"width": 2, "length_scale": True}),
        ("attamba", {"chunk": 7}),
        ("megalodon", {"chunk": 1, "order": 2}),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(f"{name}={value}" for name, value in given.items()),
)
def test_other_settings_decode_and_mix_as_their_naive_twin_does(kind: str, settings: dict[str, Any]) -> None:
    mixer, rows = made(kind, **settings), []
    given = inputs(mixer)
    with torch.no_grad():
        expected = operations()[kind](mixer, given)
        assert close(mixer.mix(given).z, expected, 1e-8)
        state = mixer.start(given.token(0))
        for at in range(LENGTH):
            z, state = mixer.step(state, given.token(at))
            rows.append(z)
            assert sum(part.numel() for part in state.values()) == 2 * mixer.state_size(at + 1)
        assert close(torch.cat(rows, 2), expected, 1e-8)
