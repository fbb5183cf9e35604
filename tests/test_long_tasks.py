"""Long-context tasks: exact lengths and places, answers that only what is hidden tells, judges in closed form."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope import tasks
from headscope.errors import TaskError
from headscope.models.bridged import BridgedModel
from headscope.models.planted.vocabulary import ORDINARY_WORDS, RARE_WORDS
from headscope.tasks import AnswerBatch, NeedleForm, PasskeyForm, build_multi_needle, build_passkeys
from headscope.tasks.hiding import Piece, Puzzle, Statement, lay_out
from headscope.tasks.passkeys import ORDINALS

Planted = Callable[..., BridgedModel]
PLANTED_FORM = NeedleForm(
    cue="the {key} spells",
    question="what does the {keys} say ?",
    keys=("secret word", "garden gate", "river captain", "queen", "ship"),
    values=RARE_WORDS,
    words=4,
    end=" .",
)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


class Characters(BridgedModel):
    """A model whose tokens are characters, without a start token: texts can be read back exactly."""

    def __init__(self, base: BridgedModel) -> None:
        self.__dict__.update(base.__dict__)
        self.shape = dataclasses.replace(base.shape, n_ctx=4_000)

    @property
    def bos(self) -> int | None:
        return None

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        assert not bos
        return [ord(letter) for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


@pytest.fixture(scope="module")
def model(planted: Planted) -> Characters:
    """The model of characters."""
    return Characters(planted("all"))


@pytest.fixture(scope="module")
def text() -> str:
    """Sentences of five to nine words of the planted models' vocabulary."""
    generator, sentences = np.random.default_rng(0), list[str]()
    words = [word for word in ORDINARY_WORDS if word not in ".,?"]
    for _ in range(300):
        sentences.append(" ".join(generator.choice(words, generator.integers(5, 10))))
    return ". ".join(sentences)


def multi(model: BridgedModel, text: str, seed: int = 0, **options: object) -> AnswerBatch:
    """Four prompts of several needles."""
    return build_multi_needle(model, text, **{"length": 900, "n": 4, "generator": seeded(seed)} | options)


def variables(model: BridgedModel, text: str, seed: int = 0, **options: object) -> AnswerBatch:
    """Four prompts of variables."""
    options = {"length": 900, "n": 4, "generator": seeded(seed)} | options
    return tasks.build_variable_tracking(model, text, **options)


def passkeys(model: BridgedModel, text: str, seed: int = 0, **options: object) -> AnswerBatch:
    """Four sequences with passkeys."""
    options = {"length": 1500, "n": 4, "generator": seeded(seed), "passkeys": 3, "words": 4} | options
    return build_passkeys(model, text, **options)


BUILDERS = pytest.mark.parametrize("build", [multi, variables, passkeys], ids=lambda build: build.__name__)


def prompts(model: BridgedModel, batch: AnswerBatch) -> list[str]:
    """The prompts as text."""
    return [model.decode(row) for row in batch.tokens[:, : batch.prompt_length].tolist()]


def labelled(model: BridgedModel, batch: AnswerBatch) -> list[str]:
    """What the counted rows predict, as text."""
    return [model.decode(row[mask].tolist()) for row, mask in zip(batch.tokens, batch.labels, strict=True)]


def one_hot(predictions: Tensor, size: int = 128) -> Tensor:
    """Logits that put these tokens first."""
    return torch.nn.functional.one_hot(predictions, size).float()


def suffix_oracle(model: BridgedModel, batch: AnswerBatch) -> Tensor:
    """Logits at the counted rows: what followed the longest earlier text that is equal to the end of this one."""
    predictions = torch.zeros(len(batch.tokens), len(batch.rows), dtype=torch.long)
    for index, row in enumerate(batch.tokens.tolist()):
        whole = model.decode(row)
        for at, place in enumerate(batch.rows.tolist()):
            seen = whole[: place + 1]
            sizes = range(min(60, place), 0, -1)
            found = next(((k, j) for k in sizes if (j := seen.rfind(seen[-k:], 0, -1)) >= 0), (1, 0))
            predictions[index, at] = row[sum(found)]
    return one_hot(predictions)


def copies_only(batch: AnswerBatch) -> AnswerBatch:
    """The same examples with only those rows counted that copy from the prompt."""
    return dataclasses.replace(batch, counted=batch.counted & (batch.source >= 0))


def without_statements(batch: AnswerBatch) -> AnswerBatch:
    """The same batch with the copied tokens in the prompt overwritten."""
    tokens = batch.tokens.clone()
    for row, source in zip(tokens, batch.source, strict=True):
        row[source[source >= 0]] = ord("#")
    return dataclasses.replace(batch, tokens=tokens)


@BUILDERS
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_counted_copy_stands_in_the_prompt_exactly_where_said(
    model: Characters, text: str, build: Callable[..., AnswerBatch], seed: int
) -> None:
    batch = build(model, text, seed)
    assert batch.tokens.shape[1] == (1500 if build is passkeys else 900 + batch.tokens.shape[1] - batch.prompt_length)
    assert build is passkeys or batch.prompt_length == 900
    copies = copies_only(batch)
    assert copies.counted.any(1).all()
    for row, counted, source in zip(batch.tokens.tolist(), copies.counted, batch.source.tolist(), strict=True):
        for at in counted.nonzero().flatten().tolist():
            assert source[at] < batch.prompt_length
            assert row[source[at]] == row[at + 1]
    assert (batch.rows[0], batch.counted[:, batch.rows[0]].all()) == (batch.prompt_length - 1, True)
    assert not batch.counted[:, -1].any(), "the last row predicts nothing"


@BUILDERS
def test_a_seed_fixes_the_batch(model: Characters, text: str, build: Callable[..., AnswerBatch]) -> None:
    first, again, other = build(model, text, 3), build(model, text, 3), build(model, text, 4)
    assert torch.equal(first.tokens, again.tokens)
    assert first.texts == again.texts
    assert first.texts != other.texts


@pytest.mark.parametrize(("keys", "values", "asked"), [(1, 1, 1), (4, 1, 1), (3, 1, 3), (1, 4, 1), (2, 2, 2)])
def test_needles_are_found_by_looking_up_their_key_and_only_there(
    model: Characters, text: str, keys: int, values: int, asked: int
) -> None:
    batch = multi(model, text, keys=keys, values=values, asked=asked)
    told = [re.findall(r"The secret word for (\w+) is (\w+(?: \w+)*)\.", prompt) for prompt in prompts(model, batch)]
    assert {len(pairs) for pairs in told} == {keys * values}
    for pairs, names, answer, said in zip(told, batch.names, batch.texts, labelled(model, batch), strict=True):
        wanted = [value for name in names.split(", ") for key, value in pairs if key == name]
        assert ", ".join(wanted) == answer
        assert "".join(f" {value}" for value in wanted) == said
    if values == 1:
        oracle = suffix_oracle(model, batch)
        assert tasks.answer_exact(oracle, batch).all()
        blind = without_statements(batch)
        assert not tasks.answer_exact(suffix_oracle(model, blind), batch).any()


def followed(prompt: str, hops: int) -> str:
    """What the last variable of the prompt holds after so many assignments have been followed."""
    held = dict(re.findall(r" VAR (\w+) = (\w+)\.", prompt))
    name = prompt.split()[-2]
    for _ in range(hops):
        name = held[name]
    return held[name]


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("hops", [0, 1, 4])
def test_the_value_of_a_variable_needs_every_hop(model: Characters, text: str, hops: int, chains: int) -> None:
    batch = variables(model, text, hops=hops, chains=chains, length=1_000)
    for prompt, answer, said in zip(prompts(model, batch), batch.texts, labelled(model, batch), strict=True):
        assert prompt.count(" VAR ") == chains * (hops + 1) + 2, "statements, question and cue"
        assert followed(prompt, hops) == answer == said.strip()
        assert not hops or followed(prompt, hops - 1) != answer
        assert prompt.count(f" {answer}.") == 1


def test_a_variable_is_set_before_it_is_used(model: Characters, text: str) -> None:
    for prompt in prompts(model, variables(model, text, hops=4, chains=2, n=8, depths=(0.0, 1.0))):
        seen = set[str]()
        for name, held in re.findall(r" VAR (\w+) = (\w+)\.", prompt):
            assert name not in seen
            assert held in seen or not held.isupper()
            seen.add(name)


def test_all_variables_of_a_value_are_asked_for_in_the_order_of_the_text(model: Characters, text: str) -> None:
    batch = variables(model, text, hops=2, chains=2, ask="variables")
    for prompt, value, answer, said in zip(
        prompts(model, batch), batch.names, batch.texts, labelled(model, batch), strict=True
    ):
        holders = {value}
        found = [name for name, held in re.findall(r" VAR (\w+) = (\w+)\.", prompt) if held in holders]
        while len(holders) < 1 + len(found):
            holders |= set(found)
            found = [name for name, held in re.findall(r" VAR (\w+) = (\w+)\.", prompt) if held in holders]
        assert ", ".join(found) == answer
        assert said.split() == found
        assert len(found) == 3


def test_the_labels_of_passkeys_are_the_appended_part_and_nothing_else(model: Characters, text: str) -> None:
    batch = passkeys(model, text, n=6)
    lengths = []
    for row, prompt, said, answer in zip(
        batch.tokens.tolist(), prompts(model, batch), labelled(model, batch), batch.texts, strict=True
    ):
        told = re.findall(
            r"\n\nRemember this sequence of words, it's the (\w+) passkey to the vault:([a-z ]+)\n\n", prompt
        )
        assert [ordinal for ordinal, _ in told] == list(ORDINALS[:3]), "numbered by position"
        assert "; ".join(words.strip() for _, words in told) == answer
        assert all(len(words.split()) == 4 for _, words in told)
        asked = "Based on the content of the text, what is the {} passkey to the vault?\nPasskey:{}\n\n"
        assert said == "".join(asked.format(*pair) for pair in told)
        assert model.decode(row).startswith(prompt + said)
        lengths.append(len(prompt + said))
    assert max(lengths) == 1500
    assert min(lengths) < 1500, "padding is tested too"
    assert [model.decode(row[batch.prompt_length :].tolist())[-1] for row in batch.tokens] == ["\n"] * 6
    words = labelled(model, copies_only(batch))
    assert words == [f" {answer.replace('; ', ' ')}" for answer in batch.texts]


def test_passkeys_lie_at_different_depths_inside_the_text(model: Characters, text: str) -> None:
    batch = passkeys(model, text, n=40, passkeys=2, words=1)
    room, depths = [], []
    for prompt in prompts(model, batch):
        parts = re.split(r"\n\nRemember [^:]+: \w+\n\n", prompt.removesuffix("\n\n"))
        room.append(sum(map(len, parts)))
        depths += [len(parts[0]) / room[-1], len(parts[0] + parts[1]) / room[-1]]
        assert "".join(parts) in text
    assert 0.04 < min(depths) < 0.15
    assert 0.85 < max(depths) <= 0.95
    assert [round(depth, 2) for depth in batch.depths] == pytest.approx(depths[::2], abs=0.01)


@pytest.mark.parametrize("at_stops", [True, False], ids=["at full stops", "anywhere"])
@pytest.mark.parametrize("seed", range(5))
def test_statements_are_hidden_at_their_depths_in_one_stretch_of_the_text(
    model: Characters, text: str, at_stops: bool, seed: int
) -> None:
    depths = (0.7, 0.0, 0.3, 1.0, 0.71, 0.3)
    statements = tuple(Statement([200 + index] * 3, depth) for index, depth in enumerate(depths))
    puzzle = Puzzle(statements, [199], (Piece([204, 204], 4, 1),), "", "", 0.7)
    batch = lay_out(model, text, [puzzle], length=419, generator=seeded(seed), at_stops=at_stops)
    body = batch.tokens[0, :418].tolist()
    hay = [token for token in body if token < 199]
    assert len(hay) == 400
    assert model.decode(hay) in text
    order = [body[at] - 200 for at in range(418) if body[at] >= 200 and (at < 1 or body[at - 1] != body[at])]
    assert order == [1, 2, 5, 0, 4, 3], "by depth, and in the given order where depths are equal"
    for index, depth in enumerate(depths):
        before = model.decode([token for token in body[: body.index(200 + index)] if token < 199])
        between = model.decode(hay)[len(before) : int(depth * 400)]
        assert len(before) <= int(depth * 400)
        assert (before.endswith(".") and "." not in between) or not between, "behind the last full stop"
        assert at_stops or not between
    assert batch.source[0, 418:420].tolist() == [body.index(204) + 1, body.index(204) + 2]


@pytest.mark.parametrize("build", [multi, variables], ids=["multi", "variables"])
def test_what_is_asked_for_goes_through_the_depths(
    model: Characters, text: str, build: Callable[..., AnswerBatch]
) -> None:
    batch = build(model, text, n=9, depths=(0.2, 0.5, 0.8), length=1_400)
    turns = [0.2, 0.5, 0.8] * 4
    first = turns.index(batch.depths[0])
    assert list(batch.depths) == turns[first : first + 9]
    for row, depth in zip(batch.source, batch.depths, strict=True):
        assert abs(int(row[row >= 0].min()) / 1_300 - depth) < 0.2


def test_needles_that_are_not_asked_for_lie_anywhere(model: Characters, text: str) -> None:
    batch = multi(model, text, n=12, keys=2, depths=(0.5,))
    others = list[float]()
    for prompt, name in zip(prompts(model, batch), batch.names, strict=True):
        places = [(match[1], match.start()) for match in re.finditer(r"word for (\w+) is \w+\.", prompt)]
        others += [place / 750 for key, place in places if key != name]
    assert min(others) < 0.3
    assert max(others) > 0.7


def test_a_planted_retrieval_head_finds_a_needle_among_no_others(planted: Planted, text: str) -> None:
    model = planted("all")
    batch = build_multi_needle(model, text, length=150, n=6, generator=seeded(), keys=1, form=PLANTED_FORM)
    assert batch.tokens[:, 0].eq(model.bos).all()
    assert tasks.answer_exact(model.logits(batch.tokens, rows=batch.rows), batch).all()
    blind = without_statements(batch)
    blind.tokens[blind.tokens == ord("#")] = model.encode("the")[0]
    assert tasks.answer_accuracy(model.logits(blind.tokens, rows=batch.rows), batch).max() == 0


def test_needle_prompts_in_the_common_form_are_the_same_task(planted: Planted, text: str) -> None:
    model = planted("all")
    task = tasks.build_needles(model, text, length=120, n=6, generator=seeded(), needles=model.needles)
    batch = tasks.needle_answers(task)
    assert (batch.prompt_length, batch.depths, batch.names) == (120, task.depths, task.names)
    for index, size in enumerate(task.answer_lengths.tolist()):
        assert batch.tokens[index, batch.labels[index]].tolist() == task.answers[index, :size].tolist()
        span = int(task.spans[index])
        assert batch.source[index, batch.counted[index]].tolist() == list(range(span, span + size))
        assert int(batch.counted[index].sum()) == size
    assert tasks.answer_accuracy(model.logits(batch.tokens), batch).eq(1).all()


def test_repeated_tokens_count_from_the_second_copy_on_and_copy_the_one_before(planted: Planted) -> None:
    model = planted("all")
    task = tasks.build_repeated(model, n=2, period=5, copies=3, generator=seeded())
    batch = tasks.repeated_answers(task)
    assert batch.measure == "loss"
    assert batch.counted[0].nonzero().flatten().tolist() == list(range(6, 15))
    assert batch.rows[0] == batch.prompt_length - 1 == 6
    rows = batch.rows
    assert torch.equal(batch.tokens.gather(1, batch.source[:, rows]), batch.tokens[:, rows + 1])
    assert tasks.answer_loss(model.logits(task.tokens), batch).mean() < 1, "there is an induction head"


def test_passages_count_every_token_but_the_first() -> None:
    passages = torch.tensor([[0, 5, 2, 4]])
    batch = tasks.prose_answers(passages)
    logits = torch.randn(1, 4, 7, generator=seeded())
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], passages[0, 1:])
    assert tasks.answer_loss(logits, batch).item() == pytest.approx(expected.item(), abs=1e-6)
    assert tasks.answer_score(logits, batch).item() == pytest.approx(expected.item(), abs=1e-6)
    assert batch.source.eq(-1).all()
    assert math.isnan(batch.depths[0])


def mixed() -> AnswerBatch:
    """Three examples: answers of 3, 2 and 3 tokens; one of the last example's is given."""
    tokens = torch.randint(0, 9, (3, 8), generator=seeded(5))
    counted = torch.zeros(3, 8, dtype=torch.bool)
    counted[0, 4:7], counted[1, 4:6], counted[2, 4], counted[2, 6] = True, True, True, True
    source = torch.where(counted, 1, -1)
    return AnswerBatch(tokens, 5, counted, source, ("", "", ""), ("a", "b", "c"), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("seed", range(4))
def test_judges_are_their_definitions_at_all_rows_and_at_those_that_count(seed: int) -> None:
    batch, logits = mixed(), 3 * torch.randn(3, 8, 9, generator=seeded(seed))
    logits[0] = one_hot(batch.tokens[0].roll(-1), 9)
    for index in range(3):
        at = batch.counted[index].nonzero().flatten().tolist()
        right = [int(logits[index, i].argmax()) == int(batch.tokens[index, i + 1]) for i in at]
        loss = [-logits[index, i].log_softmax(-1)[batch.tokens[index, i + 1]].item() for i in at]
        for given in (logits, logits[:, batch.rows]):
            assert tasks.answer_accuracy(given, batch)[index].item() == pytest.approx(sum(right) / len(right))
            assert tasks.answer_exact(given, batch)[index].item() == all(right)
            assert tasks.answer_loss(given, batch)[index].item() == pytest.approx(sum(loss) / len(loss), rel=1e-5)
    assert batch.rows.tolist() == [4, 5, 6]
    for measure in ("accuracy", "exact", "loss"):
        judged = tasks.answer_score(logits, dataclasses.replace(batch, measure=measure))
        assert torch.equal(judged, getattr(tasks, f"answer_{measure}")(logits, batch).float())


def test_a_part_of_a_batch_is_judged_as_in_the_whole() -> None:
    batch, logits = mixed(), torch.randn(3, 8, 9, generator=seeded())
    part = batch.select(slice(1, 3))
    assert (part.names, part.depths, part.prompt_length) == (("b", "c"), (0.2, 0.3), 5)
    assert torch.equal(tasks.answer_loss(logits[1:], part), tasks.answer_loss(logits, batch)[1:])
    with pytest.raises(TaskError, match=r"have 5 rows and the batch 8: give the logits of all rows, or of the 3 rows"):
        tasks.answer_accuracy(logits[:, :5], batch)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (multi, {"keys": 0}, r"0 keys cannot be drawn from 24: use 1 to 24"),
        (multi, {"asked": 5}, r"5 keys cannot be asked for where 4 are hidden: use 1 to 4"),
        (multi, {"values": 40}, r"40 values .* each of 4 keys cannot be drawn from \d+ words: use 1 to \d+ values"),
        (multi, {"depths": (1.5,)}, r"a depth of 1.5 is not in the text"),
        (
            multi,
            {"length": 3_999},
            r"beyond the context of 'planted:all': the limit is 4000 tokens, \d+ for the prompt",
        ),
        (multi, {"length": 50}, r"take \d+ tokens: a prompt of 50 is too short. Use at least \d+"),
        (variables, {"hops": -1}, r"2 chains of -1 hops cannot be made"),
        (variables, {"hops": 30, "chains": 2}, r"2 chains of 30 hops cannot be made: .* at most 50 variables"),
        (variables, {"length": 20}, r"a prompt of 20 is too short"),
        (passkeys, {"passkeys": 21}, r"21 passkeys of 4 words cannot be made: use 1 to 20 passkeys"),
        (passkeys, {"words": 0}, r"3 passkeys of 0 words cannot be made"),
        (passkeys, {"length": 100}, r"3 passkeys of 4 words take \d+ tokens with their questions: 100 are too few"),
        (passkeys, {"length": 4_001}, r"4001 tokens are beyond the context of 'planted:all' \(4000 tokens\)"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(
    model: Characters, text: str, build: Callable[..., AnswerBatch], options: dict[str, object], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        build(model, text, **options)


@BUILDERS
def test_the_shortest_length_that_is_named_is_long_enough(
    model: Characters, text: str, build: Callable[..., AnswerBatch]
) -> None:
    with pytest.raises(TaskError) as refused:
        build(model, text, length=60)
    least = int(re.search(r"at least (\d+)", str(refused.value))[1])
    assert build(model, text, length=least).counted.any(1).all()
    with pytest.raises(TaskError):
        build(model, text, length=least - 1)


@BUILDERS
def test_a_haystack_too_short_is_refused(model: Characters, build: Callable[..., AnswerBatch]) -> None:
    with pytest.raises(TaskError, match=r"the haystack has 12 tokens and a prompt of \d+ needs \d+"):
        build(model, "the old song")


@BUILDERS
def test_words_that_the_tokenizer_does_not_know_are_refused(
    planted: Planted, text: str, build: Callable[..., AnswerBatch]
) -> None:
    with pytest.raises(TaskError, match=r"tokenizer of 'planted:all' does not tell '\w+' from '\w+'"):
        build(planted("all"), text)


def test_passkeys_of_a_few_words_of_ones_own(planted: Planted, text: str) -> None:
    form = PasskeyForm("the song of the {ordinal} captain spells", "what ? the {ordinal} spells", RARE_WORDS)
    batch = build_passkeys(planted("all"), text, length=80, n=3, generator=seeded(), passkeys=1, words=5, form=form)
    assert batch.tokens.shape == (3, 80)
    assert batch.labels.sum(1).eq(5 + 5).all()


def test_context_lengths_are_spaced_evenly() -> None:
    assert tasks.passkey_lengths(100, 300, 5) == (100, 150, 200, 250, 300)
    assert len(tasks.passkey_lengths(1_000, 32_000)) == 50
    with pytest.raises(TaskError, match="5 lengths from 300 to 100 cannot be had"):
        tasks.passkey_lengths(300, 100, 5)
