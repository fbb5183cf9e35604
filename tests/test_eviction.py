"""Policies that evict by attention, each against a twin of explicit loops over the keys of one key/value head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from circuits.policies.catalog import build_policy
from circuits.policies.eviction_gate import EvictionGate, Gates
from circuits.policies.eviction_settings import MergingSettings, PromptVoteSettings, RecycledSettings
from circuits.policies.gate_fitting import SoftGate, fit_gates
from circuits.policies.heavy_hitters import HeavyHitters
from circuits.policies.layer_budgets import concentration, density_budgets, shared_out
from circuits.policies.masks import Streaming
from circuits.policies.merging import Merging
from circuits.policies.newest_row import NewestRow
from circuits.policies.policy import Policy, applied
from circuits.policies.prompt_votes import PromptVotes, votes
from circuits.policies.recycled import Recycled
from circuits.policies.rows import Mixed, Rows
from headscope.errors import ConfigError
from headscope.models.protocol import HookedModel, ModelShape

Tiny = Callable[[str], HookedModel]
BATCH, HEADS, GROUPS, SIZE, WIDTH = 2, 4, 2, 26, 4
EXACT = 1e-12
PROMPTS = pytest.mark.parametrize("prompt", [0, 1, 15], ids=lambda prompt: f"prompt of {prompt}")


def drawn(seed: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values in float64, steep enough for attention to differ."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(BATCH, heads, size, WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return 2 * query, key, value


def rows_of(query: Tensor, key: Tensor, value: Tensor) -> Rows:
    """All rows of a text."""
    logits = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).mT
    hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    return Rows(0, 0, query, key, value, logits.masked_fill(hidden, -torch.inf), 1.0)


def mixed_by(policy: Policy, rows: Rows, prompt: int = 0, pieces: tuple[int, ...] = (5, 1, 9)) -> Mixed:
    """The rows after the prompt, read in pieces; the prompt is read in two."""
    layer, parts, start = policy.layer(0), list[Mixed](), prompt
    for first, last in ((0, prompt // 2), (prompt // 2, prompt)):
        if last > first:
            layer.observe(rows.slice(first, last))
    for size in (*pieces, rows.query.shape[2]):
        stop = min(start + size, rows.query.shape[2])
        if stop > start:
            parts.append(layer.mix(rows.slice(start, stop)))
        start = stop
    size = rows.query.shape[2]
    weights = [torch.nn.functional.pad(part.weights, (0, size - part.weights.shape[-1])) for part in parts]
    deltas = [part.delta for part in parts if part.delta is not None]
    return Mixed(
        torch.cat(weights, 2),
        torch.cat([part.attended for part in parts], -1),
        torch.cat([part.kept for part in parts], -1),
        delta=torch.cat(deltas, 2) if deltas else None,
    )


def heads_of(rows: Rows) -> Iterator[tuple[int, slice, Tensor, Tensor, Tensor]]:
    """Each example's key/value heads: example, query heads, their queries, the keys, the values."""
    group = rows.query.shape[1] // rows.key.shape[1]
    for example in range(rows.query.shape[0]):
        for head in range(rows.key.shape[1]):
            heads = slice(head * group, (head + 1) * group)
            yield example, heads, rows.query[example, heads], rows.key[example, head], rows.value[example, head]


def attention(query: Tensor, key: Tensor, row: int, keys: list[int]) -> Tensor:
    """Softmax of one row over some keys: ``[head, key]``, zero elsewhere."""
    full = torch.zeros(query.shape[0], key.shape[0], dtype=query.dtype)
    full[:, keys] = torch.softmax(query[:, row] @ key[keys].T, -1)
    return full


def evicting_twin(
    query: Tensor, key: Tensor, budget: int, recent: int, prompt: int, *, accumulate: bool
) -> tuple[Tensor, list[int]]:
    """Weights and numbers of kept keys of the rows after the prompt: H2O, or TOVA where nothing accumulates."""
    kept, score, weights, counts = set[int](), dict[int, float](), list[Tensor](), list[int]()

    def evict(newest: int) -> None:
        while len(kept) > budget:
            kept.remove(min((j for j in kept if j <= newest - recent), key=lambda j: score[j]))

    for row in range(query.shape[1]):
        if row == prompt:
            evict(row - 1)
        kept.add(row)
        weights.append(attention(query, key, row, sorted(kept)))
        for j in kept:
            score[j] = float(weights[-1][:, j].sum()) + (score.get(j, 0.0) if accumulate else 0.0)
        if row >= prompt:
            evict(row)
        counts.append(len(kept))
    return torch.stack(weights[prompt:], 1), counts[prompt:]


@PROMPTS
def test_h2o_is_its_twin(prompt: int) -> None:
    rows = rows_of(*drawn())
    found = mixed_by(HeavyHitters(4, 3), rows, prompt)
    for example, heads, query, key, _ in heads_of(rows):
        weights, counts = evicting_twin(query, key, 7, 3, prompt, accumulate=True)
        assert (found.weights[example, heads] - weights).abs().max() < EXACT
        assert found.kept[example, heads.start // 2].tolist() == counts
    assert int(found.kept.max()) == 7
    assert int(found.attended.max()) == 8  # a row sees its own key before one goes


@PROMPTS
def test_tova_per_head_is_its_twin(prompt: int) -> None:
    rows = rows_of(*drawn(1))
    found = mixed_by(NewestRow(6, per_kv_head=True), rows, prompt)
    for example, heads, query, key, _ in heads_of(rows):
        weights, counts = evicting_twin(query, key, 6, 0, prompt, accumulate=False)
        assert (found.weights[example, heads] - weights).abs().max() < EXACT
        assert found.kept[example, heads.start // 2].tolist() == counts
    assert int(found.kept.max()) == 6


@PROMPTS
def test_tova_of_a_layer_goes_by_the_mean_over_all_heads(prompt: int) -> None:
    """One key/value head that all query heads read makes both units the same rule."""
    query, key, value = drawn(2)
    rows = rows_of(query, key[:, :1], value[:, :1])
    apart = rows_of(query, key[:, :1].expand(-1, GROUPS, -1, -1), value)  # the same keys, in heads of their own
    one, layer = mixed_by(NewestRow(6, per_kv_head=True), rows, prompt), mixed_by(NewestRow(6), apart, prompt)
    assert (one.weights - layer.weights).abs().max() < EXACT
    own = mixed_by(NewestRow(6, per_kv_head=True), apart, prompt)
    assert (own.weights - layer.weights).abs().max() > 0.1


@pytest.mark.parametrize(("lowest", "name"), [(0, "the first"), (2, "one between"), (3, "its own")])
def test_tova_drops_the_key_that_the_newest_row_looks_at_least(lowest: int, name: str) -> None:
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    logits[lowest] = -5.0
    key = torch.eye(5)[None, None]
    query = torch.zeros(1, 1, 5, 5)
    query[0, 0, 3] = logits
    weights = mixed_by(NewestRow(3), rows_of(query, key, key)).weights[0, 0]
    assert set((weights[4] == 0).nonzero().flatten().tolist()) == {lowest}, name
    assert (weights[3, :4] > 0).all()  # it goes after the row has seen it


def test_h2o_keeps_a_heavy_hitter_that_streaming_drops() -> None:
    query, key, value = drawn(3, 40)
    query[..., 0], key[..., 0] = 3.0, 0.0
    key[:, :, 5, 0] = 2.0
    rows = rows_of(query, key, value)
    heavy = mixed_by(HeavyHitters(2, 4), rows).weights[:, :, 5:, 5]
    streaming = mixed_by(Streaming(2, 4), rows).weights[:, :, 5:, 5]
    assert heavy.min() > 0  # never gone
    assert heavy.mean() > 0.5
    assert streaming[:, :, 4:].max() == 0


def merging_twin(
    query: Tensor, key: Tensor, value: Tensor, heavy: int, recent: int, prompt: int, memory: float
) -> Tensor:
    """z of the rows after the prompt under D2O, by the paper's formula: w_c k_c + sum of w_e k_e."""
    key, value, kept, score, tau = key.clone(), value.clone(), set[int](), dict[int, float](), math.nan
    found = list[Tensor]()

    def evict(newest: int, tau: float) -> float:
        over = max(0, len(kept) - heavy - recent)
        out = sorted((j for j in kept if j <= newest - recent), key=lambda j: score[j])[:over]
        kept.difference_update(out)
        pairs = list[tuple[float, int, int]]()
        for e in out:
            cosines = {c: float(torch.cosine_similarity(key[e], key[c], dim=0)) for c in kept}
            into = max(cosines, key=lambda c: cosines[c])
            pairs.append((cosines[into], e, into))
        if not pairs:
            return tau
        mean = sum(u for u, _, _ in pairs) / len(pairs)
        tau = mean if math.isnan(tau) else memory * mean + (1 - memory) * tau
        for c in sorted(kept):
            into = [(math.exp(u), e) for u, e, target in pairs if target == c and u >= tau - EXACT]
            total = math.e + sum(w for w, _ in into)
            for table in (key, value):
                table[c] = (math.e * table[c] + sum((w * table[e] for w, e in into), 0 * table[c])) / total
        return tau

    for row in range(query.shape[1]):
        tau = evict(row - 1, tau) if row == prompt else tau
        kept.add(row)
        weights = attention(query, key, row, sorted(kept))
        found.append(weights @ value)
        for j in kept:
            score[j] = score.get(j, 0.0) + float(weights[:, j].sum())
        tau = evict(row, tau) if row >= prompt else tau
    return torch.stack(found[prompt:], 1)


@PROMPTS
@pytest.mark.parametrize("memory", [0.3, 1.0])
def test_d2o_is_its_twin(prompt: int, memory: float) -> None:
    rows = rows_of(*drawn(4))
    found = mixed_by(Merging(4, 3, memory=memory), rows, prompt)
    assert found.delta is not None
    assert int(found.kept.max()) == 7
    for example, heads, query, key, value in heads_of(rows):
        z = merging_twin(query, key, value, 4, 3, prompt, memory)
        assert (found.weights[example, heads] @ value + found.delta[example, heads] - z).abs().max() < 1e-10


@PROMPTS
def test_d2o_that_never_merges_is_h2o(prompt: int) -> None:
    rows = rows_of(*drawn(5))
    merged, plain = mixed_by(Merging(4, 3, threshold=2.0), rows, prompt), mixed_by(HeavyHitters(4, 3), rows, prompt)
    assert merged.delta is not None
    assert merged.delta.abs().max() == 0
    assert (merged.weights - plain.weights).abs().max() < EXACT
    assert torch.equal(merged.attended, plain.attended)
    assert torch.equal(merged.kept, plain.kept)


@PROMPTS
def test_d2o_loses_nothing_by_merging_equal_keys(prompt: int) -> None:
    """Keys and values of three kinds only: what is evicted is merged into its like, which stays what it is."""
    query, key, value = drawn(6)
    kind = torch.arange(SIZE) % 3
    rows = rows_of(query, key[:, :, kind], value[:, :, kind])
    merged = mixed_by(Merging(6, 3, threshold=0.999), rows, prompt)
    plain = mixed_by(HeavyHitters(6, 3), rows, prompt)
    assert merged.delta is not None
    assert merged.delta.abs().max() < EXACT
    assert (merged.weights - plain.weights).abs().max() < EXACT


def test_d2o_is_differentiable_through_merged_keys_and_values() -> None:
    """The value of an evicted token still moves later rows; its gradient is that of finite differences."""
    query, key, value = (part[:1] for part in drawn(7, 12))

    def last(key: Tensor, value: Tensor) -> Tensor:
        rows = rows_of(query, key, value)
        found = mixed_by(Merging(2, 2, threshold=-1.0), rows)
        assert found.delta is not None
        return (found.weights @ value.repeat_interleave(2, 1) + found.delta)[:, :, -1].square().sum()

    key.requires_grad_()
    value.requires_grad_()
    slopes = torch.autograd.grad(last(key, value), (key, value))
    step = 1e-6
    for index, part in enumerate((key, value)):
        moved = torch.zeros_like(part)
        moved[0, 0, 1, 2] = step
        sides = [[key.detach(), value.detach()] for _ in range(2)]
        for sign, side in zip((1, -1), sides, strict=True):
            side[index] = side[index] + sign * moved
        expected = (last(*sides[0]) - last(*sides[1])) / (2 * step)
        if index == 1:  # shares depend on the cosines of keys, and are not differentiated
            assert float(slopes[index][0, 0, 1, 2]) == pytest.approx(float(expected), abs=1e-7)
        assert slopes[index][0, 0, 1].abs().max() > 0


def votes_twin(query: Tensor, key: Tensor, window: int, kernel: int, pooling: str, prompt: int) -> list[float]:
    """Pooled votes of the last rows of a prompt for the keys before them."""
    earlier, half = prompt - window, kernel // 2
    raw = [0.0] * earlier
    for row in range(earlier, prompt):
        weights = attention(query, key, row, list(range(row + 1))).sum(0)
        for j in range(earlier):
            raw[j] += float(weights[j])
    near = [[raw[i] for i in range(j - half, j + half + 1) if 0 <= i < earlier] for j in range(earlier)]
    return [max(part) if pooling == "max" else sum(part) / kernel for part in near]


@pytest.mark.parametrize(("kernel", "pooling"), [(1, "max"), (3, "max"), (5, "mean")])
def test_snapkv_is_its_twin(kernel: int, pooling: str) -> None:
    rows, prompt, budget, window = rows_of(*drawn(8)), 17, 8, 3
    found = mixed_by(PromptVotes(budget, window, kernel=kernel, pooling=pooling), rows, prompt)
    for example, heads, query, key, _ in heads_of(rows):
        cast = votes_twin(query, key, window, kernel, pooling, prompt)
        best = sorted(range(prompt - window), key=lambda j: (-round(cast[j], 12), j))[: budget - window]
        for row in range(prompt, SIZE):
            keys = sorted([*best, *range(prompt - window, row + 1)])
            expected = attention(query, key, row, keys)
            assert (found.weights[example, heads, row - prompt] - expected).abs().max() < EXACT
    assert found.kept[0, 0].tolist() == [budget + 1 + later for later in range(SIZE - prompt)]


def test_snapkv_votes_are_the_formula_of_the_paper() -> None:
    weights = torch.zeros(1, 1, 2, 8)
    weights[0, 0, :, 2], weights[0, 0, 0, 5] = 0.4, 0.1
    assert votes(weights, 1, "max")[0, 0].tolist() == pytest.approx([0, 0, 0.8, 0, 0, 0.1])
    assert votes(weights, 3, "max")[0, 0].tolist() == pytest.approx([0, 0.8, 0.8, 0.8, 0.1, 0.1])
    assert votes(weights, 3, "mean")[0, 0].tolist() == pytest.approx([0, 0.8 / 3, 0.8 / 3, 0.8 / 3, 0.1 / 3, 0.1 / 3])


def test_snapkv_keeps_what_the_question_looked_at() -> None:
    query, key, value = drawn(9)
    query[..., 0], key[..., 0] = 0.0, 0.0
    key[:, :, 4, 0] = 3.0  # nobody looks at key 4 but the question, rows 17 and 18
    query[:, :, 17:19, 0] = 3.0
    rows = rows_of(query, key, value)
    found = mixed_by(PromptVotes(4, 2, kernel=1), rows, 19)
    assert found.weights[..., 4].min() > 0
    assert mixed_by(PromptVotes(4, 2, kernel=1), rows, 17).weights[..., 4].max() == 0  # before it was asked


def test_snapkv_without_a_prompt_keeps_everything() -> None:
    rows = rows_of(*drawn(10))
    found = mixed_by(PromptVotes(4, 2), rows)
    assert (found.weights - torch.softmax(rows.logits, -1)).abs().max() < EXACT
    assert found.kept[0, 0].tolist() == list(range(1, SIZE + 1))


def recycled_twin(query: Tensor, key: Tensor, top: int, stride: int, prompt: int) -> Tensor:
    """Weights of the rows after the prompt."""
    chosen, last, weights = list[int](), -1, list[Tensor]()
    for row in range(query.shape[1]):
        full = row < prompt or (row + 1 - prompt) % stride == 0
        keys = list(range(row + 1)) if full else [*chosen, *range(last + 1, row + 1)]
        weights.append(attention(query, key, row, keys))
        if full:
            mean = weights[-1].mean(0)
            chosen, last = sorted(range(row + 1), key=lambda j: -float(mean[j]))[:top], row
    return torch.stack(weights[prompt:], 1)


@PROMPTS
@pytest.mark.parametrize(("top", "stride"), [(3, 4), (1, 6), (5, 2)])
def test_recycled_attention_is_its_twin(prompt: int, top: int, stride: int) -> None:
    rows = rows_of(*drawn(11))
    found = mixed_by(Recycled(top, stride), rows, prompt)
    for example, heads, query, key, _ in heads_of(rows):
        expected = recycled_twin(query, key, top, stride, prompt)
        assert (found.weights[example, heads] - expected).abs().max() < EXACT
    assert found.kept[0, 0].tolist() == list(range(prompt + 1, SIZE + 1))  # the cache stays whole
    assert torch.equal(found.attended, (found.weights > 0).sum(-1))


@PROMPTS
def test_recycled_attention_with_a_stride_of_one_is_full(prompt: int) -> None:
    rows = rows_of(*drawn(12))
    found = mixed_by(Recycled(1, 1), rows, prompt)
    assert (found.weights - torch.softmax(rows.logits, -1)[:, :, prompt:]).abs().max() < EXACT


def gate_twin(query: Tensor, key: Tensor, weight: Tensor, bias: float, grace: int) -> list[bool]:
    """Which keys a gate keeps; keys whose grace is not over are kept."""
    size, kept = query.shape[1], list[bool]()
    for j in range(size):
        share = 0.0
        for row in range(j, min(j + grace, size)):
            near = list(range(max(0, row - grace + 1), row + 1))
            share += len(near) * float(attention(query, key, row, near)[:, j].mean()) / grace
        norm = float(key[j].norm())
        features = [*(key[j] / norm).tolist(), math.log(norm), math.log(share)]
        score = sum(w * f for w, f in zip(weight.tolist(), features, strict=True)) + bias
        kept.append(j + grace > size or score >= 0)
    return kept


def random_gates(seed: int = 0) -> Gates:
    generator = torch.Generator().manual_seed(seed)
    return Gates(
        torch.randn(1, GROUPS, WIDTH + 2, generator=generator), torch.randn(1, GROUPS, generator=generator) / 4
    )


@PROMPTS
def test_gates_are_their_twin(prompt: int) -> None:
    rows, gates, grace, evicted = rows_of(*drawn(13)), random_gates(), 4, 0
    found = mixed_by(EvictionGate(gates, grace), rows, prompt)
    for example, heads, query, key, _ in heads_of(rows):
        group = heads.start // 2
        kept = gate_twin(query, key, gates.weight[0, group].double(), float(gates.bias[0, group]), grace)
        evicted += kept.count(False)
        for row in range(prompt, SIZE):
            keys = [j for j in range(row + 1) if kept[j] or row - j < grace]
            expected = attention(query, key, row, keys)
            assert (found.weights[example, heads, row - prompt] - expected).abs().max() < EXACT
            assert int(found.kept[example, group, row - prompt]) == len(keys)
    assert 10 < evicted < 4 * (SIZE - grace)


SHAPE = ModelShape(1, HEADS, GROUPS, WIDTH, HEADS * WIDTH, 10, 100)


@pytest.mark.parametrize(("threshold", "reach"), [(0.0, SIZE), (1e9, 4)], ids=["keeps all", "keeps a window"])
def test_the_ends_of_a_gates_threshold(threshold: float, reach: int) -> None:
    rows = rows_of(*drawn(14))
    found = mixed_by(EvictionGate(Gates.by_attention(SHAPE, threshold), 4), rows)
    window = mixed_by(Streaming(0, reach), rows)
    assert (found.weights - window.weights).abs().max() < EXACT


def test_a_soft_gate_gives_what_the_hard_one_gives() -> None:
    rows, gates = rows_of(*drawn(15)), random_gates(1)
    soft, hard = (mixed_by(kind(gates, 4), rows) for kind in (SoftGate, EvictionGate))
    assert (soft.weights - hard.weights).abs().max() < EXACT
    assert torch.equal(soft.attended, hard.attended)


@pytest.fixture
def model(tiny: Tiny) -> HookedModel:
    return tiny("llama")


def tokens_of(model: HookedModel, size: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(0, model.shape.d_vocab, (4, size), generator=torch.Generator().manual_seed(seed))


def distillation_error(model: HookedModel, gates: Gates, tokens: Tensor) -> float:
    """Squared error of the final hidden states under the gates, in shares of their square."""
    with torch.no_grad():
        wanted = model.plain.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        with applied(model, EvictionGate.trained(model, gates, 3)):
            found = model.plain.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return float((found - wanted).square().sum() / wanted.square().sum())


def test_fitted_gates_evict_their_share_and_harm_less(model: HookedModel) -> None:
    batches = [tokens_of(model, seed=seed) for seed in (0, 1)]
    before = {name: parameter.clone() for name, parameter in model.plain.named_parameters()}
    fitted = fit_gates(model, batches, share=0.5, grace=3, steps=30)
    assert sum(fitted.evicted[-2:]) / 2 == pytest.approx(0.5, abs=0.05)
    assert sum(fitted.losses[-2:]) < 0.7 * sum(fitted.losses[:2])  # both batches
    assert distillation_error(model, fitted.gates, batches[0]) == pytest.approx(fitted.errors[-1], rel=1e-3)
    untrained, unseen = Gates.by_attention(model.shape, 1.0), tokens_of(model, seed=5)  # they evict half of it, too
    assert distillation_error(model, fitted.gates, unseen) < 0.7 * distillation_error(model, untrained, unseen)
    for name, parameter in model.plain.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"share": 1.5}, "from 0 to 1, not 1.5"),
        ({"grace": 40}, "longer than grace"),
        ({"start": "open"}, "start from finite ones"),
    ],
    ids=["share", "grace", "open gates"],
)
def test_gates_that_cannot_be_fitted_are_refused(model: HookedModel, change: dict[str, object], match: str) -> None:
    if "start" in change:
        change = {"start": Gates.by_attention(model.shape, 0.0)}
    with pytest.raises(ConfigError, match=match):
        fit_gates(model, [tokens_of(model)], **({"share": 0.5, "grace": 3} | change))  # pyright: ignore[reportArgumentType]


def test_gates_of_another_model_are_refused(model: HookedModel) -> None:
    with pytest.raises(ConfigError, match=r"have weights of layer x key/value head x feature = \(3, 2, 10\)"):
        EvictionGate.trained(model, random_gates(), 3)


def test_even_layers_get_more_of_the_cache() -> None:
    """One head of two evenly looked at, the other not: F = (0 + 1) / 2; three equal budgets for equal layers."""
    received = torch.tensor([[[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]]])
    assert concentration(received) == pytest.approx(0.5, abs=1e-4)
    assert shared_out([0.3, 0.3, 0.3], 50) == (50, 50, 50)
    found = shared_out([0.0, math.log(2.0), math.log(4.0)], 70)  # softmax of 1, 1/2, 1/4
    assert found == (120, 60, 30)


def test_budgets_of_layers_are_kept_to(model: HookedModel) -> None:
    tokens = tokens_of(model)
    budgets = density_budgets(model, tokens, 10)
    assert len(set(budgets)) > 1
    assert sum(budgets) == pytest.approx(30, abs=2)
    policy = build_policy(model, "d2o", {"layer_budgets": budgets})
    with torch.no_grad(), applied(model, policy) as opened:
        model.plain.base_model(input_ids=tokens, use_cache=False)
    assert opened.tally.table(3).tolist() == [[float(budget)] * 2 for budget in budgets]


@pytest.mark.parametrize("name", ["h2o", "tova", "d2o", "snapkv", "recycled", "attention-gate"])
@pytest.mark.parametrize("kind", ["gemma2, window 8, capped", "mistral, window 8"])
def test_windows_and_caps_of_the_model_stay(tiny: Tiny, name: str, kind: str) -> None:
    model = tiny(kind)
    tokens, found = tokens_of(model, 24), list[Tensor]()
    policy = build_policy(model, name, {"threshold": 0.0} if name == "attention-gate" else {})
    for one in (policy, build_policy(model, "full")):
        with torch.no_grad(), applied(model, one, from_row=15):
            found.append(model.plain(input_ids=tokens, use_cache=False).logits)
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("h2o", {"heavy": 4, "recent": 0}, "recent"),
        ("tova", {"budget": 0}, "budget"),
        ("d2o", {"layer_budgets": (4, 4)}, "has 2 numbers; 'tiny llama' has 3 layers"),
        ("d2o", {"layer_budgets": (4, 0, 4)}, "budget of 0 tokens is too small"),
        ("snapkv", {"kernel": 4}, "odd number, not 4"),
        ("snapkv", {"budget": 8, "window": 9}, "at least window"),
        ("attention-gate", {"grace": 0}, "grace"),
        ("recycled", {"stride": 0}, "stride"),
    ],
)
def test_impossible_settings_are_refused(
    model: HookedModel, name: str, settings: dict[str, object], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        build_policy(model, name, settings)


def test_a_budget_sizes_every_policy() -> None:
    merging = MergingSettings(layer_budgets=(10, 30)).sized(40)
    assert isinstance(merging, MergingSettings)
    assert (merging.heavy, merging.recent, merging.layer_budgets) == (20, 20, (20, 60))
    snapkv = PromptVoteSettings().sized(16)
    assert isinstance(snapkv, PromptVoteSettings)
    assert (snapkv.budget, snapkv.window) == (16, 8)
    recycled = RecycledSettings(stride=10).sized(20)
    assert isinstance(recycled, RecycledSettings)
    assert recycled.top == 15
