"""Captured queries and keys give back any part of the pattern, for every kind of attention that the seam knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from circuits import ablate
from circuits.calibration.outputs import calibrated
from circuits.calibration.sinks import only_heads, received_mass
from circuits.policies.layer_budgets import density_budgets
from circuits.policies.masks import Full, Streaming
from circuits.policies.policy import Applied, applied
from circuits.policies.settings import ActSettings
from circuits.policies.tally import Tally
from headscope.attention import softmax_rows, tap
from headscope.captures import HeadPattern
from headscope.errors import HeadIndexError, TaskError, UnsupportedError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.readings import DenseReading, FlashReading
from headscope.readings.capturing import capture, token_text

Tiny = Callable[[str], BridgedModel]
SIZE = 21
SEAM = ["llama", "gpt2", "mistral, window 8", "gemma2, window 8, capped"]
DENSE = ["gpt_neo, no registry", "llama4, chunks of 8"]
EVERY = [Head(layer, head) for layer in range(3) for head in range(4)]


def tokens(size: int = SIZE) -> list[int]:
    """A text of ordinary tokens behind a start token."""
    return [0, *torch.randint(2, 90, (size - 1,), generator=torch.Generator().manual_seed(1)).tolist()]


def bridge_pattern(model: BridgedModel, head: Head, size: int = SIZE) -> np.ndarray:
    """The pattern as TransformerLens gives it."""
    name = f"blocks.{head.layer}.attn.hook_pattern"
    _, cache = model.bridge.run_with_cache(torch.tensor([tokens(size)]), names_filter=[name])
    return cache[name][0, head.head].numpy()


def made(size: int, *, window: int | None = None, softcap: float | None = None) -> HeadPattern:
    """A head of random queries and keys."""
    chance = np.random.default_rng(0)
    query, key = chance.normal(size=(2, size, 6)).astype(np.float32) * 2
    return HeadPattern(Head(0, 0), size, query, key, 0.7, window, softcap)


def naive(head: HeadPattern) -> np.ndarray:
    """The definition, cell by cell, in float64."""
    assert head.query is not None
    assert head.key is not None
    pattern = np.zeros((head.size, head.size))
    for i in range(head.size):
        seen = [j for j in range(i + 1) if head.window is None or i - head.window < j]
        logits = [head.scale * float(head.query[i].astype(float) @ head.key[j].astype(float)) for j in seen]
        if head.softcap:
            logits = [head.softcap * np.tanh(logit / head.softcap) for logit in logits]
        weights = np.exp(logits)
        pattern[i, seen] = weights / weights.sum()
    return pattern


kinds = pytest.mark.parametrize(
    ("window", "softcap"), [(None, None), (5, None), (None, 3.0), (5, 3.0)], ids=["plain", "window", "cap", "both"]
)


@pytest.mark.parametrize("name", SEAM)
def test_pattern_of_every_captured_head_is_that_of_transformer_lens(tiny: Tiny, name: str) -> None:
    model = tiny(name)
    found = capture(model, tokens(), name="t", title="T")
    assert found.matrix is None
    assert found.heads == tuple(EVERY)
    for head in EVERY[::3]:
        assert_allclose(found.pattern(head).rows(), bridge_pattern(model, head), atol=2e-6)


def test_pattern_of_a_model_without_a_twin_is_that_of_its_own_eager_attention(tiny: Tiny) -> None:
    model = tiny("deepseek, wide values")
    found, before = capture(model, tokens(), name="t", title="T"), model.plain.config._attn_implementation
    model.plain.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model.plain(torch.tensor([tokens()]), output_attentions=True).attentions
    model.plain.set_attn_implementation(before)
    for head in EVERY:
        assert_allclose(found.pattern(head).rows(), expected[head.layer][0, head.head], atol=2e-6)


def test_grouped_keys_are_kept_once(tiny: Tiny) -> None:
    found = capture(tiny("llama"), tokens(), name="t", title="T")
    assert (found.query.shape[0], found.key.shape[0]) == (12, 6)
    assert found.key_index == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)


def test_windows_and_caps_are_kept_per_head(tiny: Tiny) -> None:
    found = capture(tiny("gemma2, window 8, capped"), tokens(), name="t", title="T")
    windows = {head.layer: window for head, window in zip(found.heads, found.window, strict=True)}
    assert windows == {0: 8, 1: 0, 2: 8}
    assert set(found.softcap) == {5.0}


@pytest.mark.parametrize("name", DENSE)
def test_what_the_seam_refuses_is_kept_as_whole_matrices(tiny: Tiny, name: str) -> None:
    model, heads = tiny(name), [Head(1, 3), Head(0, 0)]
    found = capture(model, tokens(), name="t", title="T", heads=heads)
    assert (found.matrix is not None, found.key_index) == (True, ())
    for head in heads:
        assert_allclose(found.pattern(head).rows(), bridge_pattern(model, head), atol=1e-6)


def test_a_model_that_can_be_read_neither_way_is_refused_with_both_reasons(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedError, match=r"learned sink.* Nor as a whole pattern: TransformerLens cannot wrap"):
        capture(tiny("gpt_oss, learned sinks"), tokens(), name="t", title="T")


def test_whole_matrices_are_not_taken_of_an_edited_run(tiny: Tiny) -> None:
    model = tiny("llama4, chunks of 8")
    with tap(model.plain, editor=lambda call: call.z * 0), pytest.raises(UnsupportedError, match="without the edits"):
        capture(model, tokens(), name="t", title="T")


def test_whole_matrices_of_a_long_text_are_refused(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedError, match=r"up to 512 tokens; this text has 600\."):
        capture(tiny("gpt_oss, learned sinks"), tokens(600), name="t", title="T")


def cut(pattern: np.ndarray, sink: int, recent: int) -> np.ndarray:
    """A softmax over the first and the most recent keys only: the whole one, masked and renormalised."""
    row, key = np.indices(pattern.shape)
    kept = pattern * ((key < sink) | (row - key < recent))
    return kept / kept.sum(1, keepdims=True)


@pytest.mark.parametrize("name", SEAM)
def test_capture_under_a_policy_is_the_policys_pattern(tiny: Tiny, name: str) -> None:
    """In the first layer, which the policy leaves the queries and keys of: deeper ones read other values."""
    model, policy = tiny(name), Streaming(2, 4)
    clean = capture(model, tokens(), name="t", title="T")
    with applied(model, policy):
        found = capture(model, tokens(), name="t", title="T", heads=EVERY[:4])
    assert found.matrix is not None
    for head in EVERY[:4]:
        assert_allclose(found.pattern(head).rows(), cut(clean.pattern(head).rows(), 2, 4), atol=2e-6)


def test_no_other_pattern_is_shown_in_place_of_a_policys(tiny: Tiny) -> None:
    model = tiny("llama4, chunks of 8")  # refused by the seam; the twin knows no policy
    attender = Applied(Full(), 0, Tally.of(model)).attend
    with tap(model.plain, attender=attender), pytest.raises(UnsupportedError, match="without the edits"):
        capture(model, tokens(), name="t", title="T")
    with applied(tiny("llama"), Full()), pytest.raises(UnsupportedError, match="up to 512 tokens; this text has 513"):
        capture(tiny("llama"), tokens(513), name="t", title="T")


def test_softmax_of_queries_and_keys_is_refused_under_a_policy(tiny: Tiny) -> None:
    model, heads = tiny("llama"), [Head(0, 1)]
    readers = (
        lambda call: softmax_rows(call, 0, 4),
        lambda call: FlashReading(call, torch.tensor([SIZE])),
        received_mass,
        lambda call: only_heads(call, [0]),
    )
    for reader in readers:
        with (
            pytest.raises(UnsupportedError, match="a policy attends"),
            applied(model, Full()),
            tap(model.plain, reader=reader),
        ):
            model.logits(torch.tensor([tokens()]))
    with (
        pytest.raises(UnsupportedError, match="a policy attends"),
        applied(model, Full()),
        calibrated(model, heads, ActSettings()),
    ):
        model.logits(torch.tensor([tokens()]))
    with applied(model, Full()), pytest.raises(UnsupportedError, match="a policy attends"):
        density_budgets(model, torch.tensor([tokens()]), 4)


def test_only_the_heads_asked_for_are_kept_in_their_order(tiny: Tiny) -> None:
    model, heads = tiny("llama"), [Head(2, 3), Head(0, 1), Head(2, 2)]
    found = capture(model, tokens(), name="t", title="T", heads=heads)
    assert found.heads == tuple(heads)
    assert (found.query.shape[0], found.key.shape[0]) == (3, 2)
    whole = capture(model, tokens(), name="t", title="T")
    for head in heads:
        assert np.array_equal(found.pattern(head).rows(), whole.pattern(head).rows())
    assert not found.has(Head(0, 0))
    with pytest.raises(KeyError, match="L0H0"):
        found.pattern(Head(0, 0))


def test_capture_inside_an_ablation_is_of_the_ablated_run(tiny: Tiny) -> None:
    """L0H1 zeroed through the twin's own hook is the oracle; layer 0 itself is not changed by it."""
    model = tiny("llama")
    clean = capture(model, tokens(), name="t", title="T")
    with ablate(model, [Head(0, 1)]):
        edited = capture(model, tokens(), name="t", title="T")

    def zero(z: torch.Tensor, **_: object) -> torch.Tensor:
        z[:, :, 1] = 0
        return z

    kept: dict[int, np.ndarray] = {}
    hooks = [("blocks.0.attn.hook_z", zero)]
    for layer in range(3):
        hooks.append(
            (
                f"blocks.{layer}.attn.hook_pattern",
                lambda p, layer=layer, **_: kept.__setitem__(layer, p[0].detach().numpy().copy()),
            )
        )
    model.bridge.run_with_hooks(torch.tensor([tokens()]), fwd_hooks=hooks)
    for head in EVERY:
        assert_allclose(edited.pattern(head).rows(), kept[head.layer][head.head], atol=2e-6)
    assert np.array_equal(edited.pattern(Head(0, 1)).rows(), clean.pattern(Head(0, 1)).rows())
    assert np.abs(edited.pattern(Head(2, 0)).rows() - clean.pattern(Head(2, 0)).rows()).max() > 1e-3


@kinds
@pytest.mark.parametrize("size", [1, 2, 23])
def test_rows_and_parts_are_the_definition_cell_by_cell(size: int, window: int | None, softcap: float | None) -> None:
    head = made(size, window=window, softcap=softcap)
    expected = naive(head)
    assert_allclose(head.rows(), expected, atol=1e-6)
    assert_allclose(head.part(slice(size // 2, None), slice(0, 5)), expected[size // 2 :, :5], atol=1e-6)
    assert head.rows(size - 1, size + 9).shape == (1, size)


@kinds
def test_summaries_are_those_of_the_whole_matrix(window: int | None, softcap: float | None) -> None:
    head = made(1100, window=window, softcap=softcap)  # three chunks of rows
    whole = head.rows().astype(np.float64)
    sees = np.tril(np.ones_like(whole)) - (np.tril(np.ones_like(whole), -window) if window else 0)
    assert_allclose(head.column_mass(), whole.sum(0) / sees.sum(0), atol=1e-5)
    offsets = [np.diagonal(whole, -d).sum() / head.size for d in range(head.size)]
    assert_allclose(head.offset_profile(), offsets, atol=1e-6)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert_allclose(head.entropy(), -np.nansum(whole * np.log(whole), 1), atol=1e-5)


@kinds
@pytest.mark.parametrize("cells", [1, 7, 16])
def test_pooled_is_the_bins_of_the_whole_matrix(cells: int, window: int | None, softcap: float | None) -> None:
    head = made(50, window=window, softcap=softcap)
    whole, width = head.rows(), -(-50 // cells)
    bins = -(-50 // width)
    maximum, mean, total = (np.zeros((bins, bins)) for _ in range(3))
    for a in range(bins):
        for b in range(bins):
            rows, keys = range(a * width, min(50, a * width + width)), range(b * width, min(50, b * width + width))
            cells_of = [(i, j) for i in rows for j in keys if j <= i]
            block = [float(whole[cell]) for cell in cells_of]
            maximum[a, b] = max(block, default=0)
            mean[a, b] = sum(block) / max(len(block), 1)
            total[a, b] = sum(block) / len(rows)
    for how, expected in (("max", maximum), ("mean", mean), ("sum", total)):
        found, found_width = head.pooled(cells, how)
        assert found_width == width
        assert_allclose(found, expected, atol=1e-6)
    assert_allclose(head.pooled(cells, "sum")[0].sum(1), 1, atol=1e-5)


def test_a_small_enough_pattern_is_not_pooled() -> None:
    head = made(23)
    found, width = head.pooled(23)
    assert width == 1
    assert np.array_equal(found, head.rows())


def test_summaries_are_those_of_the_dense_reading(tiny: Tiny) -> None:
    model, head = tiny("mistral, window 8"), Head(1, 2)
    pattern = capture(model, tokens(), name="t", title="T").pattern(head)
    oracle = torch.tensor(bridge_pattern(model, head))[None, None]
    reading = DenseReading(oracle, torch.zeros(1, 1, SIZE, 2), torch.tensor([SIZE]))
    assert_allclose(pattern.offset_profile(), reading.offset_mass()[0, 0], atol=1e-6)
    assert_allclose(pattern.entropy(), reading.row_entropy()[0, 0], atol=1e-5)
    sums = reading.column_mass(torch.ones(SIZE, 1))[0, 0, :, 0].numpy()
    reach = np.minimum(SIZE - np.arange(SIZE), 8)
    assert_allclose(pattern.column_mass(), sums / reach, atol=1e-6)


def test_a_kept_matrix_is_given_back_as_it_is() -> None:
    matrix = np.tril(np.random.default_rng(0).normal(size=(9, 9))).astype(np.float32)
    head = HeadPattern(Head(0, 0), 9, matrix=matrix)
    assert np.array_equal(head.rows(), matrix)
    assert np.array_equal(head.part(slice(2, 4), slice(0, 3)), matrix[2:4, :3])


def test_logits_beyond_what_exp_can_hold_stay_finite() -> None:
    query = np.full((3, 2), 1e4, dtype=np.float32)
    rows = HeadPattern(Head(0, 0), 3, query, query * np.array([[1], [2], [-1]], np.float32), 1.0).rows()
    assert_allclose(rows, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])


def test_pieces_join_to_the_text(smollm2: BridgedModel) -> None:
    text = "The cat's caf\u00e9\n  def x(): return 1"
    ids = smollm2.encode(text)
    found = token_text(smollm2, ids)
    assert (found.ids, len(found)) == (tuple(ids), len(ids))
    assert "".join(found.pieces) == text
    assert "\ufffd" in "".join(token_text(smollm2, smollm2.encode("\u05e9\U0001f9ff")).pieces)


@pytest.mark.parametrize("size", [0, 2049], ids=["no token", "more than the context"])
def test_a_text_that_the_model_cannot_read_is_refused(tiny: Tiny, size: int) -> None:
    with pytest.raises(TaskError, match=f"a text of {size} tokens .* give 1 to 2048 tokens"):
        capture(tiny("llama"), tokens(size) if size else [], name="t", title="T")


def test_a_head_that_the_model_lacks_is_refused(tiny: Tiny) -> None:
    with pytest.raises(HeadIndexError, match="head 4 of layer 0 does not exist"):
        capture(tiny("llama"), tokens(), name="t", title="T", heads=[Head(0, 4)])
