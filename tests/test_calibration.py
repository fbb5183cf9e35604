"""Calibration from end to end: heads chosen where the right head is known, controls, and the numbers of a trial."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from circuits.calibration.act import Act, heads_in_range
from circuits.calibration.calibrator import AttentionCalibrator
from circuits.calibration.head_selection import select_heads
from circuits.calibration.judges import InContextJudge, Judge
from circuits.calibration.judging import answers_under, answers_under_each, margin_derivatives
from circuits.calibration.outputs import calibrated, calibration_change
from circuits.calibration.results import SINK_PLACES, Answers, Arm
from circuits.calibration.settings import CalibrationSettings, TrialSettings
from circuits.calibration.sink_places import before_and_after, is_punctuation, map_sinks, sinks_by_class
from circuits.calibration.trial import arms_of, compare, random_heads, run_arm, run_trial, summed_up
from circuits.policies.policy import applied
from circuits.policies.settings import ActSettings
from headscope.attention import AttentionCall, tap
from headscope.errors import HeadIndexError, TaskError, UnsupportedError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel
from headscope.statistics import mcnemar_p
from headscope.tasks.contrast import NO_TOKEN
from headscope.tasks.in_context import InContextBatch
from headscope.tasks.in_context_scores import label_scores, margins

Tiny = Callable[[str], BridgedModel]
SIZE, N, PLANTED = 14, 12, Head(1, 2)
ACT = ActSettings(alpha=1.3, keep_first=False, skip_first=0, skip_last=0)


@dataclass(frozen=True)
class LastToken:
    """Items of one row whose answers are single tokens behind the prompt: the smallest judge."""

    items: Tensor
    tokens: Tensor
    prompt_lengths: Tensor
    answers: Tensor
    labels: Tensor
    name: str = "last token"

    @property
    def groups(self) -> tuple[str, ...]:
        return ()

    @property
    def identities(self) -> frozenset[str]:
        return frozenset(str(row) for row in self.tokens.tolist())

    @property
    def item_of_row(self) -> Tensor:
        return torch.arange(len(self.items))

    @property
    def positions(self) -> Tensor:
        return (self.prompt_lengths - 1).unique()

    def parts(self, batch_size: int) -> Sequence[LastToken]:
        cuts = torch.arange(len(self.items)).split(batch_size)
        return [
            replace(self, items=at, tokens=self.tokens[at], prompt_lengths=self.prompt_lengths[at])._of(at)
            for at in cuts
        ]

    def _of(self, at: Tensor) -> LastToken:
        return replace(self, answers=self.answers[at], labels=self.labels[at])

    def scores(self, logits: Tensor) -> Tensor:
        where = torch.searchsorted(self.positions, self.prompt_lengths - 1)
        last = logits[torch.arange(len(logits)), where].float().log_softmax(-1)
        return last.gather(-1, self.answers)


def last_logits(model: BridgedModel, tokens: Tensor, lengths: Tensor, heads: Sequence[Head], settings: ActSettings):
    with torch.no_grad(), calibrated(model, heads, settings, lengths=lengths):
        return model.plain(input_ids=tokens, use_cache=False).logits[torch.arange(len(tokens)), lengths - 1]


def planted_task(model: BridgedModel, n: int = N, seed: int = 0) -> LastToken:
    """Two answers to each prompt that the model is nearly torn between; the right one wins as `PLANTED` is calibrated.

    The pair is one whose order calibrating that head turns round, so it is wrong without and right with it.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, model.shape.d_vocab, (n, SIZE), generator=generator)
    lengths = torch.randint(SIZE - 4, SIZE + 1, (n,), generator=generator)
    before = last_logits(model, tokens, lengths, [], ACT)
    gained = last_logits(model, tokens, lengths, [PLANTED], ACT) - before
    gap = before[:, :, None] - before[:, None]  # of a before b
    turn = gained[:, None] - gained[:, :, None]  # what b gains on a
    worth = torch.where((gap > 0) & (turn > 2 * gap), turn - 2 * gap, torch.tensor(-1.0)).flatten(1).argmax(-1)
    wrong, right = worth // gap.shape[1], worth % gap.shape[1]
    labels = torch.randint(0, 2, (n,), generator=generator)
    answers = torch.where((labels == 0)[:, None], torch.stack([right, wrong], 1), torch.stack([wrong, right], 1))
    return LastToken(torch.arange(n), tokens, lengths, answers, labels)


def settings_of(**selection: Any) -> CalibrationSettings:
    return CalibrationSettings.parse({"act": ACT.model_dump(), "selection": selection, "batch_size": 5})


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> BridgedModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def task(model: BridgedModel) -> LastToken:
    return planted_task(model)


def few_shot(model: BridgedModel, per_token: bool = True) -> InContextBatch:
    """Random prompts: item 0 has single-token answers in one row, item 1 longer ones, item 2 only two answers."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.shape.d_vocab, (6, 12), generator=generator)
    return InContextBatch(
        task="made up",
        tokens=tokens,
        lengths=torch.tensor([7, 10, 11, 12, 9, 9]),
        rows=torch.tensor([[0, 0, 0], [1, 2, 3], [4, 5, NO_TOKEN]]),
        answers=torch.tensor(
            [
                [[3, NO_TOKEN, NO_TOKEN], [4, NO_TOKEN, NO_TOKEN], [5, NO_TOKEN, NO_TOKEN]],
                [[6, NO_TOKEN, NO_TOKEN], [7, 8, NO_TOKEN], [9, 10, 11]],
                [[12, 13, NO_TOKEN], [14, 15, NO_TOKEN], [NO_TOKEN, NO_TOKEN, NO_TOKEN]],
            ]
        ),
        labels=torch.tensor([1, 2, 0]),
        groups=("", "a group", "another"),
        prompts=("one", "two", "three"),
        per_token=per_token,
    )


@pytest.mark.parametrize("per_token", [True, False], ids=["mean over tokens", "sum over tokens"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_few_shot_prompts_are_scored_as_their_task_scores_them(
    model: BridgedModel, batch_size: int, per_token: bool
) -> None:
    batch = few_shot(model, per_token)
    judge = InContextJudge(batch)
    assert isinstance(judge, Judge)
    found = answers_under(model, judge, (), ACT, batch_size=batch_size)
    with torch.no_grad():
        assert np.allclose(found.margins, margins(model, batch), atol=1e-5)
        assert found.predictions.tolist() == label_scores(model, batch).argmax(-1).tolist()
    assert judge.identities == {"one", "two", "three", "made up: a group", "made up: another"}


def test_sinks_of_few_shot_prompts_are_found_before_the_answer(model: BridgedModel) -> None:
    (part,) = InContextJudge(few_shot(model)).parts(3)
    assert part.items.tolist() == [0, 2, 1]  # by length
    assert dict(zip(part.tokens[:, 0].tolist(), part.prompt_lengths.tolist(), strict=True)) == dict(
        zip(few_shot(model).tokens[:, 0].tolist(), [7, 10, 10, 10, 8, 8], strict=True)
    )
    assert part.items[part.item_of_row].tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("base", [(), (Head(0, 1), Head(2, 3))], ids=["alone", "on top of others"])
def test_running_on_from_a_head_s_layer_gives_the_whole_run(
    model: BridgedModel, task: LastToken, base: tuple[Head, ...]
) -> None:
    heads = [Head(2, 0), Head(0, 3), PLANTED]
    first, each = answers_under_each(model, task, heads, ACT, base=base, batch_size=7)
    for found, chosen in zip([first, *each], [base, *((*base, head) for head in heads)], strict=True):
        whole = answers_under(model, task, chosen, ACT, batch_size=5)
        assert np.allclose(found.margins, whole.margins, atol=1e-5)
        assert np.array_equal(found.predictions, whole.predictions)


@pytest.mark.parametrize(
    "selection",
    [
        {"method": "per head", "top": 1},
        {"method": "per head", "criterion": "margin", "top": 1},
        {"method": "greedy", "prefilter": "per head", "candidates": 4},
        {"method": "greedy", "prefilter": "first-order", "candidates": 4, "top": 2},
        {"method": "first-order", "top": 1},
    ],
    ids=lambda given: ", ".join(map(str, given.values())),
)
def test_every_method_finds_the_head_that_is_known_to_help(
    model: BridgedModel, task: LastToken, selection: dict[str, Any]
) -> None:
    steps = list[tuple[int, int]]()
    found = select_heads(model, task, settings_of(**selection), on_step=lambda *step: steps.append(step))
    assert found.baseline.accuracy == 0
    assert answers_under(model, task, [PLANTED], ACT).accuracy == 1
    assert found.heads[0] == PLANTED
    assert len(found.heads) <= selection.get("top", 4)
    assert steps == sorted(steps)
    for score in found.scores:
        assert score.ranked()[0] == PLANTED
        assert (score.n == N).all()


def test_per_head_keeps_the_heads_that_strictly_help(model: BridgedModel, task: LastToken) -> None:
    settings = settings_of()
    found = select_heads(model, task, settings)
    alone = {head: answers_under(model, task, [head], ACT).accuracy for head in heads_in_range(model, ACT)}
    assert set(found.heads) == {head for head, accuracy in alone.items() if accuracy > 0}
    assert [alone[head] for head in found.heads] == sorted((alone[head] for head in found.heads), reverse=True)
    for head, accuracy in alone.items():
        assert found.scores[0].values[head] == pytest.approx(accuracy)
    narrow = settings.model_copy(update={"act": ACT.model_copy(update={"heads": ("L1H2", "L0H0")})})
    assert np.isfinite(select_heads(model, task, narrow).scores[0].values).sum() == 2


def test_greedy_steps_rise_and_end_where_nothing_rises(model: BridgedModel, task: LastToken) -> None:
    found = select_heads(model, task, settings_of(method="greedy", prefilter="first-order", candidates=6))
    reached = [(step.accuracy, step.margin) for step in found.steps]
    assert reached == sorted(reached)
    assert tuple(step.head for step in found.steps) == found.heads
    together = answers_under(model, task, found.heads, ACT)
    assert (together.accuracy, together.margin) == (reached[-1][0], pytest.approx(reached[-1][1], abs=1e-5))
    shortlist = found.scores[0].ranked()[:6]
    assert set(found.heads) <= set(shortlist)
    for head in set(shortlist) - set(found.heads):
        more = answers_under(model, task, (*found.heads, head), ACT)
        assert (more.accuracy, more.margin) <= (together.accuracy, together.margin + 1e-5)


def stepped(model: BridgedModel, task: LastToken, head: Head, size: float) -> np.ndarray:
    """Margins with z moved by ``size`` of its way to the calibrated z."""

    def editor(call: AttentionCall) -> Tensor:
        if call.layer != head.layer:
            return call.z
        z = call.z.clone()
        z[:, head.head] += size * calibration_change(call, [head.head], ACT, task.prompt_lengths)[:, 0]
        return z

    with tap(model.plain, editor=editor):
        return answers_under(model, task.parts(len(task.items))[0], (), ACT, batch_size=N).margins


def test_the_derivative_is_the_limit_of_differences(model: BridgedModel, task: LastToken) -> None:
    heads = [PLANTED, Head(0, 1), Head(2, 3), Head(0, 2)]
    baseline, found = margin_derivatives(model, task, heads, ACT, batch_size=32)
    assert np.allclose(baseline.margins, answers_under(model, task, (), ACT).margins, atol=1e-5)
    for head in heads:
        wanted = (stepped(model, task, head, 0.02) - stepped(model, task, head, -0.02)) / 0.04
        assert np.abs(found[:, head.layer, head.head] - wanted).max() < 2e-3 * max(1.0, np.abs(wanted).max())
    assert np.nanmax(np.abs(found)) > 0.05
    assert np.isnan(found[:, 1, 1]).all()


def test_the_calibrator_follows_fit_apply_score(model: BridgedModel, task: LastToken) -> None:
    calibrator = AttentionCalibrator(settings_of(top=1))
    with pytest.raises(UnsupportedError, match="call fit"):
        _ = calibrator.heads_
    assert calibrator.fit(model, task) is calibrator
    assert calibrator.heads_ == (PLANTED,)
    assert calibrator.scores_.values[PLANTED] == 1.0
    assert (calibrator.baseline_.accuracy, calibrator.score(model, task)) == (0.0, 1.0)
    with torch.no_grad(), calibrator.apply(model, lengths=task.prompt_lengths):
        logits = model.plain(input_ids=task.tokens, use_cache=False).logits
    last = logits[torch.arange(N), task.prompt_lengths - 1].log_softmax(-1)
    assert torch.equal(last.gather(-1, task.answers).argmax(-1), task.labels)


def test_a_calibrator_of_another_model_is_refused(tiny: Tiny, model: BridgedModel, task: LastToken) -> None:
    calibrator = AttentionCalibrator(settings_of(top=1)).fit(model, task)
    shallow = copy.copy(model)
    shallow.shape = replace(model.shape, n_layers=1)
    with pytest.raises(HeadIndexError, match="L1H2 does not exist"):
        calibrator.policy(shallow)
    with pytest.raises(UnsupportedError, match="cannot be calibrated"):
        calibrator.answers(tiny("gpt_neo, no registry"), task)


def answers(right: Sequence[bool], margin: float = 0.0) -> Answers:
    labels = np.zeros(len(right), dtype=np.int64)
    return Answers(np.where(right, 0, 1), np.full(len(right), margin), labels)


def test_an_arm_is_compared_item_by_item() -> None:
    before = answers([True] * 6 + [False] * 4)
    after = answers([True] * 4 + [False] * 2 + [True] * 3 + [False], 0.5)
    found = compare(Arm("x", "selected", (PLANTED,), 0.4), after, before)
    assert (found.gained, found.lost, found.n) == (3, 2, 10)
    assert (found.accuracy.mean, found.change.mean) == (pytest.approx(0.7), pytest.approx(0.1))
    assert found.change.low < 0.1 < found.change.high
    assert (found.margin_change.low, found.margin_change.high) == (0.5, 0.5)
    assert found.p_value == 1.0
    alike = compare(Arm("x", "selected", (PLANTED,), 0.4), after, replace(before, groups=(*"aaaaaabbbb",)))
    wide, narrow = (one.change.high - one.change.low for one in (alike, found))
    assert wide == pytest.approx(3 / 4 + 2 / 6)  # two groups: draws are one, the other or both
    assert narrow < wide
    itself = compare(Arm("baseline", "baseline", (), 1.0), before, before)
    assert (itself.change, itself.p_value) == ((0.0, 0.0, 0.0), 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (3, 8), (8, 3), (40, 22), (600, 700)])
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    wanted = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_p(gained, lost) == pytest.approx(wanted, rel=1e-9)


def test_random_heads_are_others_of_the_same_layers() -> None:
    candidates = [Head(layer, head) for layer in (2, 3, 4) for head in range(6)]
    chosen, generator = [Head(2, 1), Head(2, 4), Head(4, 0)], np.random.default_rng(0)
    sets = {random_heads(chosen, candidates, generator) for _ in range(50)}
    assert len(sets) > 10
    for drawn in sets:
        assert [head.layer for head in drawn] == [2, 2, 4]
        assert not set(drawn) & set(chosen)
        assert len(set(drawn)) == 3
    most = [Head(3, head) for head in range(4)]
    for drawn in (random_heads(most, candidates, generator) for _ in range(20)):
        assert len(set(drawn)) == 4
        assert {Head(3, 4), Head(3, 5)} < set(drawn)  # strangers first, then what is left


def test_a_trial_judges_the_selection_beside_its_controls(model: BridgedModel, task: LastToken) -> None:
    test, steps = planted_task(model, n=20, seed=9), list[tuple[int, int]]()
    settings = TrialSettings(calibration=settings_of(top=1), random_draws=3)
    trial = run_trial(
        model, task, test, settings, generator=np.random.default_rng(1), on_step=lambda *step: steps.append(step)
    )
    assert [result.arm.kind for result in trial.arms] == ["baseline", "selected", *["random"] * 3, "all", "opposite"]
    accuracy = {result.arm.name: result.answers.accuracy for result in trial.arms}
    assert (accuracy["baseline"], accuracy["selected heads"], accuracy["opposite"]) == (0.0, 1.0, 0.0)
    (selected,) = trial.of("selected")
    assert selected.p_value == mcnemar_p(20, 0)
    assert trial.p_random == 0.25
    assert trial.of("opposite")[0].arm.beta == 1.6
    assert trial.of("all")[0].arm.heads == heads_in_range(model, ACT)
    for result in trial.of("random"):
        assert [head.layer for head in result.arm.heads] == [PLANTED.layer]
        assert np.array_equal(
            result.answers.predictions, answers_under(model, test, result.arm.heads, ACT, batch_size=5).predictions
        )
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_a_trial_in_pieces_is_the_trial(model: BridgedModel, task: LastToken) -> None:
    test = planted_task(model, n=6, seed=9)
    settings = TrialSettings(calibration=settings_of(method="first-order", top=2), random_draws=2, opposite_beta=3.0)
    whole = run_trial(model, task, test, settings, generator=np.random.default_rng(1))
    chosen = select_heads(model, task, settings.calibration)
    arms = arms_of(chosen, settings, np.random.default_rng(1))
    found = [run_arm(model, test, arm, settings) for arm in arms]
    pieces = summed_up(model, test, chosen, arms, found, settings)
    for one, two in zip(whole.arms, pieces.arms, strict=True):
        assert (one.arm, one.accuracy, one.change, one.p_value) == (two.arm, two.accuracy, two.change, two.p_value)
    assert whole.of("opposite")[0].arm.beta == 3.0


def test_a_trial_without_chosen_heads_says_so(model: BridgedModel, task: LastToken) -> None:
    """Nothing can beat a model that is always right: the chosen set is empty and equals the baseline."""
    right = replace(task, labels=1 - task.labels)
    test = planted_task(model, n=6, seed=9)
    trial = run_trial(model, right, test, TrialSettings(calibration=settings_of()), generator=np.random.default_rng(0))
    assert trial.selection.baseline.accuracy == 1.0
    assert trial.selection.heads == ()
    assert [result.arm.kind for result in trial.arms] == ["baseline", "selected", "all", "opposite"]
    assert trial.of("selected")[0].change == (0.0, 0.0, 0.0)
    assert np.isnan(trial.p_random)


def test_a_test_set_that_selection_has_seen_is_refused(model: BridgedModel, task: LastToken) -> None:
    with pytest.raises(TaskError, match="share 12 items"):
        run_trial(model, task, task, TrialSettings(), generator=np.random.default_rng(0))


def dense_patterns(model: BridgedModel, tokens: Tensor) -> Sequence[Tensor]:
    """The library's own attention weights, per layer."""
    model.plain.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return model.plain(input_ids=tokens[None], output_attentions=True).attentions
    finally:
        model.plain.set_attn_implementation("sdpa")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(",", True), (" .", True), ("\n", True), ('?"', True), (" ", False), ("a.", False), ("+", False)],
)
def test_punctuation_is_told(text: str, wanted: bool) -> None:
    assert is_punctuation(text) == wanted


def test_sinks_are_counted_where_they_sit(model: BridgedModel) -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, model.shape.d_vocab, (3, SIZE), generator=generator)
    punctuation = torch.rand(3, SIZE, generator=generator) < 0.3
    lengths = torch.tensor([SIZE, 9, 12])
    found = map_sinks(model, tokens, ACT, lengths=lengths, punctuation=punctuation)
    counts, mass = np.zeros_like(found.counts), np.zeros_like(found.mass)
    patterns = [dense_patterns(model, row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    for text, length in enumerate(lengths.tolist()):
        for layer, head in np.ndindex(counts.shape[:2]):
            pattern = patterns[text][layer][0, head]
            for t in range(length):
                if pattern[t:, t].mean() > ACT.alpha / length:
                    marked = bool(punctuation[text, t])
                    place = "first" if t == 0 else "punctuation" if marked else "early" if t < 4 else "later"
                    counts[layer, head, SINK_PLACES.index(place)] += 1 / 3
                    mass[layer, head, SINK_PLACES.index(place)] += float(pattern[:, t].sum()) / length / 3
    assert np.allclose(found.counts, counts)
    assert np.allclose(found.mass, mass, atol=1e-5)
    assert (counts.sum((0, 1)) > 0).all()
    assert len(found.spots) == pytest.approx(3 * counts.sum())
    first, second = sinks_by_class(found, {"these": [Head(0, 0), Head(2, 1)], "none": [], "one": [PLANTED]})
    assert (first.n_heads, second.head_class) == (2, "one")
    assert np.allclose(first.counts, (counts[0, 0] + counts[2, 1]) / 2)


@pytest.mark.parametrize("sinks", ["prompt", "so far"])
def test_before_and_after_are_the_patterns_of_the_model_and_the_policy(model: BridgedModel, sinks: str) -> None:
    tokens = torch.randint(0, model.shape.d_vocab, (SIZE,), generator=torch.Generator().manual_seed(3))
    settings, patterns = ACT.model_copy(update={"sinks": sinks}), list[Any]()
    found = before_and_after(model, tokens, PLANTED, settings)
    policy = Act(settings, {PLANTED.layer: [PLANTED.head]})
    with torch.no_grad(), applied(model, policy), tap(model.plain, reader=lambda call: patterns.append(call.pattern)):
        model.plain.base_model(input_ids=tokens[None], use_cache=False)
    assert np.allclose(found.after, patterns[PLANTED.layer][0, PLANTED.head], atol=1e-6)
    assert len(found.tokens) == SIZE
    assert np.abs(found.after - found.before).max() > 0.01
    assert (found.after[found.sinks] <= found.before[found.sinks]).all()
