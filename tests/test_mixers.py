"""What holds of every mixer in the registry, whatever it is called."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import pytest
import torch

from headscope.mixers.interface import Mix
from headscope.mixers.registry import Variant
from headscope.models.decoder.decoder import Decoder
from tests.mixer_cases import BATCH, LENGTH, N_CTX, Case, built, make_case, small_config, with_one_mixer
from tests.mixer_operations import operations


def name(entry: Variant) -> str:
    return entry.name


mixers = pytest.mark.parametrize("entry", with_one_mixer(), ids=name)
decoders = pytest.mark.parametrize("entry", built(), ids=name)
entries = {entry.name: entry for entry in built()}


@cache
def _decoder(called: str) -> Decoder:
    return Decoder(small_config(entries[called])).double().eval()


def decoder(entry: Variant) -> Decoder:
    """The small decoder of a variant, built once: for reading only."""
    return _decoder(entry.name)


def naive(case: Case) -> torch.Tensor:
    return operations()[small_config(case.entry).mixer[0].kind](case.mixer, case.given)


def close(one: torch.Tensor, other: torch.Tensor, bound: float = 1e-6) -> bool:
    return bool((one - other).abs().max() <= bound * (1 + other.abs().max()))


@mixers
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
def test_m_times_v_is_what_the_naive_twin_computes(entry: Variant, causal: bool) -> None:
    if not (entry.causal if causal else entry.bidirectional or not entry.causal):
        pytest.skip("does not read a text so")
    case = make_case(entry, causal=causal)
    with torch.no_grad():
        expected = naive(case)
        assert close(case.mixer.operation(case.given), expected)
        if entry.kind != "jacobian":
            assert close(case.mixer.mix(case.given).z, expected)


@mixers
def test_one_hot_values_give_m_column_by_column(entry: Variant) -> None:
    case = make_case(entry, length=12)
    if entry.kind == "jacobian":
        pytest.skip("not linear in its values: it has no M")
    with torch.no_grad():
        mix = case.mixer.mix(case.given)
        base = naive(replace_value(case, torch.zeros_like(case.given.value)))  # what extra columns give by themselves
        for column in range(mix.n_tokens):
            value = torch.zeros_like(case.given.value)
            value[:, :, column] = 1
            seen = naive(replace_value(case, value)) - base
            cells = mix.matrix[..., column]  # of every row, or of every row in every channel
            assert close(cells.mT if mix.matrix.ndim == 5 else cells[..., None].expand_as(seen), seen)


def replace_value(case: Case, value: torch.Tensor) -> Case:
    return replace(case, given=replace(case.given, value=value))


@mixers
def test_rows_are_of_the_kind_that_the_registry_says(entry: Variant) -> None:
    case = make_case(entry)
    assert (case.mixer.kind, case.mixer.row_kind) == (entry.kind, entry.rows)
    if entry.kind == "jacobian":
        pytest.skip("no M")
    with torch.no_grad():
        mix = case.mixer.mix(case.given)
    sums, lowest = mix.matrix.sum(-1), float(mix.matrix.min())
    if entry.rows != "signed":
        assert lowest >= -1e-9
    if entry.rows == "stochastic":
        assert close(sums, torch.ones_like(sums), 1e-5)
    if entry.rows == "substochastic":
        assert float(sums.max()) <= 1 + 1e-6
        assert float(sums.min()) < 1 - 1e-4, "its rows always sum to 1: call them stochastic"
    if mix.null_mass is not None:
        assert close(sums + mix.null_mass, torch.ones_like(sums))


@mixers
def test_decoding_token_by_token_gives_what_reading_at_once_gives(entry: Variant) -> None:
    case = make_case(entry)
    if not (case.mixer.decodes and case.causal):
        pytest.skip("reads a text as a whole")
    rows = []
    with torch.no_grad():
        state = case.mixer.start(case.given.token(0))
        for at in range(LENGTH):
            z, state = case.mixer.step(state, case.given.token(at))
            rows.append(z)
            held = sum(part.numel() for part in state.values()) / BATCH
            assert held == case.mixer.state_size(at + 1), f"after {at + 1} tokens"
        assert close(torch.cat(rows, 2), naive(case))


@mixers
def test_gradients_of_m_are_those_of_finite_differences(entry: Variant) -> None:
    case = make_case(entry, length=6)
    given = case.given

    def z(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        return case.mixer.operation(replace(given, query=query, key=key, value=value, gates=case.mixer.gates(stream)))[
            :1
        ]

    parts = [part.detach().requires_grad_() for part in (given.query, given.key, given.value, case.stream)]
    assert torch.autograd.gradcheck(z, parts, fast_mode=True, atol=1e-5)


@mixers
def test_long_and_large_inputs_stay_finite(entry: Variant) -> None:
    case = make_case(entry, length=512 if entry.kind != "per_channel" else 128, dtype=torch.float32, size=3.0)
    with torch.no_grad():
        z = case.mixer.operation(case.given) if entry.kind == "jacobian" else case.mixer.mix(case.given).z
    assert bool(z.isfinite().all())


@decoders
def test_a_later_token_changes_no_earlier_row(entry: Variant) -> None:
    if not entry.causal:
        pytest.skip("reads a text both ways")
    model = decoder(entry)
    tokens = torch.randint(0, 11, (2, N_CTX), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(tokens)
        for changed in (3, 8, 17, N_CTX - 1):
            other = tokens.clone()
            other[:, changed] = (other[:, changed] + 1 + changed % 5) % 11
            after = model(other)
            assert close(after[:, :changed], before[:, :changed], 1e-9), f"token {changed}"
            assert not close(after[:, changed:], before[:, changed:], 1e-9), f"token {changed} changes nothing"


@decoders
@pytest.mark.parametrize("kinds", [2, 11])
def test_a_text_is_read_as_the_beginning_of_a_longer_one(entry: Variant, kinds: int) -> None:
    """M and logits of the first rows, also where many tokens are equal and nothing but rounding tells them apart."""
    if not entry.causal:
        pytest.skip("reads a text both ways")
    model = decoder(entry)
    tokens = torch.randint(0, kinds, (2, 20), generator=torch.Generator().manual_seed(5))
    linear = all(layer.mixer.kind != "jacobian" for layer in model.mixing_layers)  # the others have no M to compare
    with torch.no_grad(), model.recorded_mixes() if linear else nullcontext(list[Mix]()) as mixes:
        logits, layers = model(tokens), len(model.mixing_layers)
        for size in (13, 7):
            assert close(model(tokens[:, :size]), logits[:, :size], 1e-9), f"{size} tokens"
            for whole, part in zip(mixes[:layers], mixes[-layers:], strict=True):
                if whole.columns or part.matrix.shape[-1] != size:
                    continue  # columns that are no tokens
                assert close(part.matrix, whole.matrix[..., :size, :size], 1e-8), f"M of {size} tokens"


@decoders
def test_an_example_does_not_depend_on_the_rest_of_its_batch(entry: Variant) -> None:
    model = decoder(entry)
    tokens = torch.randint(0, 11, (3, N_CTX), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert close(model(tokens)[1:2], model(tokens[1:2]), 1e-9)


@decoders
def test_every_parameter_is_trained(entry: Variant) -> None:
    model = Decoder(small_config(entry)).double()
    tokens = torch.randint(0, 11, (4, N_CTX), generator=torch.Generator().manual_seed(3))
    model(tokens).log_softmax(-1)[..., 5].mean().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert bool(parameter.grad.isfinite().all()), path
        assert float(parameter.grad.abs().max()) > 0, path


@decoders
def test_an_edit_of_the_pattern_reaches_the_logits_and_leaves_no_hook(entry: Variant) -> None:
    model = decoder(entry)
    tokens = torch.randint(0, 11, (2, N_CTX), generator=torch.Generator().manual_seed(4))
    if entry.kind == "jacobian":
        pytest.skip("its pattern is a Jacobian, which cannot be edited")
    with torch.no_grad():
        plain = model(tokens)
        hooks = [("blocks.0.attn.hook_pattern", lambda matrix, hook: matrix * 0)]  # noqa: ARG005
        edited = model.run_with_hooks(tokens, fwd_hooks=hooks)
        same = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda m, hook: m)])  # noqa: ARG005
        assert not close(edited, plain, 1e-3)
        assert close(same, plain)
        assert torch.equal(model(tokens), plain)
