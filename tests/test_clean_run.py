"""Running on from a clean run gives the logits of the whole forward pass, and skips the layers it says it skips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuits import Ablation, Reference, ablate
from circuits.clean_run import CleanRun
from headscope.attention import tap
from headscope.heads import Head
from headscope.models.bridged import BridgedModel

Tiny = Callable[[str], BridgedModel]
Planted = Callable[..., BridgedModel]
SIZE, DECODE_FROM = 14, 9
TOLERANCE = 2e-5
EVERY = ["llama", "gpt2", "qwen2", "gpt_neox", "opt", "mistral, window 8", "gemma2, window 8, capped"]
from_the_start_or_later = pytest.mark.parametrize("from_row", [0, DECODE_FROM], ids=lambda row: f"from row {row}")


def random_tokens(batch: int = 3, size: int = SIZE, seed: int = 0) -> Tensor:
    """Tokens that the tokenizers here do not call special."""
    return torch.randint(2, 90, (batch, size), generator=torch.Generator().manual_seed(seed))


def largest_gap(found: Tensor, wanted: Tensor) -> float:
    """Largest difference of two tensors."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


@contextmanager
def counting(model: BridgedModel) -> Iterator[Counter[int]]:
    """How often the MLP of each layer really runs inside the block."""
    runs: Counter[int] = Counter()
    handles = []
    for layer, block in enumerate(model.blocks):
        mlp = getattr(block, "mlp", None) or block.fc1  # type: ignore[union-attr]
        handles.append(mlp.register_forward_hook(lambda *_, layer=layer: runs.update([layer])))
    yield runs
    for handle in handles:
        handle.remove()


def state_of(model: BridgedModel) -> tuple[str, int, int]:
    """Which attention the plain model uses, its hooks, and its replaced forward methods."""
    parts = list(model.plain.modules())
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)
    return str(model.plain.config._attn_implementation), hooks, sum("forward" in vars(part) for part in parts)


@from_the_start_or_later
@pytest.mark.parametrize("name", EVERY)
def test_running_on_from_any_layer_equals_the_whole_forward_pass(tiny: Tiny, name: str, from_row: int) -> None:
    model, tokens = tiny(name), random_tokens()
    clean = CleanRun(model, tokens, layers=range(3), from_row=from_row)
    assert largest_gap(clean.logits, model.logits(tokens)[:, from_row:]) < TOLERANCE
    for layer in range(3):
        assert largest_gap(clean.logits_from(layer), clean.logits) < TOLERANCE


@from_the_start_or_later
@pytest.mark.parametrize("how", list(Ablation), ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral, window 8", "gemma2, window 8, capped"])
def test_an_ablation_run_on_from_its_layer_equals_the_whole_forward_pass(
    tiny: Tiny, name: str, how: Ablation, from_row: int
) -> None:
    model, tokens = tiny(name), random_tokens()
    clean = CleanRun(model, tokens, layers=range(3), from_row=from_row)
    everything = [Head(layer, head) for layer in range(3) for head in range(4)]
    generator = torch.Generator().manual_seed(0)
    reference = Reference.capture(model, random_tokens(seed=9), everything, generator=generator)
    rows = "decode" if from_row else "all"
    for layer in range(3):
        heads = [Head(layer, 1), Head(layer, 2), Head(2, 0)]
        with ablate(model, heads, how, rows=rows, decode_from=from_row, reference=reference):
            found, wanted = clean.logits_from(layer), model.logits(tokens)[:, from_row:]
        assert largest_gap(found, wanted) < TOLERANCE
        assert largest_gap(found, clean.logits) > 0.001


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["llama", "gpt2"]),
    heads=st.sets(st.builds(Head, st.integers(0, 2), st.integers(0, 3)), min_size=1),
    how=st.sampled_from([Ablation.ZERO, Ablation.UNIFORM, Ablation.TO_BOS]),
    batch=st.integers(1, 3),
    size=st.integers(2, 20),
    data=st.data(),
)
def test_any_ablation_of_any_batch_is_run_on_from_its_first_layer(
    tiny: Tiny, name: str, heads: set[Head], how: Ablation, batch: int, size: int, data: st.DataObject
) -> None:
    model, tokens = tiny(name), random_tokens(batch, size)
    from_row, first = data.draw(st.integers(0, size - 1)), min(heads).layer
    clean = CleanRun(model, tokens, layers=[first], from_row=from_row)
    with ablate(model, heads, how, rows="decode", decode_from=from_row):
        assert largest_gap(clean.logits_from(first), model.logits(tokens)[:, from_row:]) < TOLERANCE


@from_the_start_or_later
def test_the_planted_induction_head_is_ablated_the_same_way(planted: Planted, from_row: int) -> None:
    model = planted("all")
    tokens = torch.cat([torch.zeros(2, 1, dtype=torch.long), random_tokens(2, 8).repeat(1, 2)], 1)
    heads = [Head(layer, head) for layer in (1, 2) for head in range(8)]
    clean = CleanRun(model, tokens, layers=[1], from_row=from_row)
    with ablate(model, heads, rows="decode", decode_from=from_row):
        found, wanted = clean.logits_from(1), model.logits(tokens)[:, from_row:]
    assert largest_gap(found, wanted) < 1e-4
    assert largest_gap(found, clean.logits) > 1


@from_the_start_or_later
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_skipped_layers_really_do_not_run(tiny: Tiny, name: str, from_row: int) -> None:
    model, tokens = tiny(name), random_tokens()
    clean = CleanRun(model, tokens, layers=range(3), from_row=from_row)
    for layer in range(3):
        with counting(model) as runs, tap(model.plain) as opened:
            clean.logits_from(layer)
        assert runs == Counter(range(layer, 3))
        assert opened.calls == Counter(range(layer, 3))


@from_the_start_or_later
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_earlier_rows_are_not_run_again(tiny: Tiny, name: str, from_row: int) -> None:
    model, rows = tiny(name), list[tuple[int, int]]()
    clean = CleanRun(model, random_tokens(), layers=range(3), from_row=from_row)
    with tap(model.plain, reader=lambda call: rows.append((call.query.shape[2], call.key.shape[2]))):
        clean.logits_from(1)
    assert rows == 2 * [(SIZE - from_row, SIZE)]


@from_the_start_or_later
def test_a_clean_run_stays_clean_however_often_it_is_run_on(tiny: Tiny, from_row: int) -> None:
    model = tiny("llama")
    clean = CleanRun(model, random_tokens(), layers=range(3), from_row=from_row)
    before = [clean.logits_from(layer) for layer in range(3)]
    for layer in (2, 0, 1, 0):
        with ablate(model, [Head(layer, 0)], rows="decode", decode_from=from_row):
            clean.logits_from(layer)
    for layer, wanted in enumerate(before):
        assert torch.equal(clean.logits_from(layer), wanted)


def test_two_clean_runs_do_not_disturb_each_other(tiny: Tiny) -> None:
    model = tiny("llama")
    batches = [random_tokens(seed=1), random_tokens(2, 11, seed=2)]
    runs = [CleanRun(model, tokens, layers=[1], from_row=4) for tokens in batches]
    for run, tokens in zip(runs, batches, strict=True):
        assert largest_gap(run.logits_from(1), model.logits(tokens)[:, 4:]) < TOLERANCE


def test_right_padding_changes_no_real_row(tiny: Tiny) -> None:
    model, tokens = tiny("llama"), random_tokens()
    padded = torch.cat([tokens, torch.zeros(3, 5, dtype=torch.long)], 1)
    clean = CleanRun(model, padded, layers=[1], from_row=DECODE_FROM)
    with ablate(model, [Head(1, 2)], rows="decode", decode_from=DECODE_FROM):
        found, wanted = clean.logits_from(1), model.logits(tokens)[:, DECODE_FROM:]
    assert largest_gap(found[:, : SIZE - DECODE_FROM], wanted) < TOLERANCE


@from_the_start_or_later
def test_only_the_last_row_can_be_run(tiny: Tiny, from_row: int) -> None:
    tokens = random_tokens(size=from_row + 1)
    clean = CleanRun(tiny("gpt2"), tokens, layers=[2], from_row=from_row)
    assert clean.logits_from(2).shape == (3, 1, 96)
    assert largest_gap(clean.logits_from(2), tiny("gpt2").logits(tokens)[:, from_row:]) < TOLERANCE


@from_the_start_or_later
def test_nothing_stays_behind(tiny: Tiny, from_row: int) -> None:
    model, tokens = tiny("llama"), random_tokens()
    before, wanted = state_of(model), model.logits(tokens)
    clean = CleanRun(model, tokens, layers=range(3), from_row=from_row)
    assert state_of(model) == before
    clean.logits_from(2)
    assert state_of(model) == before

    def fail(_: object) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tap(model.plain, editor=fail):
        clean.logits_from(2)
    assert state_of(model) == before
    with pytest.raises(ZeroDivisionError), tap(model.plain, editor=fail):
        CleanRun(model, tokens, layers=range(3), from_row=from_row)
    assert state_of(model) == before
    assert torch.equal(model.logits(tokens), wanted)


def test_the_clean_run_says_that_it_used_the_plain_model(tiny: Tiny) -> None:
    model = tiny("llama")
    model.logits(random_tokens(), path="bridge")
    clean = CleanRun(model, random_tokens(), layers=[0])
    assert model.last_path == "plain"
    model.logits(random_tokens(), path="bridge")
    clean.logits_from(0)
    assert model.last_path == "plain"


def test_no_gradient_graph_is_kept(tiny: Tiny) -> None:
    clean = CleanRun(tiny("llama"), random_tokens(), layers=[1])
    assert not clean.logits.requires_grad
    assert not clean.logits_from(1).requires_grad
