"""Evaluating policies: where they begin to act, how parts are weighed, which settings and heads an arm runs with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import circuits.policies.span_search as span_search_module
from circuits.policies.arms import RANDOM, SEARCHED, has_budget, plan_arms
from circuits.policies.catalog import POLICIES, build_policy
from circuits.policies.duo_gates import DUO_GATE
from circuits.policies.evaluation import evaluate, policy_of, settings_for
from circuits.policies.head_choice import RULES, split_by
from circuits.policies.head_split import HeadSplit, count_of, random_split
from circuits.policies.policy import Policy, RowPolicy, applied
from circuits.policies.razor_heads import ECHO, INDUCTION, razor_scores
from circuits.policies.results import Arm, Outcome
from circuits.policies.rows import Mixed, Rows
from circuits.policies.search_settings import RazorHeadSettings
from circuits.policies.span_plans import plan_spans
from circuits.policies.tasks import build_task
from headscope.errors import ConfigError, UnknownNameError
from headscope.heads import HeadScores, ScoreDefinition
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch, answer_score
from probes.census import PROBES
from probes.probe import Bench, no_progress

Tiny = Callable[[str], HookedModel]
Planted = Callable[..., HookedModel]
LENGTH, PROMPT, N = 16, 11, 5


def answers(model: HookedModel, n: int = N) -> AnswerBatch:
    """Random tokens; three rows count, from the prompt's last one on."""
    tokens = torch.randint(0, model.shape.d_vocab, (n, LENGTH), generator=torch.Generator().manual_seed(1))
    counted = torch.zeros_like(tokens, dtype=torch.bool)
    counted[:, PROMPT - 1 : PROMPT + 2] = True
    blank = ("",) * n
    return AnswerBatch(
        tokens, PROMPT, counted, torch.full_like(tokens, -1), blank, blank, (math.nan,) * n, measure="loss"
    )


class Watched(RowPolicy):
    """The model, with a note of the rows that it acted on and a cache as large as the number of the forward pass."""

    name = "watched"

    def __init__(self, *, eager: bool) -> None:
        self.eager = eager  # pyright: ignore[reportAttributeAccessIssue]
        self.acted = set[int]()
        self.passes = 0

    def mix(self, rows: Rows) -> Mixed:
        self.acted |= set(rows.positions.tolist())
        self.passes += rows.layer == 0
        held = torch.full((*rows.key.shape[:2], rows.query.shape[2]), self.passes)
        return Mixed.over(rows, rows.causal[None, None], kept=held)


@pytest.fixture
def model(tiny: Tiny) -> HookedModel:
    return tiny("llama")


@pytest.mark.parametrize(
    ("eager", "first", "regime"), [(True, 0, "always"), (False, PROMPT - 1, "after the prompt")], ids=["eager", "late"]
)
def test_a_policy_acts_on_every_row_that_an_answer_comes_from(
    model: HookedModel, eager: bool, first: int, regime: str
) -> None:
    policy = Watched(eager=eager)
    found = evaluate(model, Arm("watched"), answers(model), task="text", policy=policy)
    assert policy.acted == set(range(first, LENGTH))
    assert found.regime == regime


def test_the_first_token_of_an_answer_is_under_a_late_policy(model: HookedModel) -> None:
    batch, policy = answers(model), build_policy(model, "h2o", {"heavy": 1, "recent": 1})
    found = evaluate(model, Arm("h2o"), batch, task="text", policy=policy)
    with torch.no_grad():
        for from_row, is_it in ((PROMPT - 1, True), (PROMPT, False)):
            with applied(model, policy, from_row=from_row):
                values = answer_score(model.logits(batch.tokens, rows=batch.rows), batch).double().numpy()
            assert np.allclose(found.values, values, atol=1e-5) == is_it


def test_parts_count_by_their_examples(model: HookedModel) -> None:
    """Five examples as 2 + 2 + 1, with caches of 1, 2 and 3 entries."""
    batch, steps = answers(model), list[tuple[int, int]]()

    def step(done: int, total: int) -> None:
        steps.append((done, total))

    policy = Watched(eager=True)
    found = evaluate(
        model, Arm("watched"), batch, task="text", policy=policy, tokens_per_forward=2 * LENGTH + 3, on_step=step
    )
    per_entry = model.shape.n_layers * model.shape.n_kv_heads * 2 * model.shape.d_head * 4
    assert steps == [(2, 5), (4, 5), (5, 5)]
    assert found.kv_bytes == pytest.approx((2 * 1 + 2 * 2 + 1 * 3) / 5 * per_entry)
    assert found.full_bytes == pytest.approx(LENGTH * per_entry)
    whole = evaluate(model, Arm("watched"), batch, task="text", policy=Watched(eager=True))
    assert np.allclose(found.values, whole.values, atol=1e-5)
    assert len(np.unique(whole.values.round(4))) == N


def test_a_record_holds_every_setting_that_ran(model: HookedModel) -> None:
    arm = Arm("streaming", {"positions": "text"}, budget=0.5)
    policy = policy_of(model, arm, length=LENGTH)
    found = evaluate(model, arm, answers(model), task="text", policy=policy)
    assert found.effective == {"sink": 2, "recent": 6, "positions": "text"}
    again = Outcome.from_record(found.to_record(), found.values)
    assert (again.effective, again.arm.settings) == (found.effective, {"positions": "text"})
    older = {name: value for name, value in found.to_record().items() if name != "effective"}
    assert Outcome.from_record(older, found.values).effective == {}


class Judged(Bench):
    """A bench whose text for choosing heads must not be asked for."""

    @property
    def haystack(self) -> str:
        raise AssertionError("a task was built from the text that heads are chosen on")


@pytest.mark.parametrize("task", ["needle", "repeated", "text", "code"])
def test_tasks_are_not_made_of_the_text_that_heads_are_chosen_on(planted: Planted, task: str) -> None:
    batch = build_task(Judged(planted("all")), task, length=64, n=2)
    assert batch.tokens.shape[0] == 2


@pytest.mark.parametrize("task", ["needle", "text"])
def test_the_held_out_text_is_what_tasks_are_made_of(
    planted: Planted, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(planted("all"))
    before = build_task(bench, task, length=64, n=2).tokens
    assert torch.equal(build_task(bench, task, length=64, n=2).tokens, before)
    monkeypatch.setattr(Bench, "held_out", property(lambda self: self.haystack))
    assert not torch.equal(build_task(bench, task, length=64, n=2).tokens, before)


def arms(*policies: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Arm]:
    return plan_arms(
        policies,
        budgets=(0.25, 0.5),
        shares=(0.1, 0.3),
        rules=("razor", "retrieval"),
        draws=2,
        window=0.125,
        options=options or {},
    )


def test_arms_of_every_sort_of_policy() -> None:
    found = arms("full", "streaming", "duo", "moa", "off-by-one", options={"streaming": {"positions": "text"}})
    assert [(arm.policy, arm.rule, arm.share, arm.budget, arm.draw) for arm in found if arm.policy == "duo"] == [
        ("duo", rule, share, 0.125, draw)
        for share in (0.1, 0.3)
        for rule, draw in (("razor", -1), ("retrieval", -1), (RANDOM, 0), (RANDOM, 1))
    ]
    assert (found[0].policy, found[0].curve) == ("full", "full")
    assert sum(arm.policy == "full" for arm in found) == 1
    streaming = [arm for arm in found if arm.policy == "streaming"]
    assert [(arm.budget, arm.settings) for arm in streaming] == [
        (0.25, {"positions": "text"}),
        (0.5, streaming[0].settings),
    ]
    moa = [arm for arm in found if arm.policy == "moa"]
    assert [(arm.budget, arm.rule) for arm in moa] == [(0.25, ""), (0.5, ""), (0.25, SEARCHED), (0.5, SEARCHED)]
    (softmax,) = [arm for arm in found if arm.policy == "off-by-one"]
    assert math.isnan(softmax.budget)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "streaming": ("streaming", {"recent": 128}, "recent=128.*--budgets"),
    "h2o": ("h2o", {"recent": 4}, "recent=4.*--budgets"),
    "snapkv": ("snapkv", {"budget": 100}, "budget=100.*--budgets"),
    "top keys": ("top-keys", {"keys": 9}, "keys=9.*--budgets"),
    "pages": ("quest", {"page": 4, "pages": 9}, "pages=9.*--budgets"),
    "slope": ("moa", {"slope": 0.5}, "slope=0.5.*--budgets"),
    "duo": ("duo", {"recent": 99}, "recent=99.*window"),
    "razor": ("razor", {"recent_share": 0.5}, "recent_share=0.5.*window"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_option_that_the_budget_decides_is_refused(case: str) -> None:
    name, given, said = REFUSED[case]
    with pytest.raises(ConfigError, match=f"{name}: the option {said}"):
        arms(name, options={name: given})
    with pytest.raises(ConfigError, match=f"{name}: the option {said}"):
        settings_for(name, given, budget=0.25, length=512)
    own = settings_for(name, given, budget=math.nan, length=512)
    assert {key: getattr(own, key) for key in given} == given


FOLLOWED: dict[str, dict[str, Any]] = {
    "streaming": {"sink": 2, "positions": "text"},
    "lm-infinite": {"ceiling": 300},
    "snapkv": {"window": 8, "kernel": 3},
    "d2o": {"layer_budgets": (10, 30)},
    "lserve": {"pages": 7, "sink": 3},
    "razor": {"recent_share": 0.0, "compensate": False},
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_options_that_a_budget_leaves_are_followed(name: str) -> None:
    assert len(arms(name, options={name: FOLLOWED[name]})) > 1
    found = settings_for(name, FOLLOWED[name], budget=0.25, length=512)
    for key, value in FOLLOWED[name].items():
        assert getattr(found, key) == ((64, 192) if key == "layer_budgets" else value)


@pytest.mark.parametrize("budget", [1, 3, 4, 10, 30])
@pytest.mark.parametrize("name", ["streaming", "lm-infinite", "moa", "razor", "duo", "h2o", "tova"])
def test_a_budget_is_what_a_cache_holds_in_the_end(model: HookedModel, name: str, budget: int) -> None:
    shape = model.shape
    tokens = torch.randint(0, shape.d_vocab, (1, 40), generator=torch.Generator().manual_seed(0))
    split = HeadSplit(np.zeros((shape.n_layers, shape.n_kv_heads), dtype=bool), "none")
    settings = POLICIES[name].settings().sized(budget)
    policy: Policy = build_policy(model, name, settings, split if POLICIES[name].needs_split else None)
    with torch.no_grad(), applied(model, policy) as opened:
        model.logits(tokens)
    assert (opened.tally.table(shape.n_layers) == budget).all()


def test_every_policy_with_a_budget_takes_a_small_one() -> None:
    for kind in POLICIES.values():
        if has_budget(kind):
            for budget in (1, 2, 7):
                sized = kind.settings().sized(budget)
                assert kind.settings.parse(sized.model_dump()) == sized, kind.name


def test_a_ceiling_inside_the_window_is_refused() -> None:
    kind = POLICIES["lm-infinite"].settings
    with pytest.raises(ConfigError, match=r"ceiling .8. is at least recent .20."):
        kind.parse({"ceiling": 8, "recent": 20})
    assert kind.parse({"ceiling": 8}).model_dump() == {"sink": 10, "recent": 8, "ceiling": 8}
    assert kind.parse({"ceiling": 50}).sized(100).model_dump() == {"sink": 10, "recent": 90, "ceiling": 90}
    assert kind.parse({"ceiling": 500}).sized(100).model_dump() == {"sink": 10, "recent": 90, "ceiling": 500}
    assert kind.parse({}).sized(100).model_dump() == {"sink": 10, "recent": 90, "ceiling": None}


def table(definition: ScoreDefinition, strong: Mapping[tuple[int, int], float]) -> HeadScores:
    """Scores of 5 x 8 query heads, two to a key/value head."""
    values = np.zeros((5, 8))
    for head, value in strong.items():
        values[head] = value
    blank, n = np.full(values.shape, np.nan), np.ones(values.shape, dtype=np.int64)
    return HeadScores(definition, "made up", values, blank, blank, n, 4)


SCORES = {
    definition.name: table(definition, strong)
    for definition, strong in (
        (DUO_GATE, {(0, 0): 0.9, (0, 1): 0.9, (1, 2): 0.8, (1, 3): 0.8}),
        (ECHO, {(2, 4): 0.9, (2, 6): 0.8}),
        (INDUCTION, {(2, 5): 0.9, (3, 1): 0.8, (3, 3): 0.7}),
        (PROBES["retrieval"].definitions[0], {(4, 0): 0.9, (4, 7): 0.8}),
        (PROBES["induction"].definitions[0], {(0, 6): 0.9, (3, 2): 0.8}),
    )
}
STRONGEST = {
    "duo-gate": [(0, 0), (1, 1)],
    "razor": [(2, 2), (3, 0)],  # the echo head is the first induction head too, and made up for
    "retrieval": [(4, 0), (4, 3)],
    "induction": [(0, 3), (3, 1)],
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_reads_its_own_scores(rule: str) -> None:
    split = split_by(rule, SCORES, 0.1)
    assert [tuple(map(int, head)) for head in np.argwhere(split.full)] == STRONGEST[rule]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no rule is called"):
        split_by("best", SCORES, 0.1)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
def test_random_heads_are_as_many_as_those_of_every_rule(planted: Planted, share: float) -> None:
    echo, induction = razor_scores(planted("all"), RazorHeadSettings(period=8, examples=1))
    n_layers, n_kv_heads = echo.n_layers, echo.n_kv_heads
    drawn = random_split(n_layers, n_kv_heads, share, np.random.default_rng(0))
    chosen = split_by("razor", {ECHO.name: echo, INDUCTION.name: induction}, share)
    assert chosen.count == drawn.count == count_of(share, n_layers * n_kv_heads)
    assert {split_by(rule, SCORES, share).count for rule in RULES} == {count_of(share, 20)}


def test_random_draws_differ_and_keep_their_number() -> None:
    splits = [random_split(5, 8, 0.25, np.random.default_rng([7, draw])).full for draw in range(4)]
    assert {int(full.sum()) for full in splits} == {10}
    assert len({full.tobytes() for full in splits}) == 4
    again = random_split(5, 8, 0.25, np.random.default_rng([7, 2])).full
    assert np.array_equal(again, splits[2])


def test_a_budget_without_a_plan_is_told(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, told = Bench(planted("all")), list[str]()
    shape = bench.model.shape

    def influence(*given: Any, **_: Any) -> np.ndarray:
        return np.zeros((1, len(given[2].base), shape.n_layers, shape.n_heads))

    monkeypatch.setattr(span_search_module, "span_influence", influence)
    plans = plan_spans(bench, (0.01, 0.9), lengths=(64,), examples=1, on_step=no_progress, on_left_out=told.append)
    assert list(plans) == [0.9]
    assert len(told) == 1
    assert "1.0% of the text" in told[0]
