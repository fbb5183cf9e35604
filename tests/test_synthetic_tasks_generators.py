"""Synthetic tasks with a chain, an automaton, vectors or text behind them: targets and distributions by naive means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope.errors import TaskError, UnknownNameError
from headscope.tasks import documentation_text
from headscope.tasks.bigram_backcopy import BigramBackcopy, dirichlet_bigrams, statement_characters, text_bigrams
from headscope.tasks.documentation_text import DocumentationText
from headscope.tasks.domains import domain_text
from headscope.tasks.in_context_classification import InContextClassification
from headscope.tasks.linear_regression import LinearRegression, gradient_step, ridge
from headscope.tasks.regular_languages import RandomAutomata, RegularLanguages
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch
from headscope.tasks.synthetic_catalog import make_task


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


# regular languages


def languages(**settings: int) -> RegularLanguages:
    """The task, small."""
    small = {"symbols": 8, "most_states": 6, "fewest_strings": 3, "most_strings": 5, "longest": 6, "length": 40}
    task = make_task("regular-languages", **(small | settings))
    assert isinstance(task, RegularLanguages)
    return task


def edges_of(automata: RandomAutomata, example: int) -> list[dict[int, int]]:
    """Symbol -> next state, for each state."""
    return [
        dict(zip(symbols[:count], states[:count], strict=True))
        for symbols, states, count in zip(
            automata.symbol[example].tolist(),
            automata.to[example].tolist(),
            automata.edges[example].tolist(),
            strict=True,
        )
    ]


def test_automata_are_those_of_the_paper() -> None:
    task = make_task("regular-languages")
    assert isinstance(task, RegularLanguages)
    automata = task.automata(400, seeded())
    reached: Counter[int] = Counter()
    fan_out: Counter[int] = Counter()
    for example in range(400):
        edges = edges_of(automata, example)
        seen, todo = {0}, [0]
        while todo:
            new = set(edges[todo.pop()].values()) - seen
            seen |= new
            todo += new
        reached[max(seen) + 1] += 1
        for state in seen:
            count = int(automata.edges[example, state])
            assert len(edges[state]) == count  # symbols are different
            assert len(set(edges[state].values())) == count  # and so are next states
            assert state not in edges[state].values()
        fan_out.update(automata.edges[example].tolist())
        assert len({symbol for state in range(12) for symbol in edges[state]}) <= 18
    assert max(reached) == 12
    assert set(fan_out) == {1, 2, 3}
    assert all(abs(count / 4800 - 1 / 3) < 5 * (2 / 9 / 4800) ** 0.5 for count in fan_out.values())


def test_states_and_alphabets_have_every_size() -> None:
    task = languages(fewest_states=4, most_states=6, fewest_symbols=4, symbols=6)
    automata = task.automata(500, seeded())
    states = Counter((automata.to.flatten(1).max(1).values + 1).tolist())
    assert set(states) <= {4, 5, 6}  # the highest state may be missed by chance, a higher one is never led to
    assert all(states[size] > 100 for size in (4, 5, 6))
    alphabets = Counter(len(set(symbols)) for symbols in automata.symbol.flatten(1).tolist())
    assert set(alphabets) == {4, 5, 6}
    assert all(abs(count / 500 - 1 / 3) < 5 * (2 / 9 / 500) ** 0.5 for count in alphabets.values())


def test_every_text_is_made_by_its_automaton_and_only_legal_symbols_are_marked() -> None:
    task, bar, pad = languages(), 8, 9
    batch = task.batch(200, seeded())
    automata = task.automata(200, seeded())  # the first thing that a batch draws
    assert batch.tokens is not None
    strings: list[int] = []
    sizes: Counter[int] = Counter()
    for example, (tokens, targets) in enumerate(zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)):
        edges, state, size = edges_of(automata, example), 0, 0
        for place, (token, target) in enumerate(zip(tokens, targets, strict=True)):
            if token == pad:
                assert target == NOTHING_ASKED
                assert batch.marks["state"][example, place] == -1
                assert not batch.marks["legal"][example, place].any()
                continue
            if token == bar:
                state = 0
                sizes[size] += 1
                size = 0
            else:
                state, size = edges[state][token], size + 1
            assert batch.marks["state"][example, place] == state
            assert set(batch.marks["legal"][example, place].nonzero().flatten().tolist()) == set(edges[state])
            assert target == (NOTHING_ASKED if place + 1 < 40 and tokens[place + 1] == pad else target)
            if target in range(8):
                assert target in edges[state]
            if place + 1 < 40 and tokens[place + 1] != pad:
                assert target == tokens[place + 1]
        strings.append(tokens.count(bar) + 1)
        assert tokens[0] < bar
        assert "".join(map(str, tokens)).find(f"{bar}{bar}") < 0
    assert set(strings) == {3, 4, 5}
    assert set(sizes) == {1, 2, 3, 4, 5, 6}


def test_long_texts_are_cut() -> None:
    batch = languages(length=10).batch(50, seeded())
    assert batch.tokens is not None
    assert batch.tokens.shape == (50, 10)
    assert (batch.targets[:, :-1] == batch.tokens[:, 1:])[batch.is_asked[:, :-1]].all()


def test_legal_predictions_are_right_and_bars_are_not_judged() -> None:
    task = languages()
    batch = task.batch(60, seeded())
    legal = batch.marks["legal"].float()
    another_legal = (legal * torch.rand(legal.shape, generator=seeded(5))) * 100
    assert task.accuracy(another_legal, batch) == 1.0
    assert task.accuracy(-another_legal - 100 * legal, batch) == 0.0
    judged = task.judged(batch)
    assert (batch.targets[judged] < 8).all()
    assert (batch.targets[batch.is_asked & ~judged] == 8).all()


def test_total_variation_by_hand() -> None:
    task = languages()
    batch = task.batch(30, seeded())
    legal = batch.marks["legal"].double()
    perfect = (legal / legal.sum(-1, keepdim=True)).clamp(min=1e-30).log()
    assert task.total_variation(perfect, batch) == pytest.approx(0, abs=1e-9)
    counts = legal.sum(-1)[task.judged(batch)]
    uniform = float((1 - counts / 10).mean())  # the model's mass on what cannot come
    assert task.total_variation(torch.zeros(30, 40, 10), batch) == pytest.approx(uniform)
    bars = torch.zeros(30, 40, 10).index_fill(2, torch.tensor([8]), 100.0)
    assert task.total_variation(bars, batch) == pytest.approx(1.0)


def test_edges_are_taken_equally_often() -> None:
    automata = RandomAutomata(
        torch.tensor([[[0, 1, 2], [3, 4, 5]]]), torch.tensor([[[1, 1, 1], [0, 0, 0]]]), torch.tensor([[3, 2]])
    )
    symbol, state = automata.step(torch.tensor([[0] * 3000 + [1] * 3000]), torch.rand(1, 6000, generator=seeded()))
    seen = Counter(symbol[0].tolist())
    assert set(seen) == {0, 1, 2, 3, 4}
    assert state[0].tolist() == [1] * 3000 + [0] * 3000
    shares = [(token, 1 / 3) for token in (0, 1, 2)] + [(token, 1 / 2) for token in (3, 4)]
    assert all(abs(seen[token] / 3000 - share) < 5 * (share * (1 - share) / 3000) ** 0.5 for token, share in shares)


# Bigram-Backcopy


def test_bigrams_of_the_text_are_its_counts() -> None:
    text, characters = domain_text("opinions"), statement_characters()
    counted = Counter(zip(text, text[1:] + text[0], strict=True))
    starts = Counter(text)
    found = text_bigrams()
    for row, first in enumerate(characters):
        for column, second in enumerate(characters):
            assert found.matrix[row, column] == pytest.approx(counted[first, second] / starts[first])
        assert found.unigrams[row] == pytest.approx(starts[first] / len(text))


@pytest.mark.parametrize("kind", ["text", "dirichlet"])
def test_bigrams_are_stationary(kind: str) -> None:
    found = text_bigrams() if kind == "text" else dirichlet_bigrams(30, 0.1, 3)
    np.testing.assert_allclose(found.matrix.sum(1), 1)
    np.testing.assert_allclose(found.unigrams @ found.matrix, found.unigrams, atol=1e-10)
    assert (found.unigrams > 0).all()


@pytest.mark.parametrize("kind", ["text", "dirichlet"])
def test_triggers_repeat_the_token_before_and_the_chain_makes_the_rest(kind: str) -> None:
    task = make_task("bigram-backcopy", bigrams=kind, states=30, length=32)
    assert isinstance(task, BigramBackcopy)
    found = text_bigrams() if kind == "text" else dirichlet_bigrams(30, 0.1, 0)
    triggers = set(task.triggers())
    assert triggers == set(np.argsort(found.unigrams)[-3:].tolist())
    batch = task.batch(200, seeded())
    assert batch.tokens is not None
    firsts: set[int] = set()
    for tokens, targets, marked in zip(
        batch.tokens.tolist(), batch.targets.tolist(), batch.marks["previous"].tolist(), strict=True
    ):
        assert tokens[0] == task.d_vocab - 1
        assert tokens[1:] == targets[:-1]
        firsts.add(tokens[1])
        for place in range(32):
            is_trigger = tokens[place] in triggers
            assert marked[place] == (place - 1 if is_trigger else -1)
            if is_trigger:
                assert targets[place] == tokens[place - 1]
            elif place:
                assert found.matrix[tokens[place], targets[place]] > 0
    assert not firsts & triggers
    assert len(firsts) > 20


def test_the_chain_follows_its_bigrams() -> None:
    task = make_task("bigram-backcopy", bigrams="dirichlet", states=6, concentration=1.0, length=64)
    assert isinstance(task, BigramBackcopy)
    batch = task.batch(500, seeded())
    assert batch.tokens is not None
    found, counts = dirichlet_bigrams(6, 1.0, 0), np.zeros((7, 7))
    chain = ~batch.marks["trigger"]
    np.add.at(counts, (batch.tokens[chain].numpy(), batch.targets[chain].numpy()), 1)
    for state in set(range(6)) - set(task.triggers()):
        total, row = counts[state].sum(), found.matrix[state]
        spread = np.sqrt(row * (1 - row) / total)
        assert (np.abs(counts[state, :6] / total - row) < 5 * spread + 1e-6).all()


def test_risks_split_the_loss_into_chain_and_copies() -> None:
    task = make_task("bigram-backcopy", length=40)
    assert isinstance(task, BigramBackcopy)
    batch = task.batch(50, seeded())
    assert batch.tokens is not None
    matrix = text_bigrams().matrix
    exact = torch.full((50, 40, task.d_vocab), -1e9)
    rows = torch.from_numpy(np.log(matrix + 1e-300)).float()
    exact[..., :-1] = rows[batch.tokens.clamp(max=len(rows) - 1)]
    risks = task.risks(exact, batch)
    assert risks.markov == pytest.approx(risks.markov_floor, rel=1e-5)
    assert risks.backcopy > 1
    assert task.accuracy(exact, batch) < 0.5
    copying = torch.zeros(50, 40, task.d_vocab)  # 100 nats for the token before
    before = batch.tokens.roll(1, 1)
    copying.scatter_(2, before[..., None], 100.0)
    assert task.risks(copying, batch).backcopy == pytest.approx(0, abs=1e-6)
    assert task.accuracy(copying, batch) == 1.0
    entropies = -(matrix * np.log(np.where(matrix > 0, matrix, 1))).sum(1)
    chain = ~batch.marks["trigger"] & (batch.tokens < len(matrix))
    assert risks.markov_floor == pytest.approx(entropies[batch.tokens[chain].numpy()].mean(), rel=0.05)


# in-context classification


def classification(**settings: float) -> InContextClassification:
    """The task, with rather few classes."""
    task = make_task("in-context-classification", **({"classes": 128, "labels": 16, "width": 32} | settings))
    assert isinstance(task, InContextClassification)
    return task


def means_of(task: InContextClassification) -> tuple[Tensor, Tensor]:
    """Class and label means."""
    settings = task.settings
    size = (settings.labels + settings.classes, settings.width)
    drawn = torch.from_numpy(np.random.default_rng(settings.seed).standard_normal(size)).float() / settings.width**0.5
    return drawn[settings.labels :], drawn[: settings.labels]


def examples_of(
    task: InContextClassification, batch: SyntheticBatch, classes: Tensor, labels: Tensor
) -> Iterator[tuple[list[int], list[int], int]]:
    """Nearest classes of all items, nearest labels, and the target."""
    assert batch.inputs is not None
    content = batch.inputs[..., -task.settings.width :]
    items = torch.cdist(content[:, ::2], classes).argmin(-1)
    marked = torch.cdist(content[:, 1::2], labels).argmin(-1)
    yield from zip(items.tolist(), marked.tolist(), batch.targets[:, -1].tolist(), strict=True)


def test_labels_of_items_are_those_of_their_class() -> None:
    task = classification(noise=0.05, burstiness=4, bursty=0.5)
    classes, labels = means_of(task)
    found_bursty = 0
    for items, marked, target in examples_of(task, task.batch(400, seeded()), classes, labels):
        assert marked == [item % 16 for item in items[:-1]]
        assert target == items[-1] % 16
        counts = Counter(items[:-1]).values()
        bursty = all(count % 4 == 0 for count in counts)
        found_bursty += bursty
        if bursty:
            assert items[-1] in items[:-1]
    assert abs(found_bursty / 400 - 0.5) < 5 * (0.25 / 400) ** 0.5


@pytest.mark.parametrize("burstiness", [1, 2, 4])
def test_a_nearest_neighbour_in_the_context_solves_bursty_texts_of_fresh_classes(burstiness: int) -> None:
    task = classification(burstiness=burstiness).evaluation("in_context")
    batch = task.batch(300, seeded())
    assert batch.inputs is not None
    content = batch.inputs[..., -32:]
    near = (content[:, ::2][:, :-1] - content[:, -1:]).norm(dim=-1).argmin(1)
    answer = batch.marks["label"].gather(1, 2 * near[:, None] + 1).squeeze(1)
    assert (answer == batch.targets[:, -1]).float().mean() == 1.0
    assert task.settings.fresh == 1.0


def test_fresh_classes_are_no_known_ones_and_swapped_labels_are_one_further() -> None:
    task = classification(noise=0.0)
    classes, labels = means_of(task)
    batch = task.evaluation("in_context").batch(50, seeded())
    assert batch.inputs is not None
    nearest = torch.cdist(batch.inputs[:, ::2, -32:], classes).amin(-1)
    assert float(nearest.min()) > 0.1
    swapped = task.evaluation("swapped")
    assert isinstance(swapped, InContextClassification)
    for items, marked, target in examples_of(swapped, swapped.batch(50, seeded()), classes, labels):
        assert marked == [(item + 1) % 16 for item in items[:-1]]
        assert target == (items[-1] + 1) % 16
        assert items[-1] in items[:-1]


def test_known_classes_without_help_are_what_in_weights_asks() -> None:
    task = classification(burstiness=2).evaluation("in_weights")
    assert isinstance(task, InContextClassification)
    classes, labels = means_of(task)
    present = sum(
        items[-1] in items[:-1] for items, _, _ in examples_of(task, task.batch(1000, seeded()), classes, labels)
    )
    chance = 1 - (1 - 1 / 128) ** 8
    assert abs(present / 1000 - chance) < 5 * (chance * (1 - chance) / 1000) ** 0.5


def test_without_burstiness_no_context_is_bursty_but_fresh_ones_are() -> None:
    task = classification(burstiness=0)
    classes, labels = means_of(task)
    repeats = [
        max(Counter(items[:-1]).values())
        for items, _, _ in examples_of(task, task.batch(300, seeded()), classes, labels)
    ]
    assert np.mean(np.array(repeats) == 1) > 0.6
    swapped = task.evaluation("swapped")
    assert isinstance(swapped, InContextClassification)
    found = [items for items, _, _ in examples_of(swapped, swapped.batch(50, seeded()), classes, labels)]
    assert all(items[-1] in items[:-1] for items in found)


def test_classes_follow_zipf() -> None:
    task = classification(zipf=1.0, noise=0.01, labels=2, classes=16, bursty=0.0)
    classes, labels = means_of(task)
    seen = Counter(items[-1] for items, _, _ in examples_of(task, task.batch(4000, seeded()), classes, labels))
    weights = np.arange(1, 17) ** -1.0
    weights = weights / weights.sum()
    assert all(abs(seen[k] / 4000 - weights[k]) < 5 * (weights[k] / 4000) ** 0.5 for k in range(16))


def test_items_have_the_length_and_spread_of_the_definition() -> None:
    task = classification(noise=0.75, width=256, classes=16, bursty=0.0)
    classes, _ = means_of(task)
    batch = task.batch(400, seeded())
    assert batch.inputs is not None
    items = batch.inputs[:, ::2, -256:]
    assert float(items.square().sum(-1).mean()) == pytest.approx(1, abs=0.03)
    near = torch.cdist(items, classes).argmin(-1)
    rest = items * (1 + 0.75**2) ** 0.5 - classes[near]
    assert float(rest.square().sum(-1).mean()) == pytest.approx(0.75**2, rel=0.02)
    assert float(rest.mean()) == pytest.approx(0, abs=0.001)


def test_positions_are_one_hot_and_follow_a_random_first_one() -> None:
    task = classification(most_pairs=10)
    batch = task.batch(400, seeded())
    assert batch.inputs is not None
    positions = batch.inputs[..., :21]
    assert (positions.sum(-1) == 1).all()
    where = positions.argmax(-1)
    assert (where.diff(dim=1) == 1).all()
    assert set(where[:, 0].tolist()) == set(range(5))


def test_classification_marks_the_right_items_and_labels() -> None:
    task = classification(noise=0.02, burstiness=2)
    classes, labels = means_of(task)
    batch = task.batch(100, seeded())
    for example, (items, marked, target) in enumerate(examples_of(task, batch, classes, labels)):
        same = [2 * place for place, item in enumerate(items[:-1]) if item == items[-1]]
        right = [2 * place + 1 for place, label in enumerate(marked) if label == target]
        assert batch.marks["same_class"][example].nonzero().flatten().tolist() == same
        assert batch.marks["answer"][example].nonzero().flatten().tolist() == right
        assert batch.marks["label"][example, 1::2].tolist() == marked
        assert batch.marks["label"][example, ::2].tolist() == [-1] * 9


def test_an_unknown_evaluation_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no evaluation is called 'in_weight'\. Did you mean 'in_weights'"):
        classification().evaluation("in_weight")


# linear regression


def regression(**settings: float) -> LinearRegression:
    """The task."""
    task = make_task("linear-regression", **settings)
    assert isinstance(task, LinearRegression)
    return task


def test_values_are_those_of_the_marked_function() -> None:
    task = regression(width=3, examples=7)
    batch = task.batch(50, seeded())
    assert batch.inputs is not None
    assert batch.values is not None
    for inputs, values, weights in zip(batch.inputs, batch.values, batch.marks["weights"], strict=True):
        for row in inputs[:-1]:
            assert float(row[:-1] @ weights) == pytest.approx(float(row[-1]), abs=1e-5)
        assert float(inputs[-1, -1]) == 0
        assert float(values[-1, 0]) == pytest.approx(float(inputs[-1, :-1] @ weights), abs=1e-5)
        assert values[:-1].isnan().all()


def test_least_squares_solves_regression_without_noise_and_ridge_with_it() -> None:
    task = regression(width=4, examples=9)
    batch = task.batch(200, seeded())
    logits = torch.zeros(200, 10, 1)
    assert task.accuracy(logits, batch) == 0
    logits[:, -1, 0] = ridge(batch, 0.0)
    assert task.accuracy(logits, batch) == pytest.approx(1, abs=1e-6)
    assert float(task.loss(logits, batch)) == pytest.approx(0, abs=1e-6)
    noisy = regression(width=4, examples=9, noise=0.7)
    batch = noisy.batch(4000, seeded())
    errors: dict[float, float] = {}
    for penalty in (0.0, 0.5, 0.49 * 4, 8.0):
        logits = torch.zeros(4000, 10, 1)
        logits[:, -1, 0] = ridge(batch, penalty)
        errors[penalty] = float(noisy.loss(logits, batch))
    assert min(errors, key=lambda penalty: errors[penalty]) == 0.49 * 4


def test_ridge_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    batch = regression(width=3, examples=6, noise=0.2).batch(5, seeded())
    assert batch.inputs is not None
    for inputs, found in zip(batch.inputs.double().numpy(), ridge(batch, 1.5).tolist(), strict=True):
        fitted = Ridge(alpha=1.5, fit_intercept=False).fit(inputs[:-1, :-1], inputs[:-1, -1])
        assert found == pytest.approx(float(fitted.predict(inputs[-1:, :-1])[0]), abs=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_a_gradient_step_is_one(centred: bool) -> None:
    batch = regression(width=3, examples=6).batch(4, seeded())
    assert batch.inputs is not None
    for inputs, found in zip(batch.inputs, gradient_step(batch, 0.3, centred=centred).tolist(), strict=True):
        vectors, values = inputs[:-1, :-1], inputs[:-1, -1]
        vectors = vectors - vectors.mean(0) if centred else vectors
        weights = torch.zeros(3, requires_grad=True)
        (0.5 * (values - vectors @ weights).square().mean()).backward()
        assert weights.grad is not None
        assert found == pytest.approx(float(-0.3 * weights.grad @ inputs[-1, :-1]), abs=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.8])
@pytest.mark.parametrize("centred", [False, True])
def test_no_rate_is_better_than_the_best(centred: bool, noise: float) -> None:
    task = regression(width=3, examples=8, noise=noise)
    batch = task.batch(60_000, seeded())
    assert batch.values is not None
    step, wanted = gradient_step(batch, 1.0, centred=centred).double(), batch.values[:, -1, 0].double()
    best = float((step * wanted).mean() / step.square().mean())
    assert best == pytest.approx(task.best_rate(centred=centred), rel=0.03)


def test_values_have_the_variance_that_is_promised() -> None:
    batch = regression(width=5, noise=0.5).batch(20_000, seeded())
    assert batch.values is not None
    assert float(batch.values[:, -1].square().mean()) == pytest.approx(1.25, rel=0.04)


# documentation


def test_examples_are_windows_of_one_stretch_of_their_split() -> None:
    task = make_task("documentation-text", length=30)
    assert isinstance(task, DocumentationText)
    held_out = task.held_out
    assert isinstance(held_out, DocumentationText)
    assert held_out.settings.split == "held_out"
    for one in (task, held_out):
        stretches = documentation_text.stretches(one.settings.split)
        batch = one.batch(40, seeded())
        assert batch.tokens is not None
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
            window = one.decode(torch.cat([tokens, targets[-1:]]))
            assert any(window in stretch for stretch in stretches) or "?" in window


def test_splits_share_no_stretch_and_every_tenth_is_held_out() -> None:
    training, held_out = documentation_text.stretches("training"), documentation_text.stretches("held_out")
    text = documentation_text.documentation_text()
    assert len(training) + len(held_out) == len(text) // 2048
    assert len(held_out) == len(text) // 2048 // 10
    assert held_out[0] == text[9 * 2048 : 10 * 2048]
    assert training[9] == text[10 * 2048 : 11 * 2048]
    assert len(text) > 800_000
    assert len(documentation_text.text_hash()) == 8


def test_first_and_last_windows_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation_text, "stretches", lambda split: ("abcde", "fghi"))  # noqa: ARG005
    documentation_text._ids.cache_clear()  # pyright: ignore[reportPrivateUsage]
    try:
        task = make_task("documentation-text", length=3)
        assert isinstance(task, DocumentationText)
        batch = task.batch(300, seeded())
        assert batch.tokens is not None
        seen = Counter(task.decode(tokens) for tokens in batch.tokens)
        assert set(seen) == {"abc", "bcd", "fgh"}
        assert all(abs(count / 300 - 1 / 3) < 5 * (2 / 9 / 300) ** 0.5 for count in seen.values())
        with pytest.raises(TaskError, match="use a length of at most 4"):
            make_task("documentation-text", length=5).batch(2, seeded())
    finally:
        documentation_text._ids.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_byte_pairs_are_learned_from_training_text_alone_and_write_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    texts = {"training": ("the cat and the hat and the bat. " * 60,), "held_out": ("the hat. " * 40,)}

    def stretches(split: Literal["training", "held_out"]) -> tuple[str, ...]:
        asked.append(split)
        return texts[split]

    monkeypatch.setattr(documentation_text, "stretches", stretches)
    caches = (documentation_text._ids, documentation_text.byte_pair_tokenizer)  # pyright: ignore[reportPrivateUsage]
    for cache in caches:
        cache.cache_clear()
    try:
        documentation_text.byte_pair_tokenizer(280)
        assert asked == ["training"]
        task = make_task("documentation-text", length=8, vocabulary="byte_pairs", byte_pairs=280)
        assert isinstance(task, DocumentationText)
        batch = task.batch(20, seeded())
        assert batch.tokens is not None
        assert batch.tokens.max() < 280
        text = [task.decode(tokens) for tokens in batch.tokens]
        assert all(window in texts["training"][0] for window in text)
        assert max(map(len, text)) > 8
    finally:
        for cache in caches:
            cache.cache_clear()


def test_a_unigram_guess_of_characters_is_far_from_a_uniform_one() -> None:
    task = make_task("documentation-text", length=64)
    batch = task.batch(64, seeded())
    counts = torch.bincount(batch.targets.flatten(), minlength=97).double() + 0.5
    logits = (counts / counts.sum()).log().float().expand(64, 64, 97)
    assert float(task.loss(logits, batch)) < 3.5 < math.log(97)
