"""DuoAttention's gates: the loss and its gradient, the optimiser, and heads that are known to look far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from circuits.policies import windowed_attention
from circuits.policies.duo_gates import GateTraining, gate_rate
from circuits.policies.gate_texts import passkey_batches
from circuits.policies.head_split import HeadSplit, strongest_split
from circuits.policies.masks import Duo
from circuits.policies.policy import applied
from circuits.policies.search_settings import GateSettings, PasskeySettings
from headscope.errors import ConfigError, UnsupportedError
from headscope.models.planted.vocabulary import RARE_WORDS
from headscope.models.protocol import HookedModel
from headscope.tasks import build_repeated, load_haystack
from headscope.tasks.answers import AnswerBatch, prose_answers, repeated_answers
from headscope.tasks.passkeys import PasskeyForm

Tiny = Callable[[str], HookedModel]
Planted = Callable[..., HookedModel]
CUT = GateSettings(sink=2, recent=5, steps=10)


def texts(model: HookedModel, n: int = 2, size: int = 24, seed: int = 0) -> AnswerBatch:
    """Random tokens; every position but the first is a label."""
    draw = torch.Generator().manual_seed(seed)
    return prose_answers(torch.randint(0, model.shape.d_vocab, (n, size), generator=draw))


def repeats(model: HookedModel, seed: int = 0) -> Iterator[AnswerBatch]:
    """Random tokens said three times, farther apart than the windows of these tests."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield repeated_answers(build_repeated(model, n=1, period=25, copies=3, generator=draw))


@pytest.fixture
def model(tiny: Tiny) -> HookedModel:
    return tiny("llama")


def at(training: GateTraining, seed: int) -> GateTraining:
    """The same with gates drawn between 0.2 and 0.8."""
    with torch.no_grad():
        drawn = torch.rand(training.alpha.shape, generator=torch.Generator().manual_seed(seed))
        training.alpha.copy_(0.2 + 0.6 * drawn)
    return training


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral, window 8"])
def test_open_gates_are_the_model(tiny: Tiny, name: str) -> None:
    model = tiny(name)
    distance, penalty, gradient = GateTraining(model, CUT).losses(texts(model))
    assert distance == 0
    assert penalty == pytest.approx(CUT.penalty)
    assert gradient.numpy() == pytest.approx(np.full(gradient.shape, CUT.penalty / gradient.numel()))


@pytest.mark.parametrize("name", ["llama", "mistral, window 8"])
def test_gates_of_zero_and_one_are_the_policy(tiny: Tiny, name: str) -> None:
    """What the gates train for is what the split is deployed as."""
    model, batch = tiny(name), texts(tiny(name))
    split = HeadSplit(np.array([[True, False], [False, True], [False, False]]), "some")
    training = GateTraining(model, CUT)
    with torch.no_grad():
        training.alpha.copy_(torch.from_numpy(split.full))
        run = lambda: model.plain.base_model(input_ids=batch.tokens, use_cache=False).last_hidden_state  # noqa: E731
        whole = run()
        with applied(model, Duo(split, CUT.sink, CUT.recent)):
            cut = run()
    wanted = (whole - cut)[batch.labels].square().mean(-1).mean()
    assert training.losses(batch)[0] == pytest.approx(float(wanted), rel=1e-4)


def test_long_texts_are_attended_in_chunks(model: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    training, batch = at(GateTraining(model, CUT), 1), texts(model)
    distance, _, gradient = training.losses(batch)
    monkeypatch.setattr(windowed_attention, "_ROW_CHUNK", 7)
    chunked, _, same = training.losses(batch)
    assert chunked == pytest.approx(distance, rel=1e-5)
    assert same.numpy() == pytest.approx(gradient.numpy(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("rows", ["labels", "counted"])
def test_the_gradient_is_that_of_finite_differences(model: HookedModel, rows: str) -> None:
    settings = GateSettings.parse({"sink": 1, "recent": 4, "penalty": 0.3, "rows": rows})
    training, batch = at(GateTraining(model, settings), 0), texts(model, n=1, size=14)
    gradient = training.losses(batch)[2]
    for cell in ((0, 0), (1, 1), (2, 0)):
        ends = []
        for shift in (1e-2, -1e-2):
            with torch.no_grad():
                training.alpha[cell] += shift
                ends.append(sum(training.losses(batch)[:2]))
                training.alpha[cell] -= shift
        assert float(gradient[cell]) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.02, abs=2e-4)


def test_recomputing_layers_changes_nothing_and_leaves_nothing(model: HookedModel) -> None:
    batch = texts(model)
    kept = at(GateTraining(model, CUT), 2).losses(batch)
    saved = at(GateTraining(model, CUT.model_copy(update={"checkpoint": True})), 2).losses(batch)
    assert saved[0] == kept[0]
    assert saved[2].numpy() == pytest.approx(kept[2].numpy(), rel=1e-5)
    assert all("forward" not in block.__dict__ for block in model.blocks)


def test_only_label_positions_count(model: HookedModel) -> None:
    """The distance is the mean over labels: of two batches that differ in labels alone, and of both together."""
    batch = texts(model)
    training = at(GateTraining(model, CUT), 3)
    halves = [torch.zeros_like(batch.counted) for _ in range(2)]
    halves[0][:, :6], halves[1][:, 15:18] = True, True
    one, two = (training.losses(replace(batch, counted=half))[0] for half in halves)
    both = training.losses(replace(batch, counted=halves[0] | halves[1]))[0]
    assert both == pytest.approx((6 * one + 3 * two) / 9, rel=1e-5)
    with pytest.raises(ConfigError, match="no position"):
        training.losses(replace(batch, counted=torch.zeros_like(batch.counted)))


def test_the_penalty_alone_closes_all_gates(model: HookedModel) -> None:
    """In a text within the window nothing speaks for a gate; the steps that a constant gradient takes are the rate."""
    settings = GateSettings(sink=2, recent=50, steps=30, rate=0.1)
    training, seen = GateTraining(model, settings), list[float]()
    scores = training.train((texts(model) for _ in range(30)), lambda step: seen.append(step.penalty))
    assert scores.values.max() == 0
    assert seen[0] == pytest.approx(0.05)
    assert seen == sorted(seen, reverse=True)
    moved = 1 - sum(gate_rate(settings, step) for step in range(5))
    assert seen[5] == pytest.approx(0.05 * moved, rel=1e-3)


def test_the_sum_penalises_layers_times_heads_as_much(model: HookedModel) -> None:
    batch, sizes = texts(model), dict[str, float]()
    for penalise in ("mean", "sum"):
        training = at(GateTraining(model, CUT.model_copy(update={"penalise": penalise})), 4)
        sizes[penalise] = training.losses(batch)[1]
    assert sizes["sum"] == pytest.approx(6 * sizes["mean"])


def test_the_rate_rises_and_falls_as_in_the_release() -> None:
    settings = GateSettings()
    rates = [gate_rate(settings, step) for step in range(2000)]
    assert rates[0] == pytest.approx(0.002)
    assert rates[199] == pytest.approx(0.01)
    assert rates[399] == rates[1000] == rates[1600] == pytest.approx(0.02)
    assert rates[1800] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.002)


def test_a_training_taken_up_again_is_the_uninterrupted_one(model: HookedModel) -> None:
    batches = [texts(model, seed=seed) for seed in range(6)]
    settings = GateSettings(sink=1, recent=4, steps=6, rate=0.2)
    whole = GateTraining(model, settings)
    whole.train(batches)
    first = GateTraining(model, settings)
    for batch in batches[:3]:
        first.step(batch)
    second = GateTraining.from_state(model, first.state(), settings)
    second.train(batches[3:])
    assert all(torch.equal(part, second.state()[name]) for name, part in whole.state().items())
    assert 0 < float(whole.alpha.detach().min()) < float(whole.alpha.detach().max()) <= 1
    assert second.scores().n.max() == 12


def test_gates_stay_inside_their_range(model: HookedModel) -> None:
    """The step may lead outside; no forward pass sees that, and no score."""
    settings = GateSettings(sink=1, recent=4, steps=4, rate=0.9, penalty=5.0)
    training = GateTraining(model, settings)
    for _ in range(3):
        training.step(texts(model))
    assert float(training.alpha.detach().min()) < 0
    assert training.scores().values.min() == 0


def test_gates_of_another_model_are_refused(model: HookedModel, planted: Planted) -> None:
    with pytest.raises(ConfigError, match=r"\(3, 2\).*\(2, 4\)"):
        GateTraining.from_state(planted("induction"), GateTraining(model).state())


def test_what_cannot_be_trained_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedError, match="caps its attention logits"):
        GateTraining(tiny("gemma2, window 8, capped"), CUT).step(texts(tiny("gemma2, window 8, capped")))
    with pytest.raises(UnsupportedError, match="attention registry"):
        GateTraining(tiny("gpt_neo, no registry"))


def test_too_few_texts_are_refused(model: HookedModel) -> None:
    with pytest.raises(ConfigError, match="after 2 of 10 steps"):
        GateTraining(model, CUT).train([texts(model)] * 2)


def test_bfloat16_weights_train_gates_in_float32(tiny: Tiny) -> None:
    import copy

    model = copy.copy(tiny("llama"))
    model.plain = copy.deepcopy(model.plain).to(torch.bfloat16)
    training = GateTraining(model, CUT)
    first, second = (training.step(texts(model, seed=seed)) for seed in range(2))
    assert first.distance == 0
    assert second.distance > 0
    assert training.alpha.dtype == torch.float32
    assert 0 < float((1 - training.alpha.detach()).abs().max()) < 0.1


def test_the_head_that_looks_far_keeps_its_gate(planted: Planted) -> None:
    """planted:induction: L1H0 looks a copy back, beyond the window; the previous-token head and the random ones do not
    need to."""
    model = planted("induction")
    training = GateTraining(model, GateSettings(sink=1, recent=10, steps=40, rate=0.1, penalty=0.005))
    scores = training.train(islice(repeats(model), 40))
    assert scores.values[1, 0] > 0.6
    assert np.delete(scores.values.ravel(), 4).max() < 0.05
    assert strongest_split(scores, 1 / 8).full[1, 0]


def test_passkeys_are_the_same_from_any_step_on(planted: Planted) -> None:
    model, text = planted("all"), load_haystack()
    form = PasskeyForm("the {ordinal} song spells", "what does the {ordinal} song say ? the song spells", RARE_WORDS)
    settings = PasskeySettings(shortest=100, longest=160, lengths=3, passkeys=1, words=3)
    whole = list(islice(passkey_batches(model, text, settings, form=form), 4))
    again = list(islice(passkey_batches(model, text, settings, start=2, form=form), 2))
    assert all(torch.equal(one.tokens, two.tokens) for one, two in zip(whole[2:], again, strict=True))
    assert {batch.tokens.shape[1] for batch in whole} <= {100, 130, 160}
    assert len({tuple(batch.tokens.flatten().tolist()) for batch in whole}) == 4
