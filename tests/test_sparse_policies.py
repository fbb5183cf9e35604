"""Sparse attention on a pretrained model: each policy against a loop in float64, limiting cases, recall, counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.policies.chunks import Chunks
from circuits.policies.hashing import Hashing, codes_of
from circuits.policies.head_split import HeadSplit
from circuits.policies.pages import Pages, SplitPages, page_bounds
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.sparse_settings import (
    ChunksSettings,
    HashingSettings,
    PagesSettings,
    SplitPagesSettings,
    TopKeysSettings,
    TreeSettings,
)
from circuits.policies.top_keys import TopKeys
from circuits.policies.tree_search import TreeSearch
from headscope.kernels import causal_logits
from headscope.models.rotary import Rotary

B, H, G, D, T = 2, 4, 2, 8, 45
SCALE = 1.3
SPLIT = HeadSplit(np.array([[True, False]]), "by hand")
ROTARY = Rotary(torch.tensor([1.0, 0.3, 0.1]))  # six of the eight dimensions turn

POLICIES: dict[str, Callable[[], Policy]] = {
    "top-keys": lambda: TopKeys(5),
    "quest": lambda: Pages(4, 3),
    "lserve": lambda: SplitPages(SPLIT, 2, 5, logical=2, page=2, pages=3),
    "longheads": lambda: Chunks(4, 4, ROTARY, moved=True),
    "longheads-text": lambda: Chunks(4, 4, ROTARY),
    "hip": lambda: TreeSearch(5),
    "hyper": lambda: Hashing(2, 3, 2, 6, seed=3),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(query: Tensor, key: Tensor, value: Tensor | None = None, *, window: int | None = None) -> Rows:
    """All rows of a text."""
    logits = causal_logits(query, key, SCALE, first_row=0, window=window)
    return Rows(0, 0, query, key, drawn(*key.shape, seed=9) if value is None else value, logits, SCALE)


def random_rows(window: int | None = None, size: int = T, seed: int = 0) -> Rows:
    return rows_of(drawn(B, H, size, D, seed=seed), drawn(B, G, size, D, seed=seed + 1), window=window)


def mixed(policy: Policy, rows: Rows) -> Mixed:
    return policy.layer(rows.layer).mix(rows)


def softmax_over(logits: Tensor, keys: set[int]) -> Tensor:
    """Softmax over these keys in float64, by hand."""
    total = sum(math.exp(float(logits[key])) for key in keys)
    return torch.tensor(
        [math.exp(float(logits[key])) / total if key in keys else 0.0 for key in range(len(logits))],
        dtype=torch.float64,
    )


def top(scores: dict[int, float], count: int) -> set[int]:
    return set(sorted(scores, key=lambda one: -scores[one])[: max(count, 0)])


def naive_top_keys(rows: Rows, head: int, i: int) -> set[int]:
    return top({j: float(rows.logits[0, head, i, j]) for j in range(i + 1)}, 5)


def naive_bound(rows: Rows, head: int, i: int, keys: range) -> float:
    query, key = rows.query[0, head, i].double(), rows.key[0, head // (H // G)].double()
    return sum(max(float(query[d] * key[j, d]) for j in keys) for d in range(D))


def naive_quest(rows: Rows, head: int, i: int) -> set[int]:
    bounds = {p: naive_bound(rows, head, i, range(4 * p, 4 * p + 4)) for p in range(i // 4)}
    return {j for j in range(i + 1) if j // 4 in top(bounds, 2) | {i // 4}}


def naive_lserve(rows: Rows, head: int, i: int) -> set[int]:
    group = head // (H // G)
    if not SPLIT.full[0, group]:
        return {j for j in range(i + 1) if j < 2 or i - j < 5}
    heads = range(group * (H // G), (group + 1) * (H // G))
    bounds = {
        p: max(naive_bound(rows, h, i, range(4 * p + part, 4 * p + part + 2)) for part in (0, 2) for h in heads)
        for p in range(i // 4)
    }
    return {j for j in range(i + 1) if j // 4 in top(bounds, 2) | {i // 4}}


def naive_hip(rows: Rows, head: int, i: int) -> set[int]:
    nodes = [range((i + 1) * n // 5, (i + 1) * (n + 1) // 5) for n in range(5)]
    while any(len(node) > 1 for node in nodes):
        halves = [half for node in nodes for half in (node[: (len(node) + 1) // 2], node[(len(node) + 1) // 2 :])]
        worth = {n: float(rows.logits[0, head, i, half[len(half) // 2]]) for n, half in enumerate(halves) if half}
        nodes = [halves[n] for n in top(worth, 5)]
    return {node[0] for node in nodes if node}


NAIVE = {"top-keys": naive_top_keys, "quest": naive_quest, "lserve": naive_lserve, "hip": naive_hip}


@pytest.mark.parametrize("head", [1, 3])
@pytest.mark.parametrize("name", NAIVE)
def test_a_policy_is_its_loop(name: str, head: int) -> None:
    rows = random_rows()
    found = mixed(POLICIES[name](), rows)
    for i in range(T):
        keys = NAIVE[name](rows, head, i)
        assert (found.weights[0, head, i] - softmax_over(rows.logits[0, head, i], keys)).abs().max() < 1e-5, i
        assert found.attended[0, head, i] == len(keys)


def test_hyper_is_its_loop() -> None:
    """The same planes and draws, but every key looked at by itself."""
    rows, policy, head = random_rows(), Hashing(2, 3, 2, 6, seed=3), 3
    planes = np.random.default_rng((3, 0)).standard_normal((2, D))
    draws = np.random.default_rng((3, 0, 1)).random((T, H))
    found = mixed(policy, rows).weights[0, head]
    query, key = rows.query[0, head].double().numpy(), rows.key[0, head // (H // G)].double().numpy()
    for i in range(T):
        bucket = [j for j in range(i - 1) if ((planes @ key[j] > 0) == (planes @ query[i] > 0)).all()]
        exact = {i, i - 1, *bucket[-3:]} - {-1}
        rate = min(1.0, 6 / (i + 1))
        logits = rows.logits[0, head, i].double().clone()
        sampled = {j for j in range(i + 1) if j not in exact and draws[j, head] < rate}
        for j in sampled:
            logits[j] -= math.log(rate)
        assert (found[i] - softmax_over(logits, exact | sampled)).abs().max() < 1e-5, i


def turned(x: Tensor, position: int) -> Tensor:
    """Rotation of one vector to a position, pair by pair."""
    out = x.double().clone()
    for pair, speed in enumerate(ROTARY.frequencies.tolist()):
        c, s = math.cos(position * speed), math.sin(position * speed)
        a, b = float(x[pair]), float(x[pair + 3])
        out[pair], out[pair + 3] = a * c - b * s, b * c + a * s
    return out


def naive_chunk_key(query: Tensor, key: Tensor, value: Tensor, chunk: int) -> Tensor:
    """Of a chunk of 4, from vectors without rotation."""
    where = range(4 * chunk, 4 * chunk + 4)
    queries = torch.stack([turned(query[j], j % 4) for j in where])
    keys = torch.stack([turned(key[j], j % 4) for j in where])
    read = torch.softmax(SCALE * queries @ keys.T, -1) @ value[4 * chunk : 4 * chunk + 4].double()
    return torch.softmax(SCALE * read.mean(0) @ keys.T, -1) @ keys


@pytest.mark.parametrize("moved", [True, False], ids=["positions of the cache", "positions of the text"])
def test_longheads_is_its_loop(moved: bool) -> None:
    """Chunks chosen one by one, then laid next to each other and rotated anew."""
    query, key, value, head = drawn(1, H, T, D), drawn(1, G, T, D, seed=1), drawn(1, G, T, D, seed=2), 3
    where = torch.arange(T)
    rows = rows_of(ROTARY.turn(query, where), ROTARY.turn(key, where), value)
    found = mixed(Chunks(4, 4, ROTARY, moved=moved), rows).weights[0, head]
    q, k, v = query[0, head], key[0, head // (H // G)], value[0, head // (H // G)]
    centres = [naive_chunk_key(q, k, v, chunk) for chunk in range(T // 4)]
    for i in range(T):
        own = i // 4
        best = top({c: float(q[i].double() @ centres[c]) for c in range(1, own - 1)}, 1)
        chosen = sorted({0, own, max(own - 1, 0)} | best)
        keys = [j for chunk in chosen for j in range(4 * chunk, 4 * chunk + 4) if j <= i]
        places = range(len(keys)) if moved else keys
        row = turned(q[i], len(keys) - 1 if moved else i)
        logits = torch.full((T,), -torch.inf, dtype=torch.float64)
        for j, place in zip(keys, places, strict=True):
            logits[j] = SCALE * row @ turned(k[j], place)
        assert (found[i] - softmax_over(logits, set(keys))).abs().max() < 1e-5, i


EVERYTHING: dict[str, Callable[[], Policy]] = {
    "top-keys": lambda: TopKeys(T),
    "quest": lambda: Pages(4, T),
    "lserve": lambda: SplitPages(SPLIT, 0, T, logical=2, page=2, pages=T),
    "longheads": lambda: Chunks(4, T, ROTARY, moved=True),
    "hip": lambda: TreeSearch(T),
    "hyper, all sampled": lambda: Hashing(2, 0, 1, T),
    "hyper, all recent": lambda: Hashing(2, 0, T, 0),
    "one page": lambda: Pages(T, 1),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_chosen_is_softmax(name: str) -> None:
    rows = random_rows()
    assert (mixed(EVERYTHING[name](), rows).weights - rows.logits.softmax(-1)).abs().max() < 1e-6


def test_one_key_is_hard_attention() -> None:
    rows = random_rows()
    found = mixed(TopKeys(1), rows).weights
    assert torch.equal(found, torch.nn.functional.one_hot(rows.logits.argmax(-1), T).float())


def test_a_tree_with_one_leaf_is_a_walk_down_the_better_half() -> None:
    """Logits that fall with the distance to one key: every walk ends there."""
    goal, places = 29, torch.arange(T)
    logits = -(places - goal).abs().float().expand(B, H, T, T)
    rows = random_rows()
    rows = Rows(0, 0, rows.query, rows.key, rows.value, logits.masked_fill(~rows.causal, -torch.inf), SCALE)
    found = TreeSearch(2).found(rows)
    assert found[:, :, goal:, goal].all()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("window", [None, 7], ids=["full", "sliding window"])
def test_rows_come_together_or_one_by_one(name: str, window: int | None) -> None:
    """A page, chunk or node that is not complete yet looks the same either way; a window hides what it hides."""
    rows = random_rows(window)
    together = mixed(POLICIES[name](), rows)
    memory = POLICIES[name]().layer(0)
    for i in range(T):
        one = memory.mix(rows.slice(i, i + 1))
        assert (one.weights[:, :, 0] - together.weights[:, :, i, : i + 1]).abs().max() < 1e-6, i
        assert torch.equal(one.kept[..., 0], together.kept[..., i])
    assert (together.weights.sum(-1) - 1).abs().max() < 1e-6
    assert together.weights.masked_select(torch.isinf(rows.logits)).abs().max() == 0


@pytest.mark.parametrize(
    "policy", [TopKeys(7), Pages(4, 3), TreeSearch(7), Hashing(2, 0, 7, 0)], ids=lambda policy: policy.name
)
def test_no_choice_is_lost_to_keys_that_a_window_hides(policy: Policy) -> None:
    """What can hold all of a window's keys is softmax over them."""
    rows = random_rows(window=7)
    assert (mixed(policy, rows).weights - rows.logits.softmax(-1)).abs().max() < 1e-6


def test_the_bound_of_a_page_is_above_all_its_keys_and_tight_for_one() -> None:
    query, key = drawn(B, H, T, D), drawn(B, G, T, D, seed=1)
    dots = query @ key.repeat_interleave(H // G, 1).mT
    for page in (1, 4, 7):
        bounds = page_bounds(query, key, page)
        count = T // page
        best = dots[..., : count * page].unflatten(-1, (count, page)).amax(-1)
        assert bounds.shape[-1] == count
        assert (bounds - best > -1e-5).all()
        if page == 1:
            assert (bounds - best).abs().max() < 1e-5


def test_similar_vectors_share_a_bucket_as_often_as_their_angle_says() -> None:
    planes, bits, shares = drawn(2000 * 3, D, seed=5), 3, list[float]()
    a, b = torch.eye(D)[0], torch.eye(D)[1]
    for angle in (0.2, 0.8, 1.6, 2.8):
        pair = torch.stack([a, math.cos(angle) * a + math.sin(angle) * b])[None, None]
        codes = torch.cat([codes_of(pair, part) for part in planes.split(bits)])
        shares.append(float((codes[..., 0] == codes[..., 1]).float().mean()))
        assert shares[-1] == pytest.approx((1 - angle / math.pi) ** bits, abs=0.04)
    assert shares == sorted(shares, reverse=True)


def test_the_sample_stands_for_all_keys_on_average() -> None:
    """Z of a row from its own weight, which is exact: exp(l_ii) / M_ii; unbiased over seeds."""
    rows = random_rows(size=24)
    rows = Rows(0, 0, rows.query[:1], rows.key[:1], rows.value[:1], rows.logits[:1] / 4, SCALE)
    own = rows.logits.diagonal(dim1=2, dim2=3).exp()
    found = [own / mixed(Hashing(3, 2, 1, 6, seed=s), rows).weights.diagonal(dim1=2, dim2=3) for s in range(400)]
    true = rows.logits.exp().sum(-1)
    assert ((torch.stack(found).mean(0) - true).abs() / true).max() < 0.1
    assert torch.stack(found).std(0)[..., 12:].min() > 0.05 * true.min()  # it is a sample


def smooth_rows() -> Rows:
    """Keys that change slowly along the text, as those of a model do."""
    steps, key = drawn(B, G, 256, D, seed=1), list[Tensor]()
    for i in range(256):
        key.append(steps[:, :, i] if not key else 0.9 * key[-1] + 0.43 * steps[:, :, i])
    return rows_of(2 * drawn(B, H, 256, D), torch.stack(key, 2))


def test_recall_of_attention_mass_is_best_for_exact_keys_and_above_random_pages() -> None:
    rows, budget = smooth_rows(), 32
    pattern = rows.logits.softmax(-1)

    def recall(policy: Policy) -> float:
        return float((pattern * (mixed(policy, rows).weights > 0)).sum(-1)[:, :, 64:].mean())

    best, quest, hip = recall(TopKeys(budget)), recall(Pages(4, budget // 4)), recall(TreeSearch(budget))
    page = torch.arange(256) // 4
    luck = torch.rand(B, H, 256, 64, generator=torch.Generator().manual_seed(1))
    luck = luck.masked_fill(torch.arange(64) >= page[:, None], -1).masked_fill(torch.arange(64) == page[:, None], 2)
    pages = torch.zeros_like(luck).scatter(-1, luck.topk(budget // 4, -1).indices, 1.0)
    random = float((pattern * pages.repeat_interleave(4, -1)).sum(-1)[:, :, 64:].mean())
    assert best > quest > random + 0.1
    assert best > hip > random + 0.1


@pytest.mark.parametrize("budget", [8, 21, 64])
def test_a_budget_bounds_the_keys_of_every_row(budget: int) -> None:
    rows = random_rows(size=80)
    top_keys, pages = TopKeysSettings().sized(budget), PagesSettings().sized(budget)
    chunks, tree = ChunksSettings().sized(budget), TreeSettings().sized(budget)
    assert isinstance(top_keys, TopKeysSettings)
    assert isinstance(pages, PagesSettings)
    assert isinstance(chunks, ChunksSettings)
    assert isinstance(tree, TreeSettings)
    for policy in (
        TopKeys(top_keys.keys),
        Pages(pages.page, pages.pages),
        Chunks(chunks.size, chunks.chunks),
        TreeSearch(tree.keys),
    ):
        most = int(mixed(policy, rows).attended.max())
        assert budget / 2 < most <= budget, policy.name


@pytest.mark.parametrize("budget", [4, 21, 64])
def test_a_budget_of_lserve_is_that_of_its_streaming_heads(budget: int) -> None:
    split = SplitPagesSettings(sink=8, logical=2, page=2, pages=3).sized(budget)
    assert isinstance(split, SplitPagesSettings)
    assert (split.logical, split.page, split.pages) == (2, 2, 3)
    assert (split.sink, split.recent) == (min(8, budget // 4), budget - min(8, budget // 4))
    policy = SplitPages(SPLIT, split.sink, split.recent, logical=2, page=2, pages=3)
    found = mixed(policy, random_rows(size=80))
    assert int(found.attended[:, H // G :].max()) == int(found.kept[:, 1].max()) == budget
    assert int(found.attended[:, : H // G].max()) == 12


def test_a_budget_bounds_the_keys_of_a_hashed_row_on_average() -> None:
    settings = HashingSettings(bits=1).sized(30)
    assert isinstance(settings, HashingSettings)
    rows = random_rows(size=120)
    counts = [
        mixed(Hashing(1, settings.block, settings.recent, settings.samples, seed), rows).attended[..., 60:].float()
        for seed in range(8)
    ]
    assert 20 < float(torch.stack(counts).mean()) < 30


def test_what_is_kept_is_every_key_and_what_finds_them() -> None:
    rows = random_rows()
    texts = torch.arange(1, T + 1).expand(B, G, T)
    assert torch.equal(mixed(POLICIES["top-keys"](), rows).kept, texts)
    assert torch.equal(mixed(POLICIES["hip"](), rows).kept, texts)
    assert torch.equal(mixed(POLICIES["quest"](), rows).kept, texts + (texts + 3) // 4)  # min and max of each page
    assert torch.equal(mixed(POLICIES["longheads"](), rows).kept, texts + texts // 4)  # two query heads, half each
    split = mixed(POLICIES["lserve"](), rows).kept
    assert torch.equal(split[:, 0], (texts + (texts + 1) // 2)[:, 0])
    assert torch.equal(split[:, 1], texts[:, 1].clamp_max(7))
    assert torch.equal(mixed(POLICIES["hyper"](), rows).kept, texts + (2 * texts + 511) // 512)  # 2 bits a key


def test_what_choosing_costs() -> None:
    rows = random_rows()
    rows = rows.slice(T - 1, T)  # one row of 45 keys
    assert mixed(TopKeys(5), rows).overhead == 45 * D
    assert mixed(Pages(4, 3), rows).overhead == 11 * 2 * D
    assert mixed(TreeSearch(5), rows).overhead == 4 * 2 * 5 * D  # nine keys a node: 5, 3, 2, 1
    assert mixed(POLICIES["lserve"](), rows).overhead == 11 * 2 * 2 * D / 2  # half of the heads look at pages
    whole = random_rows()
    memory = POLICIES["longheads"]().layer(0)
    memory.observe(whole.slice(0, T - 1))
    assert memory.mix(whole.slice(T - 1, T)).overhead == 9 * D  # chunks 1 to 9 of 0 to 11


def test_the_first_layers_are_left_dense_where_the_papers_leave_them() -> None:
    rows = random_rows()
    dense = rows.logits.softmax(-1)
    for policy in (Pages(4, 1, dense_layers=1), TreeSearch(2, dense_layers=1)):
        assert (mixed(policy, rows).weights - dense).abs().max() < 1e-6
        later = Rows(1, 0, rows.query, rows.key, rows.value, rows.logits, SCALE)
        assert (mixed(policy, later).weights - dense).abs().max() > 0.1
