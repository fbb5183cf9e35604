"""What is special about mixers that are sparse by content: their limits, their choices and their learned gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.policies.recycled import RecycledLayer
from circuits.policies.rows import Mixed, Rows
from circuits.policies.top_keys import TopKeys
from circuits.policies.tree_search import TreeSearch
from headscope.mixers.interface import MixerInput
from headscope.mixers.registry import Variant, variant
from tests.mixer_cases import BATCH, HEADS, LENGTH, Case, make_case
from tests.mixer_operations.sparse import OPERATIONS

Prepare = Callable[[Any], None]
Settings = Mapping[str, Any]


def entry_of(kind: str, settings: Settings) -> Variant:
    like = variant("top-keys")
    return replace(like, name=kind, config={"mixer": {"kind": kind, "settings": dict(settings)}}, bidirectional=False)


def case_of(kind: str, length: int = LENGTH, **settings: Any) -> Case:
    return make_case(entry_of(kind, settings), length=length)


def softmax(given: MixerInput) -> Tensor:
    scores = given.query @ given.key.mT * given.scale
    scores = scores if given.bias is None else scores + given.bias
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ given.value


def nothing(mixer: Any) -> None:
    """Leave the mixer as it is."""


def one_bucket(mixer: Any) -> None:
    mixer.rotations.zero_()


def silent(*names: str) -> Prepare:
    def prepare(mixer: Any) -> None:
        for name in names:
            getattr(mixer, name).data.zero_()

    return prepare


def open_branch(branch: int) -> Prepare:
    def prepare(mixer: Any) -> None:
        mixer.gate.data.zero_()
        mixer.gate_bias.data.fill_(-1e9)
        mixer.gate_bias.data[:, branch] = 1e9

    return prepare


def all_kept(mixer: Any) -> None:
    mixer.b_key.data.fill_(1e9)


EVERYTHING: list[tuple[str, str, Settings, Prepare]] = [
    ("as-many-keys-as-tokens", "top-keys", {"keys": LENGTH}, nothing),
    ("as-many-nodes-as-tokens", "hip", {"keys": LENGTH}, nothing),
    ("one-bucket", "hash-equal", {}, one_bucket),
    ("all-recent", "sampled-keys", {"recent": LENGTH}, nothing),
    ("all-sampled", "sampled-keys", {"samples": LENGTH, "block": 0}, nothing),
    ("bucket-or-sample", "sampled-keys", {"samples": LENGTH, "bits": 1, "recent": 1}, nothing),
    ("all-blocks", "moba", {"blocks": LENGTH}, nothing),
    ("one-block", "moba", {"size": LENGTH, "blocks": 1}, nothing),
    ("one-block", "block-gate", {"size": LENGTH, "blocks": 1}, nothing),
    ("all-regions", "region-routing", {"blocks": LENGTH}, nothing),
    ("all-chunks", "longheads", {"size": 3, "chunks": LENGTH}, nothing),
    ("one-block", "combiner", {"size": LENGTH + 1}, nothing),
    ("blocks-of-one-token", "combiner", {"size": 1}, nothing),
    ("all-fine", "multi-resolution", {"blocks": LENGTH}, nothing),
    ("blocks-of-one-token", "multi-resolution", {"size": 1, "blocks": 2}, nothing),
    ("compressed-blocks-of-one-token", "nsa", {"size": 1}, open_branch(0)),
    ("all-blocks-chosen", "nsa", {"blocks": LENGTH}, open_branch(1)),
    ("window-of-the-text", "nsa", {"window": LENGTH}, open_branch(2)),
    ("all-keys-and-no-opinion", "low-rank-mask", {"keys": LENGTH}, silent("A")),
    ("all-keys-and-no-opinion", "lightning-indexer", {"keys": LENGTH}, silent("W_weight")),
    ("one-column", "estimated-attention", {"size": 64}, nothing),
    ("all-queries-sharp", "sparse-queries", {"factor": 1e3}, nothing),
    ("all-tokens-kept", "token-gates", {}, all_kept),
    ("spans-of-the-text", "head-spans", {"spans": (LENGTH,), "growth": (0.0,), "sinks": 0}, nothing),
    ("spans-that-grow-with-it", "head-spans", {"spans": (1,), "growth": (1.0,), "sinks": 0}, nothing),
    ("all-first-tokens", "head-spans", {"spans": (1,), "sinks": LENGTH}, nothing),
    ("all-rows-full", "recycled", {"stride": 1}, nothing),
    ("all-keys-recycled", "recycled", {"keys": LENGTH}, nothing),
]


@pytest.mark.parametrize(
    ("kind", "settings", "prepare"), [one[1:] for one in EVERYTHING], ids=[f"{one[1]}-{one[0]}" for one in EVERYTHING]
)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "position-bias"])
def test_where_everything_is_chosen_it_is_softmax(
    kind: str, settings: Settings, prepare: Prepare, biased: bool
) -> None:
    case = case_of(kind, **settings)
    prepare(case.mixer)
    given = replace(case.given, gates=case.mixer.gates(case.stream))
    if biased:
        slopes = torch.tensor([0.5, 0.1], dtype=torch.float64)[:, None, None]
        given = replace(given, bias=(-slopes * given.offsets.clamp_min(0))[None])
    with torch.no_grad():
        torch.testing.assert_close(case.mixer.mix(given).z, softmax(given))


OTHER_SETTINGS: list[tuple[str, Settings]] = [
    ("top-keys", {"keys": 1}),
    ("hip", {"keys": 3}),
    ("routing", {"clusters": 2}),
    ("reformer", {"buckets": 8, "rounds": 1}),
    ("reformer", {"buckets": 2, "rounds": 3}),
    ("hash-equal", {"buckets": 6, "rounds": 2}),
    ("sampled-keys", {"bits": 1, "block": 2, "recent": 1, "samples": 3}),
    ("sampled-keys", {"bits": 2, "block": 0, "recent": 2, "samples": 5, "rates": "key_norm"}),
    ("moba", {"size": 3, "blocks": 2}),
    ("block-gate", {"size": 7, "blocks": 2}),
    ("block-gate", {"size": 3, "blocks": 4}),
    ("region-routing", {"size": 3, "blocks": 2}),
    ("longheads", {"size": 3, "chunks": 3}),
    ("longheads", {"size": 2, "chunks": 5}),
    ("combiner", {"size": 3}),
    ("combiner", {"size": 7}),
    ("multi-resolution", {"size": 3, "blocks": 1}),
    ("nsa", {"size": 3, "blocks": 4, "window": 2}),
    ("nsa", {"size": 2, "blocks": 3, "window": 1}),
    ("low-rank-mask", {"keys": 2, "rank": 1}),
    ("lightning-indexer", {"keys": 2, "rank": 3}),
    ("estimated-attention", {"size": 3, "columns": 1, "hidden": 2}),
    ("sparse-queries", {"factor": 0.5}),
    ("token-gates", {"grace": 3}),
    ("token-gates", {"queries": True, "grace": 0, "window": 2}),
    ("head-spans", {"spans": (3, 1), "growth": (0.3, 0.0), "sinks": 2}),
    ("head-spans", {"spans": (2,), "growth": (0.7,), "sinks": 0}),
    ("recycled", {"keys": 2, "stride": 5}),
]


@pytest.mark.parametrize(
    ("kind", "settings"), OTHER_SETTINGS, ids=[f"{kind}-{settings}" for kind, settings in OTHER_SETTINGS]
)
def test_other_settings_agree_with_the_twin_at_once_and_token_by_token(kind: str, settings: Settings) -> None:
    case = case_of(kind, **settings)
    rows = list[Tensor]()
    with torch.no_grad():
        expected = OPERATIONS[kind](case.mixer, case.given)
        torch.testing.assert_close(case.mixer.operation(case.given), expected)
        state = case.mixer.start(case.given.token(0))
        for at in range(LENGTH):
            z, state = case.mixer.step(state, case.given.token(at))
            rows.append(z)
            assert sum(part.numel() for part in state.values()) == BATCH * case.mixer.state_size(at + 1)
    torch.testing.assert_close(torch.cat(rows, 2), expected)


MASKED = [
    "routing",
    "reformer",
    "hash-equal",
    "top-keys",
    "hip",
    "sampled-keys",
    "moba",
    "block-gate",
    "region-routing",
    "longheads",
    "low-rank-mask",
    "lightning-indexer",
    "estimated-attention",
    "token-gates",
    "recycled",
]


@pytest.mark.parametrize("kind", MASKED)
def test_the_choice_is_where_m_is_not_zero(kind: str) -> None:
    case = case_of(kind)
    with torch.no_grad():
        mix = case.mixer.mix(case.given)
    assert mix.choice is not None
    assert torch.equal(mix.choice.expand_as(mix.matrix), mix.matrix > 0)
    assert bool((mix.matrix.tril() == 0).sum() > (mix.matrix == 0).triu(1).sum()), "it leaves nothing out"


def test_top_keys_attend_to_k_keys_or_to_all_there_are() -> None:
    case = case_of("top-keys", keys=6)
    counts = (case.mixer.mix(case.given).matrix > 0).sum(-1)
    assert torch.equal(counts, (torch.arange(LENGTH) + 1).clamp_max(6).expand_as(counts))


def test_a_tree_search_finds_the_top_keys_of_scores_that_grow() -> None:
    case, exact = case_of("hip", keys=4), case_of("top-keys", keys=4)
    ones = torch.ones_like(case.given.query)
    given = replace(case.given, query=ones, key=ones * torch.linspace(-1, 1, LENGTH)[:, None].double())
    torch.testing.assert_close(case.mixer.mix(given).matrix, exact.mixer.mix(given).matrix)


POLICIES: list[tuple[str, Settings, Callable[[Rows], Mixed]]] = [
    ("top-keys", {"keys": 3}, TopKeys(3).mix),
    ("hip", {"keys": 3}, TreeSearch(3).mix),
    ("recycled", {"keys": 3, "stride": 5}, RecycledLayer(3, 5).mix),
]


@pytest.mark.parametrize(("kind", "settings", "policy"), POLICIES, ids=[one[0] for one in POLICIES])
def test_a_mixer_follows_the_rule_of_the_policy_of_its_name(
    kind: str, settings: Settings, policy: Callable[[Rows], Mixed]
) -> None:
    case = case_of(kind, **settings)
    given = case.given
    logits = (given.query @ given.key.mT * given.scale).masked_fill(~given.visible, -torch.inf)
    rows = Rows(0, 0, given.query, given.key, given.value, logits, given.scale)
    torch.testing.assert_close(case.mixer.mix(given).matrix, policy(rows).weights)


def test_routing_learns_the_mean_of_its_members_in_training_only() -> None:
    case = case_of("routing", clusters=2, decay=0.9)
    mixer: Any = case.mixer
    before = mixer.centroids.clone()
    evaluated = mixer.mix(case.given).matrix
    assert torch.equal(mixer.centroids, before)
    mixer.train()
    trained = mixer.mix(case.given).matrix
    assert torch.equal(trained, evaluated)  # a step is computed with the centroids of the steps before it
    x = torch.nn.functional.layer_norm((case.given.query + case.given.key) / math.sqrt(2), (before.shape[-1],))
    for head in range(HEADS):
        members = (x[:, head] @ before[head].T).argmax(-1)
        for cluster in range(2):
            mean = x[:, head][members == cluster].mean(0)
            torch.testing.assert_close(mixer.centroids[head, cluster], 0.9 * before[head, cluster] + 0.1 * mean)


def test_a_centroid_without_members_stays() -> None:
    case = case_of("routing", clusters=2)
    mixer: Any = case.mixer
    mixer.centroids[:, 1] = -1e6 * torch.ones_like(mixer.centroids[:, 1])
    mixer.centroids[:, 0] = 1e6 * torch.ones_like(mixer.centroids[:, 0])
    x = torch.ones_like(case.given.query)
    before = mixer.centroids.clone()
    mixer.learn(x)
    assert torch.equal(mixer.centroids[:, 1], before[:, 1])
    assert not torch.equal(mixer.centroids[:, 0], before[:, 0])


def test_one_cluster_is_softmax_of_normalised_shared_vectors() -> None:
    case = case_of("routing", clusters=1)
    both = case.given.query + case.given.key
    x = torch.nn.functional.layer_norm(both / math.sqrt(2), (both.shape[-1],))
    torch.testing.assert_close(case.mixer.mix(case.given).z, softmax(replace(case.given, query=x, key=x)))


def test_reformer_attends_to_itself_only_where_it_is_alone() -> None:
    case = case_of("reformer")
    matrix = case.mixer.mix(case.given).matrix
    own = matrix.diagonal(dim1=-2, dim2=-1)
    assert bool(((own == 0) | (own == 1)).all())
    assert bool((own[..., 0] == 1).all())
    assert bool((own == 0).any())


def test_samples_stand_for_all_keys_on_average() -> None:
    case = case_of("sampled-keys", block=0, recent=1, samples=6)
    scores = case.given.query @ case.given.key.mT * case.given.scale
    expected = (scores - scores.diagonal(dim1=-2, dim2=-1)[..., None]).exp().tril()
    mixer: Any = case.mixer
    total, count = torch.zeros_like(expected), 400
    for number in range(count):  # every key is drawn with all of these numbers once
        mixer.draws.fill_((number + 0.5) / count)
        matrix = mixer.mix(case.given).matrix
        total += matrix / matrix.diagonal(dim1=-2, dim2=-1)[..., None]
    torch.testing.assert_close(total / count, expected, rtol=0.01, atol=0)


def test_keys_of_one_length_are_sampled_evenly() -> None:
    case = case_of("sampled-keys", samples=5, rates="key_norm", block=0)
    even: Any = case_of("sampled-keys", samples=5, block=0).mixer
    even.load_state_dict(case.mixer.state_dict())
    given = replace(case.given, key=torch.nn.functional.normalize(case.given.key, dim=-1))
    torch.testing.assert_close(case.mixer.mix(given).matrix, even.mix(given).matrix)


def test_collisions_have_the_frequency_of_random_hyperplanes() -> None:
    case = case_of("collision", length=5, bits=2)
    generator, given = torch.Generator().manual_seed(0), case.given
    planes = torch.randn(20_000, 2, given.query.shape[-1], generator=generator, dtype=torch.float64)
    query, key = (torch.einsum("nte,bhie->nbhit", planes, x) > 0 for x in (given.query, given.key))
    share = (query[..., :, None, :] == key[..., None, :, :]).all(-1).double().mean(0)
    torch.testing.assert_close(case.mixer.mix(given).matrix, share.tril(), rtol=0, atol=0.02)


def test_a_gate_without_opinion_halves_what_is_outside_the_own_block() -> None:
    case = case_of("block-gate", blocks=LENGTH)
    silent("W_q")(case.mixer)
    place = torch.arange(LENGTH) // 4
    bias = torch.where(place[:, None] == place, 0.0, -math.log(2)).double()[None, None]
    torch.testing.assert_close(case.mixer.mix(case.given).z, softmax(replace(case.given, bias=bias)))


def test_combiner_and_two_resolutions_are_softmax_where_blocks_are_uniform() -> None:
    for kind in ("combiner", "multi-resolution"):
        case = case_of(kind, **({} if kind == "combiner" else {"blocks": 1}))
        given = replace(case.given, key=case.given.key[:, :, ::4].repeat_interleave(4, 2))
        size = math.log(4) if kind == "combiner" else 0.0  # Combiner's p(R | i) does not count the block's tokens
        place = torch.arange(LENGTH) // 4
        bias = torch.where(place[:, None] == place, 0.0, -size).double()[None, None]
        torch.testing.assert_close(case.mixer.mix(given).z, softmax(replace(given, bias=bias)))


def test_dropped_tokens_are_gone_and_dropped_queries_read_nothing() -> None:
    case = case_of("token-gates", queries=True, grace=0)
    mix = case.mixer.mix(case.given)
    key, query = (case.given.gates[f"{name}_gate"] for name in ("key", "query"))
    assert bool((mix.matrix.sum(2)[key <= 0] == 0).all())
    assert bool((mix.matrix.sum(3)[query <= 0] == 0).all())
    assert bool((key <= 0).any())
    assert bool((query <= 0).any())


def test_a_gate_that_keeps_nothing_leaves_each_token_to_itself() -> None:
    case = case_of("token-gates")
    gates = {name: torch.full_like(gate, -1.0) for name, gate in case.given.gates.items()}
    torch.testing.assert_close(case.mixer.mix(replace(case.given, gates=gates)).z, case.given.value)


def test_all_heads_of_an_indexer_see_the_same_keys() -> None:
    choice = case_of("lightning-indexer").mixer.mix(case_of("lightning-indexer").given).choice
    assert choice is not None
    assert torch.equal(choice[:, :1].expand_as(choice), choice)


def test_rows_that_are_not_sharp_read_the_mean() -> None:
    case = case_of("sparse-queries", factor=0.3)
    mix = case.mixer.mix(case.given)
    assert mix.choice is not None
    even = (torch.ones(LENGTH, LENGTH).tril() / torch.arange(1, LENGTH + 1)[:, None]).double()
    idle = ~mix.choice.any(-1)
    assert bool(idle.any())
    torch.testing.assert_close(mix.matrix[idle], even.expand_as(mix.matrix)[idle])


def test_what_is_kept_grows_as_little_as_the_mixer_promises() -> None:
    full = variant("softmax")
    cache = make_case(full).mixer.state_size(1000)
    assert case_of("combiner", size=10).mixer.state_size(1000) == cache // 10
    spans = case_of("head-spans", spans=(8, 4), growth=(0.0,), sinks=2).mixer
    assert spans.state_size(1000) == spans.state_size(100) == (10 + 6) * 2 * 8 + 1
