"""The parts add up to the real difference of logits, and each is what taking it out of the sum says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from circuits import ablate
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from probes.direct_logits import attribute, direct_logits
from probes.row_states import record_row

Tiny = Callable[[str], BridgedModel]
EXACT = ["llama", "gpt2", "qwen2", "gpt_neox", "opt", "mistral, window 8"]


def text(size: int = 14, seed: int = 0) -> Tensor:
    """One text of tokens that the tokenizers here do not call special."""
    return torch.randint(2, 90, (1, size), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("row", [0, 6, 13])
@pytest.mark.parametrize("name", [*EXACT, "gpt_neo, no registry"])
def test_the_parts_add_up_to_the_real_difference(tiny: Tiny, name: str, row: int) -> None:
    model = tiny(name)
    found = direct_logits(model, text(), row=row, a=5, b=40)
    logits = model.logits(text())[0, row]
    assert found.real == pytest.approx(float(logits[5] - logits[40]), abs=1e-6)
    assert abs(found.real) > 0.01
    assert abs(found.gap) < 1e-3


def by_hand(model: BridgedModel, row: int, a: int, b: int) -> Tensor:
    """Each head's part from the twin's z and W_O and the stored weights of the final norm: [layer, head]."""
    bridge, rms = model.bridge, "llama" in model.name
    _, cache = bridge.run_with_cache(text())
    norm = model.plain.model.norm if rms else model.plain.transformer.ln_f
    read = (bridge.W_U[:, a] - bridge.W_U[:, b]).detach() * norm.weight.detach()
    last = cache["blocks.2.hook_resid_post"][0, row].detach()
    scale = (last.pow(2).mean() if rms else last.var(unbiased=False)).sqrt()
    rows = []
    for layer in range(3):
        parts = torch.einsum("hd,hdm->hm", cache[f"blocks.{layer}.attn.hook_z"][0, row], bridge.W_O[layer]).detach()
        rows.append((parts if rms else parts - parts.mean(-1, keepdim=True)) @ read / scale)
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_each_head_adds_what_the_definition_says(tiny: Tiny, name: str) -> None:
    found = direct_logits(tiny(name), text(), row=9, a=5, b=40).head
    assert float(found.abs().max()) > 0.05
    torch.testing.assert_close(found, by_hand(tiny(name), 9, 5, 40), atol=2e-4, rtol=1e-3)


def test_exchanging_the_tokens_turns_every_sign(tiny: Tiny) -> None:
    there, back = (direct_logits(tiny("gpt2"), text(), row=4, a=a, b=b) for a, b in ((5, 40), (40, 5)))
    torch.testing.assert_close(there.head, -back.head)
    torch.testing.assert_close(there.mlp, -back.mlp)
    assert there.embed == pytest.approx(-back.embed)


def test_ablated_heads_add_nothing_and_the_rest_still_adds_up(tiny: Tiny) -> None:
    model, heads = tiny("llama"), [Head(0, 1), Head(2, 3)]
    with ablate(model, heads), record_row(model, 9) as states:
        logits = model.logits(text())[0, 9]
    found = attribute(states, logits, a=5, b=40)
    assert [float(found.head[head]) for head in heads] == [0, 0]
    assert abs(found.gap) < 1e-3
    assert found.real != pytest.approx(direct_logits(model, text(), row=9, a=5, b=40).real)


def test_norms_behind_attention_and_mlp_are_part_of_the_way(tiny: Tiny) -> None:
    model = tiny("gemma2, window 8, capped")
    cap = model.plain.config.final_logit_softcapping
    found = direct_logits(model, text(), row=9, a=5, b=40)
    logits = model.logits(text())[0, 9]
    before_cap = cap * torch.atanh(logits[[5, 40]] / cap)
    assert found.total == pytest.approx(float(before_cap[0] - before_cap[1]), abs=1e-3)
    assert found.gap == pytest.approx(found.real - found.total)


def test_a_block_that_adds_more_than_its_parts_is_refused(tiny: Tiny) -> None:
    model = tiny("qwen2")
    handle = model.blocks[1].register_forward_hook(lambda _, __, out: 1.5 * out)
    try:
        with pytest.raises(UnsupportedError, match="layer 1 than the outputs of its attention and its MLP"):
            direct_logits(model, text(), row=4, a=5, b=40)
    finally:
        handle.remove()


def test_two_texts_at_once_are_refused(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedError, match="this batch has 2 texts"), record_row(tiny("llama"), 4):
        tiny("llama").logits(text().repeat(2, 1))


def hooks_of(model: nn.Module) -> list[int]:
    """Hooks of every part of a model."""
    return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]


def test_no_hook_is_left(tiny: Tiny) -> None:
    model = tiny("llama")
    before = hooks_of(model.plain)  # transformers leaves some of its own where attentions were asked for
    direct_logits(model, text(), row=4, a=5, b=40)
    assert hooks_of(model.plain) == before


def test_the_parts_add_up_on_the_real_model(smollm2: BridgedModel) -> None:
    tokens = torch.tensor([smollm2.encode("When Mary and John went to the store, John gave a drink to", bos=True)])
    a, b = (smollm2.encode(name)[0] for name in (" Mary", " John"))
    found = direct_logits(smollm2, tokens, row=tokens.shape[1] - 1, a=a, b=b)
    assert found.real > 0.5
    assert abs(found.gap) < 1e-3
