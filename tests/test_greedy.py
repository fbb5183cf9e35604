"""Greedy decoding says where every head looks while it produces each token, by flash as by dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from headscope.errors import UnsupportedError
from headscope.models.bridged import BridgedModel
from headscope.readings import greedy_top_keys

Tiny = Callable[[str], BridgedModel]
Planted = Callable[..., BridgedModel]
Method = Literal["flash", "dense"]
FULL = ["llama", "gpt2", "qwen2", "gpt_neox", "opt"]  # full causal attention, seen by seam and twin alike
both_methods = pytest.mark.parametrize("method", ["flash", "dense"])


def random_tokens(batch: int = 2, size: int = 24, *, vocabulary: int = 90, seed: int = 0) -> Tensor:
    """Tokens that the tokenizers here do not call special."""
    return torch.randint(5, vocabulary, (batch, size), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def eager_patterns(model: BridgedModel, tokens: Tensor) -> tuple[Tensor, ...]:
    """Patterns of every layer from transformers' own attention in plain torch."""
    before = model.plain.config._attn_implementation
    model.plain.set_attn_implementation("eager")
    out = model.plain(input_ids=tokens, use_cache=False, output_attentions=True)
    model.plain.set_attn_implementation(before)
    return out.attentions


@torch.no_grad()
def greedily(model: BridgedModel, prompts: Tensor, steps: int) -> Tensor:
    """Greedy continuation without a cache, the whole text again at every step."""
    text = prompts
    for _ in range(steps):
        text = torch.cat([text, model.plain(input_ids=text, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return text[:, prompts.shape[1] :]


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("size", [1, 11], ids=lambda size: f"T{size}")
@both_methods
def test_greedy_decoding_looks_where_the_pattern_of_the_whole_text_does(
    tiny: Tiny, name: str, size: int, method: Method
) -> None:
    model, prompts = tiny(name), random_tokens(2, size)
    generated, top = greedy_top_keys(model, prompts, 5, method=method)
    assert torch.equal(generated, greedily(model, prompts, 5))
    patterns = eager_patterns(model, torch.cat([prompts, generated], 1))
    wanted = torch.stack([pattern[:, :, size - 1 : -1].argmax(-1).mT for pattern in patterns], 2)
    assert torch.equal(top, wanted)


@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_top_keys_of_flash_and_dense_are_the_same_on_the_planted_model(planted: Planted, seed: int) -> None:
    prompts = random_tokens(3, 40, seed=seed)
    fast, dense = (greedy_top_keys(planted("all", seed), prompts, 6, method=method) for method in ("flash", "dense"))
    assert torch.equal(fast[0], dense[0])
    assert torch.equal(fast[1], dense[1])


def test_greedy_top_keys_of_flash_and_dense_are_the_same_on_smollm2(smollm2: BridgedModel) -> None:
    prompts = random_tokens(2, 24, vocabulary=40_000)
    fast, dense = (greedy_top_keys(smollm2, prompts, 3, method=method) for method in ("flash", "dense"))
    assert torch.equal(fast[0], dense[0])
    assert torch.equal(fast[1], dense[1])


def test_greedy_decoding_refuses_a_model_that_it_cannot_see(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedError, match="does not route the attention"):
        greedy_top_keys(tiny("gpt_neo, no registry"), random_tokens(1, 6), 2)
    with pytest.raises(UnsupportedError, match="sliding window of 8"):
        greedy_top_keys(tiny("mistral, window 8"), random_tokens(1, 12), 2)
