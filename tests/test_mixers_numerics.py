"""What float32 leaves of every variant: rows that sum to 1 for long keys, and the logits of float64."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headscope.errors import UnsupportedError
from headscope.mixers.building import build_mixer
from headscope.mixers.interface import Mixer, MixerInput, MixerShape
from headscope.mixers.registry import Variant, variant
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from tests.mixer_cases import built, make_case

HEADS, WIDTH, MODEL, LENGTH = 2, 32, 64, 64


def name(entry: Variant) -> str:
    return entry.name


def stochastic(entry: Variant) -> list[Mixer]:
    """Those of an entry's mixers whose rows should sum to 1."""
    choices = DecoderConfig.parse({"causal": entry.causal} | dict(entry.config)).mixer
    shape = MixerShape(HEADS, WIDTH, WIDTH, MODEL, LENGTH)
    torch.manual_seed(0)
    mixers = [build_mixer(choice.kind, shape, choice.settings) for choice in choices]
    return [mixer for mixer in mixers if mixer.row_kind == "stochastic"]


def random_input(mixer: Mixer, size: float, *, causal: bool) -> MixerInput:
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 2, HEADS, 40, WIDTH, generator=generator)
    stream = torch.randn(2, 40, MODEL, generator=generator)
    return MixerInput(query * size, key * size, value, mixer.gates(stream), WIDTH**-0.5, causal=causal)


@pytest.mark.parametrize("size", [1, 5, 30])
@pytest.mark.parametrize("entry", [entry for entry in built() if stochastic(entry)], ids=name)
def test_rows_sum_to_one_however_long_queries_and_keys_are(entry: Variant, size: int) -> None:
    for mixer in stochastic(entry):
        with torch.no_grad():
            sums = mixer.mix(random_input(mixer, size, causal=entry.causal)).matrix.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1, 5, 30])
@pytest.mark.parametrize("kind", ["performer", "hedgehog"])
def test_decoding_long_keys_gives_the_rows_of_float64(kind: str, size: int) -> None:
    (mixer,) = stochastic(variant(kind))
    given, rows = random_input(mixer, size, causal=True), list[Tensor]()
    state = mixer.start(given.token(0))
    with torch.no_grad():
        for at in range(40):
            z, state = mixer.step(state, given.token(at))
            rows.append(z)
        exact = sums_of_exponentials(mixer.double(), given)
    torch.testing.assert_close(torch.cat(rows, 2).double(), exact, atol=2e-3, rtol=0)
    torch.testing.assert_close(mixer.float().mix(given).z.double(), exact, atol=2e-3, rtol=0)


def sums_of_exponentials(mixer: Mixer, given: MixerInput) -> Tensor:
    """z from the logarithms of all products of features, in float64 and by nothing that the mixer holds back."""
    query, key, parts = given.query.double(), given.key.double(), dict(mixer.named_parameters())
    if "weight" not in parts:
        query, key = (part * given.scale**0.5 for part in (query, key))
        directions = mixer.get_buffer("directions")
        a, b = query @ directions, key @ directions - key.square().sum(-1, keepdim=True) / 2
    else:
        mapped = [part @ parts["weight"][at] + parts["offset"][at] for at, part in enumerate((query, key))]
        a, b = (torch.cat([part.log_softmax(-1), (-part).log_softmax(-1)], -1) for part in mapped)
    logs = (a[:, :, :, None] + b[:, :, None]).logsumexp(-1)
    return logs.masked_fill(~given.visible, -torch.inf).softmax(-1) @ given.value.double()


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both-ways"])
@pytest.mark.parametrize("kind", ["performer", "hedgehog"])
def test_the_last_rows_alone_are_those_of_the_whole_text(kind: str, causal: bool) -> None:
    case = make_case(variant(kind), causal=causal)
    whole = case.mixer.mix(case.given).matrix
    last = case.mixer.mix(replace(case.given, query=case.given.query[:, :, -3:])).matrix
    torch.testing.assert_close(last, whole[:, :, -3:])


@pytest.mark.parametrize("kinds", [11, 512], ids=["tokens-that-repeat", "tokens-apart"])
@pytest.mark.parametrize("entry", built(), ids=name)
def test_float32_and_float64_give_the_same_logits(entry: Variant, kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variant is left out.

    Of two keys whose worth differs by less than the rounding of the float type, a choice among keys takes the earlier
    one: both models are given the margin of float32, or they would choose differently, and both rightly.
    """
    single = torch.finfo(torch.float32)
    monkeypatch.setattr(torch, "finfo", lambda dtype=None: single)  # noqa: ARG005
    sizes = {"d_vocab": kinds, "d_model": MODEL, "n_ctx": LENGTH, "causal": entry.causal}
    model = Decoder(DecoderConfig.parse(sizes | dict(entry.config))).eval()
    tokens = torch.randint(0, kinds, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, exact = model(tokens), deepcopy(model).double()(tokens)
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=0)


BEYOND = {  # what ends with the context, and says so
    "cosformer": "cosine is positive up to",
    "learned-positions": "longer than the 32 learned positions",
}


@pytest.mark.parametrize("entry", [entry for entry in built() if entry.causal], ids=name)
def test_a_text_of_many_blocks_and_beyond_the_context_is_read_as_the_beginning_of_a_longer_one(entry: Variant) -> None:
    length = 32 if entry.name in {*BEYOND, "randomised-positions"} else 70  # random positions are those of the context
    model = Decoder(DecoderConfig.parse({"d_vocab": 50, "d_model": 16, "n_ctx": 32} | dict(entry.config)))
    model = model.double().eval()
    tokens = torch.randint(0, 50, (1, 70), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = model(tokens[:, :length])
        for size in (1, 17, 33, 65):
            part = model(tokens[:, : min(size, length)])
            torch.testing.assert_close(part, whole[:, :size], atol=1e-8, rtol=0)
        if entry.name in BEYOND:
            with pytest.raises(UnsupportedError, match=BEYOND[entry.name]):
                model(tokens)
