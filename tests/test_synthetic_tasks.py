"""Synthetic tasks: every target is what a naive solver finds, draws are those of the papers' own generators."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope.errors import ConfigError, UnknownNameError
from headscope.tasks.associative_recall import AssociativeRecall
from headscope.tasks.copying import Copying, NgramLookup
from headscope.tasks.induction import Induction
from headscope.tasks.noisy_recall import NoisyRecall
from headscope.tasks.selective_copying import SelectiveCopying
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch, SyntheticTask, exact_accuracy
from headscope.tasks.synthetic_catalog import make_task, synthetic_tasks
from headscope.tasks.synthetic_drawing import choose, cumulative, draw_distinct, draw_subset

NAMES = sorted(synthetic_tasks())
TOKEN_NAMES = [name for name in NAMES if not synthetic_tasks()[name].vectors]
Solver = Callable[[list[int], list[int]], dict[int, int]]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def parts(batch: SyntheticBatch) -> list[Tensor]:
    """All tensors of a batch."""
    given = [batch.tokens, batch.targets, batch.inputs, batch.values, batch.asked, *batch.marks.values()]
    return [part for part in given if part is not None]


def rows_of(batch: SyntheticBatch) -> list[tuple[list[int], list[int]]]:
    """Tokens and targets of every example as lists."""
    assert batch.tokens is not None
    return list(zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True))


def right_logits(task: SyntheticTask[Any], batch: SyntheticBatch) -> Tensor:
    """Logits that are sure of every target."""
    logits = torch.zeros(*batch.targets.shape, task.d_output)
    return logits.scatter(2, batch.targets.clamp(min=0)[..., None], 100.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_has_the_promised_shapes_and_ids(name: str) -> None:
    task = make_task(name)
    batch = task.batch(5, seeded())
    shape = (5, task.length)
    assert batch.targets.shape == shape
    assert batch.targets.dtype == torch.int64
    highest = 1 if batch.values is not None else task.d_output
    assert batch.targets[batch.is_asked].min() >= 0
    assert batch.targets.max() < highest
    assert (batch.targets[~batch.is_asked] == NOTHING_ASKED).all()
    assert batch.is_asked.any(1).all()
    if synthetic_tasks()[name].vectors:
        assert batch.tokens is None
        assert batch.inputs is not None
        assert batch.inputs.shape == (*shape, task.d_input)
        assert batch.inputs.dtype == torch.float32
        assert task.d_vocab == 0
    else:
        assert batch.tokens is not None
        assert batch.tokens.shape == shape
        assert batch.tokens.dtype == torch.int64
        assert batch.tokens.min() >= 0
        assert batch.tokens.max() < task.d_vocab
    assert (batch.values is not None) == synthetic_tasks()[name].regression


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_batch_and_another_one_another(name: str) -> None:
    first, again, other = (parts(make_task(name).batch(4, seeded(seed))) for seed in (3, 3, 4))
    assert all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(first, again, strict=True))
    assert any(not torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_next_batch_of_a_generator_is_another(name: str) -> None:
    task, generator = make_task(name), seeded()
    one, two = (parts(task.batch(4, generator)) for _ in range(2))
    assert any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_asked_positions_are_those_with_a_target(name: str) -> None:
    batch = make_task(name).batch(6, seeded())
    if batch.asked is None:
        return
    listed = torch.zeros_like(batch.is_asked).scatter(1, batch.asked, True)
    assert torch.equal(listed, batch.is_asked)


@pytest.mark.parametrize("name", NAMES)
def test_marked_positions_lie_in_the_past_of_their_query(name: str) -> None:
    batch = make_task(name).batch(6, seeded())
    if "query" not in batch.marks:
        return
    shape = batch.marks["query"].shape
    for mark, values in batch.marks.items():
        if values.shape != shape or values.dtype != torch.int64 or mark in ("query", "label"):
            continue
        example, rows, keys = batch.cells(mark)
        assert len(rows) == len(keys) == len(example) > 0, mark
        assert (keys <= rows).all(), mark
        assert (keys >= 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if not synthetic_tasks()[name].regression])
def test_right_logits_have_no_loss_and_equal_logits_that_of_a_guess(name: str) -> None:
    task = make_task(name)
    batch = task.batch(8, seeded())
    right = right_logits(task, batch)
    assert task.accuracy(right, batch) == 1.0
    assert exact_accuracy(right, batch) == 1.0
    assert float(task.loss(right, batch)) == 0.0
    assert float(task.loss(torch.zeros_like(right), batch)) == pytest.approx(math.log(task.d_output), rel=1e-5)


@pytest.mark.parametrize("name", ["mqar", "mqar-twice", "induction", "copying", "selective-copying", "ngram-lookup"])
def test_random_logits_are_right_by_chance_only(name: str) -> None:
    task = make_task(name)
    batch = task.batch(400, seeded())
    logits = torch.randn(*batch.targets.shape, task.d_output, generator=seeded(1))
    chance, asked = 1 / task.d_output, int(batch.is_asked.sum())
    spread = (chance * (1 - chance) / asked) ** 0.5
    assert abs(task.accuracy(logits, batch) - chance) < 5 * spread  # false alarm about 1 in a million
    assert exact_accuracy(logits, batch) < 0.01


def test_one_wrong_answer_costs_its_share() -> None:
    task = make_task("copying", shortest=4, longest=4)
    batch = task.batch(10, seeded())
    logits = right_logits(task, batch)
    logits[0, 6] = logits[0, 6].roll(1, -1)
    assert task.accuracy(logits, batch) == pytest.approx(1 - 1 / 50)
    assert exact_accuracy(logits, batch) == pytest.approx(0.9)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_batches_are_made_on_the_device_without_waiting_for_it(name: str) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    task = make_task(name)
    task.batch(4, generator)  # tables are brought there once
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = task.batch(4, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(part.is_cuda for part in parts(batch))


@pytest.mark.parametrize("name", NAMES)
def test_a_task_describes_itself_with_an_example(name: str) -> None:
    text = type(make_task(name)).describe()
    assert "::" in text
    assert "targets" in text or "values" in text


def test_the_catalog_loads_no_torch() -> None:
    code = "from headscope.tasks.synthetic_catalog import synthetic_tasks as tasks; tasks()"
    subprocess.run([sys.executable, "-c", f"{code}; import sys; assert 'torch' not in sys.modules"], check=True)


def test_a_wrong_name_or_setting_is_refused_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match=r"no task is called 'mqr'\. Did you mean 'mqar'\?"):
        make_task("mqr")
    with pytest.raises(ConfigError, match=r"no setting 'pair' .* Did you mean 'pairs'\?"):
        make_task("mqar", pair=4)
    with pytest.raises(ConfigError, match="length 63 is odd"):
        make_task("mqar").changed(length=63)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mqar", {"length": 63}, "odd"),
    ("mqar", {"d_vocab": 64, "length": 64}, "d_vocab 64 is not above length 64"),
    ("mqar", {"pairs": 17}, "need a length of 68, given 64"),
    ("mqar-twice", {"pairs": 11}, "need a length of 66"),
    ("mqar-forgetting", {"updates": 9}, "updates 9 are more than pairs 8"),
    ("mqar-forgetting", {"passes": 2}, "one pass"),
    ("noisy-recall", {"length": 7}, "odd"),
    ("induction", {"shortest": 25}, "shortest 25 is above longest 24"),
    ("induction", {"longest": 64}, "d_vocab of 65"),
    ("induction", {"length": 20}, "from a length of 26"),
    ("copying", {"shortest": 30}, "shortest 30 is above longest 24"),
    ("ngram-lookup", {"string": 6}, "do not fit in a string of 6"),
    ("selective-copying", {"length": 16}, "needs a length of 17"),
    ("regular-languages", {"most_states": 3}, "fewest_states 4 is above most_states 3"),
    ("regular-languages", {"edges": 4}, "one state more"),
    ("bigram-backcopy", {"triggers": 51}, "52 tokens allow 50"),
    ("bigram-backcopy", {"bigrams": "dirichlet", "states": 4}, "4 tokens allow 2"),
    ("in-context-classification", {"classes": 33}, "classes 33 is no multiple of labels 32"),
    ("in-context-classification", {"burstiness": 3}, "burstiness 3 does not go with 8 pairs"),
    ("in-context-classification", {"burstiness": 8}, "burstiness 8"),
    ("in-context-classification", {"pairs": 64}, "more than most_pairs 32"),
    ("linear-regression", {"width": 0}, "width"),
    ("documentation-text", {"vocabulary": "words"}, "vocabulary"),
]


@pytest.mark.parametrize(("name", "settings", "said"), REFUSED)
def test_impossible_settings_are_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make_task(name, **settings)
    assert "\n" not in str(caught.value)


# drawing


def test_distinct_draws_are_those_of_one_after_another() -> None:
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    drawn = draw_distinct(weights, 40_000, 2, seeded())
    seen = Counter(map(tuple, drawn.tolist()))
    for first in range(4):
        for second in range(4):
            expected = float(weights[first] * weights[second] / (1 - weights[first])) if first != second else 0.0
            spread = (expected * (1 - expected) / 40_000) ** 0.5
            assert abs(seen[first, second] / 40_000 - expected) <= 5 * spread


def test_a_subset_is_uniform_in_every_order() -> None:
    seen = Counter(map(tuple, draw_subset(4, 24_000, 2, seeded()).tolist()))
    assert len(seen) == 12
    assert all(abs(count / 24_000 - 1 / 12) < 5 * (1 / 12 * 11 / 12 / 24_000) ** 0.5 for count in seen.values())


def test_a_choice_never_takes_what_has_no_weight() -> None:
    levels = cumulative(torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0]))
    chances = torch.tensor([0.0, 0.1, 0.25, 0.9, 1 - 2**-24])
    assert choose(levels, chances).tolist() == [1, 1, 3, 3, 3]
    assert choose(levels.expand(5, -1), chances).tolist() == [1, 1, 3, 3, 3]


# associative recall


def recall_by_dictionary(context: int) -> Solver:
    """Read pairs into a dictionary, then look each asked token up."""

    def solve(tokens: list[int], targets: list[int]) -> dict[int, int]:
        held = dict(zip(tokens[:context:2], tokens[1:context:2], strict=True))
        return {place: held[tokens[place]] for place, target in enumerate(targets) if target >= 0}

    return solve


@pytest.mark.parametrize("filler", ["zero", "random"])
@pytest.mark.parametrize("settings", [{}, {"passes": 2}, {"updates": 3}], ids=str)
def test_a_dictionary_solves_associative_recall(settings: dict[str, int], filler: str) -> None:
    task = make_task("mqar", pairs=5, filler=filler, **settings)
    solve = recall_by_dictionary(task.settings.context)
    for tokens, targets in rows_of(task.batch(50, seeded())):
        assert solve(tokens, targets) == {place: target for place, target in enumerate(targets) if target >= 0}
        assert sum(target >= 0 for target in targets) == 5


def original_layout(keys: np.ndarray, values: np.ndarray, gaps: np.ndarray, length: int) -> tuple[Any, Any]:
    """Zoology's sequence: pairs, then query i at twice its gap; labels one further, then all shifted back by one."""
    context = 2 * len(keys)
    tokens, labels = [0] * (length + 1), [NOTHING_ASKED] * (length + 1)
    for index, (key, value) in enumerate(zip(keys, values, strict=True)):
        tokens[2 * index], tokens[2 * index + 1] = int(key), int(value)
    for key, value, gap in zip(keys, values, gaps, strict=True):
        tokens[context + 2 * gap] = int(key)
        labels[context + 2 * gap + 1] = int(value)
    return tokens[:-1], labels[1:]


def test_recall_is_laid_out_as_in_zoology() -> None:
    task = make_task("mqar", pairs=6, length=48, d_vocab=50)
    batch = task.batch(40, seeded())
    assert batch.tokens is not None
    assert batch.asked is not None
    for tokens, targets, asked in zip(batch.tokens.numpy(), batch.targets.tolist(), batch.asked.numpy(), strict=True):
        keys, values, gaps = tokens[:12:2], tokens[1:12:2], (asked - 12) // 2
        assert (tokens.tolist(), targets) == original_layout(keys, values, gaps, 48)
        assert len(set(keys)) == len(set(values)) == len(set(gaps)) == 6
        assert 1 <= keys.min() <= keys.max() <= 24
        assert 25 <= values.min() <= values.max() <= 49


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_gaps_between_pair_and_query_follow_the_power_law(power: float) -> None:
    count, free = 6000, 14
    batch = make_task("mqar", pairs=2, length=32, d_vocab=40, power=power).batch(count, seeded())
    assert batch.asked is not None
    gaps = (batch.asked - 4) // 2
    weights = power * np.arange(1, free + 1) ** (power - 1)
    weights = weights / weights.sum()
    generator = np.random.default_rng(0)
    naive = np.stack([generator.choice(free, size=2, replace=False, p=weights) for _ in range(count)])
    for column in range(2):
        ours = np.bincount(gaps[:, column].numpy(), minlength=free) / count
        theirs = np.bincount(naive[:, column], minlength=free) / count
        spread = np.sqrt((theirs * (1 - theirs) + ours * (1 - ours)) / count)
        assert (np.abs(ours - theirs) < 4.5 * spread).all()  # false alarm below 1 in 1,000 over all comparisons
    first = np.bincount(gaps[:, 0].numpy(), minlength=free) / count
    assert (np.abs(first - weights) < 4.5 * np.sqrt(weights * (1 - weights) / count)).all()


def test_every_key_and_value_is_equally_likely() -> None:
    batch = make_task("mqar", pairs=2, length=8, d_vocab=12).batch(9000, seeded())
    assert batch.tokens is not None
    for column, ids in ((0, range(1, 6)), (2, range(1, 6)), (1, range(6, 12)), (3, range(6, 12))):
        seen = Counter(batch.tokens[:, column].tolist())
        assert set(seen) == set(ids)
        share = 1 / len(ids)
        assert all(abs(count / 9000 - share) < 4.5 * (share * (1 - share) / 9000) ** 0.5 for count in seen.values())


def test_recall_marks_the_pair_of_every_query_in_every_pass() -> None:
    task = make_task("mqar", pairs=3, passes=2, length=20, d_vocab=30)
    batch = task.batch(20, seeded())
    assert batch.tokens is not None
    for mark in ("key", "value"):
        example, rows, places = batch.cells(mark)
        assert len(rows) == 20 * 6
        wanted = batch.tokens[example, rows] if mark == "key" else batch.targets[example, rows]
        assert torch.equal(batch.tokens[example, places], wanted)
    assert sorted(batch.marks["key"][0].tolist()) == [0, 2, 4, 6, 8, 10]


def test_updated_keys_mark_the_new_pair_and_the_old_one() -> None:
    task = make_task("mqar", pairs=4, updates=2, length=32, d_vocab=40)
    assert isinstance(task, AssociativeRecall)
    batch = task.batch(200, seeded())
    assert batch.tokens is not None
    tokens, marks = batch.tokens, batch.marks
    example, rows, places = batch.cells("value")
    assert torch.equal(tokens[example, places], batch.targets[example, rows])
    assert torch.equal(tokens.gather(1, marks["key"]), tokens.gather(1, marks["query"]))
    old_example, old_rows, old_keys = batch.cells("old_key")
    assert len(old_rows) == 200 * 2
    assert torch.equal(tokens[old_example, old_keys], tokens[old_example, old_rows])
    _, _, old_values = batch.cells("old_value")
    assert torch.equal(old_values, old_keys + 1)
    assert (tokens[old_example, old_values] != batch.targets[old_example, old_rows]).all()
    assert (marks["key"] >= 8).sum(1).tolist() == [2] * 200


def test_random_filler_covers_all_ids_and_leaves_queries_alone() -> None:
    zero, filled = (make_task("mqar", filler=kind).batch(300, seeded()) for kind in ("zero", "random"))
    assert zero.tokens is not None
    assert filled.tokens is not None
    assert set(filled.tokens[:, 16:].flatten().tolist()) == set(range(256))
    assert set(zero.tokens[:, 16:][~zero.is_asked[:, 16:]].tolist()) == {0}


# the other recall tasks


def test_a_dictionary_solves_noisy_recall() -> None:
    task = make_task("noisy-recall", noise=0.4)
    assert isinstance(task, NoisyRecall)
    noise_from, noisy, pairs = task.settings.keys + task.settings.values, 0, 0
    for tokens, targets in rows_of(task.batch(100, seeded())):
        held: dict[int, int] = {}
        for place in range(0, task.length, 2):
            key, value = tokens[place], tokens[place + 1]
            assert targets[place] == held.get(key, NOTHING_ASKED)
            assert targets[place + 1] == NOTHING_ASKED
            assert (key >= noise_from) == (value >= noise_from)
            noisy, pairs = noisy + (key >= noise_from), pairs + 1
            if key < noise_from:
                held[key] = value
                assert task.settings.keys <= value < noise_from
        assert targets[-2] >= 0
    share = 0.4 * (32 - 2) / 32  # the last pair and a random one are never noise
    assert abs(noisy / pairs - share) < 5 * (share * (1 - share) / pairs) ** 0.5


def test_noisy_recall_marks_the_last_pair_with_the_key() -> None:
    batch = make_task("noisy-recall").batch(30, seeded())
    assert batch.tokens is not None
    example, rows, keys = batch.cells("key")
    assert torch.equal(batch.tokens[example, keys], batch.tokens[example, rows])
    _, _, values = batch.cells("value")
    assert torch.equal(batch.tokens[example, values], batch.targets[example, rows])
    for one, row, key in zip(example.tolist(), rows.tolist(), keys.tolist(), strict=True):
        assert batch.tokens[one, row] not in batch.tokens[one, key + 2 : row : 2]


def test_what_came_after_the_token_last_time_solves_induction() -> None:
    task = make_task("induction", shortest=5, longest=9, d_vocab=12, length=24)
    assert isinstance(task, Induction)
    periods: set[int] = set()
    for tokens, targets in rows_of(task.batch(100, seeded())):
        last: dict[int, int] = {}
        for place, token in enumerate(tokens):
            if token in last:
                assert targets[place] == tokens[last[token] + 1]
                periods.add(place - last[token])
            else:
                assert targets[place] == NOTHING_ASKED
            last[token] = place
        assert tokens[0] == 0
        assert 0 not in tokens[1:]
    assert periods == set(range(5, 10))


def test_induction_marks_the_three_cells() -> None:
    batch = make_task("induction").batch(10, seeded())
    assert batch.tokens is not None
    example, rows, keys = batch.cells("induction")
    assert torch.equal(batch.tokens[example, keys], batch.targets[example, rows])
    example, rows, keys = batch.cells("duplicate")
    assert torch.equal(batch.tokens[example, keys], batch.tokens[example, rows])
    assert len(rows) == int(batch.is_asked.sum())
    _, rows, keys = batch.cells("previous")
    assert torch.equal(keys, rows - 1)


def test_the_first_string_solves_copying() -> None:
    task = make_task("copying", letters=3, shortest=2, longest=6)
    assert isinstance(task, Copying)
    sizes: Counter[int] = Counter()
    for tokens, targets in rows_of(task.batch(600, seeded())):
        text = "".join("abc$|.*"[token] for token in tokens)
        size = text.index("|") - 1
        string = text[1 : size + 1]
        whole = f"${string}|{string}.".ljust(task.length + 1, "*")
        assert text == whole[:-1]
        asked = {place: whole[place + 1] for place, target in enumerate(targets) if target >= 0}
        assert asked == {size + 1 + step: (string + ".")[step] for step in range(size + 1)}
        assert all("abc$|.*"[targets[place]] == letter for place, letter in asked.items())
        sizes[size] += 1
    assert set(sizes) == set(range(2, 7))


def test_copying_marks_the_letter_and_the_one_before() -> None:
    batch = make_task("copying").batch(20, seeded())
    assert batch.tokens is not None
    example, rows, keys = batch.cells("source")
    assert torch.equal(batch.tokens[example, keys], batch.targets[example, rows])
    assert len(rows) == int(batch.is_asked.sum()) - 20  # all but the end
    example, rows, keys = batch.cells("duplicate")
    inner = keys > 0
    assert torch.equal(batch.tokens[example, keys][inner], batch.tokens[example, rows][inner])
    assert int((~inner).sum()) == 20


def test_longer_strings_are_the_same_task() -> None:
    task = make_task("copying", shortest=4, longest=8).changed(shortest=20, longest=40)
    assert task.length == 82
    assert task.d_vocab == 30
    batch = task.batch(8, seeded())
    assert int(batch.is_asked.sum(1).min()) >= 21


@pytest.mark.parametrize("name", [name for name in synthetic_tasks() if name != "documentation-text"])
def test_a_task_has_longer_texts(name: str) -> None:
    task = make_task(name)
    other = task.of_length(2 * task.length - (1 if name == "in-context-classification" else 0))
    assert other.length == 2 * task.length - (1 if name == "in-context-classification" else 0)
    assert (other.d_vocab, other.d_input, other.d_output) == (task.d_vocab, task.d_input, task.d_output)
    batch = other.batch(3, seeded())
    assert batch.targets.shape[1] == other.length
    assert (batch.is_asked.sum(1) > 0).all()


def test_strings_of_a_longer_copying_text_fill_it() -> None:
    batch = make_task("copying", longest=8).of_length(82).batch(8, seeded())
    assert (batch.is_asked.sum(1) == 41).all(), "40 letters and the end"


@pytest.mark.parametrize(("name", "length"), [("copying", 51), ("in-context-classification", 18), ("ngram-lookup", 9)])
def test_a_length_that_a_task_has_not_is_refused(name: str, length: int) -> None:
    with pytest.raises(ConfigError):
        make_task(name).of_length(length)


@pytest.mark.parametrize("key", ["suffix", "prefix"])
@pytest.mark.parametrize("letters", [2, 26])
def test_the_first_place_of_the_letters_solves_ngram_lookup(key: str, letters: int) -> None:
    task = make_task("ngram-lookup", letters=letters, string=14, ngram=2, answer=3, key=key)
    assert isinstance(task, NgramLookup)
    alphabet = "abcdefghijklmnopqrstuvwxyz"[:letters] + "$|.*"
    places: set[int] = set()
    for tokens, targets in rows_of(task.batch(200, seeded())):
        text = "".join(alphabet[token] for token in tokens)
        first, second, *rest = text[1:].split("|")
        string, given = (first, second[:2]) if key == "suffix" else (second, first)
        place = string.index(given)
        answer = string[place + 2 : place + 5]
        whole = f"${string}|{given}{answer}." if key == "suffix" else f"${given}|{string}|{answer}."
        assert text + "." == whole
        assert len(rest) == (key == "prefix")
        wanted = [NOTHING_ASKED] * (len(text) - 4) + [alphabet.index(letter) for letter in answer + "."]
        assert targets == wanted
        places.add(place)
    assert letters == 2 or places == set(range(10))


def test_ngram_lookup_marks_where_the_answer_stands() -> None:
    for key in ("suffix", "prefix"):
        batch = make_task("ngram-lookup", key=key).batch(20, seeded())
        assert batch.tokens is not None
        example, rows, keys = batch.cells("source")
        assert torch.equal(batch.tokens[example, keys], batch.targets[example, rows])
        assert len(rows) == 20 * 4
        example, rows, keys = batch.cells("duplicate")
        inner = batch.tokens[example, rows] < 26
        assert torch.equal(batch.tokens[example, keys][inner], batch.tokens[example, rows][inner])
        assert int((~inner).sum()) == (20 if key == "prefix" else 0), "the first answer is asked by a bar"


def test_what_is_no_blank_solves_selective_copying() -> None:
    task = make_task("selective-copying", length=20, copied=4)
    assert isinstance(task, SelectiveCopying)
    used: Counter[int] = Counter()
    for tokens, targets in rows_of(task.batch(3000, seeded())):
        kept = [token for token in tokens if token < 14]
        assert targets == [NOTHING_ASKED] * 16 + kept
        assert tokens[15] == 15
        assert tokens[16:] == [14] * 4
        used.update(place for place, token in enumerate(tokens) if token < 14)
    share = 4 / 15
    assert all(abs(used[place] / 3000 - share) < 4.5 * (share * (1 - share) / 3000) ** 0.5 for place in range(15))


def test_selective_copying_marks_where_each_token_stood() -> None:
    batch = make_task("selective-copying").batch(20, seeded())
    assert batch.tokens is not None
    example, rows, keys = batch.cells("source")
    assert torch.equal(batch.tokens[example, keys], batch.targets[example, rows])
    assert (keys.view(20, -1).diff(dim=1) > 0).all()
