"""The labelled data sets: balance, no shortcuts by opening, splits without shared content; the lm-eval adapter."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from headscope.errors import TaskError, UnknownNameError, UnsupportedError
from headscope.tasks.data_commonsense import FACTS
from headscope.tasks.labelled import LabelledItem, LabelledSet, balanced, split
from headscope.tasks.labelled_catalog import LABELLED, labelled_set
from headscope.tasks.lm_eval import from_lm_eval

CLASSIFICATIONS = [name for name in LABELLED if name != "commonsense"]
CODE = """
import hashlib, sys
from headscope.tasks import LABELLED, labelled_set
print(hashlib.sha256(repr([labelled_set(name).items for name in LABELLED]).encode()).hexdigest())
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def best_guess(items: tuple[LabelledItem, ...], words: int) -> float:
    """Accuracy of the best rule that sees the first words alone."""
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    for item in items:
        seen[" ".join(item.text.split()[:words])][item.label] += 1
    return sum(max(counts.values()) for counts in seen.values()) / len(items)


def bag(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("name", LABELLED)
def test_a_set_is_large_balanced_and_without_duplicates(name: str) -> None:
    made = labelled_set(name)
    assert made.name == name
    assert len(made.items) >= 600
    assert len(set(made.n_per_label)) == 1
    assert sum(made.n_per_label) == len(made.items)
    assert len({(item.text, item.options) for item in made.items}) == len(made.items)
    assert all(item.group for item in made.items)
    assert made.chance == pytest.approx(1 / len(made.labels))


@pytest.mark.parametrize("name", LABELLED)
def test_items_are_clean_sentences(name: str) -> None:
    for item in labelled_set(name).items:
        assert "{" not in item.text + "".join(item.options)
        assert "  " not in item.text
        assert item.text[0].isupper() or item.text[0].isdigit()
        assert item.text[-1] in ".?"


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_texts_are_unique_and_an_opening_does_not_tell_the_label(name: str) -> None:
    made = labelled_set(name)
    assert len({item.text for item in made.items}) == len(made.items)
    assert best_guess(made.items, 2) < 1 / len(made.labels) + 0.1


@pytest.mark.parametrize("name", ["sentiment", "subjectivity", "entailment"])
def test_each_group_has_both_labels_equally_often(name: str) -> None:
    labels: dict[str, list[int]] = defaultdict(list)
    for item in labelled_set(name).items:
        labels[item.group].append(item.label)
    assert {tuple(sorted(found)) for found in labels.values()} == {(0, 0, 0, 0, 1, 1, 1, 1)}


def test_the_answer_is_yes_exactly_if_the_sentence_has_all_words_of_the_question() -> None:
    for item in labelled_set("entailment").items:
        premise, question = item.text.split(". ")
        follows = bag(question) - {"was", "it", "who", "that", "the"} <= bag(premise)
        assert follows == (item.label == 0), item


def test_a_fact_has_one_answer_among_options_of_its_own_type() -> None:
    types = [
        {part.strip().split(": ")[1] for line in lines.strip().splitlines() for part in line.split("; ")}
        for lines in FACTS.values()
    ]
    asked = [part.split(": ")[0] for lines in FACTS.values() for part in re.split(r"; |\n", lines.strip())]
    assert len(asked) >= 60
    assert sum(map(len, types)) == len(asked)  # no answer is right for two questions of its type
    for item in labelled_set("commonsense").items:
        assert len(set(item.options)) == 4
        assert any(set(item.options) <= answers for answers in types), item
    answers: dict[str, set[str]] = defaultdict(set)
    for item in labelled_set("commonsense").items:
        answers[item.text].add(item.options[item.label])
    assert {len(found) for found in answers.values()} == {1}


def test_another_process_makes_the_same_items_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    here = hashlib.sha256(repr([labelled_set(name).items for name in LABELLED]).encode()).hexdigest()
    assert done.stdout.split("\n")[:2] == [here, "[]"]


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("shots", [0, 6])
def test_the_parts_of_a_split_share_no_group_and_are_stratified(name: str, shots: int) -> None:
    made = labelled_set(name)
    parted = split(made, select=130, test=150, shots=shots, seed=3)
    parts = (parted.demonstrations, parted.select, parted.test)
    groups = [{item.group for item in part} for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert (len(parted.select), len(parted.test)) == (130, 150)
    assert len(parted.demonstrations) >= 4 * shots
    for part in parts:
        counts = Counter(item.label for item in part)
        assert not part or max(counts.values()) - min(counts[label] for label in range(len(made.labels))) <= 1
        assert len(set(part)) == len(part)
        assert set(part) <= set(made.items)


def test_a_part_takes_one_item_of_every_group_before_a_second() -> None:
    for label in (0, 1):
        rows = [item for item in split(labelled_set("sentiment"), select=0, test=160, shots=0).test]
        assert set(Counter(item.group for item in rows if item.label == label).values()) == {1}


def test_a_split_depends_on_its_seed_alone() -> None:
    made = labelled_set("topic")
    first, again, other = (split(made, select=40, test=40, shots=4, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert {item.group for item in first.test} != {item.group for item in other.test}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"select": 100_000, "test": 96, "shots": 4}, "These fit, and hardly more: 528 selection and 96 test items"),
        ({"select": 48, "test": 5000, "shots": 4}, "These fit, and hardly more: 48 selection and 576 test items"),
        ({"select": 500, "test": 700, "shots": 4}, "These fit, and hardly more: 500 selection and 120 test items"),
        ({"select": 900, "test": 900, "shots": 4}, "These fit, and hardly more: 208 selection and 416 test items"),
        ({"select": 48, "test": 96, "shots": 400}, "Ask for fewer shots"),
        ({"select": 10, "test": 0, "shots": 4}, "at least 1 test item"),
        ({"select": -1, "test": 5, "shots": 4}, "no negative numbers"),
    ],
    ids=["too much selection", "too much test", "a little too much", "both", "shots", "no test", "negative"],
)
def test_an_impossible_split_is_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        split(labelled_set("sentiment"), **sizes)


@pytest.mark.parametrize("name", LABELLED)
def test_the_sizes_that_a_refusal_names_fit(name: str) -> None:
    with pytest.raises(TaskError) as caught:
        split(labelled_set(name), select=9_000, test=96, shots=4, seed=3)
    found = re.search(r"more: (\d+) selection and (\d+) test items", str(caught.value))
    assert found is not None
    parted = split(labelled_set(name), select=int(found[1]), test=int(found[2]), shots=4, seed=3)
    assert (len(parted.select), len(parted.test)) == (int(found[1]), 96)
    assert len(parted.select) > 480


def test_balancing_drops_duplicates_and_what_is_too_much() -> None:
    rows = [LabelledItem(f"text {index % 9}", index % 9 % 3 > 0) for index in range(18)]
    assert Counter(item.label for item in balanced(rows)) == {0: 3, 1: 3}


def test_a_wrong_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'sentiment'"):
        labelled_set("sentimant")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"items": ()}, "no items"),
        ({"template": "Review:"}, "needs the gap"),
        ({"items": (LabelledItem("a", 2),)}, "has label 2"),
    ],
    ids=["empty", "no gap", "label out of range"],
)
def test_a_set_that_cannot_be_asked_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        replace(labelled_set("sentiment"), **fields)


@dataclass
class FakeTask:
    """A task of the shape that lm-eval gives."""

    docs: list[dict[str, Any]]
    OUTPUT_TYPE: str = "multiple_choice"
    splits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        split_name = name.removeprefix("has_").removesuffix("_docs")
        if not name.endswith("_docs"):
            raise AttributeError(name)
        found = self.splits.get(split_name, self.docs if split_name == "validation" else None)
        return lambda: (found is not None) if name.startswith("has_") else found

    def doc_to_text(self, doc: dict[str, Any]) -> Any:
        return doc["text"]

    def doc_to_choice(self, doc: dict[str, Any]) -> list[str]:
        return doc["choices"]

    def doc_to_target(self, doc: dict[str, Any]) -> Any:
        return doc["target"]


def doc(text: Any = "Q: 1+1?\nA:", choices: tuple[str, ...] = ("two", " six"), target: Any = 0) -> dict[str, Any]:
    return {"text": text, "choices": list(choices), "target": target}


def test_documents_of_lm_eval_become_choices() -> None:
    task = FakeTask([doc(), doc("Q: 2+4?\nA: ", target="1"), doc("Q: six?\nA:", target=" six"), doc()])
    made = from_lm_eval(task, "sums")
    assert (made.name, made.kind, made.labels, made.template) == ("lm-eval:sums", "choice", ("A", "B"), "{text}")
    assert [(item.text, item.label, item.options) for item in made.items] == [
        ("Q: 1+1?\nA:", 0, ("two", "six")),
        ("Q: 2+4?\nA:", 1, ("two", "six")),
        ("Q: six?\nA:", 1, ("two", "six")),
    ]
    assert made.n_groups == 3


def test_a_test_split_without_answers_is_passed_over_and_odd_documents_are_left_out() -> None:
    hidden, odd = doc("hidden", target=-1), doc("odd", choices=("a", "b", "c"))
    task = FakeTask([doc(), doc("other"), odd], splits={"test": [hidden]})
    assert [item.text for item in from_lm_eval(task, "sums").items] == ["Q: 1+1?\nA:", "other"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (FakeTask([doc()], OUTPUT_TYPE="generate_until"), "only tasks of type 'multiple_choice'"),
        (FakeTask([doc(text=1)]), "several prompts"),
        (FakeTask([doc(target=[0, 1])]), "several right answers"),
        (FakeTask([doc(target=-1)]), "no split"),
    ],
    ids=["generation", "prompts differ", "two answers", "no answers"],
)
def test_a_task_of_another_kind_is_refused(task: FakeTask, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        from_lm_eval(task, "sums")


def test_without_lm_eval_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UnsupportedError, match="pip install lm-eval"):
        labelled_set("lm-eval:piqa")


def test_a_task_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(names: list[str], _: Any) -> dict[str, Any]:
        if names == ["offline"]:
            raise ConnectionError("no route")
        return {"sums": FakeTask([doc()]), "all sums": {}}

    manager = SimpleNamespace(all_tasks=["sums", "all sums", "offline"])
    module = SimpleNamespace(TaskManager=lambda: manager, get_task_dict=get)
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(tasks=module))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", module)
    made: LabelledSet = labelled_set("lm-eval:sums")
    assert made.items[0].options == ("two", "six")
    with pytest.raises(UnknownNameError, match="Did you mean 'sums'"):
        labelled_set("lm-eval:sumz")
    with pytest.raises(UnsupportedError, match="group of lm-eval tasks"):
        labelled_set("lm-eval:all sums")
    with pytest.raises(UnsupportedError, match=r"ConnectionError: no route.*check the network"):
        labelled_set("lm-eval:offline")
