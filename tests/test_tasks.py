"""Token batches hold what they promise: cells by brute force, exact spans, exact lengths, and errors that help."""

from __future__ import annotations

import dataclasses
import json
import pydoc_data.topics
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headscope.errors import TaskError, UnknownNameError
from headscope.models.bridged import BridgedModel
from headscope.models.planted.vocabulary import ORDINARY_WORDS, RARE_WORDS
from headscope.tasks import NEEDLES, Needle, NeedleBatch, build_needles, build_prose, build_repeated, load_haystack
from headscope.tasks.needle import choose_needles, load_needles
from headscope.tasks.repeated import RepeatedTokens

FAST = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
Planted = Callable[..., BridgedModel]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def text() -> str:
    """Sentences of five to nine words of the planted models' vocabulary."""
    generator, sentences = np.random.default_rng(0), list[str]()
    words = [word for word in ORDINARY_WORDS if word not in ".,?"]
    for _ in range(400):
        sentences.append(" ".join(generator.choice(words, generator.integers(5, 10))))
    return " . ".join(sentences)


def cells_of(task: RepeatedTokens, kind: str) -> list[tuple[int, int]]:
    """Cells as pairs."""
    return list(zip(*(part.tolist() for part in task.cells(kind)), strict=True))


@FAST
@given(period=st.integers(2, 30), copies=st.integers(1, 4), seed=st.integers(0, 99), bos=st.booleans())
def test_cells_are_those_of_token_equality(
    planted: Planted,
    without_bos: Callable[[BridgedModel], BridgedModel],
    period: int,
    copies: int,
    seed: int,
    bos: bool,
) -> None:
    model = planted("sink") if bos else without_bos(planted("sink"))
    task = build_repeated(model, n=2, period=period, copies=copies, generator=seeded(seed))
    start = int(bos)
    assert task.tokens.shape == (2, start + period * copies)
    assert (task.start, task.period, task.copies) == (start, period, copies)
    for row in task.tokens.tolist():
        equal = [(i, j) for i in range(len(row)) for j in range(i) if row[i] == row[j]]
        if copies > 1:
            assert sorted(cells_of(task, "duplicate")) == equal
            assert sorted(cells_of(task, "induction")) == [(i, j + 1) for i, j in equal]
            assert task.n_rows("induction") == len({i for i, _ in equal})
        before = [(i, i - 1) for i in range(1, len(row)) if i - 1 >= start]
        assert cells_of(task, "previous") == before


@FAST
@given(period=st.integers(2, 94), seed=st.integers(0, 99))
def test_no_copy_repeats_a_token_or_holds_a_special_one_and_examples_differ(
    planted: Planted, period: int, seed: int
) -> None:
    task = build_repeated(planted("sink"), n=3, period=period, copies=2, generator=seeded(seed))
    assert (task.tokens[:, 0] == 0).all(), "the start token, once"
    for row in task.tokens[:, 1:].tolist():
        assert row[:period] == row[period:]
        assert len(set(row)) == period
        assert set(row) <= set(range(2, 96)), "0 and 1 are <bos> and <unk>"
    if period > 4:
        assert len({tuple(row) for row in task.tokens.tolist()}) == 3


def test_repeated_tokens_that_cannot_be_drawn_are_refused(planted: Planted) -> None:
    with pytest.raises(TaskError, match=r"period of 95 tokens cannot be drawn from 94: use 2 to 94"):
        build_repeated(planted("sink"), n=1, period=95, copies=2, generator=seeded())
    with pytest.raises(TaskError, match=r"do not fit in the context of 'planted:sink' \(1024 tokens\)"):
        build_repeated(planted("sink"), n=1, period=50, copies=21, generator=seeded())


def test_a_seed_fixes_every_task(planted: Planted, text: str) -> None:
    model = planted("all")

    def drawn(seed: int) -> list[torch.Tensor]:
        return [
            build_repeated(model, n=2, period=5, copies=2, generator=seeded(seed)).tokens,
            build_prose(model, text, n=2, length=40, generator=seeded(seed)),
            build_needles(model, text, length=100, n=2, generator=seeded(seed), needles=model.needles).prompts,
        ]

    for first, again, other in zip(drawn(3), drawn(3), drawn(4), strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def prompts_of(planted: Planted, text: str, *, length: int = 120, n: int = 12, **options: object) -> NeedleBatch:
    """Needle prompts of a planted model in its own words."""
    model = planted("all")
    return build_needles(model, text, length=length, n=n, generator=seeded(), needles=model.needles, **options)


@pytest.mark.parametrize("length", [60, 97, 400])
def test_a_needle_prompt_has_its_length_and_holds_statement_question_and_cue_whole(
    planted: Planted, text: str, length: int
) -> None:
    model, task = planted("all"), prompts_of(planted, text, length=length)
    assert task.prompts.shape == (12, length)
    by_name = {needle.name: needle for needle in model.needles}
    for index, row in enumerate(task.prompts.tolist()):
        needle, first, size = by_name[task.names[index]], int(task.spans[index]), int(task.answer_lengths[index])
        answer = model.encode(needle.answer)
        assert row[0] == model.bos
        assert model.bos not in row[1:]
        assert row[first : first + size] == answer == task.answers[index, :size].tolist()
        assert (task.answers[index, size:] == answer[-1]).all()
        assert task.texts[index] == needle.answer
        statement = model.encode(f"{needle.cue} {needle.answer}{needle.end}")
        at = first - len(model.encode(needle.cue))
        assert row[at : at + len(statement)] == statement
        tail = model.encode(f"{needle.question} Answer: {needle.cue}")
        assert row[-len(tail) :] == tail
        assert [row[i : i + size] for i in range(length)].count(answer) == 1, "the answer stands there once"


def taken_apart(model: BridgedModel, task: NeedleBatch, index: int) -> tuple[list[int], list[int]]:
    """The haystack before and behind the statement of one prompt."""
    row, needle = task.prompts[index].tolist(), next(n for n in model.needles if n.name == task.names[index])
    first = int(task.spans[index]) - len(model.encode(needle.cue))
    behind = first + len(model.encode(f"{needle.cue} {needle.answer}{needle.end}"))
    asked = f"Based on the text above, answer the question.\nQuestion: {needle.question}\nAnswer: {needle.cue}"
    return row[1:first], row[behind : len(row) - len(model.encode(asked))]


def test_the_text_around_a_needle_is_one_piece_of_the_haystack(planted: Planted, text: str) -> None:
    model, task = planted("all"), prompts_of(planted, text)
    hay = " ".join(map(str, model.encode(text)))
    for index in range(len(task.prompts)):
        before, behind = taken_apart(model, task, index)
        assert len(before + behind) > 50
        assert " ".join(map(str, before + behind)) in hay


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_a_needle_lies_behind_the_last_full_stop_before_its_depth(planted: Planted, text: str, depth: float) -> None:
    model, task = planted("all"), prompts_of(planted, text, length=300, depths=(depth,))
    stop = model.encode(".")[0]
    assert task.depths == (depth,) * 12
    for index in range(len(task.prompts)):
        before, behind = taken_apart(model, task, index)
        target = int(depth * len(before + behind))
        assert not before or before[-1] == stop
        assert len(before) <= target
        assert stop not in behind[: target - len(before)], "no later full stop before the depth"


@pytest.mark.parametrize(("n_needles", "n_depths"), [(1, 2), (1, 5), (4, 5), (9, 5), (3, 4), (8, 5), (6, 3), (2, 2)])
def test_needles_and_depths_go_through_all_their_pairs(
    planted: Planted, text: str, n_needles: int, n_depths: int
) -> None:
    needles = [Needle(str(i), "the song spells", RARE_WORDS[i % 9], "what ?", " .") for i in range(n_needles)]
    depths = [i / n_depths for i in range(n_depths)]
    task = build_needles(
        planted("all"),
        text,
        length=60,
        n=2 * n_needles * n_depths,
        generator=seeded(),
        needles=needles,
        depths=depths,
    )
    pairs = list(zip(task.names, task.depths, strict=True))
    half = n_needles * n_depths
    everything = sorted((str(i), depth) for i in range(n_needles) for depth in depths)
    assert sorted(pairs[:half]) == everything, "every pair once before any comes again"
    assert sorted(pairs[half:]) == everything
    assert len(set(task.names[:n_needles])) == n_needles


def test_a_tokenizer_without_a_start_token_gets_none(
    planted: Planted, without_bos: Callable[[BridgedModel], BridgedModel], text: str
) -> None:
    model = without_bos(planted("all"))
    needles = build_needles(model, text, length=90, n=3, generator=seeded(), needles=model.needles)
    assert needles.prompts.shape == (3, 90)
    assert (needles.prompts != 0).all()
    for row, first, size, answer in zip(
        needles.prompts.tolist(), needles.spans.tolist(), needles.answer_lengths.tolist(), needles.texts, strict=True
    ):
        assert row[first : first + size] == model.encode(answer)
    passages = build_prose(model, text, n=2, length=50, generator=seeded())
    assert passages.shape == (2, 50)
    assert (passages != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1020}, r"beyond the context of 'planted:all': the limit is 1024 tokens, 1018 for the prompt"),
        ({"length": 30}, r"take \d+ tokens: a length of 30 is too short. Use at least \d+"),
        ({"length": 0}, r"too short"),
        ({"depths": (1.5,)}, r"a depth of 1.5 is not in the text: depths go from 0 \(start\) to 1 \(end\)"),
        ({"depths": (0.5, -0.1)}, r"a depth of -0.1"),
        ({"depths": (float("nan"),)}, r"a depth of nan"),
    ],
)
def test_impossible_needle_prompts_are_refused_with_the_limit(
    planted: Planted, text: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        prompts_of(planted, text, **options)


def test_the_shortest_length_that_is_named_is_long_enough(planted: Planted, text: str) -> None:
    with pytest.raises(TaskError) as refused:
        prompts_of(planted, text, length=30, n=1)
    least = int(re.search(r"at least (\d+)", str(refused.value))[1])
    assert prompts_of(planted, text, length=least, n=1).prompts.shape == (1, least)


def test_a_haystack_shorter_than_the_prompt_is_refused(planted: Planted) -> None:
    with pytest.raises(TaskError, match=r"the haystack has 3 tokens and a prompt of 120 needs \d+"):
        prompts_of(planted, "the old song")


def test_there_are_at_least_six_built_in_needles_and_each_asks_for_what_it_states() -> None:
    assert len(NEEDLES) >= 6
    assert len({needle.name for needle in NEEDLES}) == len(NEEDLES)
    for needle in NEEDLES:
        assert needle.question.endswith("?")
        assert len(needle.answer.split()) >= 4
        assert needle.answer not in needle.question
        assert needle.answer not in " ".join(pydoc_data.topics.topics.values())


def test_needles_are_chosen_by_name(tmp_path: Path) -> None:
    assert choose_needles(()) == NEEDLES
    assert [needle.name for needle in choose_needles(("vault", "dolores"))] == ["vault", "dolores"]
    with pytest.raises(UnknownNameError, match="Did you mean 'dolores'"):
        choose_needles(("dolorez",))
    path = tmp_path / "needles.json"
    own = {"name": "x", "cue": "The key is", "answer": "under the mat", "question": "Where?"}
    path.write_text(json.dumps([own]))
    assert load_needles(path) == (Needle(**own),)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "5",
        "[]",
        "[5]",
        '["dolores"]',
        '{"name": "x"}',
        '[{"name": "x"}]',
        '[{"name": "x", "cue": "c", "answer": "a", "question": "q", "depth": 1}]',
        '[{"name": "x", "cue": "c", "answer": " ", "question": "q"}]',
        '[{"name": "x", "cue": "c", "answer": 5, "question": "q"}]',
        '[{"name": "x", "cue": null, "answer": "a", "question": "q"}]',
        '[{"name": "x", "cue": "c", "answer": "a", "question": ["q"]}]',
    ],
)
def test_a_bad_needle_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "needles.json"
    path.write_text(content)
    with pytest.raises(TaskError, match=r"needles.json") as refused:
        load_needles(path)
    assert "\n" not in str(refused.value)


def test_a_missing_or_binary_needle_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="No such file"):
        load_needles(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match=r"binary.json"):
        load_needles(tmp_path / "binary.json")


def test_the_default_haystack_is_long_english_without_markup() -> None:
    text = load_haystack()
    assert len(text) > 300_000
    assert not re.search(r"[*=~^|+`-]{2,}|\n{3,}|[ \t]{2,}", text)
    assert text == text.strip()
    assert text.count(". ") > 1_000


def test_a_haystack_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("  Größe **matters**  \n", encoding="utf-8")
    assert load_haystack(path) == "  Größe **matters**  \n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"", "is empty. Give a text longer than the longest prompt"),
        (b" \n\t ", "is empty"),
        (b"caf\xe9", "is not UTF-8 text. Give a plain text file"),
    ],
)
def test_a_haystack_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "hay.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError, match=rf"hay\.txt {message}"):
        load_haystack(path)


def test_a_folder_is_no_haystack(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Is a directory"):
        load_haystack(tmp_path)


@FAST
@given(n=st.integers(1, 8), length=st.integers(2, 60), seed=st.integers(0, 99))
def test_passages_have_their_length_stand_in_the_text_and_differ(
    planted: Planted, text: str, n: int, length: int, seed: int
) -> None:
    model = planted("sink")
    passages = build_prose(model, text, n=n, length=length, generator=seeded(seed))
    assert passages.shape == (n, length)
    hay = f" {' '.join(map(str, model.encode(text)))} "
    for row in passages.tolist():
        assert row[0] == model.bos
        assert f" {' '.join(map(str, row[1:]))} " in hay
    if length > 20:
        assert len({tuple(row) for row in passages.tolist()}) == n


def test_passages_of_a_text_without_blanks_differ_too(planted: Planted) -> None:
    passages = build_prose(planted("sink"), "old.song," * 1_000, n=4, length=30, generator=seeded())
    assert len({tuple(row) for row in passages.tolist()}) > 1


class Letters(BridgedModel):
    """A model whose tokens are characters, without a start token."""

    def __init__(self, base: BridgedModel) -> None:
        self.__dict__.update(base.__dict__)
        self.shape = dataclasses.replace(base.shape, n_ctx=10_000)

    @property
    def bos(self) -> int | None:
        return None

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        assert not bos
        return [ord(letter) for letter in text]


def letters(count: int) -> str:
    """A text in which no character comes twice."""
    return "".join(chr(0x4E00 + index) for index in range(count))


@FAST
@given(n=st.integers(2, 9), length=st.integers(1, 60), seed=st.integers(0, 99), characters=st.integers(200, 9_000))
def test_no_two_passages_share_a_character(planted: Planted, n: int, length: int, seed: int, characters: int) -> None:
    passages = build_prose(Letters(planted("sink")), letters(characters), n=n, length=length, generator=seeded(seed))
    assert len(set(passages.flatten().tolist())) == passages.numel()
    assert len(passages) == n or characters < n * length, "fewer than asked for only where they do not fit"


def test_a_short_text_gives_fewer_passages_and_a_shorter_one_none(planted: Planted) -> None:
    model = Letters(planted("sink"))
    assert build_prose(model, letters(250), n=8, length=100, generator=seeded()).shape == (2, 100)
    with pytest.raises(TaskError, match="has 199 characters: too short for two passages of 100 tokens"):
        build_prose(model, letters(199), n=8, length=100, generator=seeded())


def test_a_passage_beyond_the_context_is_refused_with_the_limit(planted: Planted, text: str) -> None:
    with pytest.raises(TaskError, match=r"1025 tokens are beyond the context of 'planted:sink' \(1024 tokens\)"):
        build_prose(planted("sink"), text, n=1, length=1025, generator=seeded())
