"""MoA's search: first-order influence against the exact one, the choice against all choices, and known heads."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from circuits.policies import span_influence as module
from circuits.policies.catalog import build_policy
from circuits.policies.masks import Spans
from circuits.policies.policy import applied
from circuits.policies.search_settings import SpanSearchSettings
from circuits.policies.span_influence import SpanRules, span_influence
from circuits.policies.span_search import choose_spans, search_spans
from headscope.attention import AttentionCall, tap
from headscope.errors import ConfigError
from headscope.models.protocol import HookedModel
from headscope.tasks import build_repeated
from headscope.tasks.answers import AnswerBatch, prose_answers, repeated_answers

Tiny = Callable[[str], HookedModel]
Planted = Callable[..., HookedModel]


def texts(model: HookedModel, n: int = 2, size: int = 24, seed: int = 0) -> AnswerBatch:
    draw = torch.Generator().manual_seed(seed)
    return prose_answers(torch.randint(0, model.shape.d_vocab, (n, size), generator=draw))


def repeats(model: HookedModel, copies: int = 3) -> AnswerBatch:
    draw = torch.Generator().manual_seed(0)
    return repeated_answers(build_repeated(model, n=2, period=25, copies=copies, generator=draw))


def rules_of(*pairs: tuple[float, float], sink: int = 1) -> SpanRules:
    table = np.array(pairs, dtype=np.float32)
    return SpanRules(table[:, 0], table[:, 1], sink)


def slope_towards_the_cut(
    model: HookedModel, batch: AnswerBatch, rules: SpanRules, rule: int, layer: int, head: int
) -> np.ndarray:
    """d loss / d t at 0 of each example, where the head's z is moved by t towards what the rule gives."""
    cut, losses = dict[str, torch.Tensor](), list[np.ndarray]()
    everything = [torch.ones(model.shape.n_layers, model.shape.n_heads) for _ in range(2)]
    everything[0][layer, head], everything[1][layer, head] = float(rules.base[rule]), float(rules.slope[rule])

    def editor(call: AttentionCall, t: float) -> torch.Tensor:
        z = call.z.clone()
        if call.layer == layer:
            if not t:
                cut["z"] = z[:, head].clone()
            else:
                z[:, head] += t * (cut["z"] - z[:, head])
        return z

    with torch.no_grad():
        targets = batch.tokens[:, batch.rows + 1]
        with applied(model, Spans(*everything, rules.sink)), tap(model.plain, editor=lambda call: editor(call, 0.0)):
            model.plain.base_model(input_ids=batch.tokens, use_cache=False)
        for t in (0.02, -0.02):
            with tap(model.plain, editor=lambda call, t=t: editor(call, t)):
                losses.append(module._loss(model, batch, targets).numpy())
    return (losses[0] - losses[1]) / 0.04


@pytest.fixture
def model(tiny: Tiny) -> HookedModel:
    return tiny("llama")


@pytest.mark.parametrize("name", ["llama", "mistral, window 8"])
@pytest.mark.parametrize("chunk", [256, 7], ids=["at once", "in chunks"])
def test_the_window_estimate_is_the_slope_towards_the_cut(
    tiny: Tiny, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROW_CHUNK", chunk)
    model, rules = tiny(name), rules_of((3, 0.0), (2, 0.25))
    batch = texts(model)
    found = span_influence(model, batch, rules, supervision="text")
    for rule, layer, head in ((0, 0, 1), (1, 1, 2), (0, 2, 3)):
        wanted = slope_towards_the_cut(model, batch, rules, rule, layer, head)
        assert found[:, rule, layer, head] == pytest.approx(wanted, rel=0.02, abs=2e-3)
        assert np.abs(wanted).max() > 5e-3


def test_one_masked_key_per_row_is_the_same_alone_and_together(model: HookedModel) -> None:
    rules, batch = rules_of((-2, 1)), texts(model)
    window, cells = (span_influence(model, batch, rules, estimate=estimate) for estimate in ("window", "cells"))
    assert np.abs(window).max() > 1e-2
    assert cells == pytest.approx(window, rel=1e-3, abs=1e-5)


def test_cells_add_up(model: HookedModel) -> None:
    batch = texts(model)
    both = span_influence(model, batch, rules_of((-3, 1), sink=1), estimate="cells")
    first = span_influence(model, batch, rules_of((-2, 1), sink=1), estimate="cells")
    second = span_influence(model, batch, rules_of((-3, 1), sink=2), estimate="cells")
    assert both == pytest.approx(first + second, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("estimate", ["window", "cells", "exact"])
def test_what_masks_nothing_has_no_influence(model: HookedModel, estimate: module.Estimate) -> None:
    batch = texts(model, n=1, size=12)
    for rules in (rules_of((1, 1), (12, 0.0)), rules_of((2, 0.0), sink=30)):
        most = np.abs(span_influence(model, batch, rules, estimate=estimate)).max()
        assert most < 1e-6 if estimate == "exact" else most == 0


@pytest.mark.parametrize("supervision", ["model", "text"])
def test_the_estimate_orders_heads_as_the_exact_loss_does(planted: Planted, supervision: module.Supervision) -> None:
    """planted:induction, told what it says itself or what the text says: L1H0 alone needs to look a copy back."""
    model, rules = planted("induction"), rules_of((8, 0.0))
    batch = repeats(model, copies=2)
    exact = span_influence(model, batch, rules, estimate="exact", supervision=supervision)[:, 0].mean(0)
    assert exact[1, 0] > 3.0
    assert np.abs(np.delete(exact.ravel(), 4)).max() < 0.02
    for estimate in ("window", "cells"):
        found = span_influence(model, batch, rules, estimate=estimate, supervision=supervision)[:, 0].mean(0)
        assert found[1, 0] == found.max()
        assert found[1, 0] > 5 * np.sort(found.ravel())[-2]


def test_the_search_gives_the_far_looking_head_the_text(planted: Planted) -> None:
    model, batch = planted("induction"), repeats(planted("induction"))
    settings = SpanSearchSettings(sink=1, bases=(4, 8, 16), slopes=(0.0,), budget=0.25)
    seen = list[tuple[int, int]]()
    plan = search_spans(model, [batch], settings, on_step=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    spans = plan.spans(76)
    assert spans[1, 0] == 76
    assert np.delete(spans.ravel(), 4).max() <= 17
    assert plan.share(76) <= 0.25
    uniform = build_policy(model, "moa", {"sink": 1, "base": 18.0})
    with torch.no_grad():
        targets = batch.tokens[:, batch.rows + 1]
        whole = module._loss(model, batch, targets).mean()
        with applied(model, plan.policy()) as opened:
            cut = module._loss(model, batch, targets).mean()
        with applied(model, uniform):
            level = module._loss(model, batch, targets).mean()
    assert cut - whole < 0.02
    assert level - whole > 2.0  # the same cache, shared out evenly
    held = opened.tally.table(2).numpy()
    assert np.array_equal(held, plan.entries(76))


def test_groups_share_a_rule_where_the_cache_counts(planted: Planted) -> None:
    """planted:all, two query heads a group: a cache holds what its widest window needs."""
    model, batch = planted("all"), repeats(planted("all"), copies=2)
    settings = SpanSearchSettings(sink=1, bases=(4, 8), slopes=(0.0, 0.25), budget=0.4)
    plans = {
        count: search_spans(model, [batch], settings.model_copy(update={"count": count})) for count in ("cache", "keys")
    }
    shared = plans["cache"].spans(51).reshape(3, 4, 2)
    assert (shared[..., 0] == shared[..., 1]).all()
    assert shared[2, 1, 0] == 51  # the group of the induction head L2H3
    assert plans["cache"].share(51) <= 0.4
    apart = plans["keys"].spans(51)
    assert apart.mean() / 51 <= 0.4
    assert (plans["keys"].entries(51) == apart.reshape(3, 4, 2).max(-1)).all()
    assert plans["keys"].share(51) > apart.mean() / 51
    with applied(model, plans["keys"].policy()) as opened, torch.no_grad():
        model.plain.base_model(input_ids=batch.tokens, use_cache=False)
    assert np.array_equal(opened.tally.table(3).numpy(), plans["keys"].entries(51))


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_choice_is_the_best_of_all_choices(budget: float, seed: int) -> None:
    """Two lengths, four key/value heads, four rules: 256 plans, all tried."""
    rules, lengths = rules_of((4, 0.0), (16, 0.0), (-14, 0.75), (1, 1)), (32, 64)
    influence = np.random.default_rng(seed).exponential(size=(2, 4, 2, 4))
    influence[:, -1] = 0
    settings = SpanSearchSettings(budget=budget)
    plan = choose_spans(influence, rules, lengths, 2, settings)
    groups = influence.mean(0).reshape(4, 4, 2).sum(-1)
    best = np.inf
    for picked in itertools.product(range(4), repeat=4):
        held = [np.mean([rules.entries(length)[rule] / length for rule in picked]) for length in lengths]
        if max(held) <= budget:
            best = min(best, sum(groups[rule, group] for group, rule in enumerate(picked)))
    assert plan.influence == pytest.approx(best, rel=1e-3)
    assert all(plan.share(length) <= budget + 1e-6 for length in lengths)


def test_a_window_that_seems_to_help_is_worth_nothing_more() -> None:
    """Of rules without harm the shortest is taken, and none for its promise to lower the loss."""
    influence = np.zeros((1, 3, 1, 2))
    influence[0, :, 0, 0] = [0.5, -3.0, 0.0]
    plan = choose_spans(influence, rules_of((2, 0.0), (4, 0.0), (1, 1)), (32,), 2, SpanSearchSettings(budget=1.0))
    assert plan.spans(32).tolist() == [[5, 3]]
    assert plan.influence == 0


def test_a_plan_is_a_score_of_query_heads() -> None:
    plan = choose_spans(
        np.zeros((1, 2, 2, 4)), rules_of((3, 0.0), (1, 1)), (32,), 2, SpanSearchSettings(), n_examples=5
    )
    scores = plan.scores("made up", 32)
    assert scores.values == pytest.approx(np.full((2, 4), 4 / 32))
    assert scores.name == "moa_span"
    assert set(scores.n.ravel()) == {5}


def test_an_impossible_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"takes 0\.531 of it"):
        choose_spans(np.zeros((1, 1, 1, 2)), rules_of((16, 0.0)), (32,), 2, SpanSearchSettings(budget=0.5))


def test_a_search_without_texts_is_refused(model: HookedModel) -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        search_spans(model, [])
