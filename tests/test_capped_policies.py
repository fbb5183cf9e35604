"""Policies of models that cap their logits or slide a window: moved keys are capped, and windows count as whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.policies.catalog import POLICIES, build_policy
from circuits.policies.chunks import Chunks
from circuits.policies.evaluation import evaluate
from circuits.policies.head_split import HeadSplit, random_split
from circuits.policies.masks import Infinite, Streaming
from circuits.policies.policy import Policy, applied
from circuits.policies.razor import Razor
from circuits.policies.results import Arm, Outcome
from circuits.policies.rows import Mixed, Rows
from circuits.policies.search_settings import RazorSettings
from headscope.kernels import causal_logits
from headscope.models.protocol import HookedModel
from headscope.models.rotary import Rotary
from headscope.tasks.answers import AnswerBatch

Tiny = Callable[[str], HookedModel]
CAPPED, WINDOWED = "gemma2, window 8, capped", "mistral, window 8"
B, H, G, D, T = 2, 4, 2, 8, 30
SCALE, CAP = 1.3, 1.5
ROTARY = Rotary(torch.tensor([1.0, 0.3, 0.1]))
NO_HEADS = HeadSplit(np.zeros((1, G), dtype=bool), "none")


def capped_rows() -> Rows:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(B, n, T, D, generator=draw) for n in (H, G, G))
    return Rows(0, 0, query, key, value, logits_of(query, key), SCALE, CAP)


def logits_of(query: Tensor, key: Tensor) -> Tensor:
    """Capped by the kernel that the model itself runs on."""
    return causal_logits(query, key, SCALE, first_row=0, softcap=CAP)


def mixed(policy: Policy, rows: Rows) -> Mixed:
    memory = policy.layer(0)
    return memory.mix(rows)


@pytest.mark.parametrize("name", ["streaming", "lm-infinite", "razor", "longheads"])
def test_a_capped_model_is_itself_where_everything_is_kept(tiny: Tiny, name: str) -> None:
    model = tiny(CAPPED)
    tokens = torch.randint(0, model.shape.d_vocab, (2, 30), generator=torch.Generator().manual_seed(0))
    wide = {"chunks": 100, "size": 5} if name == "longheads" else {"recent": 10_000}
    split = HeadSplit(np.zeros((model.shape.n_layers, model.shape.n_kv_heads), dtype=bool), "none")
    with applied(model, build_policy(model, "full")):
        full = model.logits(tokens)
    with applied(model, build_policy(model, name, wide, split if POLICIES[name].needs_split else None)):
        assert (model.logits(tokens) - full).abs().max() < 1e-5


def test_sinks_moved_nearer_are_capped_and_others_are_left_to_the_bit() -> None:
    rows, sink, recent = capped_rows(), 3, 5
    nearer = (rows.positions + 1 - sink - recent).clamp_min(0)
    moved = logits_of(ROTARY.turn(rows.query, -nearer), rows.key)
    logits = torch.cat([moved[..., :sink], rows.logits[..., sink:]], -1)
    logits = torch.where((nearer > 0)[:, None], logits, rows.logits)
    distance = rows.positions[:, None] - torch.arange(T)
    seen = ((torch.arange(T) < sink) | (distance < recent)) & rows.causal
    wanted = logits.masked_fill(~seen, -torch.inf).softmax(-1)
    found = mixed(Streaming(sink, recent, ROTARY), rows).weights
    assert (found - wanted).abs().max() < 1e-6
    assert torch.equal(found[:, :, : sink + recent], rows.logits[:, :, : sink + recent].softmax(-1))


def test_far_tokens_at_the_ceiling_are_capped() -> None:
    rows, sink, recent = capped_rows(), 3, 5
    for i in (4, 20, 29):
        logits = rows.logits[:, :, i].clone()
        for j in range(sink):
            if i - j > recent:
                turned = ROTARY.turn(rows.query[:, :, i : i + 1], torch.tensor([recent - (i - j)]))
                dots = turned @ rows.key[:, :, j : j + 1].repeat_interleave(H // G, 1).mT
                logits[..., j] = (CAP * torch.tanh(SCALE * dots / CAP))[..., 0, 0]
        seen = (torch.arange(T) < sink) | (i - torch.arange(T) < recent)
        wanted = logits.masked_fill(~seen | (torch.arange(T) > i), -torch.inf).softmax(-1)
        assert (mixed(Infinite(sink, recent, recent, ROTARY), rows).weights[:, :, i] - wanted).abs().max() < 1e-6, i


def test_the_compensation_token_is_capped_before_its_tokens_are_counted() -> None:
    rows, sink, recent = capped_rows(), 2, 4
    found = mixed(Razor(NO_HEADS, RazorSettings(sink=sink, recent=recent, recent_share=0)), rows)
    gone = T - sink - recent
    mean = rows.key[:, :, sink : T - recent].mean(2, keepdim=True).repeat_interleave(H // G, 1)
    dot = (rows.query[:, :, -1:] @ mean.mT)[..., 0, 0] * SCALE
    extra = CAP * torch.tanh(dot / CAP) + float(np.log(gone))
    kept = torch.cat([rows.logits[:, :, -1, :sink], rows.logits[:, :, -1, T - recent :], extra[..., None]], -1)
    assert found.extra is not None
    assert (found.extra.weights[:, :, -1, 0] - kept.softmax(-1)[..., -1]).abs().max() < 1e-6


def test_chunks_laid_next_to_each_other_are_capped() -> None:
    """With a row's own chunk, the one before and the first, the first is nearer by those between."""
    rows, size = capped_rows(), 5
    found = mixed(Chunks(size, 3, ROTARY, moved=True), rows).weights[:, :, -1]
    moved = logits_of(ROTARY.turn(rows.query, torch.full((T,), -15)), rows.key)[:, :, -1, :size]
    wanted = torch.cat([moved, rows.logits[:, :, -1, 20:]], -1).softmax(-1)
    assert (torch.cat([found[..., :size], found[..., 20:]], -1) - wanted).abs().max() < 1e-6


def outcome_of(model: HookedModel, name: str, settings: dict[str, object] | None = None) -> Outcome:
    """The loss on the last tokens of random texts."""
    tokens = torch.randint(0, model.shape.d_vocab, (2, T), generator=torch.Generator().manual_seed(0))
    counted = torch.zeros_like(tokens, dtype=torch.bool)
    counted[:, T - 4 : T - 1] = True
    batch = AnswerBatch(
        tokens, T - 3, counted, torch.full_like(tokens, -1), ("",) * 2, ("",) * 2, (np.nan,) * 2, "loss"
    )
    split = random_split(model.shape.n_layers, model.shape.n_kv_heads, 0.5, np.random.default_rng(0))
    policy = build_policy(model, name, settings, split if POLICIES[name].needs_split else None)
    return evaluate(model, Arm(name), batch, task="text", policy=policy)


@pytest.mark.parametrize(
    ("kind", "entries"), [("llama", 3 * T), (WINDOWED, 3 * 8), (CAPPED, 8 + T + 8)], ids=["none", "all", "every other"]
)
def test_the_full_cache_is_what_the_models_own_windows_hold(tiny: Tiny, kind: str, entries: int) -> None:
    model = tiny(kind)
    found = outcome_of(model, "full")
    assert found.full_bytes == entries * model.shape.n_kv_heads * 2 * model.shape.d_head * 4
    assert found.kv_bytes == found.full_bytes
    assert found.attended == pytest.approx(1)
    assert found.flops == pytest.approx(found.full_flops)


@pytest.mark.parametrize("name", ["top-keys", "hip", "recycled", "temperature", "sink-removal"])
def test_what_keeps_every_key_keeps_those_of_the_window(tiny: Tiny, name: str) -> None:
    assert outcome_of(tiny(WINDOWED), name).share_kept == 1


def test_pages_behind_the_window_are_not_kept(tiny: Tiny) -> None:
    """The last row sees positions 22 to 29: three pages of four, and in half of the heads."""
    model = tiny(WINDOWED)
    assert outcome_of(model, "quest", {"page": 4, "dense_layers": 0}).share_kept == pytest.approx(1 + 3 / 8)
    assert outcome_of(model, "lserve", {"logical": 4}).share_kept == pytest.approx(1 + 0.5 * 3 / 8)


@pytest.mark.parametrize("name", ["streaming", "h2o", "tova", "snapkv", "duo", "razor", "moa", "d2o"])
def test_no_cache_holds_more_than_the_window(tiny: Tiny, name: str) -> None:
    assert 0 < outcome_of(tiny(WINDOWED), name).share_kept <= 1
