"""Reading whole models: flash equals dense and eager attention, builds no T x T matrix, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from headscope.attention import tap
from headscope.errors import UnsupportedError
from headscope.models.bridged import BridgedModel
from headscope.readings import DenseReading, Reading, greedy_top_keys, read

Tiny = Callable[[str], BridgedModel]
Planted = Callable[..., BridgedModel]
Method = Literal["flash", "dense"]
FULL = ["llama", "gpt2", "qwen2", "gpt_neox", "opt"]  # full causal attention, seen by seam and twin alike
TOLERANCE = 1e-4
both_methods = pytest.mark.parametrize("method", ["flash", "dense"])


def random_tokens(batch: int = 2, size: int = 24, *, vocabulary: int = 90, seed: int = 0) -> Tensor:
    """Tokens that the tokenizers here do not call special."""
    return torch.randint(5, vocabulary, (batch, size), generator=torch.Generator().manual_seed(seed))


def cells_of(size: int) -> tuple[Tensor, Tensor]:
    """Some cells, above the diagonal too."""
    drawn = torch.randint(0, size, (2, 3 * size), generator=torch.Generator().manual_seed(size))
    return drawn[0], drawn[1]


def numbers_of(size: int) -> Tensor:
    """Per-key numbers of the kinds that probes ask for: position, membership in a span, and any."""
    position = torch.arange(size).float()
    some = torch.randn(size, generator=torch.Generator().manual_seed(size))
    return torch.stack([position, (position % 3 == 0).float(), some], 1)


def answers(reading: Reading, size: int) -> dict[str, Tensor]:
    """Every answer but the top key, which is no sum."""
    return {
        "cell mass": reading.cell_mass(*cells_of(size)),
        "row entropy": reading.row_entropy(),
        "attended mean": reading.attended_mean(numbers_of(size)),
        "column mass": reading.column_mass(numbers_of(size)),
        "offset mass": reading.offset_mass(),
        "value norm": reading.value_norm(),
    }


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Equal to 1e-4: absolutely, but relative to the number where it is larger than 1 (distances, sums)."""
    for question, answer in wanted.items():
        assert found[question].dtype == torch.float32, question
        assert torch.equal(found[question].isnan(), answer.isnan()), f"{question}: other rows are NaN"
        gap = ((found[question] - answer).abs() / answer.abs().clamp_min(1)).nan_to_num(0)
        assert gap.max() < TOLERANCE, f"{question} is off by {gap.max():.1e}"


def collect(
    model: BridgedModel,
    tokens: Tensor,
    *,
    method: Method,
    lengths: Tensor | None = None,
    layers: Collection[int] | None = None,
) -> dict[int, dict[str, Tensor]]:
    """Every answer of every layer that `read` hands over."""
    found: dict[int, dict[str, Tensor]] = {}

    def keep(layer: int, reading: Reading) -> None:
        found[layer] = answers(reading, tokens.shape[1])

    read(model, tokens, keep, lengths=lengths, layers=layers, method=method)
    return found


@torch.no_grad()
def eager_patterns(model: BridgedModel, tokens: Tensor) -> tuple[Tensor, ...]:
    """Patterns of every layer from transformers' own attention in plain torch."""
    before = model.plain.config._attn_implementation
    model.plain.set_attn_implementation("eager")
    out = model.plain(input_ids=tokens, use_cache=False, output_attentions=True)
    model.plain.set_attn_implementation(before)
    return out.attentions


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@both_methods
def test_a_padded_batch_gives_the_answers_of_each_example_alone(tiny: Tiny, name: str, method: Method) -> None:
    model, tokens, lengths = tiny(name), random_tokens(3, 17), torch.tensor([17, 9, 1])
    for row, length in enumerate(lengths):
        tokens[row, length:] = row * 40  # what stands in the padding does not matter
    together = collect(model, tokens, method=method, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone: dict[int, dict[str, Tensor]] = {}

        def ask(
            layer: int, reading: Reading, alone: dict[int, dict[str, Tensor]] = alone, length: int = length
        ) -> None:
            alone[layer] = {
                "row entropy": reading.row_entropy(),
                "attended mean": reading.attended_mean(numbers_of(17)[:length]),
                "column mass": reading.column_mass(numbers_of(17)[:length]),
                "offset mass": reading.offset_mass(),
                "value norm": reading.value_norm(),
            }

        read(model, tokens[row : row + 1, :length], ask, method=method)
        for layer, wanted in alone.items():
            assert_same({key: together[layer][key][row : row + 1, :, :length] for key in wanted}, wanted)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(FULL), batch=st.integers(1, 3), size=st.integers(1, 33), seed=st.integers(0, 9), data=st.data()
)
def test_reading_a_model_gives_the_pattern_of_eager_attention(
    tiny: Tiny, name: str, batch: int, size: int, seed: int, data: st.DataObject
) -> None:
    model, tokens = tiny(name), random_tokens(batch, size, seed=seed)
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, size), min_size=batch, max_size=batch)))
    fast, dense = (collect(model, tokens, method=method, lengths=lengths) for method in ("flash", "dense"))
    for layer, pattern in enumerate(eager_patterns(model, tokens)):
        wanted = answers(DenseReading(pattern, torch.zeros(batch, 1, size, 1), lengths), size)
        del wanted["value norm"]
        assert_same(fast[layer], wanted)
        assert_same(dense[layer], wanted)
        assert_same(fast[layer], dense[layer])


@pytest.mark.parametrize("seed", [0, 1])
def test_flash_equals_dense_on_the_planted_model(planted: Planted, seed: int) -> None:
    model, lengths = planted("all", seed), torch.tensor([61, 40])
    tokens = random_tokens(2, 61)
    tokens[:, 0], tokens[:, 30:] = 0, tokens[:, :31].clone()  # <bos> and a second copy: every planted head shows
    fast, dense = (collect(model, tokens, method=method, lengths=lengths) for method in ("flash", "dense"))
    assert list(fast) == list(dense) == [0, 1, 2]
    for layer, wanted in dense.items():
        assert_same(fast[layer], wanted)


def test_flash_equals_dense_on_smollm2(smollm2: BridgedModel) -> None:
    tokens, lengths = random_tokens(2, 49, vocabulary=40_000), torch.tensor([49, 30])
    tokens[:, 0] = smollm2.bos
    tokens[1, 30:] = smollm2.tokenizer.pad_token_id
    fast, dense = (collect(smollm2, tokens, method=method, lengths=lengths) for method in ("flash", "dense"))
    assert list(fast) == list(dense) == list(range(30))
    for layer, wanted in dense.items():
        assert_same(fast[layer], wanted)


@pytest.mark.parametrize("name", ["mistral, window 8", "gemma2, window 8, capped", "gpt_neo, no registry"])
def test_the_dense_reading_covers_what_the_flash_reading_refuses(tiny: Tiny, name: str) -> None:
    model, tokens = tiny(name), random_tokens(2, 24)
    with pytest.raises(UnsupportedError, match="Use the dense reading"):
        collect(model, tokens, method="flash")
    found, lengths = collect(model, tokens, method="dense"), torch.tensor([24, 24])
    for layer, pattern in enumerate(eager_patterns(model, tokens)):
        wanted = answers(DenseReading(pattern, torch.zeros(2, 1, 24, 1), lengths), 24)
        del wanted["value norm"]
        assert_same(found[layer], wanted)


def test_the_refusal_names_layer_and_window(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedError, match="layer 0 attends with a sliding window of 8"):
        collect(tiny("mistral, window 8"), random_tokens(), method="flash")
    with pytest.raises(UnsupportedError, match=r"layer 0 attends with .*(window of 8|capped at 5)"):
        collect(tiny("gemma2, window 8, capped"), random_tokens(), method="flash")


def test_a_text_inside_the_window_is_read_by_both(tiny: Tiny) -> None:
    model, tokens = tiny("mistral, window 8"), random_tokens(2, 8)
    fast, dense = (collect(model, tokens, method=method) for method in ("flash", "dense"))
    for layer, wanted in dense.items():
        assert_same(fast[layer], wanted)


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operator gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and look at what it gives."""
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor):
                self.numel = max(self.numel, part.numel())
        return out


LONG, LONG_HEADS = 2048, 4
ROWS_AT_ONCE = 128
# question -> the largest tensor it may build, in numbers; T * T would be 4,194,304 per head
BUDGET: dict[str, tuple[Callable[[Reading], Tensor], int]] = {
    "nothing": (lambda reading: reading.lengths, LONG * 64),
    "cell mass": (lambda reading: reading.cell_mass(*cells_of(LONG)), LONG * 3 * LONG_HEADS * 8),
    "row entropy": (lambda reading: reading.row_entropy(), LONG * 64),
    "attended mean": (lambda reading: reading.attended_mean(numbers_of(LONG)), LONG * 64),
    "column mass": (lambda reading: reading.column_mass(numbers_of(LONG)), LONG * 64),
    "value norm": (lambda reading: reading.value_norm(), LONG * 64),
    "offset mass": (lambda reading: reading.offset_mass(), LONG_HEADS * ROWS_AT_ONCE * 2 * LONG),
    "top key": (lambda reading: reading.top_key(torch.arange(LONG - 99, LONG)[None]), LONG_HEADS * 99 * LONG),
}


@pytest.mark.parametrize("question", BUDGET)
def test_the_flash_reading_never_builds_a_matrix_of_keys_by_queries(tiny: Tiny, question: str) -> None:
    ask, budget = BUDGET[question]
    with Largest() as largest:
        read(tiny("llama"), random_tokens(1, LONG), lambda _, reading: ask(reading), layers=[1])
    assert 0 < largest.numel <= budget < LONG * LONG


def test_the_recorder_sees_the_matrix_that_the_dense_reading_builds(tiny: Tiny) -> None:
    with Largest() as largest:
        collect(tiny("llama"), random_tokens(1, 200), method="dense", layers=[0])
    assert largest.numel >= LONG_HEADS * 200 * 200


@both_methods
def test_only_the_chosen_layers_are_read_in_order(tiny: Tiny, method: Method) -> None:
    model, tokens = tiny("llama"), random_tokens()
    everything = collect(model, tokens, method=method)
    assert list(everything) == [0, 1, 2]
    chosen = collect(model, tokens, method=method, layers=(2, 0))
    assert list(chosen) == [0, 2]
    for layer, found in chosen.items():
        assert_same(found, everything[layer])
    assert collect(model, tokens, method=method, layers=[]) == {}


@both_methods
@pytest.mark.parametrize("layers", [[3], [-1], [0, 99]], ids=str)
def test_a_layer_that_is_not_there_is_refused(tiny: Tiny, method: Method, layers: list[int]) -> None:
    with pytest.raises(UnsupportedError, match="has layers 0 to 2"):
        collect(tiny("llama"), random_tokens(), method=method, layers=layers)


def test_last_path_says_which_face_was_used(tiny: Tiny) -> None:
    model, tokens = tiny("llama"), random_tokens()
    collect(model, tokens, method="dense")
    assert model.last_path == "bridge"
    collect(model, tokens, method="flash")
    assert model.last_path == "plain"
    model.logits(tokens, path="bridge")
    assert model.last_path == "bridge"
    greedy_top_keys(model, tokens, 2)
    assert model.last_path == "plain"


def hooks_of(module: nn.Module) -> int:
    """Hooks in a whole model."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@both_methods
def test_no_hook_stays_when_the_callback_fails(tiny: Tiny, method: Method) -> None:
    model, tokens = tiny("llama"), random_tokens()
    wanted, attention = collect(model, tokens, method=method), model.plain.config._attn_implementation
    before = hooks_of(model.plain), hooks_of(model.bridge)

    def fail(layer: int, _: Reading) -> None:
        if layer == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read(model, tokens, fail, method=method)
    assert (hooks_of(model.plain), hooks_of(model.bridge)) == before
    assert model.plain.config._attn_implementation == attention
    again = collect(model, tokens, method=method)
    for layer, answer in wanted.items():
        assert_same(again[layer], answer)


def test_a_reading_inside_a_block_that_edits_sees_the_edited_model(tiny: Tiny) -> None:
    model, tokens = tiny("llama"), random_tokens()
    plain = collect(model, tokens, method="flash")
    with tap(model.plain, editor=lambda call: call.z * (call.layer != 0)):
        edited = collect(model, tokens, method="flash")
    assert_same(edited[0], plain[0])
    assert (edited[1]["row entropy"] - plain[1]["row entropy"]).abs().max() > 0.01


@pytest.mark.parametrize("lengths", [[0, 5], [5, 7]], ids=str)
def test_lengths_that_do_not_fit_the_batch_are_refused(tiny: Callable[[str], BridgedModel], lengths: list[int]) -> None:
    tokens = torch.zeros(2, 6, dtype=torch.long)
    with pytest.raises(UnsupportedError, match="one number from 1 to 6 for each of 2 examples"):
        read(tiny("llama"), tokens, lambda *_: None, lengths=torch.tensor(lengths))
