"""Where random inputs never come: equal directions, shared keys, large rates, both ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headscope.errors import ConfigError
from headscope.mixers.building import build_mixer
from headscope.mixers.interface import MixerInput, MixerShape
from headscope.mixers.registry import variant
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from tests.mixer_cases import make_case


def test_directions_that_are_equal_collide_always() -> None:
    case = make_case(variant("yoso"))
    weights = case.mixer.mix(replace(case.given, key=case.given.query)).matrix
    assert torch.allclose(weights.diagonal(dim1=2, dim2=3), torch.ones(2, 2, 20, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("name", ["hedgehog", "performer", "retention", "galerkin-keys", "linear", "based"])
def test_heads_that_share_keys_have_as_many_states_as_differ(name: str) -> None:
    """The state after some tokens, counting what is equal in several heads once."""
    choice = DecoderConfig.parse(dict(variant(name).config)).mixer[0]
    shape = MixerShape(n_heads=4, d_head=4, d_key=4, d_model=8, n_ctx=16, key_heads=1, value_heads=1)
    torch.manual_seed(0)
    mixer = build_mixer(choice.kind, shape, choice.settings).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        one = torch.randn(1, 1, 5, 4, dtype=torch.float64).expand(-1, 4, -1, -1)
        given = MixerInput(torch.randn(1, 4, 5, 4, dtype=torch.float64), one, one, mixer.gates(torch.zeros(1, 5, 8)))
        state = mixer.start(given.token(0))
        for at in range(5):
            _, state = mixer.step(state, given.token(at))
    kept = 0
    for part in state.values():
        by_head = part[0].flatten(1) if part.ndim > 1 and part.shape[1] == 4 else part.reshape(1, -1)
        kept += len(torch.unique(by_head, dim=0)) * by_head.shape[1]
    assert mixer.state_size(5) == kept


def test_a_decay_beyond_all_numbers_has_a_gradient() -> None:
    case = make_case(variant("rwkv6"), dtype=torch.float32)
    stream = (30 * case.stream).requires_grad_()
    case.mixer.mix(replace(case.given, gates=case.mixer.gates(stream))).z.sum().backward()
    assert stream.grad is not None
    assert bool(stream.grad.isfinite().all())


def test_both_ways_all_rows_see_the_whole_text_and_have_its_temperature() -> None:
    model = Decoder(DecoderConfig.parse({"d_vocab": 5, "temperature": "log_length", "causal": False}))
    scores = dict[str, torch.Tensor]()
    hooks = [("blocks.0.attn.hook_attn_scores", lambda part, hook: scores.setdefault("s", part))]  # noqa: ARG005
    model.run_with_hooks(torch.ones(1, 9, dtype=torch.long), fwd_hooks=hooks)
    assert torch.allclose(scores["s"], scores["s"][:, :, :1].expand_as(scores["s"]), atol=1e-5)


@pytest.mark.parametrize("setting", [{"position": "xpos"}, {"conv": 4}], ids=["xpos", "conv"])
def test_what_reads_left_to_right_is_refused_both_ways(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="left to right only"):
        DecoderConfig.parse(setting | {"causal": False})
