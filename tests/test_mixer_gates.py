"""Gates are what the papers say: every variant's against a formula of its own, and constants against literals.

The naive twins of `tests/mixer_operations` read the gates that the code made; here it is told how they are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from headscope.mixers.building import build_mixer, mixer_class
from headscope.mixers.interface import Mixer, MixerShape
from headscope.mixers.registry import Variant, variant
from tests.mixer_cases import built, make_case, small_config, with_one_mixer
from tests.mixer_gates import formulas

SHAPE = MixerShape(n_heads=4, d_head=8, d_key=8, d_model=16, n_ctx=32, layer=1, n_layers=3)


def reads_the_stream(kind: str) -> bool:
    return bool(mixer_class(kind).gate_names)


def settings_of(kind: str, given: Any) -> str:
    """Settings in full, so that what is written out equals what is left to the default."""
    return f"{kind} {mixer_class(kind).settings_type.parse(dict(given))!r}"


def layers(entry: Variant) -> Iterator[tuple[str, str]]:
    """Kind and settings of each layer's mixer."""
    return ((one.kind, settings_of(one.kind, one.settings)) for one in small_config(entry).mixer)


def gated() -> list[Variant]:
    return [entry for entry in with_one_mixer() if any(reads_the_stream(kind) for kind, _ in layers(entry))]


def mixer(kind: str, shape: MixerShape = SHAPE, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_mixer(kind, shape, settings)


def near(one: Tensor, other: Tensor, bound: float = 1e-6) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one, other.to(one.dtype), rtol=bound, atol=bound))


# Every variant


@pytest.mark.parametrize("entry", gated(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_gates_are_those_of_the_formula(entry: Variant, seed: int) -> None:
    case = make_case(entry, length=5, seed=seed)
    with torch.no_grad():
        found, wanted = case.mixer.gates(case.stream), formulas()[entry.name](case.mixer, case.stream)
        assert list(found) == [name for name in case.mixer.gate_names if name in wanted]
        assert set(found) == set(wanted)
        for name, gate in wanted.items():
            assert found[name].dtype == torch.float64
            assert near(found[name], gate, 1e-10), name


def test_every_variant_whose_mixer_reads_the_stream_has_a_formula() -> None:
    assert sorted(formulas()) == sorted(entry.name for entry in gated())


def test_layers_of_hybrids_are_mixers_that_have_a_formula() -> None:
    known = {settings for entry in gated() for _, settings in layers(entry)}
    for entry in built():
        for kind, settings in layers(entry):
            assert not reads_the_stream(kind) or settings in known, entry.name


def test_every_mixer_that_reads_the_stream_names_its_gates() -> None:
    kinds = {kind for entry in built() for kind, _ in layers(entry)}
    for kind in sorted(kinds):
        assert reads_the_stream(kind) == (mixer_class(kind).gates is not Mixer.gates), kind


@pytest.mark.parametrize("entry", gated(), ids=lambda entry: entry.name)
def test_no_parameter_under_test_is_left_at_a_value_that_would_hide_it(entry: Variant) -> None:
    """All numbers of a parameter differ, so that a bias of 0 or a wrong head shows."""
    for path, parameter in make_case(entry, length=2).mixer.named_parameters():
        assert parameter.unique().numel() == parameter.numel(), path


# Constants of papers


def test_retention_has_the_gammas_of_retnet() -> None:
    decays = mixer("retention").log_decay.exp()
    assert near(decays, torch.tensor([31 / 32, 63 / 64, 127 / 128, 255 / 256]), 1e-7)


def test_decays_of_transnormer_llm_grow_with_head_and_depth() -> None:
    decays = mixer("retention", decay="layered").log_decay  # -(8 h / 4) (1 - 1 / 3)
    assert near(decays, -torch.tensor([0.0, 2.0, 4.0, 6.0]) * 2 / 3)


def test_slopes_of_lightning_attention_are_those_of_alibi_less_with_depth() -> None:
    decays = mixer("retention", decay="sloped").log_decay  # 2^(-8 h / 4), h from 1, times 1 - 1 / 2
    assert near(decays, -torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256]) / 2, 1e-4)


def test_angles_of_retnet_are_rotary() -> None:
    angles = mixer("retention", rotation="pairs").angles
    assert near(angles, torch.tensor([1.0, 0.1, 0.01, 0.001]).repeat(4, 1))


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("mesa", "least", 0.25),
        ("fast-weights", "power", 3.0),
        ("fast-weights", "norm", 4.0),
        ("gated-convolution", "width", 7),
    ],
)
def test_settings_start_at_the_papers_constants(kind: str, name: str, wanted: Any) -> None:
    assert getattr(mixer_class(kind).settings_type.parse({}), name) == wanted


@pytest.mark.parametrize(
    ("name", "reach"),
    [("delta", 1.0), ("delta-negative", 2.0), ("path", 2.0), ("delta-product", 2.0), ("gated-delta-product", 2.0)],
)
def test_beta_reaches_two_where_eigenvalues_may_be_negative(name: str, reach: float) -> None:
    case = make_case(variant(name), size=200.0)
    beta = case.given.gates["beta"].detach()
    assert float(beta.min()) == pytest.approx(0.0, abs=1e-9)
    assert float(beta.max()) == pytest.approx(reach, abs=1e-9)


def test_rwkv7_keeps_at_least_what_e_to_the_minus_e_to_the_minus_half_leaves() -> None:
    kept = make_case(variant("rwkv7"), size=200.0).given.gates["log_decay"].detach().exp()
    assert float(kept.min()) == pytest.approx(0.545239, abs=1e-6)
    assert float(kept.max()) == pytest.approx(1.0, abs=1e-9)


def test_rg_lru_starts_with_decays_between_nine_tenths_and_999_thousandths() -> None:
    one = mixer("rg-lru", MixerShape(8, 64, 64, 16, 32))
    decay = torch.exp(-8 * torch.log1p(one.rate.detach().exp()))
    assert float(decay.min()) == pytest.approx(0.9, abs=2e-3)
    assert float(decay.max()) == pytest.approx(0.999, abs=2e-3)
    assert near(decay.mean(), torch.tensor((0.9 + 0.999) / 2), 5e-3)


def test_mamba_starts_from_the_whole_numbers() -> None:
    """``A_n = -(n + 1)``, S4D's real start, the same in all channels."""
    rates = mixer("mamba").log_rate.exp()
    assert near(rates, torch.arange(1.0, 9.0).expand(4, 8, 8))


def test_s4d_starts_from_one_half_and_multiples_of_pi() -> None:
    """``A_n = -1/2 + i pi n`` (S4D-Lin), of H3's diagonal state space too."""
    for kind in ("s4d", "h3"):
        part = mixer(kind).diagonal
        assert near(part.log_damping.exp(), torch.full((4, 8, 8), 0.5))
        assert near(part.frequency, (math.pi * torch.arange(8.0)).expand(4, 8, 8))


@pytest.mark.parametrize(("kind", "channels"), [("hyena", 8), ("multi-hyena", 1)])
def test_hyena_s_filters_fall_to_a_hundredth_between_0_3_and_1_5_texts(kind: str, channels: int) -> None:
    filters = mixer(kind).filter
    rates = torch.linspace(math.log(100) / 1.5, math.log(100) / 0.3, 4 * channels).reshape(4, channels)
    assert near(filters.decay, rates)
    with torch.no_grad():  # the network gives 1
        filters.W_in.zero_()
        filters.bias.fill_(math.pi / 2)
        filters.W_out.fill_(1 / 16)
        kernel = filters(33)
    assert near(kernel[..., 0], torch.ones(4, channels))
    assert near(kernel[..., -1], torch.exp(-rates))  # after a whole text
    assert float(kernel[-1, -1, -1]) == pytest.approx(0.01 ** (1 / 0.3), rel=1e-4)


def test_log_linear_levels_start_with_weight_one() -> None:
    one = mixer("log-linear")
    weight = one.gates(torch.zeros(1, 3, 16))["level"]
    assert near(weight, torch.ones(1, 4, 3, 6), 1e-4)
