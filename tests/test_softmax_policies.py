"""Other softmaxes and taken sinks: closed forms, loops in float64, limiting cases, what stays untouched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.policies.catalog import build_policy
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.sink_removal import SinkRemoval
from circuits.policies.softmax_settings import SinkRemovalSettings
from circuits.policies.softmaxes import LengthScale, OffByOne, Sigmoid, Temperature
from headscope.errors import ConfigError, HeadIndexError
from headscope.kernels import causal_logits
from headscope.models.protocol import HookedModel

B, H, G, D, T = 2, 4, 2, 8, 30
SINK = 7


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_rows(window: int | None = None) -> Rows:
    """A text in which position 0 takes much of every row, and position 7 much of the rest."""
    query, key = drawn(B, H, T, D).abs(), drawn(B, G, T, D, seed=1)
    key[:, :, 0], key[:, :, SINK] = 0.9, 0.7
    logits = causal_logits(query, key, 1.0, first_row=0, window=window)
    return Rows(0, 0, query, key, drawn(B, G, T, D, seed=2), logits, 1.0)


def mixed(policy: Policy, rows: Rows) -> Mixed:
    return policy.layer(rows.layer).mix(rows)


def removal(heads: list[int] | None = None, **given: Any) -> SinkRemoval:
    """For these heads of a model of one layer."""
    chosen = torch.tensor([[heads is None or head in heads for head in range(H)]])
    return SinkRemoval(chosen, SinkRemovalSettings.parse(given))


def test_each_head_has_its_own_temperature() -> None:
    rows, by = random_rows(), [1.0, 0.5, 4.0, 1e6]
    found = mixed(Temperature(torch.tensor([by])), rows).weights
    assert (found[:, 0] - rows.logits[:, 0].softmax(-1)).abs().max() < 1e-6
    for head, one in enumerate(by):
        for i in (0, 11, T - 1):
            powers = [math.exp(float(logit) / one) for logit in rows.logits[0, head, i, : i + 1]]
            expected = torch.tensor(powers) / sum(powers)
            assert (found[0, head, i, : i + 1] - expected).abs().max() < 1e-5
    assert (found[:, 3, -1] - 1 / T).abs().max() < 1e-5  # hot: uniform
    cold = mixed(Temperature(torch.full((1, H), 1e-4)), rows).weights
    assert torch.equal(cold.argmax(-1), rows.logits.argmax(-1))
    assert cold.amax(-1).min() > 1 - 1e-6  # cold: one key


def test_the_length_scale_is_one_up_to_the_trained_length() -> None:
    rows = random_rows()
    found, plain = mixed(LengthScale(16), rows).weights, rows.logits.softmax(-1)
    assert (found[:, :, :16] - plain[:, :, :16]).abs().max() < 1e-6
    for i in (16, 23, T - 1):
        expected = (rows.logits[:, :, i].double() * math.log(i + 1) / math.log(16)).softmax(-1)
        assert (found[:, :, i] - expected).abs().max() < 1e-5
        assert (found[:, :, i] - plain[:, :, i]).abs().max() > 1e-3


@pytest.mark.parametrize("window", [None, 5], ids=["full", "sliding window"])
def test_a_sigmoid_looks_at_each_key_alone(window: int | None) -> None:
    rows = random_rows(window)
    found, fixed = mixed(Sigmoid(), rows).weights, mixed(Sigmoid(-2.5), rows).weights
    for i, j in ((0, 0), (9, 6), (T - 1, T - 3)):
        logits, seen = rows.logits[:, :, i, j].double(), min(i + 1, window or T)
        assert (found[:, :, i, j] - logits.exp() / (logits.exp() + seen)).abs().max() < 1e-6
        assert (fixed[:, :, i, j] - 1 / (1 + (2.5 - logits).exp())).abs().max() < 1e-6
    assert found.masked_select(torch.isinf(rows.logits)).abs().max() == 0


def test_a_sigmoid_row_of_zeros_sums_to_nearly_one() -> None:
    rows = random_rows()
    zeros = torch.where(rows.causal, 0.0, -torch.inf).expand(B, H, T, T)
    flat = Rows(0, 0, rows.query, rows.key, rows.value, zeros, 1.0)
    sums, n = mixed(Sigmoid(), flat).weights.sum(-1), torch.arange(1, T + 1)
    assert (sums - n / (n + 1)).abs().max() < 1e-6


@pytest.mark.parametrize("null", [-3.0, 0.0, 2.0])
def test_off_by_one_is_softmax_times_a_sigmoid_of_the_normaliser(null: float) -> None:
    rows = random_rows()
    found, lse = mixed(OffByOne(null), rows), rows.logits.double().logsumexp(-1)
    expected = rows.logits.double().softmax(-1) * torch.sigmoid(lse - null)[..., None]
    assert (found.weights - expected).abs().max() < 1e-6
    assert found.weights.sum(-1).max() < 1
    assert found.extra is None


def test_without_a_null_column_off_by_one_is_softmax_and_with_a_high_one_nothing() -> None:
    rows = random_rows()
    assert (mixed(OffByOne(None), rows).weights - rows.logits.softmax(-1)).abs().max() < 1e-6
    assert mixed(OffByOne(60.0), rows).weights.max() < 1e-6


def naive_sinks(pattern: Tensor, which: str, i: int, *, alpha: float, least_share: float, mass: float) -> set[int]:
    """Sinks of row i of one head, from its pattern in float64."""
    if which == "first":
        return {0}
    if which == "dormant":
        return {0} if pattern[i, 0] > mass else set()
    n = i + 1
    means = {t: float(pattern[t:n, t].sum()) / (n - t) for t in range(1, n) if n - t >= least_share * n}
    return {t for t, mean in means.items() if mean > alpha / n}


def naive_row(row: Tensor, sinks: set[int], i: int, how: str) -> Tensor:
    """Row i without its sinks, key by key."""
    others = set(range(i + 1)) - sinks
    if not others:
        return row
    taken, left = sum(float(row[t]) for t in sinks), sum(float(row[t]) for t in others)
    found = torch.zeros_like(row)
    for t in others:
        gain = {"remove": 0.0, "renormalise": taken * float(row[t]) / left, "share": taken / len(others)}[how]
        found[t] = row[t] + gain
    return found


WHICH: dict[str, dict[str, Any]] = {
    "first": {"which": "first"},
    "later": {"which": "later", "alpha": 2.0},
    "later, settled": {"which": "later", "alpha": 2.0, "least_share": 0.5},
    "dormant": {"which": "dormant", "dormant_mass": 0.3},
}


@pytest.mark.parametrize("how", ["remove", "renormalise", "share"])
@pytest.mark.parametrize("which", WHICH)
def test_taking_sinks_is_its_loop_and_touches_no_other_head(which: str, how: str) -> None:
    rows, heads = random_rows(), [1, 2]
    policy = removal(heads, how=how, **WHICH[which])
    found, settings = mixed(policy, rows), policy.settings
    pattern, touched = rows.logits.double().softmax(-1), 0
    assert (found.weights[:, [0, 3]] - pattern[:, [0, 3]]).abs().max() < 1e-6
    rules = {"alpha": settings.alpha, "least_share": settings.least_share, "mass": settings.dormant_mass}
    for head in heads:
        for i in range(T):
            sinks = naive_sinks(pattern[0, head], settings.which, i, **rules)
            expected = naive_row(pattern[0, head, i], sinks, i, how)
            assert (found.weights[0, head, i] - expected).abs().max() < 1e-5, (head, i)
            whole = not set(range(i + 1)) - sinks
            assert found.attended[0, head, i] == i + 1 - (0 if whole else len(sinks))
            touched += len(sinks)
    assert T // 2 < touched < T * T / 2


@pytest.mark.parametrize("which", WHICH)
def test_row_sums_are_as_claimed(which: str) -> None:
    rows, pattern = random_rows(), random_rows().logits.softmax(-1)
    for how in ("renormalise", "share"):
        assert (mixed(removal(how=how, **WHICH[which]), rows).weights.sum(-1) - 1).abs().max() < 1e-5
    removed = mixed(removal(how="remove", **WHICH[which]), rows).weights
    gone = removed == 0
    assert (removed - pattern.masked_fill(gone, 0.0)).abs().max() < 1e-6  # nothing else changed
    assert removed.sum(-1).min() < 0.8


def test_the_planted_later_sink_is_found_and_the_first_token_is_no_later_sink() -> None:
    removed = mixed(removal(which="later", how="remove", alpha=2.0, least_share=0.4), random_rows()).weights
    assert (removed[:, :, -1, SINK] == 0).all()
    assert removed[:, :, :, 0].min() > 0


def test_the_newest_keys_count_as_sinks_unless_enough_rows_have_seen_them() -> None:
    """A head that looks at itself only: the definition as published calls the newest fifth of its keys sinks."""
    identity = torch.eye(T).expand(B, H, T, T).log().clamp_min(-30)
    rows = random_rows()
    rows = Rows(0, 0, rows.query, rows.key, rows.value, identity.masked_fill(~rows.causal, -torch.inf), 1.0)
    published = mixed(removal(which="later", how="remove"), rows).weights
    settled = mixed(removal(which="later", how="remove", least_share=0.2), rows).weights
    assert published[:, :, -1, -1].max() == 0
    assert (settled[:, :, -1, -1] - 1).abs().max() < 1e-5


def test_a_row_of_nothing_but_sinks_stays() -> None:
    for how in ("remove", "renormalise", "share"):
        assert (mixed(removal(which="first", how=how), random_rows()).weights[:, :, 0, 0] == 1).all()


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("pieces", [(1,) * T, (13, 1, 16)], ids=["one by one", "in pieces"])
def test_taking_sinks_goes_on_where_it_stopped(which: str, pieces: tuple[int, ...]) -> None:
    """Column sums are carried over, also from rows that the policy only observes."""
    rows, policy = random_rows(), removal(**WHICH[which])
    together, start = mixed(policy, rows).weights, 0
    mixing, watching = policy.layer(0), policy.layer(0)
    for size in pieces:
        part = rows.slice(start, start + size)
        found = mixing.mix(part).weights
        assert (found - together[:, :, start : start + size, : start + size]).abs().max() < 1e-5
        last = start + size == T
        if last:
            assert (watching.mix(part).weights - found).abs().max() < 1e-5
        else:
            watching.observe(part)
        start += size


@pytest.mark.parametrize("name", ["temperature", "sink-removal"])
def test_only_the_named_heads_change(tiny: Callable[[str], HookedModel], name: str) -> None:
    rows, model = random_rows(), tiny("llama")
    found = mixed(build_policy(model, name, {"heads": ["L0H2", "L1H0"]}), rows).weights
    change = (found - rows.logits.softmax(-1)).abs().amax((0, 2, 3))
    assert change[2] > 1e-3
    assert change[[0, 1, 3]].max() < 1e-6
    nobody = mixed(build_policy(model, name, {"heads": []}), rows).weights
    assert (nobody - rows.logits.softmax(-1)).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["temperature", "sink-removal"])
@pytest.mark.parametrize(("label", "said"), [("L9H0", "head 0 of layer 9"), ("L0H4", "head 4 of"), ("x", "not a head")])
def test_heads_that_do_not_exist_are_refused(
    tiny: Callable[[str], HookedModel], name: str, label: str, said: str
) -> None:
    with pytest.raises(HeadIndexError, match=said):
        build_policy(tiny("llama"), name, {"heads": [label]})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("temperature", {"temperature": 0}),
        ("length-scale", {"trained": 1}),
        ("sigmoid", {"bias": "short"}),
        ("off-by-one", {"null_logit": float("inf")}),
        ("sink-removal", {"which": "all"}),
        ("top-keys", {"keys": 0}),
        ("quest", {"page": 0}),
        ("longheads", {"chunks": 2}),
        ("hyper", {"bits": 40}),
    ],
)
def test_impossible_settings_are_refused(tiny: Callable[[str], HookedModel], name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        build_policy(tiny("llama"), name, given)
