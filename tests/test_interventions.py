"""Ablating heads through the seam equals the same edit of TransformerLens' hooks on the twin, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import DynamicCache

from circuits import Ablation, Reference, ablate, interventions
from headscope.attention import AttentionCall, tap
from headscope.errors import HeadIndexError, UnknownNameError, UnsupportedError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel

Tiny = Callable[[str], BridgedModel]
Planted = Callable[..., BridgedModel]
Rows = Literal["all", "prefill", "decode"]
ALL_ROWS: tuple[Rows, ...] = ("all", "prefill", "decode")
TOLERANCE = 1e-4
SIZE, DECODE_FROM = 14, 9
PLAIN = ["llama", "gpt2", "qwen2", "gpt_neox"]
FAR_APART = (Head(0, 1), Head(1, 0), Head(1, 3), Head(2, 2))
every_ablation = pytest.mark.parametrize("how", list(Ablation), ids=str)
needs_reference = (Ablation.MEAN, Ablation.RESAMPLE)


def random_tokens(batch: int = 3, size: int = SIZE, seed: int = 0) -> Tensor:
    """Tokens that the tokenizers here do not call special."""
    return torch.randint(2, 90, (batch, size), generator=torch.Generator().manual_seed(seed))


def reference_of(model: BridgedModel, heads: Sequence[Head] = FAR_APART, seed: int = 0) -> Reference:
    """A reference batch of other tokens."""
    generator = torch.Generator().manual_seed(seed)
    return Reference.capture(model, random_tokens(seed=99), heads, generator=generator)


def chosen_rows(rows: Rows) -> slice:
    """The positions that ``rows`` means here."""
    return {"all": slice(None), "prefill": slice(DECODE_FROM), "decode": slice(DECODE_FROM, None)}[rows]


def ablated(model: BridgedModel, tokens: Tensor, heads: Sequence[Head], how: Ablation, rows: Rows = "all") -> Tensor:
    """Logits of the plain model with the heads ablated."""
    reference = reference_of(model, heads) if how in needs_reference else None
    with ablate(model, heads, how, rows=rows, decode_from=DECODE_FROM, reference=reference):
        return model.logits(tokens)


@torch.no_grad()
def reference_z(model: BridgedModel) -> list[Tensor]:
    """``hook_z`` of every layer of the twin on the reference batch."""
    cache = model.bridge.run_with_cache(random_tokens(seed=99), return_type=None)[1]
    return [cache[f"blocks.{layer}.attn.hook_z"] for layer in range(model.shape.n_layers)]


def edited_by_hooks(
    model: BridgedModel, tokens: Tensor, heads: Sequence[Head], how: Ablation, rows: Rows = "all", window: int = SIZE
) -> Tensor:
    """Logits of the TransformerLens twin with `hook_pattern` or `hook_z` edited the same way."""
    where, size = chosen_rows(rows), tokens.shape[1]
    visible = torch.ones(size, size).tril().triu(1 - window)
    patterns = {Ablation.UNIFORM: visible / visible.sum(-1, keepdim=True), Ablation.TO_BOS: torch.eye(size)[:1]}
    order, z = reference_of(model, heads).order, reference_z(model) if how in needs_reference else []

    def edit(value: Tensor, head: Head, **_: Any) -> Tensor:
        value = value.clone()
        if how in patterns:
            value[:, head.head, where] = patterns[how].expand(size, -1)[where]
        elif how == Ablation.ZERO:
            value[:, where, head.head] = 0
        elif how == Ablation.MEAN:
            value[:, where, head.head] = z[head.layer][:, :, head.head].mean((0, 1))
        else:
            value[:, where, head.head] = z[head.layer][order][:, where, head.head]
        return value

    name = "hook_pattern" if how in patterns else "hook_z"
    hooks = [
        (f"blocks.{head.layer}.attn.{name}", lambda value, head=head, **_: edit(value, head)) for head in sorted(heads)
    ]
    return model.bridge.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)


def largest_gap(found: Tensor, wanted: Tensor) -> float:
    """Largest difference of two tensors."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


@every_ablation
@pytest.mark.parametrize("rows", ALL_ROWS)
@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_an_ablation_equals_the_same_edit_of_the_twins_hooks(tiny: Tiny, name: str, rows: Rows, how: Ablation) -> None:
    model, tokens = tiny(name), random_tokens()
    found = ablated(model, tokens, FAR_APART, how, rows)
    assert largest_gap(found, edited_by_hooks(model, tokens, FAR_APART, how, rows)) < TOLERANCE
    assert largest_gap(found, model.logits(tokens)) > 0.01
    if rows == "decode":
        assert largest_gap(found[:, :DECODE_FROM], model.logits(tokens)[:, :DECODE_FROM]) < TOLERANCE


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    heads=st.sets(st.builds(Head, st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12),
    how=st.sampled_from(Ablation),
    rows=st.sampled_from(ALL_ROWS),
)
@torch.no_grad()
def test_any_set_of_heads_is_ablated_as_by_hooks(tiny: Tiny, heads: set[Head], how: Ablation, rows: Rows) -> None:
    model, tokens = tiny("llama"), random_tokens()
    found = ablated(model, tokens, list(heads), how, rows)
    assert largest_gap(found, edited_by_hooks(model, tokens, list(heads), how, rows)) < TOLERANCE


@every_ablation
@torch.no_grad()
def test_planted_heads_are_ablated_as_by_hooks(planted: Planted, how: Ablation) -> None:
    model, heads = planted("all"), [Head(0, 5), Head(1, 2), Head(1, 3), Head(2, 7)]
    tokens = random_tokens()
    found = ablated(model, tokens, heads, how)
    assert largest_gap(found, edited_by_hooks(model, tokens, heads, how)) < TOLERANCE


@torch.no_grad()
def test_smollm2s_heads_are_ablated_as_by_hooks(smollm2: BridgedModel) -> None:
    heads = [Head(3, 0), Head(3, 1), Head(14, 8), Head(29, 4)]
    found = ablated(smollm2, random_tokens(), heads, Ablation.ZERO, "decode")
    wanted = edited_by_hooks(smollm2, random_tokens(), heads, Ablation.ZERO, "decode")
    assert largest_gap(found, wanted) < TOLERANCE


@pytest.mark.parametrize("name", ["mistral, window 8", "gemma2, window 8, capped"])
@torch.no_grad()
def test_uniform_attention_keeps_to_a_sliding_window(tiny: Tiny, name: str) -> None:
    model, tokens = tiny(name), random_tokens()
    windows = {layer: 8 if layer % 2 == 0 or "mistral" in name else SIZE for layer in range(3)}  # as gemma2 alternates
    for layer, window in windows.items():
        found = ablated(model, tokens, [Head(layer, 1)], Ablation.UNIFORM)
        wanted = edited_by_hooks(model, tokens, [Head(layer, 1)], Ablation.UNIFORM, window=window)
        assert largest_gap(found, wanted) < TOLERANCE


@every_ablation
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_one_pass_equals_a_prefill_and_ablated_steps(tiny: Tiny, name: str, how: Ablation) -> None:
    model, tokens = tiny(name), random_tokens()
    reference = reference_of(model) if how in needs_reference else None
    together = ablated(model, tokens, FAR_APART, how, "decode")
    for rows in ("all", "decode"):  # in steps all rows are decoding rows, whether one says so or not
        cache = DynamicCache()
        prompt = model.plain(input_ids=tokens[:, :DECODE_FROM], past_key_values=cache, use_cache=True).logits
        steps = [prompt]
        with ablate(model, FAR_APART, how, rows=rows, decode_from=DECODE_FROM, reference=reference):
            for token in tokens[:, DECODE_FROM:].split(1, dim=1):
                steps.append(model.plain(input_ids=token, past_key_values=cache, use_cache=True).logits)
        assert largest_gap(torch.cat(steps, 1), together) < TOLERANCE


@every_ablation
@torch.no_grad()
def test_a_prefill_ablation_holds_in_the_cache_and_spares_the_steps(tiny: Tiny, how: Ablation) -> None:
    model, tokens, cache = tiny("llama"), random_tokens(), DynamicCache()
    reference, parts = reference_of(model) if how in needs_reference else None, list[Tensor]()
    with ablate(model, FAR_APART, how, rows="prefill", decode_from=DECODE_FROM, reference=reference):
        for part in (tokens[:, :DECODE_FROM], *tokens[:, DECODE_FROM:].split(1, dim=1)):
            parts.append(model.plain(input_ids=part, past_key_values=cache, use_cache=True).logits)
    assert largest_gap(torch.cat(parts, 1), ablated(model, tokens, FAR_APART, how, "prefill")) < TOLERANCE


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize(("name", "bias"), [("llama", None), ("gpt2", "c_proj")])
@torch.no_grad()
def test_zeroing_every_head_of_a_layer_equals_bypassing_its_attention(
    tiny: Tiny, name: str, bias: str | None, layer: int
) -> None:
    model, tokens = tiny(name), random_tokens()
    found = ablated(model, tokens, [Head(layer, head) for head in range(4)], Ablation.ZERO)
    block: Any = model.blocks[layer]
    attention = block.attn if bias else block.self_attn
    rest = getattr(attention, bias).bias if bias else torch.zeros(())  # what the layer adds whatever its heads do
    handle = attention.register_forward_hook(lambda _, __, out: (torch.zeros_like(out[0]) + rest, *out[1:]))
    wanted = model.logits(tokens)
    handle.remove()
    assert largest_gap(found, wanted) < 1e-5


@every_ablation
def test_ablating_no_head_changes_nothing(tiny: Tiny, how: Ablation) -> None:
    model, tokens = tiny("llama"), random_tokens()
    with tap(model.plain):
        wanted = model.logits(tokens)
    with ablate(model, [], how):
        assert torch.equal(model.logits(tokens), wanted)


@every_ablation
def test_nothing_changes_before_the_first_ablated_layer_nor_beside_the_ablated_heads(tiny: Tiny, how: Ablation) -> None:
    model, tokens = tiny("llama"), random_tokens()
    seen: dict[str, dict[int, AttentionCall]] = {"clean": {}, "ablated": {}}
    reference = reference_of(model) if how in needs_reference else None
    with tap(model.plain, reader=lambda call: seen["clean"].__setitem__(call.layer, call)):
        model.logits(tokens)
    with (
        ablate(model, [Head(1, 2)], how, reference=reference),
        tap(model.plain, reader=lambda call: seen["ablated"].__setitem__(call.layer, call)),
    ):
        model.logits(tokens)
    clean, changed = (seen[name] for name in ("clean", "ablated"))
    assert torch.equal(changed[0].z, clean[0].z)
    mates = [0, 1, 3]  # H2 and H3 share their keys and values
    assert torch.equal(changed[1].z[:, mates], clean[1].z[:, mates])
    assert torch.equal(changed[1].value, clean[1].value)
    assert largest_gap(changed[1].z[:, 2], clean[1].z[:, 2]) > 0.01
    assert largest_gap(changed[2].z, clean[2].z) > 0.001


def test_ablations_nest_and_the_inner_one_wins_on_a_shared_head(tiny: Tiny) -> None:
    model, tokens = tiny("llama"), random_tokens()
    with ablate(model, [Head(0, 1)]), ablate(model, [Head(1, 0)]):
        together = model.logits(tokens)
    assert largest_gap(together, ablated(model, tokens, [Head(0, 1), Head(1, 0)], Ablation.ZERO)) < 1e-6
    with ablate(model, [Head(0, 1)], "uniform"), ablate(model, [Head(0, 1)], "zero"):
        inner = model.logits(tokens)
    assert largest_gap(inner, ablated(model, tokens, [Head(0, 1)], Ablation.ZERO)) < 1e-6


def test_padding_on_the_right_changes_no_real_row_of_an_ablated_model(tiny: Tiny) -> None:
    model, tokens = tiny("llama"), random_tokens()
    padded = torch.cat([tokens, torch.zeros(3, 5, dtype=torch.long)], 1)
    for how in (Ablation.ZERO, Ablation.UNIFORM, Ablation.TO_BOS):
        found = ablated(model, padded, FAR_APART, how)[:, :SIZE]
        assert largest_gap(found, ablated(model, tokens, FAR_APART, how)) < 1e-5


@pytest.mark.parametrize("head", [(3, 0), (-1, 0), (0, 4), (0, -1), (12, 99)], ids=str)
def test_a_head_that_the_model_lacks_is_refused(tiny: Tiny, head: tuple[int, int]) -> None:
    message = rf"head {head[1]} of layer {head[0]} does not exist in 'tiny llama' \(3 layers x 4 heads"
    with pytest.raises(HeadIndexError, match=message), ablate(tiny("llama"), [Head(0, 0), Head(*head)]):
        pass


def test_an_unknown_ablation_is_refused_with_the_nearest_name(tiny: Tiny) -> None:
    message = r"no ablation is called 'unifrom'\. Did you mean 'uniform'\?"
    with pytest.raises(UnknownNameError, match=message), ablate(tiny("llama"), [Head(0, 0)], "unifrom"):
        pass


@pytest.mark.parametrize("how", needs_reference, ids=str)
def test_mean_and_resample_without_a_reference_of_the_layer_are_refused(tiny: Tiny, how: Ablation) -> None:
    model = tiny("llama")
    for reference in (None, reference_of(model, [Head(1, 0)])):
        with (
            pytest.raises(UnsupportedError, match=f"{how} ablation needs a reference batch"),
            ablate(model, [Head(0, 0)], how, reference=reference),
        ):
            pass


@pytest.mark.parametrize("rows", ["prefill", "decode"])
def test_prefill_and_decode_need_to_know_where_decoding_starts(tiny: Tiny, rows: Rows) -> None:
    with pytest.raises(UnsupportedError, match="needs decode_from"), ablate(tiny("llama"), [Head(0, 0)], rows=rows):
        pass


def test_a_reference_of_one_example_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedError, match="at least two examples"):
        Reference.capture(tiny("llama"), random_tokens(1), [Head(0, 0)], generator=torch.Generator())


@pytest.mark.parametrize(("batch", "size"), [(2, SIZE), (3, SIZE + 1)], ids=["fewer examples", "longer"])
def test_resampling_from_too_small_a_reference_is_refused(tiny: Tiny, batch: int, size: int) -> None:
    model = tiny("llama")
    with (
        pytest.raises(UnsupportedError, match="needs at least that"),
        ablate(model, FAR_APART, "resample", reference=reference_of(model)),
    ):
        model.logits(random_tokens(batch, size))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_resampling_gives_each_example_another_one_and_uses_each_once(tiny: Tiny, size: int) -> None:
    orders = set()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        order = Reference.capture(tiny("llama"), random_tokens(size, 2), [], generator=generator).order
        assert not (order == torch.arange(size)).any()
        assert sorted(order.tolist()) == list(range(size))
        orders.add(tuple(order.tolist()))
    assert len(orders) == size - 1  # all cyclic shifts occur


def test_a_reference_is_drawn_from_its_generator_alone(tiny: Tiny) -> None:
    torch.manual_seed(1)
    first = reference_of(tiny("llama"), seed=5)
    torch.manual_seed(2)
    second = reference_of(tiny("llama"), seed=5)
    assert torch.equal(first.order, second.order)
    assert all(torch.equal(first.z[layer], second.z[layer]) for layer in (0, 1, 2))


def test_a_reference_holds_z_of_the_twin(tiny: Tiny) -> None:
    model = tiny("llama")
    reference = reference_of(model, [Head(1, 0), Head(2, 3)])
    assert sorted(reference.z) == [1, 2]
    for layer, z in reference.z.items():
        assert largest_gap(z.transpose(1, 2), reference_z(model)[layer]) < 1e-5


def state_of(model: BridgedModel) -> tuple[str, int]:
    """Which attention the plain model uses, and how many hooks it has."""
    parts = list(model.plain.modules())
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)
    return str(model.plain.config._attn_implementation), hooks


@every_ablation
def test_nothing_stays_ablated_after_the_block_or_an_exception_in_it(tiny: Tiny, how: Ablation) -> None:
    model, tokens = tiny("llama"), random_tokens()
    reference, before, wanted = reference_of(model), state_of(model), model.logits(tokens)
    with ablate(model, FAR_APART, how, reference=reference):
        model.logits(tokens)
    assert state_of(model) == before
    with pytest.raises(ZeroDivisionError), ablate(model, FAR_APART, how, reference=reference):
        raise ZeroDivisionError(model.logits(tokens))
    assert state_of(model) == before
    assert torch.equal(model.logits(tokens), wanted)


def test_nothing_stays_ablated_after_an_exception_inside_the_forward_pass(tiny: Tiny) -> None:
    model, before = tiny("llama"), state_of(tiny("llama"))
    with pytest.raises(UnsupportedError), ablate(model, FAR_APART, "resample", reference=reference_of(model)):
        model.logits(random_tokens(2))
    assert state_of(model) == before
    with pytest.raises(HeadIndexError), ablate(model, [Head(9, 9)]):
        pass
    assert state_of(model) == before


def test_the_weights_are_never_changed(tiny: Tiny) -> None:
    model: BridgedModel = tiny("llama")
    before = {name: weight.clone() for name, weight in nn.Module.state_dict(model.plain).items()}
    for how in Ablation:
        ablated(model, random_tokens(), FAR_APART, how)
    assert all(torch.equal(weight, before[name]) for name, weight in model.plain.state_dict().items())


def test_a_card_first_asked_for_inside_an_edit_describes_the_model_and_not_the_edit(
    tiny: Callable[[str], BridgedModel],
) -> None:
    made = tiny("llama")
    model = BridgedModel(made.plain, made.tokenizer, name="fresh")
    with tap(model.plain, editor=lambda call: torch.zeros_like(call.z)) as opened:
        inside = model.card
        assert not opened.calls, "the card's passes are not this block's"
        model.logits(torch.zeros(1, 4, dtype=torch.long))
        assert opened.calls.total() == model.shape.n_layers, "the block goes on afterwards"
    assert inside.supports("edit")
    assert model.plain.config._attn_implementation != "headscope"


def test_rows_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no choice of rows is called 'decoding'\. Did you mean 'decode'"):
        interventions._check_rows("decoding", 2)  # the type check of the tests keeps ablate itself from seeing it
