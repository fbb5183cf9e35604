"""RazorAttention: the policy against a loop, what compensation keeps, and the probe on heads that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.policies.catalog import build_policy
from circuits.policies.head_split import HeadSplit
from circuits.policies.masks import Full
from circuits.policies.policy import applied
from circuits.policies.razor import Razor
from circuits.policies.razor_heads import ECHO, INDUCTION, razor_scores, razor_split
from circuits.policies.rows import Mixed, Rows
from circuits.policies.search_settings import RazorHeadSettings, RazorSettings
from headscope.attention import tap
from headscope.errors import ConfigError
from headscope.heads import Head, HeadScores
from headscope.kernels import causal_logits
from headscope.models.planted import build_planted
from headscope.models.protocol import HookedModel
from headscope.tasks import build_repeated

Tiny = Callable[[str], HookedModel]
Planted = Callable[..., HookedModel]
HEADS, KV_HEADS, SIZE, WIDTH = 4, 2, 23, 8
SPLIT = HeadSplit(np.array([[False, True]]), "the second")


def rows_of(size: int = SIZE, seed: int = 0, *, key: Tensor | None = None, window: int | None = None) -> Rows:
    """All rows of a random text in one layer."""
    draw = torch.Generator().manual_seed(seed)
    query, value = (
        torch.randn(2, HEADS, size, WIDTH, generator=draw),
        torch.randn(2, KV_HEADS, size, WIDTH, generator=draw),
    )
    key = torch.randn(2, KV_HEADS, size, WIDTH, generator=draw) if key is None else key
    return Rows(0, 0, query, key, value, causal_logits(query, key, 0.5, first_row=0, window=window), 0.5)


def razor(split: HeadSplit = SPLIT, **settings: float) -> Razor:
    return Razor(split, RazorSettings.parse({"sink": 2, "recent": 4, "recent_share": 0.3, **settings}))


def looped(rows: Rows, policy: Razor, window: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """z, keys attended and entries held, row by row and head by head in float64."""
    query, key, value = (part.double() for part in (rows.query, rows.key, rows.value))
    z = torch.zeros_like(query)
    attended, held = torch.zeros(HEADS, SIZE, dtype=torch.long), torch.zeros(KV_HEADS, SIZE, dtype=torch.long)
    settings = policy.settings
    for b, h, i in np.ndindex(*query.shape[:3]):
        group = h // (HEADS // KV_HEADS)
        recent = max(settings.recent, int((i + 1) * settings.recent_share))
        seen = [j for j in range(i + 1) if window is None or i - j < window]
        whole = bool(policy.split.full[0, group])
        kept = [j for j in seen if whole or j < settings.sink or i - j < recent]
        gone = [j for j in seen if j not in kept]
        logits = [float(query[b, h, i] @ key[b, group, j]) * rows.scale for j in kept]
        values = [value[b, group, j] for j in kept]
        if gone and settings.compensate:
            mean = key[b, group, gone].mean(0)
            logits.append(float(query[b, h, i] @ mean) * rows.scale + float(np.log(len(gone))))
            values.append(value[b, group, gone].mean(0))
        z[b, h, i] = torch.tensor(logits, dtype=torch.float64).softmax(0) @ torch.stack(values)
        attended[h, i] = held[group, i] = len(logits)
    return z, attended, held


@pytest.mark.parametrize("window", [None, 9], ids=["no window", "the model slides a window"])
@pytest.mark.parametrize("compensate", [True, False], ids=["compensated", "dropped"])
def test_razor_is_the_loop_over_rows(compensate: bool, window: int | None) -> None:
    rows, policy = rows_of(window=window), razor(compensate=compensate)
    mixed = policy.mix(rows)
    z, attended, held = looped(rows, policy, window)
    assert (mixed.z(rows.value) - z).abs().max() < 2e-6
    assert torch.equal(mixed.attended.expand(2, -1, -1)[0], attended)
    assert torch.equal(mixed.kept.expand(2, -1, -1)[0], held)


def test_rows_in_pieces_are_the_rows_at_once() -> None:
    rows, policy = rows_of(), razor()
    whole = policy.mix(rows).z(rows.value)
    pieces = [rows.slice(start, start + 1) for start in range(SIZE)]
    stepped = torch.cat([policy.mix(piece).z(piece.value) for piece in pieces], 2)
    assert (whole - stepped).abs().max() < 1e-6


def test_compensation_of_equal_keys_loses_nothing() -> None:
    """Where the dropped keys are all alike, so are their weights: the mean of the values is all that was needed."""
    key = torch.randn(2, KV_HEADS, SIZE, WIDTH, generator=torch.Generator().manual_seed(3))
    key[:, :, 2:] = key[:, :, 2:3]
    rows = rows_of(key=key)
    everything = Mixed.over(rows, rows.causal[None, None]).z(rows.value)
    none_full = HeadSplit(np.zeros((1, KV_HEADS), dtype=bool), "none")
    policy = razor(none_full)
    assert (policy.mix(rows).z(rows.value) - everything).abs().max() < 1e-5
    without = razor(none_full, compensate=False).mix(rows).z(rows.value)
    assert (without - everything).abs().max() > 0.05


def test_heads_of_the_split_are_untouched_and_the_others_are_not() -> None:
    rows = rows_of()
    whole, found = Mixed.over(rows, rows.causal[None, None]), razor().mix(rows)
    apart = (found.z(rows.value) - whole.z(rows.value)).abs().amax((0, 2, 3))
    assert apart[2:].max() < 1e-6
    assert apart[:2].min() > 0.05
    assert torch.equal(found.kept[0, 1], torch.arange(1, SIZE + 1))


def test_nothing_is_dropped_from_a_text_within_the_window() -> None:
    rows = rows_of()
    whole = Mixed.over(rows, rows.causal[None, None])
    for settings in ({"recent": SIZE}, {"recent_share": 1.0}, {"sink": SIZE}):
        found = razor(**settings).mix(rows)
        assert torch.equal(found.z(rows.value), whole.z(rows.value))
        assert torch.equal(found.kept, whole.kept)


def test_the_window_grows_with_the_text() -> None:
    found = razor(recent=1, recent_share=0.5, sink=0).mix(rows_of())
    lengths = torch.arange(1, SIZE + 1)
    window = (lengths // 2).clamp_min(1)
    assert torch.equal(found.attended[0, 0], window + (lengths > window))


def test_razor_without_a_split_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="needs to know which heads"):
        build_policy(tiny("llama"), "razor")


@pytest.mark.parametrize("kind", ["induction", "all"])
def test_the_planted_heads_have_the_highest_scores(planted: Planted, kind: str) -> None:
    model = planted(kind)
    echo, induction = razor_scores(model, RazorHeadSettings(period=25))
    (head,) = planted_heads(kind, "induction")
    assert induction.ranked()[0] == head
    assert induction.values[head] > 10 * np.sort(induction.values.ravel())[-2]
    for head in planted_heads(kind, "duplicate-token"):
        assert echo.ranked()[0] == head
        assert echo.values[head] > 3 * np.sort(echo.values.ravel())[-2]


def planted_heads(kind: str, name: str) -> list[Head]:
    return sorted(build_planted(kind).truth[name])


def test_the_scores_are_means_over_all_cells_of_the_pattern(tiny: Tiny) -> None:
    """Summed from the whole T x T matrix, offset by offset, in two passes over the sequences."""
    model, settings = tiny("llama"), RazorHeadSettings(period=7, copies=3, examples=2, seed=5)
    found = razor_scores(model, settings)
    tokens = build_repeated(model, n=2, period=7, copies=3, generator=torch.Generator().manual_seed(5)).tokens
    patterns = list[Tensor]()
    with torch.no_grad(), applied(model, Full()), tap(model.plain, reader=lambda call: patterns.append(call.pattern)):
        model.plain.base_model(input_ids=tokens, use_cache=False)
    size = tokens.shape[1]
    assert size == 22
    for scores, shift in zip(found, (0, 1), strict=True):
        for layer, pattern in enumerate(patterns):
            total = torch.zeros(2, HEADS)
            for i in range(8, size):
                total += sum(pattern[:, :, i, i - m * 7 + shift] for m in range(1, (i - 1) // 7 + 1))
            assert scores.values[layer] == pytest.approx((total.mean(0) / size**2).numpy(), rel=1e-4)


def test_the_split_is_the_strongest_groups_of_each_class() -> None:
    def table(name: str, strong: dict[tuple[int, int], float]) -> HeadScores:
        values = np.zeros((5, 8))
        for head, value in strong.items():
            values[head] = value
        blank, n = np.full(values.shape, np.nan), np.ones(values.shape, dtype=np.int64)
        return HeadScores(ECHO if name == "echo" else INDUCTION, "made up", values, blank, blank, n, 4)

    echo = table("echo", {(3, 5): 0.9})
    induction = table("induction", {(0, 1): 0.5, (4, 7): 0.4, (4, 6): 0.3, (2, 2): 0.2, (1, 0): 0.15, (1, 1): 0.15})
    split = razor_split(echo, induction)  # 15 % of 20 groups are 3; 1 % is none, so one is an echo head
    assert sorted(zip(*map(list, np.nonzero(split.full)), strict=True)) == [(0, 0), (3, 2), (4, 3)]
    none = razor_split(echo, induction, RazorHeadSettings(echo_share=0, induction_share=0))
    assert none.count == 0
    same = razor_split(induction, induction, RazorHeadSettings(echo_share=0.05, induction_share=0.1))
    assert sorted(zip(*map(list, np.nonzero(same.full)), strict=True)) == [(0, 0), (2, 1), (4, 3)]  # one made up for
