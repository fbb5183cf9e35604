"""The attention seam changes nothing by itself, shows every layer's call, passes edits on, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel, StaticCache

from circuits import ablate
from headscope.attention import AttentionCall, tap
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.readings import read

Tiny = Callable[[str], BridgedModel]
FULL = ["llama", "gpt2", "qwen2", "gpt_neox", "opt", "deepseek, wide values"]
SEEN = [*FULL, "mistral, window 8", "gemma2, window 8, capped"]
UNSEEN = {
    "gpt_oss, learned sinks": "learned sink",
    "llama4, chunks of 8": "chunks of 8 tokens",
    "phimoe, untold window 8": "window of 8",
}


def random_tokens(batch: int = 2, size: int = 24) -> Tensor:
    """Tokens that no tokenizer calls special."""
    return torch.randint(2, 90, (batch, size), generator=torch.Generator().manual_seed(size))


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Of the model as it stands, without a cache."""
    return model(input_ids=tokens, use_cache=False).logits


@torch.no_grad()
def eager(model: PreTrainedModel, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits and patterns of transformers' own attention in plain torch, window and cap included."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    out = model(input_ids=tokens, use_cache=False, output_attentions=True)
    model.set_attn_implementation(before)
    return out.logits, out.attentions


def hooks_of(model: nn.Module) -> int:
    """Hooks and replaced forward methods in a whole model."""
    parts = list(model.modules())
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)
    return hooks + sum("forward" in vars(part) for part in parts)


@contextmanager
def expect_no_trace(model: PreTrainedModel) -> Iterator[None]:
    """Afterwards the model has the attention and hooks it had, gives the logits it gave, and nobody listens."""
    tokens = random_tokens(1, 6)
    before = model.config._attn_implementation, hooks_of(model), logits(model, tokens)
    yield
    assert (model.config._attn_implementation, hooks_of(model)) == before[:2]
    assert torch.equal(logits(model, tokens), before[2])
    with tap(model) as opened:
        logits(model, tokens)
    assert set(opened.calls.values()) == {1}


def record(calls: list[AttentionCall]) -> Callable[[AttentionCall], None]:
    """A reader that keeps every call."""
    return calls.append


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("size", [1, 8, 9, 24], ids=lambda size: f"T{size}")
def test_the_seam_gives_the_logits_of_eager_attention(tiny: Tiny, name: str, size: int) -> None:
    model, tokens = tiny(name).plain, random_tokens(size=size)
    with tap(model) as opened:
        through = logits(model, tokens)
    assert (through - eager(model, tokens)[0]).abs().max() < 2e-5
    assert opened.calls == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("name", SEEN)
def test_a_call_holds_what_the_pattern_and_z_are_made_of(tiny: Tiny, name: str) -> None:
    model, tokens, calls = tiny(name).plain, random_tokens(), list[AttentionCall]()
    with tap(model, reader=record(calls)):
        logits(model, tokens)
    for layer, (call, pattern) in enumerate(zip(calls, eager(model, tokens)[1], strict=True)):
        assert call.layer == layer
        repeats = call.query.shape[1] // call.key.shape[1]
        scores = call.scale * call.query @ call.key.repeat_interleave(repeats, 1).mT
        if call.softcap:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        seen = pattern > 0
        assert (torch.exp(scores - call.lse[..., None])[seen] - pattern[seen]).abs().max() < 1e-5
        assert (pattern @ call.value.repeat_interleave(repeats, 1) - call.z).abs().max() < 1e-5
        assert call.window == (8 if "window" in name and not bool(seen[..., -1, 0].any()) else None)


@pytest.mark.parametrize("name", SEEN)
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_text(tiny: Tiny, name: str) -> None:
    model, tokens = tiny(name).plain, random_tokens()
    cache, parts = DynamicCache(), list[Tensor]()
    with torch.no_grad(), tap(model):
        for part in (tokens[:, :15], *tokens[:, 15:].split(3, dim=1)):
            parts.append(model(input_ids=part, past_key_values=cache, use_cache=True).logits)
    assert (torch.cat(parts, 1) - eager(model, tokens)[0]).abs().max() < 2e-5


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_generate_runs_through_the_seam(tiny: Tiny, name: str) -> None:
    model, tokens = tiny(name).plain, random_tokens(1, 9)
    options = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(tokens), "pad_token_id": 0}
    wanted = model.generate(tokens, **options)
    with tap(model) as opened:
        assert torch.equal(model.generate(tokens, **options), wanted)
    assert opened.calls == dict.fromkeys(range(3), 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_sixteen_bit_models_run_through_the_seam(tiny: Tiny, dtype: torch.dtype) -> None:
    source = tiny("llama").plain
    model = LlamaForCausalLM(source.config).eval()
    model.load_state_dict(source.state_dict())
    model, tokens = model.to(dtype), random_tokens()
    wanted = logits(source, tokens)
    ordinary = (logits(model, tokens).float() - wanted).abs().max()
    with tap(model):
        through = logits(model, tokens)
    assert through.dtype == dtype
    assert (through.float() - wanted).abs().max() < 2 * ordinary  # as far from float32 as without the seam


def test_edits_chain_from_the_outer_block_to_the_inner_and_every_reader_sees_the_end(tiny: Tiny) -> None:
    model, tokens = tiny("llama").plain, random_tokens()
    seen: dict[str, list[AttentionCall]] = {"outer": [], "inner": []}
    with (
        tap(model, editor=lambda call: torch.ones_like(call.z), reader=record(seen["outer"])),
        tap(model, editor=lambda call: call.z + 2 * call.z, reader=record(seen["inner"])),
    ):
        logits(model, tokens)
    for calls in seen.values():
        assert [call.layer for call in calls] == [0, 1, 2]
        assert all(bool((call.z == 3).all()) for call in calls)


def test_an_edit_of_one_layer_reaches_the_logits_as_that_edit_of_the_attention_output(tiny: Tiny) -> None:
    model, tokens = tiny("llama").plain, random_tokens()
    with tap(model, editor=lambda call: call.z * (call.layer != 1)):
        edited = logits(model, tokens)
    handle = model.model.layers[1].self_attn.register_forward_hook(lambda *args: (args[2][0] * 0, *args[2][1:]))
    wanted = logits(model, tokens)
    handle.remove()
    assert (edited - wanted).abs().max() < 1e-5
    assert (edited - logits(model, tokens)).abs().max() > 0.1


def test_blocks_that_look_alike_close_in_order(tiny: Tiny) -> None:
    model, tokens = tiny("llama").plain, random_tokens()
    with expect_no_trace(model):
        with tap(model) as outer:
            with tap(model) as inner:
                logits(model, tokens)
            logits(model, tokens)
        assert set(outer.calls.values()) == {2}
        assert set(inner.calls.values()) == {1}


@pytest.mark.parametrize("shared_config", [False, True])
def test_another_model_run_inside_the_block_is_untouched(tiny: Tiny, shared_config: bool) -> None:
    model = tiny("llama").plain
    other = LlamaForCausalLM(model.config).eval() if shared_config else tiny("gpt2").plain
    tokens, calls = random_tokens(), list[AttentionCall]()
    wanted = logits(other, tokens)
    with tap(model, reader=record(calls), editor=lambda call: torch.zeros_like(call.z)) as opened:
        found = logits(other, tokens)
    assert (found - wanted).abs().max() < 1e-5
    assert not calls
    assert not opened.calls


def test_two_models_are_tapped_side_by_side(tiny: Tiny) -> None:
    models, tokens = [tiny("llama").plain, tiny("gpt2").plain], random_tokens()
    wanted = [logits(model, tokens) for model in models]
    with tap(models[0], editor=lambda call: torch.zeros_like(call.z)) as one, tap(models[1]) as two:
        found = [logits(model, tokens) for model in models]
    assert set(one.calls.values()) == set(two.calls.values()) == {1}
    assert (found[0] - wanted[0]).abs().max() > 0.1
    assert (found[1] - wanted[1]).abs().max() < 1e-5


class Stop(Exception):
    """Raised inside a block by the tests below."""


def stop(*_: object, **__: object) -> None:
    """What a failing reader, editor or layer does."""
    raise Stop


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_nothing_stays_installed_after_the_block(tiny: Tiny, implementation: str) -> None:
    model = tiny("llama").plain
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    with expect_no_trace(model), tap(model), tap(model):
        assert model.config._attn_implementation == "headscope"
        logits(model, random_tokens())
    model.set_attn_implementation(before)


@pytest.mark.parametrize("who", ["reader", "editor", "block", "layer"])
def test_nothing_stays_installed_after_an_exception(tiny: Tiny, who: str) -> None:
    model = tiny("llama").plain
    with expect_no_trace(model):
        handle = model.model.layers[1].register_forward_hook(stop) if who == "layer" else None
        roles = {who: stop} if who in ("reader", "editor") else {}
        with pytest.raises(Stop), tap(model), tap(model, **roles):  # type: ignore[arg-type]
            stop(logits(model, random_tokens()))
        if handle is not None:
            handle.remove()


def test_nothing_stays_installed_after_a_refusal(tiny: Tiny) -> None:
    model, tokens = tiny("llama").plain, random_tokens()
    with expect_no_trace(model), pytest.raises(UnsupportedError), tap(model):
        model(input_ids=tokens, attention_mask=torch.zeros_like(tokens))


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_attention_mask_that_hides_something_is_refused(tiny: Tiny, side: str) -> None:
    model, tokens = tiny("llama").plain, random_tokens()
    mask = torch.ones_like(tokens)
    mask[1, 0 if side == "left" else -1] = 0
    with pytest.raises(UnsupportedError, match="right-padded tokens and their lengths"), tap(model):
        model(input_ids=tokens, attention_mask=mask)


def test_an_attention_mask_of_ones_is_allowed(tiny: Tiny) -> None:
    model, tokens = tiny("llama").plain, random_tokens()
    with torch.no_grad(), tap(model):
        found = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        assert torch.equal(found, logits(model, tokens))


def test_a_ready_made_four_dimensional_mask_is_refused(tiny: Tiny) -> None:
    model, tokens = tiny("llama").plain, random_tokens(1, 5)
    with pytest.raises(UnsupportedError, match="mask of its own"), tap(model):
        model(input_ids=tokens, attention_mask=torch.zeros(1, 1, 5, 5))


def test_packed_sequences_are_refused(tiny: Tiny) -> None:
    model, tokens = tiny("llama").plain, random_tokens(1, 6)
    packed = torch.tensor([[0, 1, 2, 0, 1, 2]])  # transformers then hides the first three from the others
    with pytest.raises(UnsupportedError, match="more than a causal mask"), tap(model):
        model(input_ids=tokens, position_ids=packed, use_cache=False)


@pytest.mark.parametrize("kind", ["forgets", "has room"])
def test_a_cache_whose_keys_do_not_lie_at_their_positions_is_refused(tiny: Tiny, kind: str) -> None:
    model, tokens = tiny("mistral, window 8" if kind == "forgets" else "llama").plain, random_tokens()
    cache = DynamicCache(config=model.config) if kind == "forgets" else StaticCache(model.config, max_cache_len=32)
    model(input_ids=tokens[:, :12], past_key_values=cache, use_cache=True)
    with pytest.raises(UnsupportedError, match=r"DynamicCache\(\)"), tap(model):
        model(input_ids=tokens[:, 12:], past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("name", UNSEEN)
def test_attention_that_the_seam_does_not_compute_is_refused_with_the_reason(tiny: Tiny, name: str) -> None:
    model = tiny(name)
    with expect_attention_kept(model.plain), pytest.raises(UnsupportedError, match=UNSEEN[name]), tap(model.plain):
        logits(model.plain, random_tokens())
    assert not model.card.supports("edit")
    with pytest.raises(UnsupportedError, match="cannot be ablated"), ablate(model, [Head(0, 0)]):
        pass


@contextmanager
def expect_attention_kept(model: PreTrainedModel) -> Iterator[None]:
    """Afterwards the model has the attention it had."""
    before = model.config._attn_implementation
    yield
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("name", ["llama4, chunks of 8", "phimoe, untold window 8"])
def test_a_text_that_fits_the_chunk_or_window_is_attended_in_full(tiny: Tiny, name: str) -> None:
    model, tokens = tiny(name).plain, random_tokens(size=8)
    with tap(model):
        through = logits(model, tokens)
    assert (through - eager(model, tokens)[0]).abs().max() < 2e-5


def test_a_model_that_bypasses_the_registry_is_never_seen_and_refuses_with_the_reason(tiny: Tiny) -> None:
    model, tokens = tiny("gpt_neo, no registry"), random_tokens()
    with expect_attention_kept(model.plain), tap(model.plain) as opened:
        logits(model.plain, tokens)
    assert not opened.calls
    assert not model.card.supports("registry")
    with pytest.raises(UnsupportedError, match="does not route the attention of layers"):
        read(model, tokens, stop)
    with pytest.raises(UnsupportedError, match="cannot be ablated"), ablate(model, [Head(0, 0)]):
        pass
