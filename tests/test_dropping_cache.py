"""A cache that really drops tokens gives what the simulated policy gives, in the memory that it counts."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from circuits.ablations import Ablation
from circuits.interventions import ablate
from circuits.policies.catalog import POLICIES, build_policy
from circuits.policies.decoding import decode, read_prompt
from circuits.policies.drop_plan import DropPlan, Slots
from circuits.policies.dropping import dropping
from circuits.policies.dropping_cache import DroppingCache
from circuits.policies.head_split import HeadSplit, random_split
from circuits.policies.plans import plan_for
from circuits.policies.policy import applied
from headscope.attention import tap
from headscope.errors import ConfigError, HeadscopeError, UnknownNameError, UnsupportedError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.models.protocol import HookedModel

Tiny = Callable[[str], BridgedModel]


class Simulated(NamedTuple):
    logits: Tensor
    bytes: float


SIZE, PROMPT = 40, 29
TOLERANCE = 1e-4

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "streaming, text": ("streaming", {"sink": 2, "recent": 6, "positions": "text"}),
    "streaming, cache": ("streaming", {"sink": 2, "recent": 6, "positions": "cache"}),
    "streaming, no sink": ("streaming", {"sink": 0, "recent": 5, "positions": "text"}),
    "streaming, nothing to drop": ("streaming", {"sink": 3, "recent": 100, "positions": "cache"}),
    "duo": ("duo", {"sink": 2, "recent": 5}),
    "razor": ("razor", {"sink": 2, "recent": 4, "recent_share": 0.0}),
    "razor, growing": ("razor", {"sink": 2, "recent": 4, "recent_share": 0.3}),
    "razor, no compensation": ("razor", {"sink": 1, "recent": 4, "recent_share": 0.25, "compensate": False}),
}
PIECES = {
    "at once": (SIZE,),
    "prompt, then one by one": (PROMPT, *[1] * (SIZE - PROMPT)),
    "in chunks": (7, 1, 13, 3, 16),
    "one by one": (1,) * 20,
}


def split_of(model: HookedModel, name: str) -> HeadSplit | None:
    shape = model.shape
    drawn = random_split(shape.n_layers, shape.n_kv_heads, 0.5, np.random.default_rng(1))
    return drawn if POLICIES[name].needs_split else None


def plan_of(model: HookedModel, case: str) -> DropPlan:
    """The plan of a case, which acts from the first row on."""
    name, given = CASES[case]
    shape = model.shape
    made = plan_for(name, given, split_of(model, name), n_layers=shape.n_layers, n_kv_heads=shape.n_kv_heads)
    return replace(made, late=False)


def tokens_of(model: HookedModel, batch: int = 2, size: int = SIZE) -> Tensor:
    drawn = torch.randint(0, model.shape.d_vocab, (batch, size), generator=torch.Generator().manual_seed(0))
    return drawn.to(model.device)


@functools.cache
def simulated(model: HookedModel, case: str, batch: int = 2, size: int = SIZE, from_row: int = 0) -> Simulated:
    """Logits under the policy as it is simulated, and the bytes that it counts per text."""
    name, given = CASES[case]
    policy = build_policy(model, name, given, split_of(model, name))
    with torch.no_grad(), applied(model, policy, from_row=from_row) as opened:
        logits = model.plain(input_ids=tokens_of(model, batch, size)).logits
        return Simulated(logits, opened.tally.kv_bytes)


def dropped(
    model: HookedModel, plan: DropPlan, tokens: Tensor, pieces: tuple[int, ...], capacity: int | None = None
) -> tuple[Tensor, DroppingCache]:
    """Logits of all rows with tokens really dropped, and the cache."""
    found, start = list[Tensor](), 0
    with torch.no_grad(), dropping(model, plan, capacity=capacity) as cache:
        for size in pieces:
            part = tokens[:, start : start + size]
            found.append(model.plain(input_ids=part, past_key_values=cache, use_cache=True).logits)
            start += size
    return torch.cat(found, 1), cache


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("case", CASES)
def test_dropping_is_the_simulated_policy(tiny: Tiny, case: str, pieces: tuple[int, ...]) -> None:
    """In logits; and in bytes of storage, room for growth included: a tenth above the count at most, never below."""
    model = tiny("llama")
    plan, expected = plan_of(model, case), simulated(model, case)
    found, cache = dropped(model, plan, tokens_of(model), pieces)
    assert (found - expected.logits[:, : sum(pieces)]).abs().max() < TOLERANCE
    if sum(pieces) == SIZE:
        assert cache.counted == 2 * expected.bytes
    assert cache.counted <= cache.bytes <= 1.1 * cache.counted


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "qwen2"])
@pytest.mark.parametrize("case", ["streaming, cache", "duo", "razor, growing"])
def test_other_architectures_drop_alike(tiny: Tiny, case: str, architecture: str) -> None:
    model = tiny(architecture)
    found, _ = dropped(model, plan_of(model, case), tokens_of(model), (11, PROMPT - 11, *[1] * 5))
    assert (found - simulated(model, case).logits[:, : PROMPT + 5]).abs().max() < TOLERANCE


def test_a_late_plan_reads_its_prompt_in_full(tiny: Tiny) -> None:
    model, case = tiny("llama"), "razor, growing"
    tokens, plan = tokens_of(model), replace(plan_of(model, case), late=True)
    found, _ = dropped(model, plan, tokens, PIECES["prompt, then one by one"])
    assert (found - simulated(model, case, from_row=PROMPT).logits).abs().max() < TOLERANCE
    assert (found[:, :PROMPT] - model.logits(tokens)[:, :PROMPT]).abs().max() < TOLERANCE


def test_long_blocks_are_cut_where_rows_are(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of five rows, inside one call, for both kinds of short heads and for the causal masks."""
    monkeypatch.setattr("circuits.policies.drop_steps._ROWS", 5)
    monkeypatch.setattr("circuits.policies.drop_steps._DENSE_ROWS", 5)
    monkeypatch.setattr("circuits.policies.dropping_attention._ROWS", 5)
    model = tiny("llama")
    tokens = tokens_of(model)
    for case in ("duo", "razor, growing", "streaming, cache"):
        found, _ = dropped(model, plan_of(model, case), tokens, (SIZE - 3, 3))
        assert (found - simulated(model, case).logits).abs().max() < TOLERANCE, case


@pytest.mark.parametrize("case", ["full", "duo", "razor"])
def test_room_made_beforehand_is_all_there_is(tiny: Tiny, case: str) -> None:
    model = tiny("llama")
    _, cache = dropped(model, plan_of(model, case), tokens_of(model), PIECES["in chunks"], SIZE)
    assert cache.bytes == 2 * simulated(model, case).bytes


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that were made inside the block and are alive, now and at most."""

    def __init__(self, *before: Tensor) -> None:
        super().__init__()
        self._before = {StorageWeakRef(part.untyped_storage()).cdata for part in before}
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    @property
    def now(self) -> int:
        self._storages = {at: held for at, held in self._storages.items() if not held[0].expired()}
        return sum(size for _, size in self._storages.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in tree_leaves(out):
            if isinstance(part, Tensor):
                storage = part.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self._before:
                    self._storages[reference.cdata] = (reference, storage.nbytes())
        self.most = max(self.most, self.now)
        return out


@pytest.mark.parametrize("case", ["full", "duo", "razor, growing", "streaming, cache"])
def test_memory_while_decoding_is_the_bytes_counted(tiny: Tiny, case: str) -> None:
    """At its peak, within a tenth: nothing is copied, no view keeps a chunk, no mask the text."""
    model, size, width = tiny("llama"), 1200, 2 * 8 * 4
    plan, tokens = replace(plan_of(model, case), recent=400), tokens_of(model, batch=1, size=size)
    with (
        LiveBytes(tokens, *model.plain.state_dict().values()) as live,
        dropping(model, plan, capacity=size + 3) as cache,
    ):
        first = read_prompt(model.plain, cache, tokens, chunk=300).argmax(-1)
        counted = int(plan.entries(size + 3).sum()) * width
        assert counted == cache.bytes
        assert counted <= live.now < 1.01 * counted
        live.most = 0
        decode(model.plain, cache, first, 3)
        assert counted <= live.most < 1.1 * counted


def test_slots_hold_what_the_plan_keeps() -> None:
    """Whatever the pieces; positions are never held twice and never come back."""
    plan = DropPlan(full=np.zeros((1, 1), dtype=bool), sink=3, recent=5, share=0.4)
    generator = np.random.default_rng(0)
    for _ in range(20):
        slots, held = Slots(plan), dict[int, int]()
        while slots.seen < 60:
            first = slots.seen
            move = slots.take(int(generator.integers(1, 9)))
            held |= {slot: first + token for slot, token in zip(move.slots, move.taken, strict=True)}
            size = slots.seen
            expected = {place for place in range(size) if place < 3 or place >= size - max(5, int(0.4 * size))}
            assert sorted(held.values()) == sorted(expected)
            assert move.used == len(held) == plan.kept(size)


def test_decoding_goes_on_from_a_prompt_read_in_chunks(tiny: Tiny) -> None:
    model, case = tiny("llama"), "duo"
    tokens, plan = tokens_of(model), plan_of(model, case)
    with dropping(model, plan) as cache:
        first = read_prompt(model.plain, cache, tokens, chunk=9).argmax(-1)
        more = decode(model.plain, cache, first, 6)
    text = torch.cat([tokens, first[:, None], more], 1)
    name, given = CASES[case]
    with torch.no_grad(), applied(model, build_policy(model, name, given, split_of(model, name))):
        logits = model.plain(input_ids=text[:, :-1]).logits
    assert torch.equal(logits[:, SIZE - 1 :].argmax(-1), text[:, SIZE:])


def test_a_cache_that_was_reset_begins_anew(tiny: Tiny) -> None:
    model, case = tiny("llama"), "razor, growing"
    tokens = tokens_of(model)
    with torch.no_grad(), dropping(model, plan_of(model, case)) as cache:
        model.plain(input_ids=tokens[:, :17], past_key_values=cache, use_cache=True)
        cache.reset()
        assert cache.bytes == 0
        found = model.plain(input_ids=tokens, past_key_values=cache, use_cache=True).logits
    assert (found - simulated(model, case).logits).abs().max() < TOLERANCE


def test_ablations_act_inside(tiny: Tiny) -> None:
    """Those that need no values; one that does is not silently wrong."""
    model, case = tiny("llama"), "duo"
    tokens, heads = tokens_of(model), [Head(1, 2)]
    name, given = CASES[case]
    policy = build_policy(model, name, given, split_of(model, name))
    with torch.no_grad(), applied(model, policy), ablate(model, heads, Ablation.ZERO):
        expected = model.plain(input_ids=tokens).logits
    with ablate(model, heads, Ablation.ZERO):
        found, _ = dropped(model, plan_of(model, case), tokens, (PROMPT, SIZE - PROMPT))
    assert (found - expected).abs().max() < TOLERANCE
    with ablate(model, heads, Ablation.TO_BOS):
        found, _ = dropped(model, plan_of(model, case), tokens, (SIZE,))
    assert found.isnan().all()


def test_what_cannot_be_dropped_is_refused(tiny: Tiny) -> None:
    llama, mistral, gemma = tiny("llama"), tiny("mistral, window 8"), tiny("gemma2, window 8, capped")
    plan, tokens = plan_of(llama, "duo"), tokens_of(llama)
    for model in (mistral, gemma):
        with pytest.raises(UnsupportedError, match="slide a window"):
            dropped(model, plan, tokens, (5, *[1] * 10))
    with pytest.raises(UnsupportedError, match="past_key_values"), torch.no_grad(), dropping(llama, plan):
        llama.plain(input_ids=tokens, past_key_values=DynamicCache())
    with pytest.raises(UnsupportedError, match="no_grad"), dropping(llama, plan) as cache:
        llama.plain(inputs_embeds=torch.zeros(1, 4, 32, requires_grad=True), past_key_values=cache)
    with pytest.raises(UnsupportedError, match="no pattern"), tap(llama.plain, reader=lambda _: None):
        dropped(llama, plan, tokens, (SIZE,))
    with pytest.raises(UnsupportedError, match="beams"), dropping(llama, plan) as cache:
        cache.reorder_cache(torch.LongTensor([1, 0]))
    with pytest.raises(ConfigError, match="prompt whole"), dropping(llama, replace(plan, late=True)) as cache:
        read_prompt(llama.plain, cache, tokens, chunk=7)


@pytest.mark.parametrize(
    ("name", "given", "error", "words"),
    [
        ("moa", {}, UnsupportedError, "full, streaming, duo and razor"),
        ("duo", {"recent": 0}, ConfigError, "recent"),
        ("duo", {}, ConfigError, "give it a split"),
        ("raser", {}, UnknownNameError, "razor"),
    ],
    ids=["chosen by span", "no window", "no split", "misspelt"],
)
def test_impossible_plans_are_refused(
    name: str, given: dict[str, Any], error: type[HeadscopeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_for(name, given, n_layers=3, n_kv_heads=2)


def test_an_impossible_plan_or_one_of_another_model_is_refused(tiny: Tiny) -> None:
    split = HeadSplit(np.ones((2, 2), dtype=bool), "all")
    with pytest.raises(ConfigError, match="2 layers x 2"):
        plan_for("duo", {}, split, n_layers=3, n_kv_heads=2)
    with pytest.raises(ConfigError, match="1 recent token"):
        DropPlan(full=split.full, sink=1, recent=0)
    plan = DropPlan(full=split.full, sink=1, recent=4)
    with pytest.raises(ConfigError, match="has 3 x 2"), dropping(tiny("llama"), plan):
        pass


def _large_on_cuda(dtype: torch.dtype) -> BridgedModel:
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=128,
        max_position_embeddings=1 << 17,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    return BridgedModel(model.to("cuda", dtype), None, name="large")


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_cuda_drops_alike(case: str) -> None:
    model = _large_on_cuda(torch.float32)
    found, _ = dropped(model, plan_of(model, case), tokens_of(model, size=700), (600, 90, *[1] * 10))
    assert (found - simulated(model, case, size=700).logits).abs().max() < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["full", "duo", "streaming, text"])
def test_cuda_in_16_bits_is_near_32(case: str) -> None:
    exact, rough = _large_on_cuda(torch.float32), _large_on_cuda(torch.bfloat16)
    expected = simulated(exact, case, size=700).logits
    found, _ = dropped(rough, plan_of(rough, case), tokens_of(rough, size=700), (600, 90, *[1] * 10))
    assert (found.float() - expected).norm() / expected.norm() < 3e-2


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["full", "duo", "razor, growing"])
def test_cuda_memory_is_the_bytes_counted(case: str) -> None:
    """Growth of the memory in use while a long text is read and decoded, within a tenth."""
    model, size = _large_on_cuda(torch.bfloat16), 32768
    plan = plan_of(model, case)
    tokens = tokens_of(model, batch=1, size=size)
    model.logits(tokens[:, :64])  # the workspaces of the library's products
    gc.collect()  # models of earlier tests
    before = torch.cuda.memory_allocated()
    with dropping(model, plan, capacity=size + 8) as cache:
        first = read_prompt(model.plain, cache, tokens, chunk=512).argmax(-1)
        decode(model.plain, cache, first, 8)
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated() - before
        counted = int(plan.entries(size + 8).sum()) * 2 * 128 * 2
        assert abs(cache.bytes - counted) < 0.1 * counted
        assert abs(held - counted) < 0.1 * counted
        torch.cuda.reset_peak_memory_stats()
        decode(model.plain, cache, first, 2)
        assert torch.cuda.max_memory_allocated() - before < 1.1 * counted
